"""The loop that trains a generator against a discriminator (Goodfellow et al., NeurIPS 2014).

What a step draws at random follows from the seed and the number of the step, so that an interrupted training goes on
from weights, optimisers and step alone, and ends with the bytes of an uninterrupted one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import relu, softplus
from tqdm import tqdm

from slsr.errors import CheckFailed, InputError
from slsr.images.augmentation import to_device
from slsr.images.decoding import Pixels
from slsr.models.dcgan import (
    Discriminator,
    Generator,
    GeneratorDescription,
    bound_layers,
    draw_images,
    draw_noise,
    initialise,
    measure_batch_norm,
    to_images,
    to_pixels,
)
from slsr.params import Gan, GanLoss
from slsr.training.diffaugment import diff_augment
from slsr.training.launch import autocast
from slsr.training.resume import Keeper, derived_generator, derived_seed

# The streams of random numbers of a training, each with its own seed.
WEIGHTS, ORDER, NOISE, PREVIEW, NORMS, AUGMENTATION = range(6)
NORM_BATCHES = 32
ADAM_BETA2 = 0.999
R1_EVERY = 16
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
class Networks:
    """The two networks as training left them, from which another training can start."""

    generator: Generator
    discriminator: Discriminator


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


@dataclass(frozen=True)
class Adversaries:
    """The two networks, their optimisers, the averaged generator where there is one, and the seed of every draw."""

    networks: Networks
    generator_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer
    averaged: Generator | None
    seed: tuple[int, ...]

    @property
    def drawing(self) -> Generator:
        """The generator whose images count."""
        return self.averaged if self.averaged is not None else self.networks.generator

    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        """Everything that a step changes."""
        parts: dict[str, nn.Module | torch.optim.Optimizer] = {
            "generator": self.networks.generator,
            "discriminator": self.networks.discriminator,
            "generator_optimizer": self.generator_optimizer,
            "discriminator_optimizer": self.discriminator_optimizer,
        }
        return parts if self.averaged is None else parts | {"averaged": self.averaged}


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
    members = None if clusters is None else _members(clusters, title)
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
            rows, labels = _batch(len(pixels), members, settings.batch_size, (*seed, ORDER), step, device)
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


def _members(clusters: NDArray[np.int32], title: str) -> list[NDArray[np.int64]]:
    """The rows of each cluster."""
    members = [np.flatnonzero(clusters == cluster) for cluster in range(int(clusters.max()) + 1)]
    for cluster, rows in enumerate(members):
        if len(rows) == 0:
            raise InputError(f"{title}: cluster {cluster} has no image; lower cluster.k, or use another cluster.seed")
    return members


def _progress_bar(title: str, steps: int, done: int, batch_size: int) -> tqdm:
    total, initial = steps * batch_size, done * batch_size
    return tqdm(total=total, initial=initial, desc=title, unit="image", leave=False, disable=None)


def _batch(
    count: int,
    members: Sequence[NDArray[np.int64]] | None,
    batch_size: int,
    seed: tuple[int, ...],
    step: int,
    device: torch.device,
) -> tuple[Tensor, Tensor | None]:
    """Rows of a step's images, and their clusters where there are some, on the device."""
    if members is None:
        return to_device(torch.from_numpy(shuffled_batch(count, batch_size, seed, step)), device), None
    rows, clusters = (torch.from_numpy(each) for each in balanced_batch(members, batch_size, seed, step))
    return to_device(rows, device), to_device(clusters, device)


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


def epoch_plan(images: int, settings: Gan) -> tuple[int, int]:
    """How many epochs a set of so many images gets, and how many steps each has."""
    steps = math.ceil(images / settings.batch_size)
    return max(settings.epochs, math.ceil(settings.minimum_steps / steps)), steps


def frame_epochs(epochs: int) -> list[int]:
    """After which of so many epochs images are drawn from fixed noise: the first, the last, and some between."""
    return sorted({round(number) for number in np.linspace(1, epochs, min(epochs, FRAMES))})


