"""The networks of the block `gan`: built, initialized, drawn from, written and read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from slsr.errors import InputError
from slsr.gan.dcgan import DcganGenerator
from slsr.gan.generator import Generator, GeneratorDescription
from slsr.gan.light import LightGenerator
from slsr.images.decoding import Pixels
from slsr.models.checkpoint import load_checkpoint, save_checkpoint
from slsr.params.gan import GeneratorKind

# A generator always draws this many images at a time: the last bits of a convolution depend on its batch size.
SAMPLING_BATCH = 64

GENERATORS: Mapping[GeneratorKind, type[Generator]] = {"dcgan": DcganGenerator, "light": LightGenerator}


@torch.no_grad()
def measure_batch_norm(generator: Generator, noise: Tensor, batch_size: int, clusters: Tensor | None = None) -> None:
    """Set the batch norms' mean and variance to their averages over batches of noise, and switch to evaluation mode.

    `clusters`, int64 [N], is given for a conditional generator.

    The running averages that training leaves mix the statistics of many past weights, and an averaged generator has no
    statistics of its own. The statistics measured here fit the weights as they are, so that evaluation draws what
    training saw.
    """
    norms = [module for module in generator.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    generator.train()
    for start in range(0, len(noise) - batch_size + 1, batch_size):
        rows = slice(start, start + batch_size)
        generator(noise[rows], None if clusters is None else clusters[rows])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    generator.eval()


def draw_noise(seed: tuple[int, ...], count: int, latent: int) -> Tensor:
    """Draw uniform noise on [-1, 1), float32 [count, latent] on the CPU; row i depends on the seed and i alone."""
    stream = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    return torch.from_numpy(stream.uniform(-1.0, 1.0, (count, latent)).astype(np.float32))


def draw_images(generator: Generator, noise: Tensor, cluster: int | None = None) -> Pixels:
    """Draw images, uint8 [N, H, W, 3], from a generator in evaluation mode; each depends on its row of noise alone.

    `cluster` is given for a conditional generator.
    """
    batches = list(iterate_images(generator, noise, cluster))
    size = (0, generator.description.height, generator.description.width, 3)
    return np.concatenate(batches) if batches else np.empty(size, np.uint8)


@torch.inference_mode()
def iterate_images(generator: Generator, noise: Tensor, cluster: int | None = None) -> Iterator[Pixels]:
    """Yield the same images, `SAMPLING_BATCH` at a time; the last batch is filled up, so its size changes nothing."""
    device = next(generator.parameters()).device
    clusters = None if cluster is None else torch.full((SAMPLING_BATCH,), cluster, device=device)
    for batch in noise.split(SAMPLING_BATCH):
        padded = torch.cat([batch, batch.new_zeros(SAMPLING_BATCH - len(batch), noise.shape[1])])
        yield to_pixels(generator(padded.to(device), clusters))[: len(batch)]


def to_pixels(images: Tensor) -> Pixels:
    """Turn float [N, 3, H, W] in [-1, 1] into uint8 [N, H, W, 3]."""
    scaled = ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    pixels: NDArray[np.uint8] = scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pixels


def to_images(pixels: Tensor) -> Tensor:
    """Turn uint8 [N, H, W, 3] into float32 [N, 3, H, W] in [-1, 1], on the same device."""
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def save_generator(path: Path, generator: Generator, extra: Mapping[str, Any]) -> None:
    """Write a generator with its description and `extra` information as safetensors."""
    description = asdict(generator.description) | {"extra": dict(extra)}
    save_checkpoint(path, generator.state_dict(), description)


def load_generator(path: Path) -> Generator:
    """Read a generator, on the CPU and in evaluation mode.

    Raises
    ------
    InputError
        The file is missing, unreadable, or not a generator.
    """
    tensors, description = load_checkpoint(path)
    if description.get("kind") not in GENERATORS:
        raise InputError(f"{path}: a model, but not a generator; make it again with `dvc repro`")
    description.pop("extra", None)
    generator = build_generator(GeneratorDescription(**description))
    try:
        generator.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"{path}: its tensors do not fit its description; make it again with `dvc repro`") from error
    return generator.eval()


def build_generator(description: GeneratorDescription) -> Generator:
    """Build a generator as it is described; its weights are torch's initial ones."""
    return GENERATORS[description.kind](description)
