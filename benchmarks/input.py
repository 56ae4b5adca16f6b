"""Training input in images per second: resident images augmented a batch at a time, against a DataLoader.

    python benchmarks/input.py [--seconds 5] [--repeats 5] [--images 4096]

The images are drawn JPEGs of Market-1501's size (128x64), resized to 288x144, cropped to 256x128, mirrored, erased
with p = 0.5 and normalized: the published input. All ways start with the encoded images in memory. They take turns, so
that the ratios say little of other users of the machine; processor time includes the workers'.

resident, cpu / gpu     decoded and resized once to uint8, each batch cut out of it (slsr.images.augmentation: on a CPU
                        image by image, on a GPU all at once); the one-off decoding is shown apart
resident, cpu, gathers  the GPU's way on the CPU
loader, decoding        torchvision transforms in a DataLoader that decodes each image in each epoch, as re-ID code does
loader, resident        the same transforms on images decoded and resized once
"""

from __future__ import annotations

import argparse
import gc
import io
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import InterpolationMode, functional

from slsr.images.augmentation import NORMALIZATION, augment, augment_by_gathers, draw_augmentation
from slsr.images.decoding import decode_resized

RESIZED = (288, 144)
CROP = (256, 128)
ERASING = 0.5
BATCH = 32


def draw_jpegs(count: int) -> list[bytes]:
    """Smooth noise, about as many bytes as a pedestrian."""
    generator = np.random.default_rng(0)
    encoded = []
    for _ in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (16, 8, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize((64, 128), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        encoded.append(buffer.getvalue())
    return encoded


class Images(Dataset):
    """Torchvision's transforms, image by image."""

    def __init__(self, encoded: list[bytes] | None, pixels: Tensor | None) -> None:
        mean, deviation = NORMALIZATION["imagenet"]
        self.encoded = encoded
        self.pixels = pixels
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(CROP),
                transforms.RandomHorizontalFlip(),
                transforms.ConvertImageDtype(torch.float32),
                transforms.Normalize(mean, deviation),
                transforms.RandomErasing(ERASING, (0.02, 0.4), (0.3, 3.3)),
            ]
        )

    def __len__(self) -> int:
        return len(self.encoded if self.encoded is not None else self.pixels)

    def __getitem__(self, index: int) -> Tensor:
        if self.pixels is not None:
            image = self.pixels[index].permute(2, 0, 1)
        else:
            assert self.encoded is not None
            decoded = Image.open(io.BytesIO(self.encoded[index])).convert("RGB")
            resized = functional.resize(decoded, list(RESIZED), InterpolationMode.BICUBIC)
            image = functional.pil_to_tensor(resized)
        output: Tensor = self.transform(image)
        return output


def loader_batches(images: Images, workers: int, device: torch.device) -> Iterator[Tensor]:
    pinned = device.type == "cuda"
    loader = DataLoader(
        images, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0, pin_memory=pinned
    )
    while True:
        for batch in loader:
            yield batch.to(device, non_blocking=True)


def resident_batches(pixels: Tensor, device: torch.device, cut: Callable[..., Tensor]) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = pixels.to(device)
    while True:
        for images in torch.randperm(len(pixels), generator=generator).split(BATCH):
            draw = draw_augmentation(len(images), RESIZED, CROP, generator, random_erasing=ERASING)
            yield cut(pixels, images.to(device), draw.to(device), CROP, "imagenet")


def measure(make: Callable[[], Iterator[Tensor]], seconds: float, device: torch.device) -> tuple[float, float]:
    """Images per second by the clock, after a start that is not counted, and per second of processor time.

    Processor time is that of this process and of the workers it had, from their start to their end.
    """
    before = processor_seconds()
    batches = make()
    started = sum(len(next(batches)) for _ in range(8))
    wait(device)
    start = time.perf_counter()
    count = 0
    while time.perf_counter() - start < seconds:
        count += len(next(batches))
    wait(device)
    wall = count / (time.perf_counter() - start)
    batches.close()
    gc.collect()
    return wall, (started + count) / (processor_seconds() - before)


def processor_seconds() -> float:
    """Of this process and of those of its children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_decoding(encoded: list[bytes]) -> tuple[Tensor, float, float]:
    """Decode and resize all, once: pixels, and images per second by the clock and of processor time."""
    start, before = time.perf_counter(), processor_seconds()
    pixels = torch.from_numpy(decode_resized(encoded, *RESIZED))
    return pixels, len(encoded) / (time.perf_counter() - start), len(encoded) / (processor_seconds() - before)


def list_ways(encoded: list[bytes], pixels: Tensor, cores: int) -> dict[str, tuple[Callable, torch.device]]:
    cpu = torch.device("cpu")
    gpu = torch.device("cuda") if torch.cuda.is_available() else None
    ways: dict[str, tuple[Callable, torch.device]] = {
        "resident, cpu": (lambda: resident_batches(pixels, cpu, augment), cpu),
        "resident, cpu, gathers": (lambda: resident_batches(pixels, cpu, augment_by_gathers), cpu),
    }
    if gpu is not None:
        ways["resident, gpu"] = (lambda: resident_batches(pixels, gpu, augment), gpu)
    for kind, images in (("decoding", Images(encoded, None)), ("resident", Images(None, pixels))):
        for workers in sorted({0, cores}):
            ways[f"loader, {kind}, {workers} workers"] = (
                lambda images=images, workers=workers: loader_batches(images, workers, gpu or cpu),
                gpu or cpu,
            )
    return ways


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=4096)
    chosen = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    encoded = draw_jpegs(chosen.images)
    pixels, *decoding = time_decoding(encoded)
    ways = list_ways(encoded, pixels, cores)
    reference = f"loader, decoding, {cores} workers"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(
        f"{cores} cores, {gpu}, load {os.getloadavg()[0]:.1f} before; batch {BATCH}, {len(encoded[0]):,} bytes an image"
    )
    print(f"medians of {chosen.repeats} turns of {chosen.seconds:g} s; ratios to '{reference}', turn by turn\n")
    turns = [
        {name: measure(make, chosen.seconds, device) for name, (make, device) in ways.items()}
        for _ in range(chosen.repeats)
    ]
    print(f"  {'images per second':32}{'by the clock':>14}{'ratio':>8}{'processor':>14}{'ratio':>8}")
    print(f"  {'(decoding once)':32}{decoding[0]:>14,.0f}{'':8}{decoding[1]:>14,.0f}")
    for name in ways:
        line = f"  {name:32}"
        for part in (0, 1):
            rate = statistics.median(turn[name][part] for turn in turns)
            ratio = statistics.median(turn[name][part] / turn[reference][part] for turn in turns)
            line += f"{rate:>14,.0f}{ratio:>8.2f}"
        print(line)


if __name__ == "__main__":
    main()
