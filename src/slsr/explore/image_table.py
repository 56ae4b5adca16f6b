"""Image tables of any size; only the images that were just looked at are in memory."""

from __future__ import annotations

import copy
import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from slsr.embedding.checkpoint_file import fingerprint
from slsr.embedding.pictures import open_picture
from slsr.errors import InputError
from slsr.images.decoding import encode_jpeg

KEPT_BYTES = 64 * 2**20
THUMBNAIL_SIZE = (192, 256)
THUMBNAIL_QUALITY = 88

Rows = NDArray[np.int64]


class ImageTable:
    """A Parquet image table: names and labels in memory, encoded images read a row group at a time when asked for.

    The row groups that were read last are kept, at most `kept_bytes` but at least one row group.
    `left_out` is the number of rows of the file that `without` has removed.

    Parameters
    ----------
    path : a table with the columns `image` and `name`; `identity` and `camera` (both or neither), `cluster`,
        `label_index` and `label_weight` are optional
    kept_bytes : how many bytes of encoded images may stay in memory

    Raises
    ------
    InputError
        The file is missing, is not Parquet, is damaged, lacks a column, or has no rows.
    """

    def __init__(self, path: Path, kept_bytes: int = KEPT_BYTES) -> None:
        self.path = path
        self._kept_bytes = kept_bytes
        self._file = _open(path)
        present = set(self._file.schema_arrow.names)
        wanted = ("name", "identity", "camera", "cluster", "label_index", "label_weight")
        columns = self._read(lambda: self._file.read([name for name in wanted if name in present]))
        self.names: list[str] = [str(name) for name in columns.column("name").to_pylist()]
        labeled = {"identity", "camera"} <= present
        self.identities = _integers(path, columns, "identity") if labeled else None
        self.cameras = _integers(path, columns, "camera") if labeled else None
        self.clusters = _integers(path, columns, "cluster") if "cluster" in present else None
        weighted = {"label_index", "label_weight"} <= present
        self.sparse_labels = [columns.column(name) for name in wanted[-2:]] if weighted else None
        groups = range(self._file.num_row_groups)
        sizes = [self._file.metadata.row_group(group).num_rows for group in groups]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._rows = np.arange(len(self.names))
        self.left_out = 0
        self._groups: OrderedDict[int, Any] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the file, hexadecimal; if rows are left out, a digest that depends on them too."""
        of_file = fingerprint(self.path)
        if not self.left_out:
            return of_file
        return hashlib.sha256(of_file.encode() + self._rows.tobytes()).hexdigest()

    def without(self, rows: Rows) -> ImageTable:
        """Return the table without some of its rows; later rows move up."""
        rest = copy.copy(self)
        rest.__dict__.pop("fingerprint", None)
        kept = np.delete(np.arange(len(self)), rows)
        rest._rows = self._rows[kept]
        rest.left_out = self.left_out + len(self) - len(kept)
        rest.names = [self.names[row] for row in kept]
        for column in ("identities", "cameras", "clusters"):
            values = getattr(self, column)
            setattr(rest, column, values[kept] if values is not None else None)
        if self.sparse_labels is not None:
            rest.sparse_labels = [values.take(kept) for values in self.sparse_labels]
        return rest

    def encoded(self, row: int) -> bytes:
        """Return the encoded image of one row."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        in_file = int(self._rows[row])
        group = int(np.searchsorted(self._starts, in_file, side="right")) - 1
        with self._lock:
            images = self._group(group)
        return bytes(images[in_file - int(self._starts[group])].as_py() or b"")

    def iterate(self) -> Iterator[bytes]:
        """Yield all encoded images in order, with one row group in memory at a time."""
        for group in range(self._file.num_row_groups):
            with self._lock:
                images = self._read_group(group)
            first, last = np.searchsorted(self._rows, self._starts[group : group + 2])
            for row in self._rows[first:last] - self._starts[group]:
                yield bytes(images[int(row)].as_py() or b"")

    def sparse_label(self, row: int) -> list[tuple[int, float]]:
        """Return the sparse label of a generated image: pairs of a training label and its weight."""
        if self.sparse_labels is None:
            return []
        index, weight = (column[row].as_py() for column in self.sparse_labels)
        return list(zip(index, weight, strict=True))

    def _group(self, group: int) -> Any:
        if group not in self._groups:
            self._groups[group] = self._read_group(group)
        self._groups.move_to_end(group)
        while len(self._groups) > 1 and sum(images.nbytes for images in self._groups.values()) > self._kept_bytes:
            self._groups.popitem(last=False)
        return self._groups[group]

    def _read_group(self, group: int) -> Any:
        return self._read(lambda: self._file.read_row_group(group, columns=["image"])).column("image")

    def _read(self, read: Any) -> Any:
        try:
            return read()
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path}: damaged ({error}); make it again with `dvc repro`") from error


def check_table(path: Path) -> None:
    """Raise the InputError that `ImageTable` raises if a file is no image table; its rows are not read."""
    _open(path).close()


def _open(path: Path) -> Any:
    """Open an image table, and check that it has images and names."""
    if not path.is_file():
        raise InputError(f"{path}: no such table; run `dvc repro` to make it, or `dvc pull` to fetch it")
    try:
        file = pq.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable Parquet table ({error}); make it again with `dvc repro`") from error
    schema = file.schema_arrow
    if missing := {"image", "name"} - set(schema.names):
        raise InputError(f"{path}: no column {', '.join(sorted(missing))}; give a table as `prepare` writes it")
    if not _is_binary(schema.field("image").type):
        raise InputError(f"{path}: the column image has no encoded images; give a table as `prepare` writes it")
    if not file.metadata.num_rows:
        raise InputError(f"{path}: this table has no images; give another one")
    return file


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _integers(path: Path, table: pa.Table, name: str) -> Rows:
    column = table.column(name)
    if not pa.types.is_integer(column.type) or column.null_count:
        raise InputError(f"{path}: the column {name} must hold a whole number in every row")
    return np.asarray(column.to_numpy(), np.int64)


def find_rows(table: ImageTable, text: str, camera: int | None = None, cluster: int | None = None) -> Rows:
    """Find the rows whose name contains a text (in any case) or whose identity is that number, in table order.

    Parameters
    ----------
    text : empty for all rows
    camera, cluster : only rows of this camera or cluster; None for any
    """
    wanted = text.strip().lower()
    kept = np.ones(len(table), bool)
    if wanted:
        kept = np.array([wanted in name.lower() for name in table.names])
        if table.identities is not None and wanted.removeprefix("-").isdecimal():
            kept |= table.identities == int(wanted) if len(wanted) < 18 else False
    for column, value in ((table.cameras, camera), (table.clusters, cluster)):
        if value is not None:
            kept &= (column == value) if column is not None else False
    return np.flatnonzero(kept)


def thumbnail(encoded: bytes, name: str, size: Sequence[int] = THUMBNAIL_SIZE) -> bytes:
    """Make a small JPEG of an image, upright, at most `size` = (width, height) pixels.

    Raises
    ------
    InputError
        It does not decode, or is too large; the message names it.
    """
    return as_jpeg(shrink(open_picture(encoded, name), size))


def shrink(image: Image.Image, size: Sequence[int]) -> Image.Image:
    """Copy an image to at most (width, height) pixels; it keeps its proportions."""
    small = image.copy()
    small.thumbnail((size[0], size[1]), Image.Resampling.BICUBIC)
    return small


def as_jpeg(image: Image.Image) -> bytes:
    """Encode an RGB image as JPEG."""
    return encode_jpeg(np.asarray(image), THUMBNAIL_QUALITY)
