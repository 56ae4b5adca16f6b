"""One step of a generator against a discriminator, and what it changes."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

from slsr.gan.augmentation import diff_augment
from slsr.gan.networks import (
    Discriminator,
    Generator,
    GeneratorDescription,
    bound_layers,
    initialize,
)
from slsr.params.gan import Gan, GanLoss
from slsr.runtime.devices import autocast, to_device
from slsr.runtime.seeds import derived_generator, derived_seed

# The streams of random numbers of a training, each with its own seed.
WEIGHTS, ORDER, NOISE, PREVIEW, NORMS, AUGMENTATION = range(6)


ADAM_BETA2 = 0.999


R1_EVERY = 16


@dataclass(frozen=True)
class Networks:
    """The two networks as training left them, from which another training can start."""

    generator: Generator
    discriminator: Discriminator


@dataclass(frozen=True)
class Adversaries:
    """The two networks, their optimizers, the averaged generator where there is one, and the seed of every draw."""

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
        initialize(network, randomness)
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
    penalized = settings.r1 > 0 and step % R1_EVERY == 0
    real.requires_grad_(penalized)
    on_real, on_fake = (_judge(adversaries, images, settings, augmentation, clusters) for images in (real, fake))
    loss = discriminator_loss(on_real, on_fake, settings.loss)
    penalty = R1_EVERY * settings.r1 * gradient_penalty(on_real, real) if penalized else 0
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
    """What the discriminator minimizes, from logits, means over the batch.

    `cross-entropy`: -log D(x) - log(1 - D(G(z))) (Eq. 3). `hinge`: max(0, 1 - D(x)) + max(0, 1 + D(G(z))) of the
    logits (Lim and Ye 2017).
    """
    if loss == "hinge":
        return relu(1 - on_real).mean() + relu(1 + on_fake).mean()
    return softplus(-on_real).mean() + softplus(on_fake).mean()


def generator_loss(on_fake: Tensor, loss: GanLoss = "cross-entropy") -> Tensor:
    """What the generator minimizes: -log D(G(z)), the form with the stronger gradient, or minus the logit (`hinge`)."""
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
