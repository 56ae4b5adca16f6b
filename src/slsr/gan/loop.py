"""The loop that trains a generator against a discriminator (Goodfellow et al., NeurIPS 2014).

What a step draws at random follows from the seed and the number of the step, so that an interrupted training goes on
from weights, optimizers and step alone, and ends with the bytes of an uninterrupted one.
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
from tqdm import tqdm

from slsr.errors import CheckFailed, InputError
from slsr.gan.batches import epoch_plan, rows_of_clusters, step_batch
from slsr.gan.networks import (
    Generator,
    draw_images,
    draw_noise,
    measure_batch_norm,
    to_images,
    to_pixels,
)
from slsr.gan.steps import (
    NORMS,
    ORDER,
    PREVIEW,
    Adversaries,
    Networks,
    prepare_adversaries,
    train_step,
)
from slsr.images.decoding import Pixels
from slsr.params.gan import Gan
from slsr.runtime.devices import autocast
from slsr.runtime.resume import Keeper

NORM_BATCHES = 32


STEPS_BETWEEN_CHECKS = 25


# Pictures kept of a training: frames spread over its epochs (each of the published 30 has one), of the first clusters.
FRAMES, IMAGES_IN_FRAME, CLUSTERS_IN_FRAME = 32, 8, 8


@dataclass(frozen=True)
class GanEpoch:
    """Means over the steps of an epoch.

    `images` counts the real images seen since the start; `real` and `fake` are the discriminator's mean probabilities
    of being real, of real and of generated images.
    """

    number: int
    images: int
    discriminator_loss: float
    generator_loss: float
    real: float
    fake: float


@dataclass(frozen=True)
class Frame:
    """Images from fixed noise after an epoch.

    Attributes
    ----------
    epoch : its number
    pixels : uint8 [clusters, 8, H, W, 3]; one cluster, or the first of a conditional generator's
    """

    epoch: int
    pixels: Pixels


@dataclass(frozen=True)
class TrainedGan:
    """What training gives.

    Attributes
    ----------
    generator : the one that draws the images (the averaged one where asked for), on the CPU, in evaluation mode
    epochs : what each came to
    frames : images from fixed noise after epochs spread over the training, at most `FRAMES`, the last one included
    networks : as the last step left them, on the device; None where nobody asked for them
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
    keeper: Keeper | None = None,
    keep_networks: bool = False,
) -> TrainedGan:
    """Train a DCGAN on images.

    An epoch has ceil(N / batch_size) steps: one of the discriminator, then `generator_steps` of the generator.
    Batches are cut from an endless sequence of shuffled passes over the images: they are always full, every image is
    seen equally often (within one), and a set smaller than a batch repeats its images inside it. With `clusters` the
    networks are conditional ones, and clusters, rather than images, are seen equally often. Where `epochs` come to
    fewer than `minimum_steps` steps, epochs are added.

    Parameters
    ----------
    pixels : uint8 [N, height, width, 3], of the size in `settings`
    settings : the block `gan` of params.yaml
    seed : of every random draw
    device : where to train; the images stay there as uint8
    title : what is trained, for messages: `cluster 2`
    start : networks to start from, which stay as they are; None: new ones
    clusters : int [N], 0..K-1, for a conditional generator
    keeper : keeps the state of the training, and gives that of an interrupted or finished one
    keep_networks : return both networks too, so that another training can start from them

    Raises
    ------
    InputError
        There is no image.
    CheckFailed
        A loss stopped being a finite number; the message has title, epoch, step and the last good state.
    Interrupted
        A signal asked for the end; the state is saved.
    """
    if len(pixels) == 0:
        raise InputError(f"{title} has no image to train a generator on; lower cluster.k, or use another cluster.seed")
    members = None if clusters is None else rows_of_clusters(clusters, title)
    adversaries = prepare_adversaries(settings, seed, device, start, 0 if members is None else len(members))
    state = keeper.load() if keeper is not None else None
    if state is not None and state["finished"]:
        return _of_state(state, adversaries, keep_networks)
    first, records, epochs, frames = _restore(state, adversaries)
    images = torch.from_numpy(pixels).to(device)
    count, steps = epoch_plan(len(pixels), settings)
    shown = frame_epochs(count)
    with _progress_bar(title, count * steps, first, settings.batch_size) as bar:
        for step in range(first, count * steps):
            number, position = step // steps + 1, step % steps + 1
            rows, labels = step_batch(len(pixels), members, settings.batch_size, (*seed, ORDER), step, device)
            records.append(train_step(adversaries, to_images(images[rows]), settings, step, labels))
            bar.update(settings.batch_size)
            saving = keeper is not None and (keeper.stop_requested or keeper.due(number if position == steps else 0))
            if position == steps or position % STEPS_BETWEEN_CHECKS == 0 or saving:
                _stop_unless_finite(records, f"{title}, epoch {number}", keeper)
            if position == steps:
                means = torch.stack(records).mean(dim=0).tolist()
                epochs.append(GanEpoch(number, number * steps * settings.batch_size, *means))
                records = []
                if number in shown:
                    frames.append(_frame(adversaries, settings, number))
            if keeper is not None and saving:
                keeper.save(_state(adversaries, step + 1, records, epochs, frames))
                if keeper.stop_requested:
                    keeper.leave(step + 1)
    trained = _finish(adversaries, settings, epochs, frames, keep_networks)
    if keeper is not None:
        keeper.save(_finished_state(trained, count * steps))
    return trained


def _progress_bar(title: str, steps: int, done: int, batch_size: int) -> tqdm:
    total, initial = steps * batch_size, done * batch_size
    return tqdm(total=total, initial=initial, desc=title, unit="image", leave=False, disable=None)