def shuffled_batch(count: int, batch_size: int, seed: tuple[int, ...], step: int) -> NDArray[np.int64]:
    """A step's indices below `count`: its part of an endless sequence of random permutations."""
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    passes, places = np.divmod(positions, count)
    parts = [_permutation(count, (*seed, int(number)))[places[passes == number]] for number in np.unique(passes)]
    return np.concatenate(parts)


def balanced_batch(
    members: Sequence[NDArray[np.int64]], batch_size: int, seed: tuple[int, ...], step: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A step's rows and their clusters: clusters follow each other in shuffled rounds, each gives its images in turn.

    Parameters
    ----------
    members : rows of each cluster
    """
    positions = range(step * batch_size, (step + 1) * batch_size)
    clusters = shuffled_batch(len(members), batch_size, (*seed, 0), step)
    rows = np.empty(batch_size, np.int64)
    for number, (position, cluster) in enumerate(zip(positions, clusters, strict=True)):
        visit, own = position // len(members), members[cluster]
        rows[number] = own[_permutation(len(own), (*seed, 1 + int(cluster), visit // len(own)))[visit % len(own)]]
    return rows, clusters


@lru_cache(maxsize=1024)
def _permutation(count: int, seed: tuple[int, ...]) -> NDArray[np.int64]:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed))).permutation(count)


def prepare_adversaries(
    settings: Gan, seed: tuple[int, ...], device: torch.device, start: Networks | None = None, clusters: int = 0
) -> Adversaries:
    """Networks on the device, new or copies of `start`, and Adam for each."""
    networks = copy.deepcopy(start) if start is not None else build_networks(settings, seed, clusters)
    for network in (networks.generator, networks.discriminator):
        network.to(device).to(memory_format=torch.channels_last)
    return Adversaries(
        networks,
        _adam(networks.generator, settings),
        _adam(networks.discriminator, settings),
        copy.deepcopy(networks.generator).requires_grad_(False) if settings.ema else None,
        seed,
    )


def build_networks(settings: Gan, seed: tuple[int, ...], clusters: int = 0) -> Networks:
    """New networks, with weights drawn from the seed; conditional ones for `clusters` above 0."""
    size = (settings.height, settings.width)
    generator = Generator(
        GeneratorDescription(*size, settings.latent, settings.channels, clusters, settings.upsampling)
    )
    discriminator = Discriminator(
        *size, settings.channels, settings.discriminator_activation, settings.discriminator_batch_norm, clusters
    )
    randomness = derived_generator(*seed, WEIGHTS)
    for network in (generator, discriminator):
        initialise(network, randomness)
    if settings.spectral_norm:
        bound_layers(discriminator, derived_seed(*seed, WEIGHTS))
    return Networks(generator, discriminator)


def _adam(network: nn.Module, settings: Gan) -> torch.optim.Optimizer:
    return torch.optim.Adam(
        network.parameters(), lr=settings.learning_rate, betas=(settings.beta1, ADAM_BETA2), fused=True
    )


def _noise(adversaries: Adversaries, settings: Gan, step: int, number: int, device: torch.device) -> Tensor:
    """A batch of uniform noise, drawn on the CPU, so that every device sees the same."""
    randomness = derived_generator(*adversaries.seed, NOISE, step, number)
    noise = torch.rand(settings.batch_size, settings.latent, generator=randomness) * 2 - 1
    return to_device(noise, device)


def train_step(
    adversaries: Adversaries, real: Tensor, settings: Gan, step: int, clusters: Tensor | None = None
) -> Tensor:
    """One step of the discriminator, then `generator_steps` of the generator, the first on the images just judged.

    Parameters
    ----------
    real : float32 [B, 3, H, W] in [-1, 1]
    step : its number, from 0, from which follows what it draws at random
    clusters : int64 [B], for conditional networks; generated images are of the same ones

    Returns
    -------
    float32 [4], on the device: loss of the discriminator and of the generator (mean of its steps), the discriminator's
    mean probability of "real" on real and on generated images.
    """
    precise = autocast(real.device, settings.precision)
    generator = adversaries.networks.generator
    augmentation = derived_generator(*adversaries.seed, AUGMENTATION, step)
    with precise:
        fake = generator(_noise(adversaries, settings, step, 0, real.device), clusters)
    loss, on_real, on_fake = _discriminator_step(
        adversaries, real, fake.detach(), settings, step, augmentation, clusters
    )
    adversaries.networks.discriminator.requires_grad_(False)
    losses = []
    for number in range(settings.generator_steps):
        if number > 0:
            with precise:
                fake = generator(_noise(adversaries, settings, step, number, real.device), clusters)
        losses.append(generator_loss(_judge(adversaries, fake, settings, augmentation, clusters), settings.loss))
        _update(adversaries.generator_optimizer, losses[-1])
        _average(adversaries, settings.ema, step * settings.generator_steps + number + 1)
    adversaries.networks.discriminator.requires_grad_(True)
    probabilities = on_real.sigmoid().mean(), on_fake.sigmoid().mean()
    return torch.stack([loss, torch.stack(losses).detach().mean(), *probabilities])


def _discriminator_step(
    adversaries: Adversaries,
    real: Tensor,
    fake: Tensor,
    settings: Gan,
    step: int,
    augmentation: torch.Generator,
    clusters: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Its loss without penalty, and its logits on real and on generated images."""
    penalised = settings.r1 > 0 and step % R1_EVERY == 0
    real.requires_grad_(penalised)
    on_real, on_fake = (_judge(adversaries, images, settings, augmentation, clusters) for images in (real, fake))
    loss = discriminator_loss(on_real, on_fake, settings.loss)
    penalty = R1_EVERY * settings.r1 * gradient_penalty(on_real, real) if penalised else 0
    _update(adversaries.discriminator_optimizer, loss + penalty)
    return loss.detach(), on_real.detach(), on_fake.detach()


def _judge(
    adversaries: Adversaries,
    images: Tensor,
    settings: Gan,
    augmentation: torch.Generator,
    clusters: Tensor | None,
) -> Tensor:
    """The discriminator's logits, float32 [B], of images augmented as asked."""
    if settings.augmentation:
        images = diff_augment(images, settings.augmentation, augmentation)
    with autocast(images.device, settings.precision):
        logits: Tensor = adversaries.networks.discriminator(images, clusters).float()
    return logits


def discriminator_loss(on_real: Tensor, on_fake: Tensor, loss: GanLoss = "cross-entropy") -> Tensor:
    """What the discriminator minimises, from logits, means over the batch.

    `cross-entropy`: -log D(x) - log(1 - D(G(z))) (Eq. 3). `hinge`: max(0, 1 - D(x)) + max(0, 1 + D(G(z))) of the
    logits (Lim and Ye 2017).
    """
    if loss == "hinge":
        return relu(1 - on_real).mean() + relu(1 + on_fake).mean()
    return softplus(-on_real).mean() + softplus(on_fake).mean()


def generator_loss(on_fake: Tensor, loss: GanLoss = "cross-entropy") -> Tensor:
    """What the generator minimises: -log D(G(z)), the form with the stronger gradient, or minus the logit (`hinge`)."""
    return (-on_fake if loss == "hinge" else softplus(-on_fake)).mean()


def gradient_penalty(on_real: Tensor, real: Tensor) -> Tensor:
    """R1: half the squared norm of the logit's gradient by the image, mean over the batch (Mescheder et al., 2018)."""
    (gradient,) = torch.autograd.grad(on_real.sum(), real, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean() / 2


def _update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


@torch.no_grad()
def _average(adversaries: Adversaries, decay: float, update: int) -> None:
    """Move the averaged generator after an update, numbered from 1.

    Early updates count for more, so that the initial weights are forgotten.
    """
    if adversaries.averaged is None:
        return
    share = 1 - min(decay, (1 + update) / (10 + update))
    torch._foreach_lerp_(
        list(adversaries.averaged.parameters()), list(adversaries.networks.generator.parameters()), share
    )


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
    """Images as training sees them, normalised by their own batch; moves none but statistics that are measured anew."""
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
