"""Train the generators: one per cluster, or one for all clusters, which is told the cluster."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np

from slsr.files import replaced_folder, write_bytes
from slsr.gan.attempts import Attempt, choose, train_all
from slsr.gan.batches import steps_behind
from slsr.gan.images import ClusteredImages, load_clustered
from slsr.gan.loop import IMAGES_IN_FRAME, GanEpoch
from slsr.gan.networks import save_generator
from slsr.gan.pictures import Pictures, animation, draw_sheets, pictures_of
from slsr.params.gan import Gan
from slsr.reporting.sheets import animate_panels
from slsr.runtime.devices import prepare_device
from slsr.runtime.processes import is_first
from slsr.runtime.resume import kept, save_interval
from slsr.runtime.scratch import scratch_folder
from slsr.stages.paths import ASSIGNMENTS, GAN, TRAIN_TABLE, scratch_root

log = logging.getLogger(__name__)

T = TypeVar("T")

LEAST_STEPS = {"pixels": 1_000, "projected": 300, "both": 300}  # with fewer, a generator draws little more than noise
QUANTITIES = ("discriminator_loss", "generator_loss", "real", "fake", "reconstruction")


def run(gan: Gan) -> None:
    """Read the train table and the assignments; write `artifacts/gan/`.

    It has cluster_<c>.safetensors, or conditional.safetensors; statistics.jsonl (one line per epoch), checks.jsonl (one
    line per cluster and attempt), curves.csv (over the clusters), and for the first clusters preview_<c>.png,
    progress_<c>.png and training.webp. The state of an unfinished run is in `.scratch/`; the same command goes on
    from there.
    """
    device = prepare_device(gan.precision, gan.deterministic)
    images = load_clustered(TRAIN_TABLE, ASSIGNMENTS, gan.height, gan.width)
    if is_first():
        _warn_of_few_steps(images, gan)
    scratch = scratch_folder(scratch_root(), "train_gan", [gan], [TRAIN_TABLE, ASSIGNMENTS])
    with kept(scratch, save_interval(os.environ), each_process=True) as keeper:
        results = train_all(images, gan, device, keeper)
        if is_first():
            _write(results, images, gan)
        else:
            for _ in results:
                pass


def _warn_of_few_steps(images: ClusteredImages, settings: Gan) -> None:
    """Warn, before anything is trained, of generators that get fewer steps than their discriminator needs.

    This stage is the first that knows both the sizes of the clusters and the parameters of the generators.
    """
    sizes = {cluster: size for cluster, size in enumerate(np.bincount(images.clusters).tolist()) if size}
    steps = {cluster: steps_behind(size, len(images.clusters), settings) for cluster, size in sizes.items()}
    enough = LEAST_STEPS[settings.discriminator]
    few = [cluster for cluster, count in steps.items() if count < enough]
    if few:
        least = min(few, key=steps.__getitem__)
        log.warning(
            "%d of %d clusters have a generator of fewer than %s steps, too few to draw people; the least: cluster %d, "
            "%d images, %d steps. Raise gan.minimum_steps or gan.epochs, or start from a parent: gan.parent_epochs",
            *(len(few), len(sizes), f"{enough:,}", least, sizes[least], steps[least]),
        )


def _write(results: Iterator[list[Attempt]], images: ClusteredImages, settings: Gan) -> None:
    """Write each generator as soon as it is trained, in any order; keep only lines and small pictures of it."""
    statistics: dict[int | None, list[Mapping[str, object]]] = {}
    checks: dict[int | None, list[Mapping[str, object]]] = {}
    runs: dict[int | None, list[GanEpoch]] = {}
    shown: dict[int, Pictures] = {}
    with replaced_folder(GAN) as folder:
        for attempts in results:
            chosen = choose(attempts)
            statistics[chosen.cluster] = [
                {"cluster": chosen.cluster, "attempt": attempt.number} | asdict(epoch)
                for attempt in attempts
                for epoch in attempt.trained.epochs
            ]
            if chosen.cluster is None and settings.kind == "per-cluster":
                continue  # the parent draws no images
            checks[chosen.cluster] = [asdict(check) for attempt in attempts for check in attempt.checks]
            runs[chosen.cluster] = chosen.trained.epochs
            name = "conditional" if chosen.cluster is None else f"cluster_{chosen.cluster}"
            extra = {"cluster": chosen.cluster, "attempt": chosen.number}
            save_generator(folder / f"{name}.safetensors", chosen.trained.generator, extra)
            shown |= pictures_of(chosen, images)
        for cluster, pictures in sorted(shown.items()):
            draw_sheets(folder, cluster, pictures)
        animate_panels(folder / "training.webp", animation(shown), 2 * IMAGES_IN_FRAME)
        _write_lines(folder / "statistics.jsonl", chain(*_in_order(statistics)))
        _write_lines(folder / "checks.jsonl", chain(*_in_order(checks)))
        write_bytes(folder / "curves.csv", curves(_in_order(runs)).encode())
    log.info("wrote %s: %d generators of %dx%d images", GAN, len(runs), settings.height, settings.width)


def _in_order(found: Mapping[int | None, T]) -> list[T]:
    """Return the values: first that of the parent or of the conditional generator, then those of the clusters."""
    return [found[cluster] for cluster in sorted(found, key=lambda cluster: (cluster is not None, cluster or 0))]


def _write_lines(path: Path, values: Iterable[Mapping[str, object]]) -> None:
    write_bytes(path, "".join(f"{json.dumps(value)}\n" for value in values).encode())


def curves(runs: Sequence[Sequence[GanEpoch]]) -> str:
    """Return CSV with a row per epoch: lowest, median and highest of each quantity over the generators that have it.

    Cells are empty where no generator has it.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["epoch", *(f"{name}_{over}" for name in QUANTITIES for over in ("lowest", "median", "highest"))])
    for number in range(max(len(epochs) for epochs in runs)):
        present = [asdict(epochs[number]) for epochs in runs if number < len(epochs)]
        row: list[float | None] = [number + 1]
        for name in QUANTITIES:
            values = [epoch[name] for epoch in present if epoch[name] is not None]
            found = (min(values), median(values), max(values)) if values else ()
            row += [round(value, 6) for value in found] or [None] * 3
        table.writerow(row)
    return text.getvalue()
