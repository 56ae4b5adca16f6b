"""The loop that trains a generator against a discriminator (Goodfellow et al., NeurIPS 2014).

What a step draws at random follows from the seed and the number of the step. So an interrupted training goes on from
weights, optimizers and step alone, and ends with the same bytes as an uninterrupted one.

An epoch has ceil(N / batch_size) steps: one of the discriminator, then `generator_steps` of the generator. Batches are
cut from an endless sequence of shuffled passes over the images: they are always full, every image is seen equally
often (within one), and a set smaller than a batch repeats its images inside it. With clusters the networks are
conditional, and clusters, rather than images, are seen equally often, unless `balance` says otherwise. If `epochs`
come to fewer than `minimum_steps` steps, epochs are added. Before these, the generator learns for
`reconstruction_epochs` to draw the images again from their codes, without the discriminator.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slsr.errors import InputError
from slsr.gan.batches import epoch_plan, order_of
from slsr.gan.generator import Generator
from slsr.gan.networks import draw_images, draw_noise, measure_batch_norm, to_images, to_pixels
from slsr.gan.steps import NORMS, ORDER, PREVIEW, Adversaries, Networks
from slsr.images.decoding import Pixels
from slsr.params.gan import Gan
from slsr.runtime.clock import Clock, Step
from slsr.runtime.devices import autocast
from slsr.runtime.resume import NOT_KEPT, Keeper

NORM_BATCHES = 32

# Pictures kept of a training: frames spread over its epochs (each of the published 30 has one), of the first clusters.
FRAMES, IMAGES_IN_FRAME, CLUSTERS_IN_FRAME = 32, 8, 8


QUANTITIES = ("discriminator_loss", "generator_loss", "real", "fake")  # that the discriminator gives


@dataclass(frozen=True)
class GanEpoch:
    """Means over the steps of an epoch.

    `images` counts the real images seen since the start; `real` and `fake` are the discriminator's mean probabilities
    of being real, of real and of generated images; they and the losses are None while only reconstruction is learned.
    `reconstruction` is the mean absolute difference of real images and those drawn from their codes, with pixels in
    [-1, 1], or None if it is not learned.
    """

    number: int
    images: int
    discriminator_loss: float | None
    generator_loss: float | None
    real: float | None
    fake: float | None
    reconstruction: float | None


@dataclass(frozen=True)
class Frame:
    """Images from fixed noise after an epoch.

    Attributes
    ----------
    epoch : its number
    pixels : uint8 [clusters, 8, H, W, 3]; one cluster, or the first clusters of a conditional generator
    """

    epoch: int
    pixels: Pixels


@dataclass(frozen=True)
class TrainedGan:
    """The result of a training.

    Attributes
    ----------
    generator : the one that draws the images (the averaged one if there is one), on the CPU, in evaluation mode
    epochs : the results of each epoch
    frames : images from fixed noise after epochs spread over the training, at most `FRAMES`, the last one included
    networks : as the last step left them, on the device; None if they were not asked for
    """

    generator: Generator
    epochs: list[GanEpoch]
    frames: list[Frame]
    networks: Networks | None


def train_gan(
    pixels: Pixels,
    settings: Gan,
    seed: tuple[int, ...],
    device: torch.device,
    title: str,
    start: Networks | None = None,
    clusters: NDArray[np.int32] | None = None,
    keeper: Keeper = NOT_KEPT,
    keep_networks: bool = False,
) -> TrainedGan:
    """Train a generator on images. Errors are those of `Clock`, and an InputError if there is no image.

    Parameters
    ----------
    pixels : uint8 [N, height, width, 3], of the size in `settings`
    seed : of every random draw
    title : what is trained, for messages: `cluster 2`
    start : networks to start from, which do not change; None for new ones
    clusters : int [N], 0..K-1, for a conditional generator
    keeper : keeps the state of the training, and gives the state of an interrupted or finished one
    keep_networks : return both networks too, so that another training can start from them
    """
    learner = GanLearner(pixels, settings, seed, device, title, start, clusters)
    state = keeper.load()
    if state is not None and "finished" in state:
        return learner.read_finished(state["finished"])
    planned, steps = epoch_plan(len(pixels), settings)
    epochs = settings.reconstruction_epochs + planned
    clock = Clock(learner, steps, epochs, steps * settings.batch_size, device, keeper, state)
    for step in clock:
        clock.record(learner.learn(step), settings.batch_size)
        if step.ends_epoch:
            learner.finish_epoch(clock, step)
    trained = learner.finish(keep_networks)
    keeper.save({"step": epochs * steps, "finished": _finished_state(trained)})
    return trained


class GanLearner:
    """A generator and a discriminator in training, with the images that they learn from; parameters as `train_gan`."""

    def __init__(
        self,
        pixels: Pixels,
        settings: Gan,
        seed: tuple[int, ...],
        device: torch.device,
        title: str,
        start: Networks | None,
        clusters: NDArray[np.int32] | None,
    ) -> None:
        if len(pixels) == 0:
            remedy = "lower cluster.k, or use another cluster.seed"
            raise InputError(f"{title} has no image to train a generator on; {remedy}")
        self.title = title
        self.order = order_of(len(pixels), clusters, settings.balance, title)
        count = 0 if clusters is None else int(clusters.max()) + 1
        self.adversaries = Adversaries(settings, seed, device, start, count)
        self.images = torch.from_numpy(pixels).to(device)
        if start is None:
            known = None if clusters is None else torch.from_numpy(clusters.astype(np.int64)).to(device)
            self.adversaries.measure(self.images, known)
        self.epochs: list[GanEpoch] = []
        self.frames: list[Frame] = []

    def learn(self, step: Step) -> Tensor:
        """Do one step; return what it returns (`Adversaries.train_step`)."""
        adversaries = self.adversaries
        settings, seed = adversaries.settings, (*adversaries.seed, ORDER)
        rows, clusters = self.order.batch(settings.batch_size, seed, step.number, adversaries.device)
        only_reconstruction = step.epoch < settings.reconstruction_epochs
        learn = adversaries.reconstruction_step if only_reconstruction else adversaries.train_step
        return learn(to_images(self.images[rows]), step.number, clusters)

    def finish_epoch(self, clock: Clock, step: Step) -> None:
        """Note the results of the epoch that has just ended, and draw a frame if it is time to."""
        number = step.epoch + 1
        seen = number * clock.steps * self.adversaries.settings.batch_size
        self.epochs.append(_epoch(number, seen, clock.mean().tolist(), self.adversaries.settings))
        if number in frame_epochs(clock.epochs):
            self.frames.append(_frame(self.adversaries, number))

    def finish(self, keep_networks: bool) -> TrainedGan:
        """Measure the generator's batch norms, and return it with the last frame as it draws now."""
        settings, seed = self.adversaries.settings, self.adversaries.seed
        networks = copy.deepcopy(self.adversaries.networks) if keep_networks else None
        generator = self.adversaries.drawing
        self.settle(generator)
        known = generator.description.clusters
        fixed = preview_noise(seed, IMAGES_IN_FRAME, settings.latent)
        shown: Sequence[int | None] = range(min(known, CLUSTERS_IN_FRAME)) if known else [None]
        drawn = np.concatenate([draw_images(generator, fixed, cluster) for cluster in shown])
        frames = [*self.frames[:-1], Frame(self.epochs[-1].number, _by_cluster(drawn))]
        generator = generator.cpu().to(memory_format=torch.contiguous_format).requires_grad_(False)
        return TrainedGan(generator, self.epochs, frames, networks)

    def settle(self, generator: Generator) -> None:
        """Measure the batch norms of a generator as it draws, in place: on batches of clusters as training has them."""
        settings, seed, device = self.adversaries.settings, self.adversaries.seed, self.adversaries.device
        noise = draw_noise((*seed, NORMS), NORM_BATCHES * settings.batch_size, settings.latent).to(device)
        batches = [
            self.order.batch(settings.batch_size, (*seed, ORDER), step, device)[1] for step in range(NORM_BATCHES)
        ]
        clusters = (
            torch.cat([batch for batch in batches if batch is not None]) if generator.description.clusters else None
        )
        measure_batch_norm(generator, noise, settings.batch_size, clusters)

    def read_finished(self, state: Mapping[str, Any]) -> TrainedGan:
        """Return a training that had finished, from its saved state."""
        self._read_history(state)
        networks = self.adversaries.networks
        generator = copy.deepcopy(networks.generator).cpu().to(memory_format=torch.contiguous_format)
        generator.load_state_dict(state["drawing"])
        generator.requires_grad_(False).eval()
        if state["networks"] is None:
            return TrainedGan(generator, self.epochs, self.frames, None)
        for name, part in networks.parts().items():
            part.load_state_dict(state["networks"][name])
        return TrainedGan(generator, self.epochs, self.frames, networks)

    def state_dict(self) -> dict[str, Any]:
        return {"adversaries": self.adversaries.state_dict(), **_history(self.epochs, self.frames)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.adversaries.load_state_dict(state["adversaries"])
        self._read_history(state)

    def _read_history(self, state: Mapping[str, Any]) -> None:
        self.epochs = [GanEpoch(**epoch) for epoch in state["epochs"]]
        self.frames = [Frame(number, pixels.numpy()) for number, pixels in state["frames"]]

    def describe_divergence(self, losses: Tensor, epoch: int, step: int) -> str:
        return (
            f"{self.title}, epoch {epoch}, step {step}: the losses are {float(losses[0])} (discriminator), "
            f"{float(losses[1])} (generator) and {float(losses[4])} (reconstruction): training diverged; lower "
            "gan.learning_rate, or use gan.precision: fp32"
        )


def _epoch(number: int, seen: int, means: Sequence[float], settings: Gan) -> GanEpoch:
    *judged, reconstruction = means
    only_reconstruction = number <= settings.reconstruction_epochs
    losses = dict(zip(QUANTITIES, [None if only_reconstruction else value for value in judged], strict=True))
    return GanEpoch(number, seen, **losses, reconstruction=reconstruction if settings.reconstruction else None)


def _history(epochs: Sequence[GanEpoch], frames: Sequence[Frame]) -> dict[str, Any]:
    return {
        "epochs": [asdict(epoch) for epoch in epochs],
        "frames": [(frame.epoch, torch.from_numpy(frame.pixels)) for frame in frames],
    }


def _finished_state(trained: TrainedGan) -> dict[str, Any]:
    """Return all that is needed of a finished training, without its optimizers."""
    networks = trained.networks
    return {
        "drawing": trained.generator.state_dict(),
        "networks": None if networks is None else {name: part.state_dict() for name, part in networks.parts().items()},
        **_history(trained.epochs, trained.frames),
    }


def frame_epochs(epochs: int) -> list[int]:
    """Return the epochs after which images are drawn from fixed noise: the first, the last, and some between."""
    return sorted({round(number) for number in np.linspace(1, epochs, min(epochs, FRAMES))})


def preview_noise(seed: tuple[int, ...], count: int, latent: int) -> Tensor:
    """Return the fixed noise of a training's pictures, float32 [count, latent]; row i is the same for any count."""
    return draw_noise((*seed, PREVIEW), count, latent)


@torch.no_grad()
def _frame(adversaries: Adversaries, number: int) -> Frame:
    """Draw images as training sees them, normalized by their own batch.

    This changes only the running statistics of the batch norms, which are measured anew at the end.
    """
    generator, device = adversaries.drawing, adversaries.device
    noise = preview_noise(adversaries.seed, IMAGES_IN_FRAME, adversaries.settings.latent).to(device)
    shown = min(generator.description.clusters, CLUSTERS_IN_FRAME)
    clusters = torch.arange(shown, device=device).repeat_interleave(IMAGES_IN_FRAME) if shown else None
    with autocast(device, adversaries.settings.precision):
        images = generator(noise.repeat(max(shown, 1), 1), clusters)
    return Frame(number, _by_cluster(to_pixels(images)))


def _by_cluster(pixels: Pixels) -> Pixels:
    return pixels.reshape(-1, IMAGES_IN_FRAME, *pixels.shape[1:])
