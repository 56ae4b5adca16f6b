"""Files, folders, patterns and image tables as one stream of images."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from slsr.datasets.collection import TABLE_SUFFIX, UNKNOWN_CAMERA
from slsr.errors import InputError, first_line
from slsr.images.listing import IMAGE_SUFFIXES, described, files_below, is_image, unused_files

ROWS_AT_ONCE = 64
LABELS = ("identity", "camera")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourceImage:
    """An image that is not read yet (a path) or not decoded yet (bytes), with its name and labels."""

    name: str
    image: Path | bytes
    identity: int | None = None
    camera: int | None = None


@dataclass(frozen=True)
class ImageSources:
    """All images that the arguments of a command name.

    Attributes
    ----------
    parts
        Image files and image tables, in the order in which they were given.
    count
        How many images there are.
    labeled
        Whether the images have identity and camera.
    unknown_cameras
        How many of them have the camera -1, which is an unknown one.
    """

    parts: tuple[Path, ...]
    count: int
    labeled: bool
    unknown_cameras: int = 0

    def __iter__(self) -> Iterator[SourceImage]:
        for part in self.parts:
            if part.suffix == TABLE_SUFFIX:
                yield from _rows(part)
            else:
                yield SourceImage(os.fsencode(part).decode("utf-8", "backslashreplace"), part)


def find_images(arguments: Sequence[str | Path]) -> ImageSources:
    """Find the images that arguments name. No image is read; from tables, only names and labels are read.

    Parameters
    ----------
    arguments
        Image files; folders, whose images are taken at any depth and through links, sorted by name, without hidden
        ones; patterns such as `shots/*.jpg`; image tables (`.parquet` with `image` and `name`, as `prepare` and
        `generate` write them). A file that several paths name is taken once, under the first path; a symbolic link
        counts as another file.

    Raises
    ------
    InputError
        A path does not exist, a folder cannot be read, a folder or pattern has no images, or a Parquet file is no image
        table.
    """
    parts = tuple(_once(part for argument in arguments for part in _expand(str(argument))))
    if not parts:
        raise InputError("no images were given; give image files, folders or image tables")
    tables = [_check_table(part) for part in parts if part.suffix == TABLE_SUFFIX]
    count = len(parts) - len(tables) + sum(table.rows for table in tables)
    if count == 0:
        raise InputError(f"{', '.join(map(str, parts))}: the tables are empty; give tables with images")
    labeled = len(tables) == len(parts) and all(table.labeled for table in tables)
    return ImageSources(parts, count, labeled, sum(table.unknown_cameras for table in tables) if labeled else 0)


def _once(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield each file once, by the first of its paths."""
    folders: dict[Path, Path] = {}
    seen: set[Path] = set()
    for path in paths:
        if path.parent not in folders:
            folders[path.parent] = path.parent.resolve()
        place = folders[path.parent] / path.name
        if place not in seen:
            seen.add(place)
            yield path


def _expand(argument: str) -> list[Path]:
    path = Path(argument)
    if path.is_dir():
        return _images_below(path)
    if path.exists():
        return [path]
    if glob.has_magic(argument):
        found = [Path(name) for name in sorted(glob.glob(argument, recursive=True))]  # noqa: PTH207, absolute patterns too
        if not found:
            raise InputError(f"{argument}: no file matches this pattern; give another")
        return [image for one in found for image in (_images_below(one) if one.is_dir() else [one])]
    raise InputError(f"{argument}: no such file or folder; give image files, folders or image tables")


def _images_below(folder: Path) -> list[Path]:
    """List the images of a folder; warn of what looks like an image and is left out."""
    found = files_below(folder)
    images = sorted(path for path in found.files if is_image(path.name))
    others = (path.relative_to(folder).as_posix() for path in found.files if not is_image(path.name))
    for line in described(unused_files(found.left_out, others, lambda name: (folder / name).open("rb"))):
        log.warning("%s: %s", folder, line)
    if not images:
        tables = sorted(path.name for path in folder.glob(f"*{TABLE_SUFFIX}"))
        hint = f"; give its tables by name: {', '.join(tables)}" if tables else ""
        raise InputError(f"{folder}: a folder without images ({', '.join(sorted(IMAGE_SUFFIXES))}){hint}")
    return images


class _Checked(NamedTuple):
    """What is in an image table."""

    rows: int
    labeled: bool
    unknown_cameras: int


def _check_table(path: Path) -> _Checked:
    """Count the rows of an image table, and tell whether it has labels; other tables raise InputError."""
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            _check_types(path, schema)
            labels = _labels(schema)
            unknown = 0
            for batch in file.iter_batches(columns=["name", *labels]):
                batch.validate(full=True)
                _check_values(path, batch, labels)
                unknown += batch.column("camera").to_pylist().count(UNKNOWN_CAMERA) if labels else 0
            return _Checked(file.metadata.num_rows, bool(labels), unknown)
    except (OSError, pa.ArrowException) as error:
        reason = first_line(error)
        raise InputError(f"{path}: not a readable Parquet table ({reason}); make or fetch it again") from error


def _labels(schema: pa.Schema) -> tuple[str, ...]:
    """Return the label columns of a table; none if one of the two is missing, because one alone is of no use."""
    return LABELS if set(LABELS) <= set(schema.names) else ()


def _check_types(path: Path, schema: pa.Schema) -> None:
    if missing := {"image", "name"} - set(schema.names):
        raise InputError(f"{path}: no column {', '.join(sorted(missing))}; an image table has `image` and `name`")
    types = {name: schema.field(name).type for name in ("image", "name", *_labels(schema))}
    if not (pa.types.is_binary(types["image"]) or pa.types.is_large_binary(types["image"])):
        raise InputError(
            f"{path}: column image is {types['image']}; it must be binary (encoded images); give image files instead"
        )
    if not (pa.types.is_string(types["name"]) or pa.types.is_large_string(types["name"])):
        raise InputError(f"{path}: column name is {types['name']}; it must be a string, the name of the image")
    for name in _labels(schema):
        if not pa.types.is_integer(types[name]):
            raise InputError(
                f"{path}: column {name} is {types[name]}; it must be whole numbers; convert or remove the column"
            )


def _check_values(path: Path, batch: pa.RecordBatch, labels: Sequence[str]) -> None:
    for name in ("name", *labels):
        if empty := batch.column(name).null_count:
            raise InputError(f"{path}: column {name} has rows without a value ({empty:,} or more); fill them")
    for name in labels:
        try:
            batch.column(name).cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise InputError(f"{path}: column {name} has numbers beyond 64 bits; use smaller ones") from error


def _rows(path: Path) -> Iterator[SourceImage]:
    try:
        with pq.ParquetFile(path) as file:
            wanted = ["image", "name", *_labels(file.schema_arrow)]
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=wanted):
                for row in batch.to_pylist():
                    yield SourceImage(row["name"], row["image"] or b"", row.get("identity"), row.get("camera"))
    except (OSError, pa.ArrowException) as error:
        reason = first_line(error)
        raise InputError(f"{path}: damaged ({reason}); make or fetch it again") from error
