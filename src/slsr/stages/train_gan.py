"""Train the generators: one a cluster, or one that is told the cluster."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from slsr.errors import CheckFailed
from slsr.files import replaced_folder, write_bytes
from slsr.images.decoding import Pixels
from slsr.models.dcgan import draw_images, draw_noise, save_generator
from slsr.params import Gan, Params
from slsr.quality import NEIGHBOURS, Alarm, Measured, assess, find_alarms, handcrafted
from slsr.sheets import Panel, animate_panels, draw_panels
from slsr.stages.clustered import ClusteredImages, load_clustered
from slsr.stages.paths import ASSIGNMENTS, GAN, TRAIN_TABLE
from slsr.stages.scratch import scratch_folder
from slsr.training.gan import (
    CLUSTERS_IN_FRAME,
    IMAGES_IN_FRAME,
    GanEpoch,
    Networks,
    TrainedGan,
    build_networks,
    epoch_plan,
    preview_noise,
    train_gan,
)
from slsr.training.launch import prepare_device
from slsr.training.processes import is_first, rank_and_size
from slsr.training.resume import Keeper, kept, save_interval
from slsr.training.spread import Channel, spread

log = logging.getLogger(__name__)

# What the second number of a seed stands for: the GAN of a cluster, their common parent, the conditional one, and the
# noise of the images that are checked.
OF_CLUSTER, OF_PARENT, OF_ALL, OF_CHECK = range(4)
PREVIEWS, COLUMNS, PROGRESS_ROWS = 32, 16, 9
CHECKED_IMAGES, REAL_IMAGES = 256, 1000
QUANTITIES = ("discriminator_loss", "generator_loss", "real", "fake")


@dataclass(frozen=True)
class Check:
    """Whether a generator's images of one cluster collapsed, in the handcrafted feature space."""

    cluster: int
    attempt: int
    coverage: float | None
    duplicates: float | None
    collapsed: bool


@dataclass(frozen=True)
class Attempt:
    """A training from one seed, and how its images are; the attempt 0 is the first.

    `cluster` is None for the parent of all and for the conditional generator.
    """

    cluster: int | None
    number: int
    seed: tuple[int, ...]
    trained: TrainedGan
    checks: list[Check]

    @property
    def collapsed(self) -> list[Check]:
        return [check for check in self.checks if check.collapsed]

    @property
    def lowest_coverage(self) -> float:
        return min([check.coverage for check in self.checks if check.coverage is not None], default=0.0)


def run(params: Params) -> None:
    """Read the train table and the assignments, write `artifacts/gan/`.

    cluster_<c>.safetensors, or conditional.safetensors; statistics.jsonl (one line an epoch), checks.jsonl (one line a
    cluster and attempt), curves.csv (over the clusters), and of the first clusters preview_<c>.png, progress_<c>.png
    and training.webp. An unfinished run's state lies in `.scratch/`; the same command goes on from there.
    """
    settings = params.gan
    device = prepare_device(settings.precision, settings.deterministic)
    images = load_clustered(settings.height, settings.width)
    scratch = scratch_folder("train_gan", [settings], [TRAIN_TABLE, ASSIGNMENTS])
    with kept(scratch, **asdict(save_interval(os.environ)), each_process=True) as keeper:
        results = _train_all(images, settings, device, keeper)
        if is_first():
            _write(results, images, settings)
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
            shown |= _pictures(chosen, images, settings)
        for cluster, pictures in sorted(shown.items()):
            _draw_sheets(folder, cluster, pictures)
        animate_panels(folder / "training.webp", _animation(shown), 2 * IMAGES_IN_FRAME)
        for file, lines in (("statistics.jsonl", statistics), ("checks.jsonl", checks)):
            _write_lines(folder / file, [line for _, found in sorted(lines.items()) for line in found])
        write_bytes(folder / "curves.csv", curves([epochs for _, epochs in sorted(runs.items())]).encode())
    log.info("wrote %s: %d generators of %dx%d images", GAN, len(runs), settings.height, settings.width)


