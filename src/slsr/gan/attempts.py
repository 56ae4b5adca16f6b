"""Trainings of generators, checked for collapse and repeated."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from slsr.errors import CheckFailed
from slsr.gan.batches import epoch_plan
from slsr.gan.images import ClusteredImages
from slsr.gan.loop import TrainedGan, train_gan
from slsr.gan.networks import draw_images, draw_noise
from slsr.gan.steps import Networks, build_networks
from slsr.images.decoding import Pixels
from slsr.params.gan import Gan
from slsr.quality.assessment import Alarm, Measured, assess, find_alarms
from slsr.quality.features import handcrafted
from slsr.quality.measures import NEIGHBORS
from slsr.runtime.processes import rank_and_size
from slsr.runtime.resume import Keeper
from slsr.runtime.spread import Channel, spread

log = logging.getLogger(__name__)

# What the second number of a seed stands for: the GAN of a cluster, their common parent, the conditional one, and the
# noise of the images that are checked.
OF_CLUSTER, OF_PARENT, OF_ALL, OF_CHECK = range(4)


CHECKED_IMAGES, REAL_IMAGES = 256, 1000


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


def train_all(images: ClusteredImages, settings: Gan, device: torch.device, keeper: Keeper) -> Iterator[list[Attempt]]:
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
    real = evenly(real, REAL_IMAGES)
    count = min(CHECKED_IMAGES, len(real) // 2)  # more would not be looked at
    if count <= NEIGHBORS:
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


def evenly(pixels: Pixels, count: int) -> Pixels:
    """At most so many images, spread over all."""
    chosen: Pixels = pixels[np.unique(np.linspace(0, len(pixels) - 1, count).astype(int))]
    return chosen


def _log_training(title: str, images: int, trained: TrainedGan) -> None:
    last = trained.epochs[-1]
    log.info(
        "%s: %s images, %d epochs, loss %.2f (discriminator), %.2f (generator), D(real) %.2f, D(generated) %.2f",
        *(title, f"{images:,}", last.number, last.discriminator_loss, last.generator_loss, last.real, last.fake),
    )
