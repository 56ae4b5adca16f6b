"""An index as a folder that is never half-written.

`manifest.json` says which subfolder, `generation-1`, `generation-2` and so on, is the index. A change writes a new one
beside it and then replaces the manifest, which is one rename: whatever interrupts it, the folder holds the index as it
was before or as it was to become, and the next change removes what was left lying. Only a generation is ever removed: a
folder with such a name that holds nothing but files of an index. One change at a time is let in.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slsr.embedding.files import NamedFeatures, Origin
from slsr.errors import InputError
from slsr.files import write_json
from slsr.search import kinds
from slsr.search.kinds import Features, Kind, Recall, Rows

VERSION = 2
MANIFEST = "manifest.json"
MANIFEST_PARTIAL = f".{MANIFEST}.partial"
LOCK = ".lock"
INDEX_FILE, NAMES_FILE, FEATURES_FILE = "index.faiss", "names.parquet", "features.npy"
GENERATION_FILES = {INDEX_FILE, NAMES_FILE, FEATURES_FILE}
GENERATION_NAME = re.compile(r"generation-([1-9][0-9]{0,17})")
SAME = 1e-3  # largest difference of a feature that half precision made
REBUILD_AT = 4  # times the images an IVF-PQ index was trained for


class Manifest(BaseModel):
    """What `manifest.json` holds: which generation is the index, its files' sizes, and what `Index` says of itself."""

    model_config = ConfigDict(strict=True, frozen=True)

    version: Literal[2]
    generation: int = Field(ge=1)
    kind: Kind
    images: int = Field(ge=1)
    dimension: int = Field(ge=1)
    model: Origin
    parameters: dict[str, Any]
    recall: Recall
    built_for: int
    files: dict[str, int]


@dataclass(frozen=True, eq=False)
class Index:
    """A gallery that can be searched.

    Attributes
    ----------
    kind, origin, parameters, recall, built_for
        What the index is, which model's features it holds, what it was built with, what it was measured to find, and
        how many images it had when that was decided.
    names
        [N]: columns name, identity and camera; the last two null where they are unknown.
    full
        float16 [N, D], on the disk: the features behind the codes of an IVF-PQ index; None for other kinds.
    """

    kind: Kind
    origin: Origin
    parameters: dict[str, Any]
    recall: Recall
    built_for: int
    names: pa.Table
    faiss: Any
    full: NDArray[np.float16] | None

    def __len__(self) -> int:
        return int(self.faiss.ntotal)

    @property
    def dimension(self) -> int:
        """D, the length of a feature."""
        return int(self.faiss.d)

    def search(self, queries: Features, count: int) -> tuple[Features, Rows]:
        """The nearest images of each query, best first.

        Parameters
        ----------
        queries
            float32 [Q, D], of length 1, by the model in `origin`.
        count
            How many; all of them where the gallery has fewer.

        Returns
        -------
        Cosine similarities and row numbers, both [Q, count]; an approximate search may find fewer than `count`, and
        then fills up with row -1.
        """
        if queries.ndim != 2 or queries.shape[1] != self.dimension:
            raise InputError(f"queries of shape {list(queries.shape)}; the index has features of {self.dimension}")
        count = min(count, len(self))
        return kinds.search_kind(self.faiss, self.kind, self.features, queries, count, self.recall.effort)

    @property
    def features(self) -> Any:
        """Features [N, D] that can be indexed by rows: those on the disk, or those that FAISS holds."""
        return self.full if self.full is not None else _Reconstructed(self.faiss)


