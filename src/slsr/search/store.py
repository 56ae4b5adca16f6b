"""An index as one file that is never half-written.

The file is an uncompressed zip archive: `slsr-index.json` (the description), `names.parquet`, `index.faiss` and, for
an IVF-PQ index, `features.npy`. A change writes a new file beside the old one and renames it. Whatever interrupts the
change, the file holds the index as it was before or as it is afterwards. One process at a time may change an index.
"""

from __future__ import annotations

import os
import shutil
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from slsr.embedding.files import NamedFeatures, Origin
from slsr.errors import InputError
from slsr.files import replaced_file
from slsr.search import kinds
from slsr.search.kinds import Floats, Kind, Recall, Rows

DESCRIPTION_ENTRY, NAMES_ENTRY, FAISS_ENTRY, FEATURES_ENTRY = (
    "slsr-index.json",  # comes first: a file that begins with this entry is an index, whole or damaged
    "names.parquet",
    "index.faiss",
    "features.npy",
)
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # no clock enters the file
LOCAL_HEADER = 30  # bytes of a zip entry's header before its name
SAME = 1e-3  # largest difference that half precision makes to a feature
REBUILD_AT = 4  # times the number of images that an IVF-PQ index was trained for


class Description(BaseModel):
    """What an index says about itself.

    Attributes
    ----------
    origin
        The model that its features come from.
    parameters, recall
        What the index was built with, and what it was measured to find.
    built_for
        How many images it had when that was decided.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    version: Literal[3] = 3
    kind: Kind
    origin: Origin
    parameters: dict[str, Any]
    recall: Recall
    built_for: int


@dataclass(frozen=True, eq=False)
class Index:
    """A gallery that can be searched.

    Attributes
    ----------
    names
        [N]: columns name, identity and camera; identity and camera are null if they are unknown.
    half
        float16 [N, D], on disk: the features behind the codes of an IVF-PQ index; None for other kinds.
    """

    description: Description
    names: pa.Table
    faiss: Any
    half: NDArray[np.float16] | None

    def __len__(self) -> int:
        return int(self.faiss.ntotal)

    @property
    def kind(self) -> Kind:
        """The kind of the index."""
        return self.description.kind

    @property
    def origin(self) -> Origin:
        """The model that the features come from."""
        return self.description.origin

    @property
    def recall(self) -> Recall:
        """What the index was measured to find when it was built."""
        return self.description.recall

    @property
    def dimension(self) -> int:
        """D, the length of a feature."""
        return int(self.faiss.d)

    @property
    def features(self) -> Any:
        """Features [N, D] that can be indexed by rows: those on disk, or those in the FAISS index."""
        if self.half is not None:
            return self.half
        return _RowsOnDemand((len(self), self.dimension), self.faiss.reconstruct_batch)

    def search(self, queries: Floats, count: int) -> tuple[Floats, Rows]:
        """Find the nearest images of each query, best first.

        Parameters
        ----------
        queries
            float32 [Q, D], of length 1, by the model in `origin`.
        count
            How many images to find; a gallery with fewer images gives all of them.

        Returns
        -------
        Cosine similarities and row numbers, both [Q, count]. An approximate search may find fewer than `count` images;
        the rest of the rows is -1.
        """
        if queries.ndim != 2 or queries.shape[1] != self.dimension:
            raise InputError(f"queries of shape {list(queries.shape)}; the index has features of {self.dimension}")
        count = min(count, len(self))
        return kinds.search(self.faiss, self.kind, self.features, queries, count, self.recall.effort)


@dataclass(frozen=True)
class _RowsOnDemand:
    """An array [N, D] whose rows are read when they are asked for; `read` takes row numbers."""

    shape: tuple[int, int]
    read: Callable[[Rows], Floats]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Floats:
        return self.read(np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else np.asarray(rows))


def _stacked(parts: Sequence[Any]) -> _RowsOnDemand:
    """Join arrays [n, D], possibly mapped from files, into one of [N, D]."""
    edges = np.cumsum([0, *(len(part) for part in parts)])
    dimension = int(parts[0].shape[1])

    def read(rows: Rows) -> Floats:
        found = np.empty((len(rows), dimension), np.float32)
        owners = np.searchsorted(edges, rows, "right") - 1
        for owner in np.unique(owners):
            mine = np.flatnonzero(owners == owner)
            found[mine] = parts[owner][rows[mine] - edges[owner]]
        return found

    return _RowsOnDemand((int(edges[-1]), dimension), read)


def build(
    path: Path,
    origin: Origin,
    parts: Sequence[NamedFeatures],
    *,
    kind: Kind | None = None,
    memory: int = 2**32,
    recall: float = 0.95,
    force: bool = False,
) -> Index:
    """Build an index of features and write it to a file.

    Parameters
    ----------
    kind
        None chooses by the number of images and the memory, see `choose_kind`.
    memory
        How many bytes the index may take when it is searched.
    recall
        The recall at 10 to search an approximate index with, if it can be reached.
    force
        Replace an index that is there already.

    Raises
    ------
    InputError
        There is a file already; a name is given twice; the features do not fit each other.
    """
    _check_place(path, force)
    names, features = _joined(parts)
    chosen = kind or kinds.choose_kind(len(features), features.shape[1], memory)
    index, parameters = kinds.create(chosen, features, memory)
    kinds.add(index, features)
    measured = kinds.measure_recall(index, chosen, features, recall)
    about = Description(kind=chosen, origin=origin, parameters=parameters, recall=measured, built_for=len(features))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as partial:
        _check_place(path, force)
        _write(partial, about, names, index, features)
    return open_index(path)


def add(path: Path, origin: Origin, parts: Sequence[NamedFeatures]) -> tuple[Index, int]:
    """Add features to an index; images that are in it already are left out, so that a repeated call adds nothing.

    Returns
    -------
    The index, and how many of the images were in it already.

    Raises
    ------
    InputError
        The features are another model's, or a name is in the index with another feature; the index stays as it was.
    """
    before = _version(path)
    index = open_index(path)
    check_origin(path, index.origin, origin)
    names, features = _joined(parts)
    if features.shape[1] != index.dimension:
        raise InputError(f"{path}: features of {index.dimension}, but those to add have {features.shape[1]}")
    new = _new_rows(path, index, names, features)
    known = len(features) - len(new)
    if not len(new):
        return index, known
    added = _RowsOnDemand((len(new), index.dimension), lambda rows: features[new[rows]])
    grown, whole = pa.concat_tables([index.names, names.take(pa.array(new))]), _stacked([index.features, added])
    kinds.add(index.faiss, added, "add")
    with replaced_file(path) as partial:
        if _version(path) != before:
            raise InputError(f"{path}: another process has just changed this index; run again")
        _write(partial, index.description, grown, index.faiss, whole)
    return open_index(path), known


def advice(index: Index) -> str | None:
    """Say why an index that has grown should be built again; None if it should not."""
    if index.kind == "flat" and len(index) > kinds.FLAT_UP_TO:
        return f"a flat index of {len(index):,} images is slow; build it again, and another kind is chosen"
    built_for = index.description.built_for
    if index.kind == "ivf-pq" and len(index) > REBUILD_AT * built_for:
        return f"{len(index):,} images are in cells learned from {built_for:,}; build the index again to learn new ones"
    return None


def open_index(path: Path) -> Index:
    """Read an index; the features of an IVF-PQ index stay on disk.

    Raises
    ------
    InputError
        There is no such index, or it is damaged.
    """
    remedy = "build one with `slsr index FEATURES.npz -o INDEX`"
    if path.is_dir():
        raise InputError(f"{path}: is a folder; an index is one file; {remedy}")
    if not path.is_file():
        raise InputError(f"{path}: no such index; {remedy}")
    if not _is_index(path):
        raise InputError(f"{path}: not an index; {remedy}")
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            description = Description.model_validate_json(archive.read(DESCRIPTION_ENTRY))
            names = _read_names(archive.read(NAMES_ENTRY))
            with archive.open(FAISS_ENTRY) as entry:
                index = faiss.read_index(faiss.PyCallbackIOReader(entry.read))
            half = _map_features(file, archive) if description.kind == "ivf-pq" else None
        if not index.ntotal == len(names) == len(names if half is None else half):
            raise ValueError(f"{index.ntotal:,} features, {len(names):,} names")
    except (zipfile.BadZipFile, LookupError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise InputError(
            f"{path}: a damaged index, or one of another version ({_reason(error)}); "
            f"build it again with `slsr index FEATURES.npz -o {path} --force`"
        ) from error
    return Index(description, names, index, half)


def _read_names(encoded: bytes) -> pa.Table:
    """Read the table of names in this thread alone.

    A thread of Arrow may let go of the bytes, for which it needs the interpreter, when the program is already ending;
    Python then ends that thread in a way that aborts the whole program.
    """
    with pq.ParquetFile(pa.BufferReader(encoded), pre_buffer=False) as file:
        return file.read(use_threads=False)


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or DESCRIPTION_ENTRY}: {first['msg']}"
    return (str(error).splitlines() or [type(error).__name__])[-1]


def _map_features(file: IO[bytes], archive: zipfile.ZipFile) -> NDArray[np.float16]:
    entry = archive.getinfo(FEATURES_ENTRY)
    file.seek(entry.header_offset)
    lengths = struct.unpack("<HH", file.read(LOCAL_HEADER)[-4:])
    file.seek(sum(lengths), os.SEEK_CUR)
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return np.memmap(file, dtype, "r", file.tell(), shape)


def check_origin(path: Path, mine: Origin, other: Origin) -> None:
    """Raise InputError unless the features of both models can be compared."""
    if not mine.agrees(other):
        raise InputError(f"{path}: an index of {mine}; these features are of {other}: index and query need one model")


def _is_index(path: Path) -> bool:
    """Whether a file begins as an index does; its end may be damaged."""
    with path.open("rb") as file:
        return file.read(LOCAL_HEADER + len(DESCRIPTION_ENTRY))[LOCAL_HEADER:] == DESCRIPTION_ENTRY.encode()


def _check_place(path: Path, force: bool) -> None:
    """Refuse a path where something else than an index is, or an index that is not to be replaced."""
    if not (path.exists() or path.is_symlink()):
        return
    if not path.is_file() or not _is_index(path):
        raise InputError(f"{path}: something else is there, and it is left alone; name another file")
    if not force:
        raise InputError(f"{path}: there is an index already; --add adds to it, --force replaces it, or name another")


def _version(path: Path) -> tuple[int, int, int] | None:
    """Identify the file that a path leads to now."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _joined(parts: Sequence[NamedFeatures]) -> tuple[pa.Table, _RowsOnDemand]:
    """Join the names and the features of several files."""
    names = pa.concat_tables([_names(part) for part in parts])
    counts = names.column("name").value_counts()
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        first = twice[0]["values"].as_py()
        raise InputError(f"{len(twice)} names are given more than once, such as {first!r}; each image needs its own")
    dimensions = sorted({part.features.shape[1] for part in parts})
    if len(dimensions) > 1:
        raise InputError(f"features of {dimensions} dimensions; an index holds the features of one model")
    return names, _stacked([part.features for part in parts])


