"""The image tables (Parquet) that every stage reads and writes.

A labeled table has one row per image: `image` (encoded bytes), `name`, `identity` (the data set's own number),
`camera` (-1: unknown), and for training `label` (0..C-1 by ascending identity), or, in a validation table of people who
are not in training, `role` (query or gallery). A generated table has `image`, `name`, `cluster` and two sparse label
distributions of that image over the training labels: `label_index` and `label_weight` from its cluster, `nearest_index`
and `nearest_weight` from its nearest training images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from slsr.errors import InputError

LABELED = pa.schema([("image", pa.binary()), ("name", pa.string()), ("identity", pa.int32()), ("camera", pa.int16())])
TRAINING = LABELED.append(pa.field("label", pa.int32()))
RANKED = LABELED.append(pa.field("role", pa.string()))
GENERATED = pa.schema(
    [
        ("image", pa.binary()),
        ("name", pa.string()),
        ("cluster", pa.int32()),
        ("label_index", pa.list_(pa.int32())),
        ("label_weight", pa.list_(pa.float32())),
        ("nearest_index", pa.list_(pa.int32())),
        ("nearest_weight", pa.list_(pa.float32())),
    ]
)

ROWS_A_GROUP = 512
BYTES_A_GROUP = 32 * 2**20  # of encoded images, because 512 photos of a camera may be gigabytes


class TableWriter:
    """Collects rows and writes them in row groups, so that a table of any size needs little memory."""

    def __init__(self, writer: pq.ParquetWriter, schema: pa.Schema) -> None:
        self._writer = writer
        self._schema = schema
        self._rows: list[Mapping[str, Any]] = []
        self._bytes = 0
        self.count = 0

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row, which maps every column of the schema to its value."""
        self._rows.append(row)
        self._bytes += len(row.get("image", b""))
        self.count += 1
        if len(self._rows) == ROWS_A_GROUP or self._bytes >= BYTES_A_GROUP:
            self.flush()

    def flush(self) -> None:
        """Write the rows collected so far as one row group."""
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []
            self._bytes = 0


@contextmanager
def table_writer(path: Path, schema: pa.Schema) -> Iterator[TableWriter]:
    """Open `path` for writing rows; the file appears under its name only when the block ends without an error.

    The bytes depend on the rows alone: no clock enters them. Encoded images are stored uncompressed, every other
    column with zstd.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    compression = {name: "NONE" if name == "image" else "ZSTD" for name in _leaf_columns(schema)}
    try:
        with pq.ParquetWriter(
            temporary, schema, compression=compression, use_dictionary=False, write_statistics=False
        ) as writer:
            table = TableWriter(writer, schema)
            yield table
            table.flush()
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _leaf_columns(schema: pa.Schema) -> list[str]:
    """List Parquet's names of the columns: the values of a list column are called `<name>.list.element`."""
    return [f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name for field in schema]


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table, or some of its columns.

    Raises
    ------
    InputError
        The file is missing, is not Parquet, is damaged, or lacks a column.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such table; run `dvc repro` to make it, or `dvc pull` to fetch it")
    try:
        missing = set(columns or ()) - set(pq.read_schema(path).names)
        if not missing:
            return pq.read_table(path, columns=list(columns) if columns is not None else None)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable Parquet table ({error}); make it again with `dvc repro`") from error
    raise InputError(f"{path}: no column {', '.join(sorted(missing))}; make it again with `dvc repro`")


def column_numpy(table: pa.Table, name: str) -> Any:
    """Read one numeric column as a numpy array."""
    return table.column(name).to_numpy()