class _Stacked:
    """Arrays [n, D], possibly mapped from files, as one of [N, D], of which rows or slices are read when asked for."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self._parts = parts
        self._edges = np.cumsum([0, *(len(part) for part in parts)])
        self.shape = (int(self._edges[-1]), int(parts[0].shape[1]))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Features:
        numbers = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else np.asarray(rows)
        found = np.empty((len(numbers), self.shape[1]), np.float32)
        owners = np.searchsorted(self._edges, numbers, "right") - 1
        for owner in np.unique(owners):
            mine = np.flatnonzero(owners == owner)
            found[mine] = self._parts[owner][numbers[mine] - self._edges[owner]]
        return found


class _Chosen:
    """Some rows of features, read when asked for."""

    def __init__(self, features: Any, rows: Rows) -> None:
        self._features, self._rows = features, rows
        self.shape = (len(rows), int(features.shape[1]))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Features:
        found: Features = self._features[self._rows[rows]]
        return found


class _Reconstructed:
    """The features in a FAISS index, as an array as far as it is needed."""

    def __init__(self, index: Any) -> None:
        self._index = index
        self.shape = (int(index.ntotal), int(index.d))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Features:
        numbers = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows)
        found: Features = self._index.reconstruct_batch(numbers)
        return found


def build(
    folder: Path,
    origin: Origin,
    parts: Sequence[NamedFeatures],
    *,
    kind: Kind | None = None,
    memory: int = 2**32,
    recall: float = 0.95,
    force: bool = False,
) -> Index:
    """Build an index of some features and put it into a folder.

    Parameters
    ----------
    kind
        None chooses by number of images and memory, see `choose_kind`.
    memory
        Bytes that the index may take when it is searched.
    recall
        The recall at 10 that an approximate index is to be searched with, where it can reach it.
    force
        Take the place of an index that is there.

    Raises
    ------
    InputError
        Something is at the folder's place already; names stand twice; features that do not fit.
    """
    _check_place(folder, force)
    names = pa.concat_tables([_names(part) for part in parts])
    _check_names(names)
    features = _together(parts)
    chosen = kind or kinds.choose_kind(len(features), features.shape[1], memory)
    made, parameters = kinds.create(chosen, features, memory)
    kinds.add(made, features)
    measured = kinds.measure_recall(made, chosen, features, recall)
    index = Index(chosen, origin, parameters, measured, len(features), names, made, None)
    with _only_writer(folder):
        _check_place(folder, force)
        _remove_leftovers(folder)
        _commit(folder, index, features)
    return open_index(folder)


def add(folder: Path, origin: Origin, parts: Sequence[NamedFeatures]) -> tuple[Index, int]:
    """Add features to the index in a folder; what it holds already is left out, so a repeated call adds nothing.

    Returns
    -------
    The index, and how many images were there already.

    Raises
    ------
    InputError
        The features are another model's, or a name is in the index with another feature; the index is then as it was.
    """
    _read_manifest(folder)
    with _only_writer(folder):
        _remove_leftovers(folder)
        index = open_index(folder)
        check_origin(folder, index.origin, origin)
        names = pa.concat_tables([_names(part) for part in parts])
        _check_names(names)
        features = _together(parts)
        if features.shape[1] != index.dimension:
            raise InputError(f"{folder}: features of {index.dimension}, but those to add have {features.shape[1]}")
        new = _new_rows(folder, index, names, features)
        known = len(features) - len(new)
        if not len(new):
            return index, known
        added = _Chosen(features, new)
        kinds.add(index.faiss, added, "add")
        full = _Stacked([index.features, added])
        grown = replace(index, names=pa.concat_tables([index.names, names.take(pa.array(new))]))
        _commit(folder, grown, full)
    return open_index(folder), known


def advice(index: Index) -> str | None:
    """Why an index that grew should be built anew; None where it is as it should be."""
    if index.kind == "flat" and len(index) > kinds.FLAT_UP_TO:
        return f"a flat index of {len(index):,} images answers slowly; build it anew, and another kind is chosen"
    if index.kind == "ivf-pq" and len(index) > REBUILD_AT * index.built_for:
        return f"{len(index):,} images in cells learned for {index.built_for:,}; build it anew to learn them again"
    return None


def open_index(folder: Path) -> Index:
    """Read an index; an IVF-PQ index leaves its features on the disk.

    Raises
    ------
    InputError
        The folder holds no index, or one that is damaged.
    """
    for attempt in range(2):
        manifest = _read_manifest(folder)
        try:
            return _open_generation(folder, manifest)
        except FileNotFoundError as error:  # replaced while it was read: its successor is there now
            if attempt == 1 or _read_manifest(folder) == manifest:
                raise InputError(f"{folder}: {error.filename} is missing; {_rebuild(folder)}") from error
    raise AssertionError


def check_origin(folder: Path, mine: Origin, other: Origin) -> None:
    """Raise InputError unless features of both can be compared."""
    if not mine.agrees(other):
        raise InputError(f"{folder}: an index of {mine}; these features are of {other}: index and query need one model")


def _rebuild(folder: Path) -> str:
    return f"build it anew with `slsr index FEATURES.npz -o {folder} --force`"


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if not path.is_file():
        what = "a folder, but no index" if folder.is_dir() else "no such index"
        raise InputError(f"{folder}: {what}; build one with `slsr index FEATURES.npz -o {folder}`")
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        found = error.errors()[0]
        key = ".".join(map(str, found["loc"]))
        reason = f"{key}: {found['msg']}" if key else found["msg"]
        remedy = _rebuild(folder) if _is_index(folder) else "nothing else here is an index's; name another folder"
        raise InputError(f"{path}: not the manifest of an index of this version ({reason}); {remedy}") from error


def _open_generation(folder: Path, manifest: Manifest) -> Index:
    place = _place(folder, manifest.generation)
    try:
        for name, size in manifest.files.items():
            if (place / name).stat().st_size != size:
                raise ValueError(f"{name} has {(place / name).stat().st_size:,} bytes instead of {size:,}")
        read = faiss.read_index(str(place / INDEX_FILE))
        names = pq.read_table(place / NAMES_FILE)
        full = None
        if FEATURES_FILE in manifest.files:
            full = np.load(place / FEATURES_FILE, mmap_mode="r", allow_pickle=False)
        if not read.ntotal == len(names) == manifest.images == len(names if full is None else full):
            raise ValueError(f"{read.ntotal:,} features, {len(names):,} names, {manifest.images:,} images")
    except FileNotFoundError:
        raise
    except (LookupError, TypeError, ValueError, RuntimeError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[-1]
        raise InputError(f"{folder}: a damaged index ({reason}); {_rebuild(folder)}") from error
    told = (manifest.kind, manifest.model, manifest.parameters, manifest.recall, manifest.built_for)
    return Index(*told, names, read, full)


def _check_place(folder: Path, force: bool) -> None:
    """Refuse a folder that building would not leave whole: anything but an index to be replaced, or an empty one."""
    if not (folder.exists() or folder.is_symlink()):
        return
    indexed = folder.is_dir() and (folder / MANIFEST).exists()
    if not folder.is_dir() or not (_is_index(folder) if indexed else _is_empty(folder)):
        raise InputError(f"{folder}: something else is there, which is left alone; name another folder")
    if indexed and not force:
        raise InputError(f"{folder}: an index is there; --add adds to it, --force builds it anew, or name another")


def _is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing, but perhaps what an interrupted first build left."""
    return all(item.name in {LOCK, MANIFEST_PARTIAL} or _is_generation(item) for item in folder.iterdir())