def _train_all(images: ClusteredImages, settings: Gan, device: torch.device, keeper: Keeper) -> Iterator[list[Attempt]]:
    """The attempts of the parent where there is one, then of each generator, on the first process.

    The first process trains the parent, or the conditional generator; clusters are spread over all.
    """
    folder, channel = keeper.folder, Channel(lambda: keeper.stop_requested)
    rank, processes = rank_and_size()
    start: Networks | None = None
    if settings.kind == "conditional":
        if rank == 0:
            yield _attempts(None, images, settings, device, keeper, None)
            keeper.folder = folder
        return
    if settings.parent_epochs:
        keeper.folder = folder / "parent"
        if rank == 0:
            parent = settings.model_copy(update={"epochs": settings.parent_epochs, "minimum_steps": 0})
            seed = (settings.seed, OF_PARENT, 0, 0)
            trained = train_gan(images.pixels, parent, seed, device, "all clusters", keeper=keeper, keep_networks=True)
            _log_training("all clusters", len(images.pixels), trained)
            start = trained.networks
            yield [Attempt(None, 0, seed, trained, [])]
        if processes > 1:
            start = _shared(start, settings, channel)
    sizes = np.maximum(np.bincount(images.clusters), 1)
    costs = [epochs * steps for epochs, steps in (epoch_plan(int(size), settings) for size in sizes)]
    owners = spread(costs, processes)
    own: dict[int, list[Attempt]] = {}
    for cluster in [cluster for cluster, owner in enumerate(owners) if owner == rank]:
        keeper.folder = folder
        found = _attempts(cluster, images, settings, device, keeper, start)
        if rank == 0:
            yield found
        else:
            own[cluster] = found
    keeper.folder = folder
    for cluster, owner in enumerate(owners):
        if owner and rank in (0, owner):
            yield channel.to_first(own.pop(cluster, None), owner)


def _shared(networks: Networks | None, settings: Gan, channel: Channel) -> Networks:
    """The first process's networks, on every process; as tensors, since bounded layers cannot be pickled."""
    states = None
    if networks is not None:
        both = (networks.generator, networks.discriminator)
        states = [{name: tensor.cpu() for name, tensor in network.state_dict().items()} for network in both]
    states = channel.from_first(states)
    received = networks if networks is not None else build_networks(settings, (settings.seed,))
    received.generator.load_state_dict(states[0])
    received.discriminator.load_state_dict(states[1])
    return received


def _attempts(
    cluster: int | None,
    images: ClusteredImages,
    settings: Gan,
    device: torch.device,
    keeper: Keeper,
    start: Networks | None,
) -> list[Attempt]:
    """Train a generator, and again from other seeds while its images collapse and `on_collapse` says so.

    Raises
    ------
    CheckFailed
        The images collapsed, and `on_collapse` is `stop`.
    """
    folder, title = keeper.folder, "the conditional generator" if cluster is None else f"cluster {cluster}"
    pixels = images.pixels if cluster is None else images.of(cluster)
    known = images.clusters if cluster is None else None
    attempts: list[Attempt] = []
    for number in range(1 + (settings.collapse.restarts if settings.on_collapse == "restart" else 0)):
        seed = (settings.seed, OF_ALL if cluster is None else OF_CLUSTER, cluster or 0, number)
        keeper.folder = folder / f"{'conditional' if cluster is None else f'cluster_{cluster}'}_{number}"
        trained = train_gan(pixels, settings, seed, device, title, start, known, keeper)
        _log_training(title, len(pixels), trained)
        checks = _checks(cluster, number, trained, images, settings, device)
        attempts.append(Attempt(cluster, number, seed, trained, checks))
        if not attempts[-1].collapsed:
            return attempts
        message = "; ".join(_describe(check, settings) for check in attempts[-1].collapsed[:8])
        if settings.on_collapse == "stop":
            raise CheckFailed(f"{message} (gan.on_collapse: stop)")
        log.warning("%s", message)
    if len(attempts) > 1:
        log.warning("%s: collapsed from %d seeds; attempt %d stays", title, len(attempts), choose(attempts).number)
    return attempts


def choose(attempts: Sequence[Attempt]) -> Attempt:
    """The first attempt that did not collapse, else the one with the highest coverage (of its worst cluster)."""
    sound = [attempt for attempt in attempts if not attempt.collapsed]
    return sound[0] if sound else max(attempts, key=lambda attempt: attempt.lowest_coverage)


def _checks(
    cluster: int | None,
    attempt: int,
    trained: TrainedGan,
    images: ClusteredImages,
    settings: Gan,
    device: torch.device,
) -> list[Check]:
    """Coverage and duplicates of images of each of a generator's clusters."""
    return [
        _check(one, attempt, trained, images.of(one), settings, device)
        for one in ([cluster] if cluster is not None else range(int(images.clusters.max()) + 1))
    ]


