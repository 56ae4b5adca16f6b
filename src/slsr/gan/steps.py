"""A generator and a discriminator in training: one step of one against the other, and everything that it changes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss, relu, softplus

from slsr.gan.augmentation import diff_augment
from slsr.gan.codes import Codes
from slsr.gan.dcgan import DcganGenerator, PixelDiscriminator, bound_layers, initialize
from slsr.gan.discriminator import Discriminator
from slsr.gan.generator import Generator, GeneratorDescription
from slsr.gan.images import evenly_spaced
from slsr.gan.networks import build_generator, to_images
from slsr.gan.projected import FeatureDiscriminator
from slsr.params.gan import Gan, GanLoss
from slsr.runtime.devices import autocast, to_device
from slsr.runtime.seeds import derived_generator, derived_seed

# The streams of random numbers of a training, each with its own seed.
WEIGHTS, ORDER, NOISE, PREVIEW, NORMS, AUGMENTATION = range(6)

R1_EVERY = 16
MEASURED = 64  # images, at most, of which the deviations of feature maps are measured


@dataclass(frozen=True)
class Networks:
    """What training changes or measures, as it left it; another training can start from it.

    Attributes
    ----------
    codes : the codes of images; None without reconstruction
    """

    generator: Generator
    discriminator: Discriminator
    codes: Codes | None

    def parts(self) -> dict[str, nn.Module]:
        """Return the networks by name."""
        both: dict[str, nn.Module] = {"generator": self.generator, "discriminator": self.discriminator}
        return both if self.codes is None else both | {"codes": self.codes}


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
        for network in self.networks.parts().values():
            network.to(device).to(memory_format=torch.channels_last)
        self.generator_optimizer = self._adam(self.networks.generator, settings.learning_rate)
        rate = settings.discriminator_learning_rate or settings.learning_rate
        self.discriminator_optimizer = self._adam(self.networks.discriminator, rate)
        self.averaged = copy.deepcopy(self.networks.generator).requires_grad_(False) if settings.ema else None

    @property
    def drawing(self) -> Generator:
        """The generator that draws the images: the averaged one if there is one."""
        return self.averaged if self.averaged is not None else self.networks.generator

    @torch.no_grad()
    def measure(self, pixels: Tensor, clusters: Tensor | None = None) -> None:
        """Measure on real images, uint8 [N, H, W, 3] on the device, what new networks need to know of them.

        That is the deviation of each map of the frozen network, and the principal components that make the codes.
        """
        if isinstance(self.networks.discriminator, FeatureDiscriminator):
            self.networks.discriminator.measure(to_images(pixels[evenly_spaced(len(pixels), MEASURED)]))
        if self.networks.codes is not None:
            components = self.networks.codes.measure(pixels, derived_seed(*self.seed, WEIGHTS))
            for generator in dict.fromkeys((self.networks.generator, self.drawing)):
                if generator.placement is not None and clusters is not None:
                    generator.placement.measure(components, clusters)

    def reconstruction_step(self, real: Tensor, step: int, clusters: Tensor | None = None) -> Tensor:
        """Train the generator once to draw real images from their codes; parameters as `train_step`.

        Returns
        -------
        float32 [5], as `train_step` returns them; the first four, which the discriminator gives, are 0.
        """
        loss = self._difference(self._generate(step, 0, real, clusters), real)
        _update(self.generator_optimizer, loss)
        self._average(step + 1)
        return torch.stack([loss.new_zeros(()), *loss.new_zeros(3), loss.detach()])

    def train_step(self, real: Tensor, step: int, clusters: Tensor | None = None) -> Tensor:
        """Train the discriminator once, then the generator `generator_steps` times, first on the images just judged.

        With reconstruction, half of the images are drawn from the codes of real images of the batch.

        Parameters
        ----------
        real : float32 [B, 3, H, W] in [-1, 1]
        step : its number, from 0; all that the step draws at random follows from it
        clusters : int64 [B], for conditional networks; generated images are of the same clusters

        Returns
        -------
        float32 [5], on the device: loss of the discriminator and of the generator (mean of its steps), the
        discriminator's mean probability of "real" on real and on generated images, and the mean absolute difference of
        real images and those that are drawn from their codes.
        """
        count, discriminator = self.settings.generator_steps, self.networks.discriminator
        randomness = derived_generator(*self.seed, AUGMENTATION, step)
        coded = real[: len(real) // 2].detach() if self.settings.reconstruction else real[:0]
        real_views = self._views_of_real(real, randomness, penalized=self._penalizes(step))
        fake = self._generate(step, 0, coded, clusters)
        views = self._views(fake, randomness)
        fake_views = [view.detach() for view in views]
        judged, *probabilities = self._train_discriminator(real_views, fake_views, step, clusters)
        discriminator.requires_grad_(False)
        losses, differences = [], []
        for number in range(count):
            if number > 0:
                fake = self._generate(step, number, coded, clusters)
                views = self._views(fake, randomness)
            judgments = self._judge(views, clusters)
            losses.append(self._weighted([generator_loss(on, self.settings.loss) for on in judgments]))
            differences.append(self._difference(fake, coded))
            _update(self.generator_optimizer, losses[-1] + self.settings.reconstruction * differences[-1])
            self._average(step * count + number + 1)
        discriminator.requires_grad_(True)
        means = [torch.stack(values).detach().mean() for values in (losses, differences)]
        return torch.stack([judged, means[0], *probabilities, means[1]])

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a step changes."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state, in place."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        parts: dict[str, nn.Module | torch.optim.Optimizer] = {
            **self.networks.parts(),
            "generator_optimizer": self.generator_optimizer,
            "discriminator_optimizer": self.discriminator_optimizer,
        }
        return parts if self.averaged is None else parts | {"averaged": self.averaged}

    def _adam(self, network: nn.Module, rate: float) -> torch.optim.Optimizer:
        betas = (self.settings.beta1, self.settings.beta2)
        return torch.optim.Adam(network.parameters(), lr=rate, betas=betas, fused=True)

    def _generate(self, step: int, number: int, coded: Tensor, clusters: Tensor | None) -> Tensor:
        """Draw a batch of images: the first from the codes of real images, if some are given, the others from noise.

        Noise is drawn on the CPU, so that every device sees the same noise.
        """
        randomness = derived_generator(*self.seed, NOISE, step, number)
        noise = torch.rand(self.settings.batch_size, self.settings.latent, generator=randomness) * 2 - 1
        generator, count = self.networks.generator, len(coded)
        placed = generator.place(to_device(noise, self.device), clusters)
        if self.networks.codes is not None and count > 0:
            placed = torch.cat([self.networks.codes(coded, placed[:count]), placed[count:]])
        with autocast(self.device, self.settings.precision):
            images: Tensor = generator.draw(placed, clusters)
        return images

    def _difference(self, fake: Tensor, coded: Tensor) -> Tensor:
        """Return the mean absolute difference of real images and those drawn from their codes, the first of a batch."""
        if len(coded) == 0:
            return fake.new_zeros(()).float()
        return l1_loss(fake[: len(coded)].float(), coded)

    def _views(self, images: Tensor, randomness: torch.Generator) -> list[Tensor]:
        """Return what the discriminator judges of augmented images."""
        if self.settings.augmentation:
            images = diff_augment(images, self.settings.augmentation, randomness)
        with autocast(self.device, self.settings.precision):
            return self.networks.discriminator.views(images)

    def _views_of_real(self, real: Tensor, randomness: torch.Generator, penalized: bool) -> list[Tensor]:
        real.requires_grad_(penalized)
        with torch.set_grad_enabled(penalized):
            return self._views(real, randomness)

    def _judge(self, views: Sequence[Tensor], clusters: Tensor | None) -> list[Tensor]:
        """Return the discriminator's logits, float32, of each view."""
        with autocast(self.device, self.settings.precision):
            logits: list[Tensor] = self.networks.discriminator(views, clusters)
        return [each.float() for each in logits]

    def _weighted(self, losses: Sequence[Tensor]) -> Tensor:
        weights = self.networks.discriminator.weights
        return torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)]).sum()

    def _penalizes(self, step: int) -> bool:
        return self.settings.r1 > 0 and step % R1_EVERY == 0

    def _train_discriminator(
        self, real: Sequence[Tensor], fake: Sequence[Tensor], step: int, clusters: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Update the discriminator; return its loss without penalty, and its mean probabilities of being real."""
        on_real, on_fake = self._judge(real, clusters), self._judge(fake, clusters)
        pairs = zip(on_real, on_fake, strict=True)
        loss = self._weighted([discriminator_loss(*pair, self.settings.loss) for pair in pairs])
        penalty: Tensor | int = 0
        if self._penalizes(step):
            penalty = R1_EVERY * self.settings.r1 * gradient_penalty(on_real[0], real[0])
        _update(self.discriminator_optimizer, loss + penalty)
        return loss.detach(), _mean_probability(on_real), _mean_probability(on_fake)

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
    size, randomness = (settings.height, settings.width), derived_generator(*seed, WEIGHTS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(*seed, WEIGHTS))
        generator = build_generator(
            GeneratorDescription(
                *size,
                settings.latent,
                settings.channels,
                clusters,
                settings.upsampling,
                settings.generator,
                placed=clusters > 0 and settings.reconstruction > 0,
            )
        )
        discriminator = _build_discriminator(settings, generator.description.told)
    for network in (generator, discriminator):
        if isinstance(network, DcganGenerator | PixelDiscriminator):
            initialize(network, randomness)
    if isinstance(discriminator, PixelDiscriminator) and settings.spectral_norm:
        bound_layers(discriminator, derived_seed(*seed, WEIGHTS))
    return Networks(generator, discriminator, Codes(*size, settings.latent) if settings.reconstruction else None)


def _build_discriminator(settings: Gan, clusters: int) -> Discriminator:
    size = (settings.height, settings.width)
    if settings.discriminator == "pixels":
        options = (settings.discriminator_activation, settings.discriminator_batch_norm)
        return PixelDiscriminator(*size, settings.channels, *options, clusters)
    return FeatureDiscriminator(
        *size,
        settings.projected_channels,
        settings.projected_enlargement,
        settings.pixel_weight if settings.discriminator == "both" else 0.0,
        clusters,
    )


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


def _mean_probability(logits: Sequence[Tensor]) -> Tensor:
    return torch.stack([each.detach().sigmoid().mean() for each in logits]).mean()


def _update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
