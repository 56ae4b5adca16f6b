"""Read published halves of VIPeR: which people train and which test, for every split of a file.

A person is a row from 1: the place of the person among all people, sorted by number. Text files and MATLAB files (v5 to
v7) are read in the forms in which authors published theirs:

- a matrix with a column or a row for each split: the rows of the test half, or all rows in an order whose first half
  trains and whose second half tests;
- lines `train ROWS` and `test ROWS` for each split, or in MATLAB two matrices with such names, or a struct array with
  such fields (`idxtrain`, `idxtest` of MDF-KISS);
- the names of the test images, `cam_a/000_45.bmp`, below `% Experiment Number 1` and so on (SDALF).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray

from slsr.errors import InputError, first_line

FORMS = (
    "give a matrix with a column per split (the rows of the test half, from 1), lines `train ROWS` and `test ROWS`, or "
    "the names of the test images as SDALF does"
)
IMAGE = re.compile(r"cam_a[/\\](\d+)_")
TITLE = re.compile(r"%.*\d")
TRAIN_FIELDS, TEST_FIELDS = (
    {word for part in ("idx", "ind", "index", "") for word in (part + side, side + part)} for side in ("train", "test")
)
SIDES = {"train": TRAIN_FIELDS, "test": TEST_FIELDS}


@dataclass(frozen=True)
class Half:
    """The test half of a split and, if the file has it, the other half: rows from 1, or numbers of people."""

    test: Sequence[int]
    train: Sequence[int] | None = None
    are_numbers: bool = False


def read_test_people(path: Path, split: int, people: Sequence[int]) -> set[int]:
    """Return who of the people is in the test half of a split.

    Parameters
    ----------
    people
        The numbers of all people, ascending; row 1 is the first of them.

    Raises
    ------
    InputError
        The file cannot be read or has no such split, or the halves are not two halves of these people.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; put the file of halves there, or set dataset.split_file: none")
    with path.open("rb") as file:
        matlab = file.read(6) == b"MATLAB"
    halves = _of_matlab(path, len(people)) if matlab else _of_text(path, len(people))
    if not halves:
        raise InputError(f"{path}: no halves of {len(people)} people; {FORMS}")
    if not 1 <= split <= len(halves):
        raise InputError(f"dataset.split: {split}, but {path} has the splits 1 to {len(halves)}; choose one")
    _refuse_rows_from_zero(path, halves, len(people))
    half, where = halves[split - 1], f"{path}: split {split}"
    test = _checked(half.test, half, people, f"{where}, test")
    if half.train is not None and (both := sorted(test & _checked(half.train, half, people, f"{where}, train"))):
        row = both[0] if half.are_numbers else people.index(both[0]) + 1
        raise InputError(f"{where}: row {row} is in both halves ({len(both)} are); correct the file")
    return test


def _refuse_rows_from_zero(path: Path, halves: Sequence[Half], people: int) -> None:
    """Refuse rows that count from 0; only some halves of such a file have row 0, so all are looked at."""
    rows = {row for half in halves if not half.are_numbers for row in (*half.test, *(half.train or ()))}
    if 0 in rows and max(rows) < people:
        raise InputError(f"{path}: its rows count from 0; add 1 to each")


def _checked(rows: Sequence[int], half: Half, people: Sequence[int], where: str) -> set[int]:
    """Turn the rows of a half into people, after checking that it is a half."""
    if half.are_numbers:
        if unknown := sorted(set(rows) - set(people)):
            raise InputError(f"{where}: no person {unknown[0]:03d} with two images in the archive; correct the file")
    elif outside := [row for row in rows if not 1 <= row <= len(people)]:
        raise InputError(f"{where}: row {outside[0]} is not within 1 to {len(people)}; correct the file")
    if twice := sorted({row for row in rows if list(rows).count(row) > 1}):
        raise InputError(f"{where}: row {twice[0]} is there twice; correct the file")
    if len(rows) != len(people) // 2:
        raise InputError(f"{where}: {len(rows)} people, not half of {len(people)}; correct the file")
    return set(rows) if half.are_numbers else {people[row - 1] for row in rows}


def _of_text(path: Path, people: int) -> list[Half]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        if path.read_bytes().startswith(b"\x89HDF"):
            raise InputError(f"{path}: {_V73}") from error
        raise InputError(f"{path}: neither text nor a MATLAB file; {FORMS}") from error
    if IMAGE.search(text):
        blocks = [block for block in TITLE.split(text) if IMAGE.search(block)]
        return [Half([int(number) for number in IMAGE.findall(block)], None, True) for block in blocks]
    lines = [line.replace(",", " ").split() for line in re.sub(r"[%#].*", "", text).splitlines()]
    lines = [line for line in lines if line]
    try:
        named = {side: [_whole(line[1:]) for line in lines if line[0] == side] for side in ("train", "test")}
        if len(named["train"]) == len(named["test"]) == len(lines) / 2:
            return [Half(test, train) for train, test in zip(named["train"], named["test"], strict=True)]
        rows = [_whole(line) for line in lines]
    except ValueError as error:
        raise InputError(f"{path}: {first_line(error)}; {FORMS}") from error
    if len({len(row) for row in rows}) > 1:
        raise InputError(f"{path}: its lines have different lengths; {FORMS}")
    return _of_matrix(path, np.array(rows), people)