def _check(cluster: int, attempt: int, trained: TrainedGan, real: Pixels, settings: Gan, device: torch.device) -> Check:
    real = _evenly(real, REAL_IMAGES)
    count = min(CHECKED_IMAGES, len(real) // 2)  # more would not be looked at
    if count <= NEIGHBOURS:
        return Check(cluster, attempt, None, None, False)
    generator = trained.generator.to(device)
    noise = draw_noise((settings.seed, OF_CHECK, cluster, attempt, 0), count, settings.latent)
    drawn = draw_images(generator, noise, cluster if generator.description.clusters else None)
    generator.cpu()
    found = assess(handcrafted(real), handcrafted(drawn), ["coverage", "duplicates"], settings.seed)
    values = {name: None if one.value is None else round(one.value, 6) for name, one in found.items()}
    return Check(cluster, attempt, values["coverage"], values["duplicates"], bool(_collapse_alarms(values, settings)))


def _collapse_alarms(values: Mapping[str, float | None], settings: Gan) -> list[Alarm]:
    limits = {"coverage": settings.collapse.coverage, "duplicates": settings.collapse.duplicates}
    return find_alarms({name: Measured(value, None, None, None) for name, value in values.items()}, limits)


def _describe(check: Check, settings: Gan) -> str:
    alarms = _collapse_alarms({"coverage": check.coverage, "duplicates": check.duplicates}, settings)
    found = " and ".join(
        f"{alarm.measure} {alarm.value:.3f} ({'below' if alarm.value < alarm.limit else 'above'} {alarm.limit:g})"
        for alarm in alarms
    )
    return f"cluster {check.cluster}: the generator collapsed, attempt {check.attempt}: {found}"


def _evenly(pixels: Pixels, count: int) -> Pixels:
    """At most so many images, spread over all."""
    chosen: Pixels = pixels[np.unique(np.linspace(0, len(pixels) - 1, count).astype(int))]
    return chosen


def _log_training(title: str, images: int, trained: TrainedGan) -> None:
    last = trained.epochs[-1]
    log.info(
        "%s: %s images, %d epochs, loss %.2f (discriminator), %.2f (generator), D(real) %.2f, D(generated) %.2f",
        *(title, f"{images:,}", last.number, last.discriminator_loss, last.generator_loss, last.real, last.fake),
    )


@dataclass(frozen=True)
class Pictures:
    """Images of one cluster: real ones, generated ones from fixed noise, and those after each epoch shown.

    `frames` pairs an epoch with uint8 [8, H, W, 3].
    """

    real: Pixels
    preview: Pixels
    frames: list[tuple[int, Pixels]]
    seen: int


def _pictures(attempt: Attempt, images: ClusteredImages, settings: Gan) -> dict[int, Pictures]:
    """Of the first clusters."""
    trained, noise = attempt.trained, preview_noise(attempt.seed, PREVIEWS, settings)
    conditional = attempt.cluster is None
    clusters = range(int(images.clusters.max()) + 1) if attempt.cluster is None else [attempt.cluster]
    return {
        cluster: Pictures(
            _evenly(images.of(cluster), PREVIEWS),
            draw_images(trained.generator, noise, cluster if conditional else None),
            [(frame.epoch, frame.pixels[cluster if conditional else 0]) for frame in trained.frames],
            trained.epochs[-1].images,
        )
        for cluster in clusters
        if cluster < CLUSTERS_IN_FRAME
    }


def _draw_sheets(folder: Path, cluster: int, pictures: Pictures) -> None:
    """The last images beside real ones, and a row after each epoch shown above real ones."""
    title = f"cluster {cluster}: generated from fixed noise after {pictures.frames[-1][0]} epochs"
    panels = [Panel(f"{title}, {pictures.seen:,} images seen", pictures.preview)]
    draw_panels(folder / f"preview_{cluster}.png", [*panels, Panel(f"cluster {cluster}: real", pictures.real)], COLUMNS)
    count = len(pictures.frames)
    chosen = sorted({round(number) for number in np.linspace(0, count - 1, min(count, PROGRESS_ROWS))})
    rows = [
        Panel(f"cluster {cluster}, the same noise after epoch {pictures.frames[number][0]}", pictures.frames[number][1])
        for number in chosen
    ]
    real = Panel(f"cluster {cluster}: real", _evenly(pictures.real, IMAGES_IN_FRAME))
    draw_panels(folder / f"progress_{cluster}.png", [*rows, real], IMAGES_IN_FRAME)


def _animation(shown: Mapping[int, Pictures]) -> list[list[Panel]]:
    """Frames with a row a cluster: generated from fixed noise on the left, real ones on the right."""
    count = max(len(pictures.frames) for pictures in shown.values())
    frames: list[list[Panel]] = []
    for number in range(count):
        frames.append([])
        for cluster, pictures in sorted(shown.items()):
            epoch, generated = pictures.frames[(number + 1) * len(pictures.frames) // count - 1]
            beside = np.full_like(generated, 255)
            real = _evenly(pictures.real, IMAGES_IN_FRAME)
            beside[: len(real)] = real
            caption = f"cluster {cluster}: left, from fixed noise after epoch {epoch}; right, real"
            frames[-1].append(Panel(caption, np.concatenate([generated, beside])))
    return frames


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