def _is_index(folder: Path) -> bool:
    """Whether the manifest in a folder is an index's, of any version, or a damaged one beside a generation."""
    if not (folder / MANIFEST).is_file():
        return False
    if any(_is_generation(item) and (item / INDEX_FILE).is_file() for item in folder.iterdir()):
        return True
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(manifest, dict) and Manifest.model_fields.keys() <= manifest.keys()


def _place(folder: Path, generation: int) -> Path:
    return folder / f"generation-{generation}"


def _is_generation(path: Path) -> bool:
    """Whether a path is a generation, whole or not: a folder named like one, with nothing but its files."""
    if not GENERATION_NAME.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
        return False
    return all(item.name in GENERATION_FILES and not item.is_dir() for item in path.iterdir())


def _names(part: NamedFeatures) -> pa.Table:
    identities = pa.nulls(len(part.names), pa.int64()) if part.identities is None else pa.array(part.identities)
    cameras = pa.nulls(len(part.names), pa.int64()) if part.cameras is None else pa.array(part.cameras)
    return pa.table({"name": pa.array(part.names, pa.string()), "identity": identities, "camera": cameras})


def _check_names(names: pa.Table) -> None:
    counts = names.column("name").value_counts()
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        first = twice[0]["values"].as_py()
        raise InputError(f"{len(twice)} names stand more than once, such as {first!r}; each image needs its own")


