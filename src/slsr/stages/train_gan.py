"""Train the generators: one a cluster, or one that is told the cluster."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median

from slsr.files import replaced_folder, write_bytes
from slsr.gan.attempts import Attempt, choose, train_all
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


QUANTITIES = ("discriminator_loss", "generator_loss", "real", "fake")


def run(gan: Gan) -> None:
    """Read the train table and the assignments, write `artifacts/gan/`.

    cluster_<c>.safetensors, or conditional.safetensors; statistics.jsonl (one line an epoch), checks.jsonl (one line a
    cluster and attempt), curves.csv (over the clusters), and of the first clusters preview_<c>.png, progress_<c>.png
    and training.webp. An unfinished run's state lies in `.scratch/`; the same command goes on from there.
    """
    device = prepare_device(gan.precision, gan.deterministic)
    images = load_clustered(TRAIN_TABLE, ASSIGNMENTS, gan.height, gan.width)
    scratch = scratch_folder(scratch_root(), "train_gan", [gan], [TRAIN_TABLE, ASSIGNMENTS])
    with kept(scratch, **asdict(save_interval(os.environ)), each_process=True) as keeper:
        results = train_all(images, gan, device, keeper)
        if is_first():
            _write(results, images, gan)
        else:
            for _ in results:
                pass


def _write(results: Iterator[list[Attempt]], images: ClusteredImages, settings: Gan) -> None:
    """Write each generator as it comes, in any order; keep no more of it than lines and small pictures."""
    statistics: dict[int, list[Mapping[str, object]]] = {}
    checks: dict[int, list[Mapping[str, object]]] = {}
    runs: dict[int, list[GanEpoch]] = {}
    shown: dict[int, Pictures] = {}
    with replaced_folder(GAN) as folder:
        for attempts in results:
            chosen = choose(attempts)
            place = -1 if chosen.cluster is None else chosen.cluster
            statistics[place] = [
                {"cluster": chosen.cluster, "attempt": attempt.number} | asdict(epoch)
                for attempt in attempts
                for epoch in attempt.trained.epochs
            ]
            if chosen.cluster is None and settings.kind == "per-cluster":
                continue
            checks[place] = [asdict(check) for attempt in attempts for check in attempt.checks]
            runs[place] = chosen.trained.epochs
            name = "conditional" if chosen.cluster is None else f"cluster_{chosen.cluster}"
            extra = {"cluster": chosen.cluster, "attempt": chosen.number}
            save_generator(folder / f"{name}.safetensors", chosen.trained.generator, extra)
            shown |= pictures_of(chosen, images, settings)
        for cluster, pictures in sorted(shown.items()):
            draw_sheets(folder, cluster, pictures)
        animate_panels(folder / "training.webp", animation(shown), 2 * IMAGES_IN_FRAME)
        for file, lines in (("statistics.jsonl", statistics), ("checks.jsonl", checks)):
            _write_lines(folder / file, [line for _, found in sorted(lines.items()) for line in found])
        write_bytes(folder / "curves.csv", curves([epochs for _, epochs in sorted(runs.items())]).encode())
    log.info("wrote %s: %d generators of %dx%d images", GAN, len(runs), settings.height, settings.width)


def _write_lines(path: Path, values: Sequence[Mapping[str, object]]) -> None:
    write_bytes(path, "".join(f"{json.dumps(value)}\n" for value in values).encode())


def curves(runs: Sequence[Sequence[GanEpoch]]) -> str:
    """CSV with a row an epoch: lowest, median and highest of each quantity over the generators still training then."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["epoch", *(f"{name}_{over}" for name in QUANTITIES for over in ("lowest", "median", "highest"))])
    for number in range(max(len(epochs) for epochs in runs)):
        present = [asdict(epochs[number]) for epochs in runs if number < len(epochs)]
        row: list[float] = [number + 1]
        for name in QUANTITIES:
            values = [epoch[name] for epoch in present]
            row += [round(value, 6) for value in (min(values), median(values), max(values))]
        table.writerow(row)
    return text.getvalue()
