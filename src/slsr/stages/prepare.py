"""Stage `prepare`: read one archive in `data/` into the image tables that the later stages read."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from slsr.datasets.arrangement import TABLES, Arrangement, TableName, arrange
from slsr.datasets.collection import Collection, Entry
from slsr.datasets.facts import describe, own_image_problem, summarize
from slsr.datasets.inspection import Inspection, Unreadable, inspect_collection, inspect_images
from slsr.datasets.opening import open_collection
from slsr.datasets.readers.table import is_table_file
from slsr.datasets.soundness import require_cameras, require_sound
from slsr.errors import InputError
from slsr.files import replaced_folder, write_json
from slsr.images.tables import LABELED, RANKED, TRAINING, table_writer
from slsr.params.dataset import Dataset
from slsr.stages.paths import DATA, PREPARED

log = logging.getLogger(__name__)


def run(dataset: Dataset) -> None:
    """Read `data/<dataset.archive>`; write the five tables and facts.json into `artifacts/prepared/`.

    Raises
    ------
    InputError
        The archive or the parameters are not usable; the outputs of an earlier run are kept.
    """
    path = find_archive(dataset.archive)
    with (
        replaced_folder(PREPARED) as folder,
        open_collection(path, dataset, folder, dataset.halves()) as collection,
    ):
        log.info("read %s: %d images of %s", path, len(collection.entries), dataset.name)
        facts = {"dataset": dataset.name, "split": dataset.split, **_write_all(collection, dataset, folder)}
        write_json(folder / "facts.json", facts)
    _report(facts)


def find_archive(archive: str) -> Path:
    """Return the path of an archive below `data/`, which must exist."""
    path = DATA / archive
    if is_table_file(path):
        raise InputError(
            f"dataset.archive: {archive} is a table without its images, so that DVC would not notice changed images; "
            f"pack both with `slsr data add {path}`, or use their folder"
        )
    if path.exists():
        return path
    present = sorted(item.name for item in DATA.glob("*")) if DATA.is_dir() else []
    there = f"data/ has {', '.join(present)}" if present else "data/ is empty; `dvc pull data.dvc` fetches the sample"
    raise InputError(
        f"{path}: no such archive ({there}); add yours with `slsr data add ARCHIVE`, or change dataset.archive"
    )


def _write_all(collection: Collection, dataset: Dataset, folder: Path) -> dict[str, Any]:
    """Write the tables and return the facts, with or without the unreadable images."""
    skipped = inspect_collection(collection)[1] if dataset.unreadable_images == "skip" else {}
    for reason in skipped.values():
        log.warning("skipped: %s", reason)
    kept = collection.without(skipped)
    require_sound(kept)
    require_cameras(kept, dataset.cameras, "dataset.cameras: unknown")
    arrangement = arrange(kept, dataset.identities, dataset.validation, dataset.seed, dataset.validation_share)
    _check_disk(arrangement, folder)
    facts = describe(kept, arrangement, _write_tables(kept, arrangement, folder), skipped)
    if problem := own_image_problem(facts):
        raise InputError(f"{collection.origin}: {problem}")
    return facts


def _check_disk(arrangement: Arrangement, folder: Path) -> None:
    needed = sum(entry.size + 100 for table in TABLES for entry in arrangement.tables[table])
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{folder.parent}: {needed / 1e6:,.0f} MB are needed there and {free / 1e6:,.0f} MB are free; free some "
            "space (`dvc gc -w` removes unused cache), or set dataset.identities to use fewer people"
        )


def _write_tables(collection: Collection, arrangement: Arrangement, folder: Path) -> dict[TableName, list[Inspection]]:
    """Write the five tables; return what was found in each image."""
    inspections: dict[TableName, list[Inspection]] = {}
    total = sum(len(entries) for entries in arrangement.tables.values())
    with tqdm(total=total, desc="prepare", unit="image", disable=None) as progress:
        for table, entries in arrangement.tables.items():
            inspections[table] = []
            with table_writer(folder / f"{table}.parquet", _schema(table, arrangement)) as writer:
                for entry, encoded, found in inspect_images(entries, collection.read):
                    progress.update()
                    if isinstance(found, Unreadable):
                        raise InputError(
                            f"{collection.origin}: {found.reason}, or set dataset.unreadable_images: skip to continue "
                            "without it"
                        )
                    inspections[table].append(found)
                    writer.append(_row(entry, encoded, arrangement))
    return inspections


def _schema(table: TableName, arrangement: Arrangement) -> pa.Schema:
    if table == "validation" and arrangement.validation_queries:
        return RANKED
    return TRAINING if table in {"train", "validation"} else LABELED


def _row(entry: Entry, encoded: bytes, arrangement: Arrangement) -> dict[str, Any]:
    """Return all that any table says of an image; a table takes the columns of its schema."""
    return {
        "image": encoded,
        "name": entry.name,
        "identity": entry.identity,
        "camera": entry.camera,
        "label": arrangement.labels.get(entry.identity),
        "role": "query" if entry.name in arrangement.validation_queries else "gallery",
    }


def _report(facts: Mapping[str, Any]) -> None:
    for table, counts in facts["splits"].items():
        log.info(
            "wrote %s: %d images, %d identities, %d cameras, %d junk, %d distractors",
            PREPARED / f"{table}.parquet",
            *(counts[key] for key in ("images", "identities", "cameras", "junk", "distractors")),
        )
    for line in summarize(facts):
        log.warning("warning: %s", line)
