"""Stage `prepare`: one archive in `data/` to the image tables that every later stage reads."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from slsr.datasets.arrangement import TABLES, Arrangement, Table, arrange
from slsr.datasets.collection import Collection, Entry
from slsr.datasets.facts import describe, summarize
from slsr.datasets.inspection import Inspection, Unreadable, inspect_images
from slsr.datasets.opening import Choice, open_collection
from slsr.datasets.readers.table import is_table_file
from slsr.datasets.soundness import require_sound
from slsr.errors import InputError
from slsr.files import replaced_folder, write_json
from slsr.images.tables import LABELED, TRAINING, table_writer
from slsr.params.dataset import Dataset
from slsr.stages.paths import DATA, PREPARED

log = logging.getLogger(__name__)


def run(dataset: Dataset) -> None:
    """Read `data/<dataset.archive>`; write the five tables and facts.json below `artifacts/prepared/`.

    Raises
    ------
    InputError
        The archive or the parameters are not usable; the outputs of an earlier run are then as they were.
    """
    path = find_archive(dataset.archive)
    choice = Choice(dataset.name, dataset.protocol, dataset.boxes, dataset.split)
    with replaced_folder(PREPARED) as folder, open_collection(path, choice, folder) as collection:
        log.info("read %s: %d images of %s", path, len(collection.entries), dataset.name)
        facts = {"dataset": dataset.name, **_write_all(collection, dataset, folder)}
        write_json(folder / "facts.json", facts)
    _report(facts)


def find_archive(archive: str) -> Path:
    """The path of an archive below `data/`, which must exist."""
    path = DATA / archive
    if is_table_file(path):
        raise InputError(
            f"dataset.archive: {archive} is a table alone, so that DVC would not see its images change; pack both with "
            f"`slsr data add {path}`, or name their folder"
        )
    if path.exists():
        return path
    present = sorted(item.name for item in DATA.glob("*")) if DATA.is_dir() else []
    there = f"data/ holds {', '.join(present)}" if present else "data/ is empty; `dvc pull data.dvc` fetches the sample"
    raise InputError(
        f"{path}: no such archive ({there}); add yours with `slsr data add ARCHIVE`, or change dataset.archive"
    )


def _write_all(collection: Collection, dataset: Dataset, folder: Path) -> dict[str, Any]:
    """Write the tables; where unreadable images are skipped, arrange anew without them and write again."""
    skipped: dict[str, str] = {}
    while True:
        arrangement = _arrange(collection, dataset, skipped)
        _check_disk(arrangement, folder)
        inspections, unreadable = _write_tables(collection, arrangement, dataset.unreadable_images, folder)
        if not unreadable:
            return describe(collection, arrangement, inspections, skipped)
        skipped |= unreadable


def _arrange(collection: Collection, dataset: Dataset, skipped: Mapping[str, str]) -> Arrangement:
    kept = replace(collection, entries=[entry for entry in collection.entries if entry.source not in skipped])
    require_sound(kept)
    return arrange(kept, dataset.identities, dataset.validation, dataset.seed)


def _check_disk(arrangement: Arrangement, folder: Path) -> None:
    needed = sum(entry.size + 100 for table in TABLES for entry in arrangement.tables[table])
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{folder.parent}: {needed / 1e6:,.0f} MB are needed there and {free / 1e6:,.0f} MB are free; free some "
            "(`dvc gc -w` drops unused cache), or set dataset.identities to try a part"
        )


def _write_tables(
    collection: Collection, arrangement: Arrangement, unreadable_images: str, folder: Path
) -> tuple[dict[Table, list[Inspection]], dict[str, str]]:
    """Write the five tables; returns what each image is, and why an image (by its source) cannot be read."""
    inspections: dict[Table, list[Inspection]] = {}
    unreadable: dict[str, str] = {}
    total = sum(len(entries) for entries in arrangement.tables.values())
    with tqdm(total=total, desc="prepare", unit="image", disable=None) as progress:
        for table, entries in arrangement.tables.items():
            inspections[table] = []
            schema = TRAINING if table in {"train", "validation"} else LABELED
            with table_writer(folder / f"{table}.parquet", schema) as writer:
                for entry, encoded, found in inspect_images(entries, collection.read):
                    progress.update()
                    if isinstance(found, Unreadable):
                        unreadable[entry.source] = _note_unreadable(found, collection.origin, unreadable_images)
                        continue
                    inspections[table].append(found)
                    writer.append(_row(entry, encoded, arrangement.labels.get(entry.identity)))
    return inspections, unreadable


def _note_unreadable(found: Unreadable, origin: str, unreadable_images: str) -> str:
    if unreadable_images == "fail":
        raise InputError(f"{origin}: {found.reason}, or set dataset.unreadable_images: skip to go on without it")
    log.warning("skipped: %s", found.reason)
    return found.reason


def _row(entry: Entry, encoded: bytes, label: int | None) -> dict[str, Any]:
    row = {"image": encoded, "name": entry.name, "identity": entry.identity, "camera": entry.camera}
    return row if label is None else {**row, "label": label}


def _report(facts: Mapping[str, Any]) -> None:
    for table, counts in facts["splits"].items():
        log.info(
            "wrote %s: %d images, %d identities, %d cameras, %d junk, %d distractors",
            PREPARED / f"{table}.parquet",
            *(counts[key] for key in ("images", "identities", "cameras", "junk", "distractors")),
        )
    for line in summarize(facts):
        log.warning("warning: %s", line)
