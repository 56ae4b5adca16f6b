"""Read your own images with a table of them: `table.csv` or `table.parquet` beside the images.

The columns are `path` (relative to the table), `identity`, `camera`, `split` (train, query, gallery or multi_query)
and, optionally, `group`. Images of one group, for example a tracklet, are held out for validation together.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from slsr.datasets.archive import Archive, count_ignored, folder_archive, is_image, leaves_folder
from slsr.datasets.collection import SPLITS, Collection, Entry, Split
from slsr.errors import InputError

NEEDED = ("path", "identity", "camera", "split")
KNOWN = (*NEEDED, "group")
SUFFIXES = (".csv", ".parquet")
WHOLE_NUMBER = re.compile(r"([+-]?[0-9]{1,18})(\.0*)?")


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
    entries = list(_entries(archive, folder, origin, read_rows(archive.read(table), table, origin)))
    _check_groups(entries, origin)
    used = {entry.source for entry in entries} | {table}
    unnamed = sum(is_image(name) for name in archive.sizes if name not in used)
    return Collection(
        str(archive.path),
        entries,
        archive.read,
        ignored=count_ignored(archive, used),
        own=True,
        notes=[f"images that {table} does not name, left out: {unnamed}"] if unnamed else [],
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
    folder = path.parent
    rows = read_rows(content, path.name, str(path))
    named = {_path(row["path"], place) for place, row in rows}
    sizes = {name: (folder / name).stat().st_size for name in named if (folder / name).is_file()}
    sizes[path.name] = len(content)
    yield folder_archive(path, folder, dict(sorted(sizes.items())))


def table_name(archive: Archive) -> str:
    """Find the archive's only table, at the top or in its only folder.

    Raises
    ------
    InputError
        There is no table, or there are several.
    """
    names = table_names(archive)
    if len(names) == 1:
        return names[0]
    found = f"{len(names)} ({', '.join(names)})" if names else "none"
    raise InputError(f"{archive.path}: expected one table (*.csv or *.parquet) beside the images, found {found}")


def table_names(archive: Archive) -> list[str]:
    """List the tables at the top of the archive, or in its only folder."""
    tops = {PurePosixPath(name).parts[0] for name in archive.sizes}
    depth = 2 if len(tops) == 1 else 1
    return [
        name for name in archive.sizes if name.lower().endswith(SUFFIXES) and len(PurePosixPath(name).parts) <= depth
    ]


def read_rows(content: bytes, name: str, origin: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Read each row of a CSV or Parquet table: its place, for messages, and its values by column."""
    if name.lower().endswith(".parquet"):
        yield from _parquet_rows(content, origin)
    else:
        yield from _csv_rows(content, origin)


def _csv_rows(content: bytes, origin: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{origin}: not UTF-8 ({error}); save the table as CSV UTF-8") from error
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        if header.startswith("sep="):  # Excel's own first line
            next(reader)
        columns = [name.strip() for name in next(reader, [])]
        _check_columns(columns, origin)
        for fields in reader:
            values = [field.strip() for field in fields]
            place = f"{origin}, line {reader.line_num}"
            if not any(values):  # an empty line, or a row that was emptied in a spreadsheet
                continue
            if len(values) != len(columns):
                raise InputError(
                    f"{place}: {len(values)} fields, but the header has {len(columns)}; quote fields that contain "
                    f"{delimiter!r}"
                )
            yield place, dict(zip(columns, values, strict=True))
    except csv.Error as error:
        raise InputError(
            f"{origin}, line {reader.line_num}: not valid CSV ({error}); save the table as CSV again"
        ) from error


def _parquet_rows(content: bytes, origin: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        table = pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{origin}: not a readable Parquet table ({error}); write it again") from error
    _check_columns(table.column_names, origin)
    known = [name for name in KNOWN if name in table.column_names]
    for number, row in enumerate(table.select(known).to_pylist(), start=1):
        yield f"{origin}, row {number}", row


def _check_columns(found: Iterable[str], origin: str) -> None:
    if missing := [name for name in NEEDED if name not in set(found)]:
        raise InputError(
            f"{origin}: no column {', '.join(missing)}; the table needs {', '.join(NEEDED)}, and may have group; "
            f"found: {', '.join(found) or 'nothing'}"
        )


def _entries(
    archive: Archive, folder: str, origin: str, rows: Iterable[tuple[str, Mapping[str, Any]]]
) -> Iterator[Entry]:
    places: dict[tuple[str, str], str] = {}
    for place, row in rows:
        split = _split(row["split"], place)
        path = _path(row["path"], place)
        source = f"{folder}/{path}" if folder else path
        if source not in archive.sizes:
            raise InputError(f"{place}: no file {path} beside the table; correct the path or remove the row")
        if (split, path) in places:
            raise InputError(f"{place}: {path} is in {split} already ({places[split, path]}); remove one of the rows")
        places[split, path] = place.removeprefix(f"{origin}, ")
        identity = _integer(row["identity"], "identity", place)
        camera = _integer(row["camera"], "camera", place)
        group = row.get("group")
        yield Entry(
            split, path, identity, camera, source, archive.sizes[source], None if group in {None, ""} else str(group)
        )


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
    return PurePosixPath(value.strip().replace("\\", "/")).as_posix()


def _integer(value: object, column: str, place: str) -> int:
    """Read a whole number; `1.0`, which pandas writes for a column with gaps, is one too."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and (found := WHOLE_NUMBER.fullmatch(value.strip())):
        return int(found[1])
    raise InputError(f"{place}: {column} {value!r} is not a whole number; give each {column} a number")