def _together(parts: Sequence[NamedFeatures]) -> _Stacked:
    dimensions = sorted({part.features.shape[1] for part in parts})
    if len(dimensions) > 1:
        raise InputError(f"features of {dimensions} dimensions; one index holds those of one model")
    return _Stacked([part.features for part in parts])


def _new_rows(folder: Path, index: Index, names: pa.Table, features: _Stacked) -> NDArray[np.int64]:
    """Rows whose names the index does not have; those it has must have the same features."""
    known = {name: row for row, name in enumerate(index.names.column("name").to_pylist())}
    rows = np.array([known.get(name, -1) for name in names.column("name").to_pylist()])
    there = np.flatnonzero(rows >= 0)
    for start in range(0, len(there), kinds.ROWS_AT_ONCE):
        some = there[start : start + kinds.ROWS_AT_ONCE]
        differ = np.abs(index.features[rows[some]].astype(np.float32) - features[some]).max(axis=1) > SAME
        if differ.any():
            name = names.column("name")[int(some[differ.argmax()])].as_py()
            raise InputError(
                f"{folder}: {name} is there with another feature; rename the image, or build the index anew"
            )
    return np.flatnonzero(rows < 0)


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{folder}: another process is changing this index; wait for it to end") from error
        yield


def _remove_leftovers(folder: Path) -> None:
    """Remove every generation that is not the index; none where a damaged manifest does not say which that is."""
    current = None
    if (folder / MANIFEST).exists():
        try:
            current = _place(folder, _read_manifest(folder).generation)
        except InputError:
            return
        if not current.is_dir():
            return
    for item in list(folder.iterdir()):
        if _is_generation(item) and item != current:
            _remove(item)


def _remove(generation: Path) -> None:
    for name in sorted(GENERATION_FILES):
        (generation / name).unlink(missing_ok=True)
    generation.rmdir()


def _next_generation(folder: Path) -> int:
    found = (GENERATION_NAME.fullmatch(item.name) for item in folder.iterdir())
    return max((int(one[1]) for one in found if one), default=0) + 1


def _commit(folder: Path, index: Index, features: Any) -> None:
    """Write a new generation, make it the index, remove the one before; `features` are read a block at a time."""
    generation = _next_generation(folder)
    place = _place(folder, generation)
    place.mkdir()
    _write(place / INDEX_FILE, lambda path: faiss.write_index(index.faiss, str(path)))
    _write(place / NAMES_FILE, lambda path: pq.write_table(index.names, path, compression="zstd"))
    if index.kind == "ivf-pq":
        _write(place / FEATURES_FILE, lambda path: _write_half(path, features))
    _sync(place)
    write_json(
        folder / MANIFEST,
        {
            "version": VERSION,
            "generation": generation,
            "kind": index.kind,
            "images": len(index),
            "dimension": index.dimension,
            "model": asdict(index.origin),
            "parameters": index.parameters,
            "recall": asdict(index.recall),
            "built_for": index.built_for,
            "files": {path.name: path.stat().st_size for path in sorted(place.iterdir())},
        },
    )
    _sync(folder)
    _remove_leftovers(folder)


def _write(path: Path, write: Callable[[Path], object]) -> None:
    try:
        write(path)
    except RuntimeError as error:  # FAISS's only kind
        free = shutil.disk_usage(path.parent).free
        raise InputError(f"{path}: cannot be written, {free / 1e6:,.0f} MB are free there ({error})") from error
    _sync(path)


def _write_half(path: Path, features: Any) -> None:
    with path.open("wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": tuple(features.shape)}
        np.lib.format.write_array_header_1_0(file, header)
        for _, block in kinds.blocks(features):
            file.write(block.astype("<f2").tobytes())


def _sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk before what follows."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