def _whole(words: Sequence[str]) -> list[int]:
    """Read whole numbers, also as `8.5e+01`, which `numpy.savetxt` writes."""
    if broken := [word for word in words if not float(word).is_integer()]:
        raise ValueError(f"{broken[0]} is not a whole number")
    return [int(float(word)) for word in words]


def _of_matrix(path: Path, values: NDArray[Any], people: int) -> list[Half]:
    """Read a matrix whose columns (or else rows) have the length of a half, or of all people."""
    half = people // 2
    matrix = np.atleast_2d(values)
    if len(matrix) not in (half, people):
        matrix = matrix.T
    if len(matrix) not in (half, people):
        return []
    if not np.array_equal(matrix, np.round(matrix)):
        raise InputError(f"{path}: its numbers are not whole; {FORMS}")
    if matrix.shape[0] > 2 and set(np.unique(matrix).tolist()) <= {0, 1}:
        raise InputError(f"{path}: a mask of 0 and 1; write the rows of the ones, counted from 1, in its place")
    columns = [[int(value) for value in column] for column in matrix.T]
    if len(matrix) == people:
        return [Half(column[people - half :], column[: people - half]) for column in columns]
    if len(columns) == 2 and not set(columns[0]) & set(columns[1]):
        raise InputError(
            f"{path}: two columns without a common row may be two splits, or the two halves of one; write lines "
            "`train ROWS` and `test ROWS`"
        )
    return [Half(column) for column in columns]


_V73 = "a MATLAB v7.3 file; save it in MATLAB with the option -v7, or write its rows as text"


def _of_matlab(path: Path, people: int) -> list[Half]:
    with path.open("rb") as file:
        if file.read(10) == b"MATLAB 7.3":
            raise InputError(f"{path}: {_V73}")
    try:
        variables = scipy.io.loadmat(path, squeeze_me=True, chars_as_strings=True)
    except (ValueError, TypeError, OSError, EOFError, KeyError, NotImplementedError, zlib.error) as error:
        raise InputError(f"{path}: not a readable MATLAB file ({first_line(error)}); download it again") from error
    found = {}
    for name, value in variables.items():
        if not name.startswith("__") and (halves := _of_variable(path, np.asarray(value), people)):
            found[name] = halves
    sides = {side: [name for name in found if _plain(name) in fields] for side, fields in SIDES.items()}
    if len(found) == 2 and len(sides["train"]) == len(sides["test"]) == 1:
        return _paired(path, *(found[sides[side][0]] for side in ("train", "test")))
    if found and list(found) == sides["train"]:
        raise InputError(f"{path}: only a training half, {', '.join(found)}; add the test half")
    if len(found) > 1:
        raise InputError(f"{path}: halves in the variables {', '.join(sorted(found))}; keep one of them")
    return next(iter(found.values()), [])


def _plain(name: str) -> str:
    return name.lower().replace("_", "")


def _paired(path: Path, train: Sequence[Half], test: Sequence[Half]) -> list[Half]:
    """Join the halves of two variables, which their names tell apart."""
    if len(train) != len(test) or any(half.train is not None for half in (*train, *test)):
        raise InputError(f"{path}: its training and test halves do not pair; give both for each split")
    return [Half(tested.test, trained.test) for trained, tested in zip(train, test, strict=True)]


def _of_variable(path: Path, value: NDArray[Any], people: int) -> list[Half]:
    if value.dtype.names:
        records = [dict(zip(value.dtype.names, record, strict=True)) for record in value.reshape(-1).tolist()]
        halves = [_of_record(record) for record in records]
        return [half for half in halves if half] if all(halves) else []
    numbers = value.dtype.kind in "iufb" and value.ndim in (1, 2) and value.size > 0
    if not numbers or (value.ndim == 1 and len(value) not in (people // 2, people)):
        return []
    return _of_matrix(path, value.reshape(-1, 1) if value.ndim == 1 else value, people)


def _of_record(record: Mapping[str, Any]) -> Half | None:
    """Read one element of a struct array: rows of both halves, or the names of the test images."""
    fields = {_plain(name): np.ravel(value) for name, value in record.items()}
    if "cama" in fields:
        numbers = [re.match(r"(\d+)_", str(name)) for name in fields["cama"]]
        return Half([int(number[1]) for number in numbers if number], None, True) if all(numbers) else None
    test, train = (
        next((fields[name].tolist() for name in sorted(names & fields.keys())), None)
        for names in (TEST_FIELDS, TRAIN_FIELDS)
    )
    if test is None or not all(float(row).is_integer() for row in [*test, *(train or [])]):
        return None
    return Half([int(row) for row in test], None if train is None else [int(row) for row in train])