def _names(part: NamedFeatures) -> pa.Table:
    identities = pa.nulls(len(part.names), pa.int64()) if part.identities is None else pa.array(part.identities)
    cameras = pa.nulls(len(part.names), pa.int64()) if part.cameras is None else pa.array(part.cameras)
    return pa.table({"name": pa.array(part.names, pa.string()), "identity": identities, "camera": cameras})


def _new_rows(path: Path, index: Index, names: pa.Table, features: _RowsOnDemand) -> Rows:
    """Find the rows whose names are not in the index; the others must have the same features there."""
    known = {name: row for row, name in enumerate(index.names.column("name").to_pylist())}
    rows = np.array([known.get(name, -1) for name in names.column("name").to_pylist()])
    there = np.flatnonzero(rows >= 0)
    for start in range(0, len(there), kinds.ROWS_AT_ONCE):
        some = there[start : start + kinds.ROWS_AT_ONCE]
        differ = np.abs(index.features[rows[some]].astype(np.float32) - features[some]).max(axis=1) > SAME
        if differ.any():
            name = names.column("name")[int(some[differ.argmax()])].as_py()
            raise InputError(
                f"{path}: {name} is in the index with another feature; rename the image, or build the index again"
            )
    return np.flatnonzero(rows < 0)


def _write(path: Path, description: Description, names: pa.Table, index: Any, features: Any) -> None:
    """Write an index; `features` are read one block at a time."""
    with path.open("wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        with _entry(archive, DESCRIPTION_ENTRY) as entry:
            entry.write(description.model_dump_json(indent=2).encode())
        with _entry(archive, NAMES_ENTRY) as entry:
            pq.write_table(names, entry, compression="zstd")
        with _entry(archive, FAISS_ENTRY) as entry:
            _write_faiss(path, entry, index)
        if description.kind == "ivf-pq":
            with _entry(archive, FEATURES_ENTRY) as entry:
                header = {"descr": "<f2", "fortran_order": False, "shape": tuple(features.shape)}
                np.lib.format.write_array_header_1_0(entry, header)
                for _, block in kinds.blocks(features):
                    entry.write(block.astype("<f2").tobytes())
    with path.open("rb") as written:
        os.fsync(written.fileno())  # before the rename that follows


def _entry(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    return archive.open(zipfile.ZipInfo(name, LONG_AGO), "w", force_zip64=True)


def _write_faiss(path: Path, entry: IO[bytes], index: Any) -> None:
    try:
        faiss.write_index(index, faiss.PyCallbackIOWriter(entry.write))
    except RuntimeError as error:  # the only kind of error that FAISS raises
        free = shutil.disk_usage(path.parent).free
        raise InputError(f"{path}: cannot be written; {free / 1e6:,.0f} MB are free there ({error})") from error
