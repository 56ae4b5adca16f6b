"""A generator and a discriminator in training: one step of one against the other, and everything that it changes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

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


class Adversaries:
    """The two networks in training, their optimizers, the averaged generator, the settings and the seed of every draw.

    Parameters
    ----------
    settings : the block `gan` of params.yaml
    seed : of every random draw
    device : where to train
    start : networks to start from, which do not change; None for new ones
    clusters : how many, for conditional networks; 0 for others

    Attributes
    ----------
    averaged : the running mean of the generator, which then draws the images; None if `settings.ema` is 0
    """

    def __init__(
        self,
        settings: Gan,
        seed: tuple[int, ...],
        device: torch.device,
        start: Networks | None = None,
        clusters: int = 0,
    ) -> None:
        self.settings, self.seed, self.device = settings, seed, device
        self.networks = copy.deepcopy(start) if start is not None else build_networks(settings, seed, clusters)
        for network in (self.networks.generator, self.networks.discriminator):
            network.to(device).to(memory_format=torch.channels_last)
        self.generator_optimizer = self._adam(self.networks.generator)
        self.discriminator_optimizer = self._adam(self.networks.discriminator)
        self.averaged = copy.deepcopy(self.networks.generator).requires_grad_(False) if settings.ema else None

    @property
    def drawing(self) -> Generator:
        """The generator that draws the images: the averaged one if there is one."""
        return self.averaged if self.averaged is not None else self.networks.generator

    def train_step(self, real: Tensor, step: int, clusters: Tensor | None = None) -> Tensor:
        """Train the discriminator once, then the generator `generator_steps` times, first on the images just judged.

        Parameters
        ----------
        real : float32 [B, 3, H, W] in [-1, 1]
        step : its number, from 0; all that the step draws at random follows from it
        clusters : int64 [B], for conditional networks; generated images are of the same clusters

        Returns
        -------
        float32 [4], on the device: loss of the discriminator and of the generator (mean of its steps), the
        discriminator's mean probability of "real" on real and on generated images.
        """
        count = self.settings.generator_steps
        randomness = derived_generator(*self.seed, AUGMENTATION, step)
        judge = partial(self._judge, randomness=randomness, clusters=clusters)
        fake = self._draw(step, 0, clusters)
        judged, on_real, on_fake = self._train_discriminator(judge, real, fake.detach(), step)
        self.networks.discriminator.requires_grad_(False)
        losses = []
        for number in range(count):
            if number > 0:
                fake = self._draw(step, number, clusters)
            losses.append(generator_loss(judge(fake), self.settings.loss))
            _update(self.generator_optimizer, losses[-1])
            self._average(step * count + number + 1)
        self.networks.discriminator.requires_grad_(True)
        probabilities = on_real.sigmoid().mean(), on_fake.sigmoid().mean()
        return torch.stack([judged, torch.stack(losses).detach().mean(), *probabilities])

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a step changes."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state, in place."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        parts: dict[str, nn.Module | torch.optim.Optimizer] = {
            "generator": self.networks.generator,
            "discriminator": self.networks.discriminator,
            "generator_optimizer": self.generator_optimizer,
            "discriminator_optimizer": self.discriminator_optimizer,
        }
        return parts if self.averaged is None else parts | {"averaged": self.averaged}

    def _adam(self, network: nn.Module) -> torch.optim.Optimizer:
        rate, beta1 = self.settings.learning_rate, self.settings.beta1
        return torch.optim.Adam(network.parameters(), lr=rate, betas=(beta1, ADAM_BETA2), fused=True)

    def _draw(self, step: int, number: int, clusters: Tensor | None) -> Tensor:
        """Generate a batch from uniform noise, which is drawn on the CPU, so that every device sees the same noise."""
        randomness = derived_generator(*self.seed, NOISE, step, number)
        noise = torch.rand(self.settings.batch_size, self.settings.latent, generator=randomness) * 2 - 1
        with autocast(self.device, self.settings.precision):
            images: Tensor = self.networks.generator(to_device(noise, self.device), clusters)
        return images

    def _judge(self, images: Tensor, randomness: torch.Generator, clusters: Tensor | None) -> Tensor:
        """Return the discriminator's logits, float32 [B], of augmented images."""
        if self.settings.augmentation:
            images = diff_augment(images, self.settings.augmentation, randomness)
        with autocast(self.device, self.settings.precision):
            logits: Tensor = self.networks.discriminator(images, clusters).float()
        return logits

    def _train_discriminator(
        self, judge: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, step: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Update the discriminator; return its loss without penalty, and its logits on real and generated images."""
        penalized = self.settings.r1 > 0 and step % R1_EVERY == 0
        real.requires_grad_(penalized)
        on_real, on_fake = judge(real), judge(fake)
        loss = discriminator_loss(on_real, on_fake, self.settings.loss)
        penalty = R1_EVERY * self.settings.r1 * gradient_penalty(on_real, real) if penalized else 0
        _update(self.discriminator_optimizer, loss + penalty)
        return loss.detach(), on_real.detach(), on_fake.detach()

    @torch.no_grad()
    def _average(self, update: int) -> None:
        """Move the averaged generator after an update, numbered from 1.

        Early updates count for more, so that the initial weights are forgotten.
        """
        if self.averaged is None:
            return
        share = 1 - min(self.settings.ema, (1 + update) / (10 + update))
        torch._foreach_lerp_(list(self.averaged.parameters()), list(self.networks.generator.parameters()), share)


def build_networks(settings: Gan, seed: tuple[int, ...], clusters: int = 0) -> Networks:
    """Build new networks, with weights drawn from the seed; conditional ones if `clusters` is above 0."""
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


def discriminator_loss(on_real: Tensor, on_fake: Tensor, loss: GanLoss = "cross-entropy") -> Tensor:
    """Return what the discriminator minimizes, from logits, a mean over the batch.

    `cross-entropy`: -log D(x) - log(1 - D(G(z))) (Eq. 3). `hinge`: max(0, 1 - D(x)) + max(0, 1 + D(G(z))) of the
    logits (Lim and Ye 2017).
    """
    if loss == "hinge":
        return relu(1 - on_real).mean() + relu(1 + on_fake).mean()
    return softplus(-on_real).mean() + softplus(on_fake).mean()


def generator_loss(on_fake: Tensor, loss: GanLoss = "cross-entropy") -> Tensor:
    """Return what the generator minimizes: -log D(G(z)), whose gradient is stronger, or minus the logit (`hinge`)."""
    return (-on_fake if loss == "hinge" else softplus(-on_fake)).mean()


def gradient_penalty(on_real: Tensor, real: Tensor) -> Tensor:
    """Return R1: half the squared norm of the logit's gradient by the image, a batch mean (Mescheder et al., 2018)."""
    (gradient,) = torch.autograd.grad(on_real.sum(), real, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean() / 2


def _update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
