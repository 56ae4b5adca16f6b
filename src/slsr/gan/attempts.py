"""All generators of a training set: each is trained, checked for collapse, and trained again if it collapsed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from slsr.errors import CheckFailed
from slsr.gan.batches import epoch_plan
from slsr.gan.collapse import CollapseCheck, CollapseDetector
from slsr.gan.images import ClusteredImages
from slsr.gan.loop import TrainedGan, train_gan
from slsr.gan.steps import Networks, build_networks
from slsr.params.gan import Gan
from slsr.runtime.processes import rank_and_size
from slsr.runtime.resume import Keeper
from slsr.runtime.spread import Channel, spread

log = logging.getLogger(__name__)

# The second number of a seed: for the generator of a cluster, for their common parent, for the conditional generator.
# `collapse` has one more.
OF_CLUSTER, OF_PARENT, OF_ALL = range(3)


@dataclass(frozen=True)
class Attempt:
    """A training from one seed, and the checks of its images; the attempt 0 is the first.

    `cluster` is None for the parent of all and for the conditional generator.
    """

    cluster: int | None
    number: int
    seed: tuple[int, ...]
    trained: TrainedGan
    checks: list[CollapseCheck]

    @property
    def collapsed(self) -> list[CollapseCheck]:
        return [check for check in self.checks if check.collapsed]

    @property
    def lowest_coverage(self) -> float:
        return min([check.coverage for check in self.checks if check.coverage is not None], default=0.0)


def choose(attempts: Sequence[Attempt]) -> Attempt:
    """Return the first attempt that did not collapse, else the one with the highest coverage of its worst cluster."""
    sound = [attempt for attempt in attempts if not attempt.collapsed]
    return sound[0] if sound else max(attempts, key=lambda attempt: attempt.lowest_coverage)


def train_all(images: ClusteredImages, settings: Gan, device: torch.device, keeper: Keeper) -> Iterator[list[Attempt]]:
    """Yield the attempts of the parent if there is one, then of each generator, on the first process.

    The first process trains the parent, or the conditional generator; the clusters are spread over all processes.
    """
    trainer, channel = _Trainer(images, settings, device, keeper), Channel(lambda: keeper.stop_requested)
    rank, processes = rank_and_size()
    if settings.kind == "conditional":
        if rank == 0:
            yield trainer.attempts(None, None)
        return
    start: Networks | None = None
    if settings.parent_epochs:
        if rank == 0:
            parent = trainer.parent()
            start = parent.trained.networks
            yield [parent]
        if processes > 1:
            start = trainer.share(start, channel)
    owners = spread(trainer.costs(), processes)
    elsewhere: dict[int, list[Attempt]] = {}
    for cluster in [cluster for cluster, owner in enumerate(owners) if owner == rank]:
        found = trainer.attempts(cluster, start)
        if rank == 0:
            yield found
        else:
            elsewhere[cluster] = found
    for cluster, owner in enumerate(owners):
        if owner and rank in (0, owner):
            yield channel.to_first(elsewhere.pop(cluster, None), owner)


@dataclass(frozen=True)
class _Trainer:
    """Trains generators of the images with the settings, on the device; the keeper keeps their states."""

    images: ClusteredImages
    settings: Gan
    device: torch.device
    keeper: Keeper

    def costs(self) -> list[int]:
        """Return how many steps the generator of each cluster takes."""
        sizes = np.maximum(np.bincount(self.images.clusters), 1).tolist()
        return [epochs * steps for epochs, steps in (epoch_plan(size, self.settings) for size in sizes)]

    def parent(self) -> Attempt:
        """Train the generator that those of the clusters start from, on all images."""
        settings = self.settings.model_copy(update={"epochs": self.settings.parent_epochs, "minimum_steps": 0})
        seed, keeper, title = (settings.seed, OF_PARENT, 0, 0), self.keeper.below("parent"), "all clusters"
        trained = train_gan(self.images.pixels, settings, seed, self.device, title, keeper=keeper, keep_networks=True)
        _log_training(title, len(self.images.pixels), trained)
        return Attempt(None, 0, seed, trained, [])

    def share(self, networks: Networks | None, channel: Channel) -> Networks:
        """Return the first process's networks on every process; as tensors, since bounded layers cannot be pickled."""
        states = None
        if networks is not None:
            parts = networks.parts().items()
            states = {name: {key: tensor.cpu() for key, tensor in part.state_dict().items()} for name, part in parts}
        states = channel.from_first(states)
        received = networks if networks is not None else build_networks(self.settings, (self.settings.seed,))
        for name, part in received.parts().items():
            part.load_state_dict(states[name])
        return received

    def attempts(self, cluster: int | None, start: Networks | None) -> list[Attempt]:
        """Train a generator, and again from other seeds while its images collapse and `on_collapse` is `restart`.

        Raises
        ------
        CheckFailed
            The images collapsed, and `on_collapse` is `stop`.
        """
        settings, title = self.settings, "the conditional generator" if cluster is None else f"cluster {cluster}"
        detector = CollapseDetector(self.images, settings, self.device)
        attempts: list[Attempt] = []
        for number in range(1 + (settings.collapse.restarts if settings.on_collapse == "restart" else 0)):
            attempts.append(self._attempt(cluster, number, title, start, detector))
            if not attempts[-1].collapsed:
                return attempts
            message = "; ".join(detector.describe(check) for check in attempts[-1].collapsed[:8])
            if settings.on_collapse == "stop":
                raise CheckFailed(f"{message} (gan.on_collapse: stop)")
            log.warning("%s", message)
        if len(attempts) > 1:
            kept = choose(attempts).number
            log.warning("%s: collapsed from %d seeds; attempt %d is kept", title, len(attempts), kept)
        return attempts

    def _attempt(
        self, cluster: int | None, number: int, title: str, start: Networks | None, detector: CollapseDetector
    ) -> Attempt:
        images = self.images
        if cluster is None:
            seed, name = (self.settings.seed, OF_ALL, 0, number), f"conditional_{number}"
            pixels, known, clusters = images.pixels, images.clusters, range(int(images.clusters.max()) + 1)
        else:
            seed, name = (self.settings.seed, OF_CLUSTER, cluster, number), f"cluster_{cluster}_{number}"
            pixels, known, clusters = images.of(cluster), None, range(cluster, cluster + 1)
        keeper, settings = self.keeper.below(name), self.settings
        if start is not None:  # it can draw images from their codes already
            settings = settings.model_copy(update={"reconstruction_epochs": 0})
        trained = train_gan(pixels, settings, seed, self.device, title, start, known, keeper)
        _log_training(title, len(pixels), trained)
        checks = [detector.check(trained.generator, one, number) for one in clusters]
        return Attempt(cluster, number, seed, trained, checks)


def _log_training(title: str, images: int, trained: TrainedGan) -> None:
    last = trained.epochs[-1]  # its game against the discriminator has begun
    log.info(
        "%s: %s images, %d epochs, loss %.2f (discriminator), %.2f (generator), D(real) %.2f, D(generated) %.2f",
        *(title, f"{images:,}", last.number, last.discriminator_loss, last.generator_loss, last.real, last.fake),
    )
