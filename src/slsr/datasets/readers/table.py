"""Read your own images with a table of them: `table.csv` or `table.parquet` beside the images.

The columns are `path` (relative to the table), `identity`, `split` (train, query, gallery or multi_query) and,
optionally, `camera` and `group`. Without a camera, it is read from the image's name if that has one, and is unknown
otherwise. Images of one group, for example a tracklet, are held out for validation together.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from slsr.datasets.archive import Archive, count_ignored, folder_archive, leaves_folder
from slsr.datasets.collection import SPLITS, UNKNOWN_CAMERA, Collection, Entry, Split
from slsr.datasets.numbering import WHOLE_NUMBER, camera_in_name, is_nothing, number_cameras, number_identities
from slsr.errors import InputError
from slsr.images.listing import canonical

NEEDED = ("path", "identity", "split")
KNOWN = (*NEEDED, "camera", "group")
SUFFIXES = (".csv", ".parquet")
DECIMAL = re.compile(r"[+-]?[0-9]*[.,][0-9]+")
SHORTENED = re.compile(r"[+-]?[0-9.,]+E[+-]?[0-9]+", re.IGNORECASE)
EXACT = 2**53  # the largest whole number below which a float64 has every whole number
EXACT_OF_SHORT = {pa.float16(): 2**11, pa.float32(): 2**24}
INDEX_OF_PANDAS = ("__index_level_", "Unnamed: ")
BYTE_ORDER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
EXAMPLE = "path,identity,camera,split\nhall/0001.jpg,1,1,train"


Rows = Iterator[tuple[str, Mapping[str, Any]]]


class OwnTableError(InputError):
    """A table has every column that a table of images needs, but a name of its columns must be corrected."""


class Row(NamedTuple):
    """One row: where it is, and its values; `camera` is empty if the table does not say it."""

    place: str
    split: Split
    path: str
    identity: str
    camera: str
    group: str | None


def read_table_of_images(archive: Archive) -> Collection:
    """List the images that the archive's only table names.

    Raises
    ------
    InputError
        There is no table or more than one, a column is missing, or the path, identity, camera or split of a row is not
        usable; the message names the row.
    """
    table = table_name(archive)
    folder = table.rpartition("/")[0]
    origin = _place_of_table(archive.path, table)
    columns, content = read_rows(archive.read(table), table, origin)
    rows = list(_rows(origin, content))
    entries, notes = _entries(archive, folder, rows)
    if unread := [name for name in columns if name and name not in KNOWN and not name.startswith(INDEX_OF_PANDAS)]:
        notes.append(f"columns of the table that are not read: {', '.join(unread)}")
    _check_groups(entries, origin)
    return Collection(
        str(archive.path),
        entries,
        archive.read,
        ignored=count_ignored(archive, {entry.source for entry in entries} | {table}),
        own=True,
        notes=notes,
    )


def _place_of_table(path: Path, table: str) -> str:
    """Say where a table is: the file itself, a file of a folder, or a file in a zip."""
    if path.is_dir():
        return str(path / table)
    return str(path) if is_table_file(path) else f"{path}: {table}"


def is_table_file(path: Path) -> bool:
    """Say whether a path is a table, with its images beside it."""
    return path.is_file() and path.name.lower().endswith(SUFFIXES)


@contextmanager
def open_table_file(path: Path) -> Iterator[Archive]:
    """Open a table and the images that it names as an archive, without the other files of its folder."""
    content = path.read_bytes()
    named = {_path(row["path"], place) for place, row in read_rows(content, path.name, str(path))[1]}
    listings: dict[Path, dict[str, str]] = {}
    found = {name: _find(path.parent, name, listings) for name in sorted(named)}
    files = {name: file for name, file in found.items() if file is not None}
    yield folder_archive(path, files | {canonical(path.name): path})


def _find(folder: Path, name: str, listings: dict[Path, dict[str, str]]) -> Path | None:
    """Find a file whose name the disk may write in another way (NFD); None if there is none."""
    place = folder
    for part in PurePosixPath(name).parts:
        if not (place / part).exists():
            if place not in listings:
                listings[place] = {canonical(one.name): one.name for one in place.iterdir()} if place.is_dir() else {}
            if part not in listings[place]:
                return None
            part = listings[place][part]
        place /= part
    return place if place.is_file() else None


def table_name(archive: Archive) -> str:
    """Find the archive's only table, at the top or in its only folder.

    Raises
    ------
    InputError
        There is no table, or there are several.
    """
    own = [name for name in names if _has_columns(archive, name)] if len(names := table_names(archive)) > 1 else names
    if len(own) == 1:
        return own[0]
    found = f"{len(names)} ({', '.join(names)})" if names else "none"
    raise InputError(f"{archive.path}: expected one table (*.csv or *.parquet) beside the images, found {found}")


def table_names(archive: Archive) -> list[str]:
    """List the tables at the top of the archive, or in its only folder."""
    tops = {PurePosixPath(name).parts[0] for name in archive.sizes}
    depth = 2 if len(tops) == 1 else 1
    return [
        name for name in archive.sizes if name.lower().endswith(SUFFIXES) and len(PurePosixPath(name).parts) <= depth
    ]


def is_own_table(archive: Archive) -> bool:
    """Say whether the archive has a table with the columns that a table of images needs."""
    return any(_has_columns(archive, name) for name in table_names(archive))


def _has_columns(archive: Archive, name: str) -> bool:
    try:
        read_rows(archive.read(name), name, name)
    except InputError as error:
        return isinstance(error, OwnTableError)
    return True


def read_rows(content: bytes, name: str, origin: str) -> tuple[Sequence[str], Rows]:
    """Read the columns of a CSV or Parquet table, and each row: its place, for messages, and its values by column."""
    return (_parquet_rows if name.lower().endswith(".parquet") else _csv_rows)(content, origin)


def _csv_rows(content: bytes, origin: str) -> tuple[Sequence[str], Rows]:
    try:
        text = content.decode("utf-16" if content.startswith(BYTE_ORDER_MARKS) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{origin}: not UTF-8 ({error}); save the table as CSV UTF-8") from error
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    lines = _csv_lines(text, delimiter, origin)
    if header.startswith("sep="):  # Excel's own first line
        next(lines)
    columns = next(lines, (origin, []))[1]
    _check_columns(columns, origin)
    return columns, _csv_values(lines, columns, delimiter)


def _csv_lines(text: str, delimiter: str, origin: str) -> Iterator[tuple[str, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for fields in reader:
            yield f"{origin}, line {reader.line_num}", [field.strip() for field in fields]
    except csv.Error as error:
        raise InputError(
            f"{origin}, line {reader.line_num}: not valid CSV ({error}); save the table as CSV again"
        ) from error


def _csv_values(lines: Iterable[tuple[str, list[str]]], columns: Sequence[str], delimiter: str) -> Rows:
    for place, values in lines:
        if not any(values):  # an empty line, or a row that was emptied in a spreadsheet
            continue
        if len(values) != len(columns):
            raise InputError(
                f"{place}: {len(values)} fields, but the header has {len(columns)}; quote fields that contain "
                f"{delimiter!r}"
            )
        yield place, dict(zip(columns, values, strict=True))


def _parquet_rows(content: bytes, origin: str) -> tuple[Sequence[str], Rows]:
    try:
        table = pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{origin}: not a readable Parquet table ({error}); write it again") from error
    _check_columns(table.column_names, origin)
    return table.column_names, _parquet_values(table, origin)


def _parquet_values(table: pa.Table, origin: str) -> Rows:
    known = table.select([name for name in KNOWN if name in table.column_names])
    exact = {
        name: EXACT_OF_SHORT.get(kind, EXACT) for name, kind in zip(known.column_names, known.schema.types, strict=True)
    }
    for number, row in enumerate(known.to_pylist(), start=1):
        place = f"{origin}, row {number}"
        for name, value in row.items():
            if isinstance(value, float) and exact[name] <= abs(value) < EXACT:
                raise _shortened(value, name, place)
        yield place, {name: _plain_cell(value, name, place) for name, value in row.items()}


def _plain_cell(value: object, column: str, place: str) -> object:
    """Return text that is stored as bytes as text; refuse what is no single value."""
    if isinstance(value, (list, dict)):
        raise InputError(f"{place}: {column} is a {type(value).__name__}; give each row one number or name")
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: {column} {value!r} is not UTF-8; write the column as text") from error


def _check_columns(found: Sequence[str], origin: str) -> None:
    """Refuse columns that are missing, are there twice, or would be left out for a capital in their names."""
    folded = [name.casefold() for name in found]
    if missing := [name for name in NEEDED if name not in folded]:
        raise InputError(
            f"{origin}: no column {', '.join(missing)}; the table needs {', '.join(NEEDED)}, and may have camera and "
            f"group; found: {', '.join(found) or 'nothing'}"
        )
    if twice := [name for name in KNOWN if folded.count(name) > 1]:
        raise OwnTableError(f"{origin}: two columns have the name {twice[0]}; remove one of them")
    if other := [name for name in found if name.casefold() in KNOWN and name not in KNOWN]:
        raise OwnTableError(f"{origin}: column {other[0]!r}: write it as {other[0].casefold()}")


def _rows(origin: str, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[Row]:
    places: dict[tuple[str, str], str] = {}
    for place, row in rows:
        split, path = _split(row["split"], place), _path(row["path"], place)
        if (split, path) in places:
            raise InputError(f"{place}: {path} is in {split} already ({places[split, path]}); remove one of the rows")
        places[split, path] = place.removeprefix(f"{origin}, ")
        identity = _written(row["identity"], "identity", place)
        if not identity:
            raise InputError(f"{place}: no identity; give each image the number or name of the person")
        camera = _written(row.get("camera"), "camera", place)
        group = unicodedata.normalize("NFC", str("" if row.get("group") is None else row["group"]).strip())
        yield Row(place, split, path, identity, camera, None if is_nothing(group) else group)


def _entries(archive: Archive, folder: str, rows: Sequence[Row]) -> tuple[list[Entry], list[str]]:
    """Number the identities and cameras of all rows; return the images and what a user should know."""
    identities = number_identities(row.identity for row in rows)
    cameras = number_cameras(row.camera for row in rows if row.camera)
    from_names = {row.path: camera_in_name(PurePosixPath(row.path).name) for row in rows if not row.camera}
    notes = [*identities.notes, *cameras.notes]
    if example := next((path for path, camera in from_names.items() if camera is not None), None):
        notes.append(f"cameras that the table does not give are read from names, for example that of {example}")
    entries = []
    for row in rows:
        source = f"{folder}/{row.path}" if folder else row.path
        if source not in archive.sizes:
            raise InputError(f"{row.place}: no file {row.path} beside the table{_similar(archive, source)}")
        camera = cameras.of[row.camera] if row.camera else from_names[row.path]
        number = UNKNOWN_CAMERA if camera is None else camera
        size = archive.sizes[source]
        entries.append(Entry(row.split, row.path, identities.of[row.identity], number, source, size, row.group))
    return entries, notes


def _similar(archive: Archive, source: str) -> str:
    """Name a file that differs only in upper and lower case, or say what to do."""
    same = next((name for name in archive.sizes if name.lower() == source.lower()), None)
    return f"; there is {same}: write it the same way" if same else "; correct the path or remove the row"


def _check_groups(entries: Iterable[Entry], origin: str) -> None:
    """Refuse a group on both sides of the split, with which the network would be trained on what it is tested on."""
    entries = [entry for entry in entries if entry.group is not None]
    train = {entry.group for entry in entries if entry.split == "train"}
    if both := sorted(train & {entry.group for entry in entries if entry.split != "train"}, key=str):
        raise InputError(f"{origin}: the group {both[0]} is in train and in test; give each group to one side")


def _split(value: object, place: str) -> Split:
    for split in SPLITS:
        if value == split:
            return split
    raise InputError(f"{place}: split {value!r} is not one of {', '.join(SPLITS)}")


def _path(value: object, place: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{place}: no path; give the path of the image, relative to the table")
    if leaves_folder(value):
        raise InputError(f"{place}: the path {value!r} leaves the table's folder; move the image into it")
    return PurePosixPath(canonical(value.strip())).as_posix()


def _written(value: object, column: str, place: str) -> str:
    """Return an identity or camera as text: `1` for `1.0`, which pandas writes for a column with gaps; "" for nothing.

    Raises
    ------
    InputError
        It is a number that is not whole, or that a spreadsheet has shortened, so that two may have become one.
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT:
        value = int(value)
    text = "" if value is None else unicodedata.normalize("NFC", str(value).strip())
    if is_nothing(text):
        return ""
    if SHORTENED.fullmatch(text) or (isinstance(value, float) and value.is_integer()):
        raise _shortened(text, column, place)
    if not WHOLE_NUMBER.fullmatch(text) and (isinstance(value, (float, bool)) or DECIMAL.fullmatch(text)):
        raise InputError(f"{place}: {column} {text!r} is not a whole number; give each {column} a number or a name")
    return text


def _shortened(value: object, column: str, place: str) -> InputError:
    return InputError(
        f"{place}: {column} {str(value)!r} was shortened by a program, so that two may have become one; write the "
        "column as text, with all digits"
    )