def _state(
    adversaries: Adversaries, step: int, records: list[Tensor], epochs: list[GanEpoch], frames: list[Frame]
) -> dict[str, Any]:
    return {
        "finished": False,
        "step": step,
        "parts": {name: part.state_dict() for name, part in adversaries.parts().items()},
        "records": [record.tolist() for record in records],
        **_history(epochs, frames),
    }


def _finished_state(trained: TrainedGan, step: int) -> dict[str, Any]:
    networks = trained.networks
    return {
        "finished": True,
        "step": step,
        "drawing": trained.generator.state_dict(),
        "generator": networks.generator.state_dict() if networks is not None else None,
        "discriminator": networks.discriminator.state_dict() if networks is not None else None,
        **_history(trained.epochs, trained.frames),
    }


def _history(epochs: Sequence[GanEpoch], frames: Sequence[Frame]) -> dict[str, Any]:
    return {
        "epochs": [asdict(epoch) for epoch in epochs],
        "frames": [(frame.epoch, torch.from_numpy(frame.pixels)) for frame in frames],
    }


def _read_history(state: Mapping[str, Any]) -> tuple[list[GanEpoch], list[Frame]]:
    frames = [Frame(number, pixels.numpy()) for number, pixels in state["frames"]]
    return [GanEpoch(**epoch) for epoch in state["epochs"]], frames


def _restore(
    state: Mapping[str, Any] | None, adversaries: Adversaries
) -> tuple[int, list[Tensor], list[GanEpoch], list[Frame]]:
    """The step to begin with, what its epoch came to so far, the epochs behind, and their frames."""
    if state is None:
        return 0, [], [], []
    for name, part in adversaries.parts().items():
        part.load_state_dict(state["parts"][name])
    device = next(adversaries.networks.generator.parameters()).device
    return state["step"], [torch.tensor(record, device=device) for record in state["records"]], *_read_history(state)


def _of_state(state: Mapping[str, Any], adversaries: Adversaries, keep_networks: bool) -> TrainedGan:
    """A finished training."""
    epochs, frames = _read_history(state)
    generator = copy.deepcopy(adversaries.networks.generator).cpu().to(memory_format=torch.contiguous_format)
    generator.load_state_dict(state["drawing"])
    if keep_networks:
        adversaries.networks.generator.load_state_dict(state["generator"])
        adversaries.networks.discriminator.load_state_dict(state["discriminator"])
    networks = adversaries.networks if keep_networks else None
    return TrainedGan(generator.requires_grad_(False).eval(), epochs, frames, networks)


def frame_epochs(epochs: int) -> list[int]:
    """After which of so many epochs images are drawn from fixed noise: the first, the last, and some between."""
    return sorted({round(number) for number in np.linspace(1, epochs, min(epochs, FRAMES))})


def _stop_unless_finite(records: Sequence[Tensor], where: str, keeper: Keeper | None) -> None:
    """Look at an epoch's steps, which waits for the device: done now and then."""
    numbers = torch.stack(list(records)).cpu()
    finite = torch.isfinite(numbers).all(dim=1)
    if finite.all():
        return
    step = int((~finite).nonzero()[0])
    state = keeper.described() if keeper is not None else "no state was kept"
    raise CheckFailed(
        f"{where}, step {step + 1}: the losses are {float(numbers[step, 0])} (discriminator) and "
        f"{float(numbers[step, 1])} (generator): training diverged; lower gan.learning_rate, or use gan.precision: "
        f"fp32 ({state})"
    )


def preview_noise(seed: tuple[int, ...], count: int, settings: Gan) -> Tensor:
    """The noise that stays fixed through a training, float32 [count, latent]; row i is the same for any count."""
    return draw_noise((*seed, PREVIEW), count, settings.latent)


@torch.no_grad()
def _frame(adversaries: Adversaries, settings: Gan, number: int) -> Frame:
    """Images as training sees them, normalized by their own batch; moves none but statistics that are measured anew."""
    generator = adversaries.drawing
    device = next(generator.parameters()).device
    noise = preview_noise(adversaries.seed, IMAGES_IN_FRAME, settings).to(device)
    shown = min(generator.description.clusters, CLUSTERS_IN_FRAME)
    clusters = torch.arange(shown, device=device).repeat_interleave(IMAGES_IN_FRAME) if shown else None
    with autocast(device, settings.precision):
        images = generator(noise.repeat(max(shown, 1), 1), clusters)
    return Frame(number, _by_cluster(to_pixels(images)))


def _by_cluster(pixels: Pixels) -> Pixels:
    return pixels.reshape(-1, IMAGES_IN_FRAME, *pixels.shape[1:])


def _finish(
    adversaries: Adversaries, settings: Gan, epochs: list[GanEpoch], frames: list[Frame], keep_networks: bool
) -> TrainedGan:
    networks = copy.deepcopy(adversaries.networks) if keep_networks else None
    generator, seed = adversaries.drawing, adversaries.seed
    device = next(generator.parameters()).device
    count = NORM_BATCHES * settings.batch_size
    known = generator.description.clusters
    clusters = torch.arange(count, device=device) % known if known else None
    noise = draw_noise((*seed, NORMS), count, settings.latent).to(device)
    measure_batch_norm(generator, noise, settings.batch_size, clusters)
    last = preview_noise(seed, IMAGES_IN_FRAME, settings)
    shown: Sequence[int | None] = range(min(known, CLUSTERS_IN_FRAME)) if known else [None]
    drawn = np.concatenate([draw_images(generator, last, cluster) for cluster in shown])
    frames = [*frames[:-1], Frame(epochs[-1].number, _by_cluster(drawn))]
    generator = generator.cpu().to(memory_format=torch.contiguous_format).requires_grad_(False)
    return TrainedGan(generator, epochs, frames, networks)
