"""The loop that trains a generator against a discriminator (Goodfellow et al., NeurIPS 2014)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import relu, softplus
from tqdm import tqdm

from slsr.errors import CheckFailed, InputError
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
)
from slsr.params import Gan, GanLoss
from slsr.training.diffaugment import diff_augment
from slsr.training.launch import autocast

# The streams of random numbers of a training, each with its own seed.
WEIGHTS, ORDER, NOISE, PREVIEW, NORMS, AUGMENTATION = range(6)
NORM_BATCHES = 32
ADAM_BETA2 = 0.999
R1_EVERY = 16


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
class TrainedGan:
    """What training gives.

    Attributes
    ----------
    generator : the one that draws the images (the averaged one where asked for), on the CPU, in evaluation mode
    epochs : what each came to
    preview : uint8 [P, H, W, 3], drawn from the fixed noise after the last epoch
    networks : as the last step left them, on the device
    """

    generator: Generator
    epochs: list[GanEpoch]
    preview: Pixels
    networks: Networks


@dataclass
class Adversaries:
    """The two networks, their optimisers, the averaged generator where there is one, and the source of randomness."""

    networks: Networks
    generator_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer
    averaged: Generator | None
    noise: Iterator[Tensor]
    augmentation: torch.Generator
    updates: int = field(default=0)
    steps: int = field(default=0)


def train_gan(
    pixels: Pixels,
    settings: Gan,
    seed: tuple[int, ...],
    device: torch.device,
    title: str,
    start: Networks | None = None,
    previews: int = 32,
) -> TrainedGan:
    """Train a DCGAN on images.

    An epoch has ceil(N / batch_size) steps: one of the discriminator, then `generator_steps` of the generator.
    Batches are cut from an endless stream of shuffled passes over the images: they are always full, every image is
    seen equally often (within one), and a set smaller than a batch repeats its images inside it. Where `epochs` come
    to fewer than `minimum_steps` steps, epochs are added.

    Parameters
    ----------
    pixels : uint8 [N, height, width, 3], of the size in `settings`
    settings : the block `gan` of params.yaml
    seed : of every random draw
    device : where to train; the images stay there as uint8
    title : what is trained, for messages: `cluster 2`
    start : networks to start from, which stay as they are; None: new ones
    previews : how many images to draw from fixed noise

    Raises
    ------
    InputError
        There is no image.
    CheckFailed
        A loss stopped being a finite number; the message has title, epoch and step.
    """
    if len(pixels) == 0:
        raise InputError(f"{title} has no image to train a generator on; lower cluster.k, or use another cluster.seed")
    adversaries = prepare_adversaries(settings, seed, device, start)
    images = torch.from_numpy(pixels).to(device)
    batches = shuffled_batches(len(pixels), settings.batch_size, (*seed, ORDER))
    number_of_epochs, steps = epoch_plan(len(pixels), settings)
    epochs: list[GanEpoch] = []
    total = number_of_epochs * steps * settings.batch_size
    with tqdm(total=total, desc=title, unit="image", leave=False, disable=None) as bar:
        for number in range(1, number_of_epochs + 1):
            records = []
            for step in range(1, steps + 1):
                real = to_images(images[torch.from_numpy(next(batches)).to(device)])
                records.append(train_step(adversaries, real, settings))
                _stop_unless_finite(records[-1], f"{title}, epoch {number}, step {step}")
                bar.update(settings.batch_size)
            epochs.append(GanEpoch(number, number * steps * settings.batch_size, *np.mean(records, axis=0).tolist()))
    return _finish(adversaries, settings, seed, epochs, previews)


def epoch_plan(images: int, settings: Gan) -> tuple[int, int]:
    """How many epochs a set of so many images gets, and how many steps each has."""
    steps = math.ceil(images / settings.batch_size)
    return max(settings.epochs, math.ceil(settings.minimum_steps / steps)), steps


def shuffled_batches(count: int, batch_size: int, seed: tuple[int, ...]) -> Iterator[NDArray[np.int64]]:
    """Endless batches of indices below `count`, cut from one random permutation after another."""
    stream = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    waiting = np.empty(0, np.int64)
    while True:
        while len(waiting) < batch_size:
            waiting = np.concatenate([waiting, stream.permutation(count)])
        yield waiting[:batch_size]
        waiting = waiting[batch_size:]


def prepare_adversaries(
    settings: Gan, seed: tuple[int, ...], device: torch.device, start: Networks | None = None
) -> Adversaries:
    """Networks on the device, new or copies of `start`, Adam for each, and their streams of random numbers."""
    networks = copy.deepcopy(start) if start is not None else build_networks(settings, seed)
    for network in (networks.generator, networks.discriminator):
        network.to(device).to(memory_format=torch.channels_last)
    return Adversaries(
        networks,
        _adam(networks.generator, settings),
        _adam(networks.discriminator, settings),
        copy.deepcopy(networks.generator).requires_grad_(False) if settings.ema else None,
        _noise_stream(seed, settings, device),
        torch.Generator().manual_seed(derive_seed((*seed, AUGMENTATION))),
    )


def build_networks(settings: Gan, seed: tuple[int, ...]) -> Networks:
    """New networks, with weights drawn from the seed."""
    size = (settings.height, settings.width)
    generator = Generator(GeneratorDescription(*size, settings.latent, settings.channels))
    discriminator = Discriminator(
        *size, settings.channels, settings.discriminator_activation, settings.discriminator_batch_norm
    )
    randomness = torch.Generator().manual_seed(derive_seed((*seed, WEIGHTS)))
    for network in (generator, discriminator):
        initialise(network, randomness)
    if settings.spectral_norm:
        bound_layers(discriminator, derive_seed((*seed, WEIGHTS)))
    return Networks(generator, discriminator)


def derive_seed(seed: tuple[int, ...]) -> int:
    """One number below 2^32 from several; no two different tuples of one length are related."""
    return int(np.random.SeedSequence(seed).generate_state(1)[0])


def _adam(network: nn.Module, settings: Gan) -> torch.optim.Optimizer:
    return torch.optim.Adam(
        network.parameters(), lr=settings.learning_rate, betas=(settings.beta1, ADAM_BETA2), fused=True
    )


def _noise_stream(seed: tuple[int, ...], settings: Gan, device: torch.device) -> Iterator[Tensor]:
    """Endless batches of uniform noise, drawn on the CPU, so that every device sees the same."""
    randomness = torch.Generator().manual_seed(derive_seed((*seed, NOISE)))
    while True:
        noise = torch.rand(settings.batch_size, settings.latent, generator=randomness) * 2 - 1
        yield noise.to(device, non_blocking=True)


def train_step(adversaries: Adversaries, real: Tensor, settings: Gan) -> tuple[float, float, float, float]:
    """One step of the discriminator, then `generator_steps` of the generator, the first on the images just judged.

    Returns
    -------
    Loss of the discriminator and of the generator (mean of its steps), the discriminator's mean probability of "real"
    on real and on generated images.
    """
    precise = autocast(real.device, settings.precision)
    generator = adversaries.networks.generator
    with precise:
        fake = generator(next(adversaries.noise))
    loss, on_real, on_fake = _discriminator_step(adversaries, real, fake.detach(), settings)
    adversaries.networks.discriminator.requires_grad_(False)
    losses = []
    for number in range(settings.generator_steps):
        with precise:
            images = fake if number == 0 else generator(next(adversaries.noise))
        losses.append(generator_loss(_judge(adversaries, images, settings), settings.loss))
        _update(adversaries.generator_optimizer, losses[-1])
        _average(adversaries, settings.ema)
    adversaries.networks.discriminator.requires_grad_(True)
    probabilities = on_real.sigmoid().mean(), on_fake.sigmoid().mean()
    numbers = torch.stack([loss, torch.stack(losses).mean(), *probabilities]).tolist()
    return numbers[0], numbers[1], numbers[2], numbers[3]


def _discriminator_step(
    adversaries: Adversaries, real: Tensor, fake: Tensor, settings: Gan
) -> tuple[Tensor, Tensor, Tensor]:
    """Its loss without penalty, and its logits on real and on generated images."""
    penalised = settings.r1 > 0 and adversaries.steps % R1_EVERY == 0
    adversaries.steps += 1
    real.requires_grad_(penalised)
    on_real, on_fake = (_judge(adversaries, images, settings) for images in (real, fake))
    loss = discriminator_loss(on_real, on_fake, settings.loss)
    penalty = R1_EVERY * settings.r1 * gradient_penalty(on_real, real) if penalised else 0
    _update(adversaries.discriminator_optimizer, loss + penalty)
    return loss.detach(), on_real.detach(), on_fake.detach()


def _judge(adversaries: Adversaries, images: Tensor, settings: Gan) -> Tensor:
    """The discriminator's logits, float32 [B], of images augmented as asked."""
    if settings.augmentation:
        images = diff_augment(images, settings.augmentation, adversaries.augmentation)
    with autocast(images.device, settings.precision):
        logits: Tensor = adversaries.networks.discriminator(images).float()
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
def _average(adversaries: Adversaries, decay: float) -> None:
    """Move the averaged generator; early updates count for more, so that the initial weights are forgotten."""
    adversaries.updates += 1
    if adversaries.averaged is None:
        return
    share = 1 - min(decay, (1 + adversaries.updates) / (10 + adversaries.updates))
    torch._foreach_lerp_(
        list(adversaries.averaged.parameters()), list(adversaries.networks.generator.parameters()), share
    )


def _stop_unless_finite(numbers: tuple[float, ...], where: str) -> None:
    if not all(map(math.isfinite, numbers)):
        raise CheckFailed(
            f"{where}: the losses are {numbers[0]} (discriminator) and {numbers[1]} (generator): training diverged; "
            "lower gan.learning_rate, or use gan.precision: fp32"
        )


def _finish(
    adversaries: Adversaries, settings: Gan, seed: tuple[int, ...], epochs: list[GanEpoch], previews: int
) -> TrainedGan:
    networks = adversaries.networks
    generator = adversaries.averaged if adversaries.averaged is not None else copy.deepcopy(networks.generator)
    device = next(generator.parameters()).device
    count = NORM_BATCHES * settings.batch_size
    measure_batch_norm(generator, draw_noise((*seed, NORMS), count, settings.latent).to(device), settings.batch_size)
    preview = draw_images(generator, draw_noise((*seed, PREVIEW), previews, settings.latent))
    return TrainedGan(generator.cpu().to(memory_format=torch.contiguous_format), epochs, preview, networks)
