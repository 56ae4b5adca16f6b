"""Training input in images per second: resident images augmented a batch at a time, against a DataLoader.

    python benchmarks/input.py [seconds per measurement]

The images are drawn JPEGs of Market-1501's size (128x64), resized to 288x144, cropped to 256x128, mirrored, erased
with p = 0.5 and normalised: the published input. All ways start with the encoded images in memory.

resident, cpu / gpu    decoded and resized once to uint8; each batch one indexing operation (slsr.images.augmentation);
                       the one-off decoding is shown apart
loader, decoding       torchvision transforms in a DataLoader that decodes each image in each epoch, as re-ID code does
loader, resident       the same transforms on images decoded and resized once

Where others use the machine, compare by processor time; it leaves out worker processes, which have a dash.
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import InterpolationMode, functional

from slsr.images.augmentation import NORMALIZATION, augment, draw_augmentation
from slsr.images.decoding import decode_resized

COUNT = 4096
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
        return COUNT

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


def resident_batches(pixels: Tensor, device: torch.device) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = pixels.to(device)
    while True:
        for images in torch.randperm(COUNT, generator=generator).split(BATCH):
            draw = draw_augmentation(len(images), RESIZED, CROP, generator, random_erasing=ERASING)
            yield augment(pixels, images.to(device), draw.to(device), CROP, "imagenet")


def measure(batches: Iterator[Tensor], seconds: float, device: torch.device) -> tuple[float, float]:
    """Images per second, and per second of this process's processor time, after a start that is not counted."""
    for _ in range(8):
        next(batches)
    wait(device)
    start, processor = time.perf_counter(), time.process_time()
    count = 0
    while time.perf_counter() - start < seconds:
        count += len(next(batches))
    wait(device)
    return count / (time.perf_counter() - start), count / (time.process_time() - processor)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main(seconds: float) -> None:
    cores = len(os.sched_getaffinity(0))
    cpu = torch.device("cpu")
    gpu = torch.device("cuda") if torch.cuda.is_available() else None
    encoded = draw_jpegs(COUNT)
    start, processor = time.perf_counter(), time.process_time()
    pixels = torch.from_numpy(decode_resized(encoded, *RESIZED))
    decoding = COUNT / (time.perf_counter() - start), COUNT / (time.process_time() - processor)
    print(f"{cores} cores, {torch.cuda.get_device_name() if gpu else 'no GPU'}, load {os.getloadavg()[0]:.1f} before")
    print(f"batch {BATCH}, {len(encoded[0]):,} bytes an image, {seconds:.0f} s a measurement")
    print(f"  {'images per second of':32}{'wall':>10}{'processor':>11}")
    ways: dict[str, Callable[[], tuple[Iterator[Tensor], torch.device]]] = {
        "resident, cpu": lambda: (resident_batches(pixels, cpu), cpu)
    }
    if gpu is not None:
        ways["resident, gpu"] = lambda: (resident_batches(pixels, gpu), gpu)
    for workers in sorted({0, cores}):
        for name, images in (("decoding", Images(encoded, None)), ("resident", Images(None, pixels))):
            ways[f"loader, {name}, {workers} workers"] = lambda images=images, workers=workers: (
                loader_batches(images, workers, gpu or cpu),
                gpu or cpu,
            )
    print(f"  {'decoding once':32}{decoding[0]:>10,.0f}{decoding[1]:>11,.0f}")
    for name, make in ways.items():
        batches, device = make()
        wall, processor = measure(batches, seconds, device)
        shown = f"{processor:>11,.0f}" if "workers" not in name or " 0 workers" in name else f"{'-':>11}"
        print(f"  {name:32}{wall:>10,.0f}{shown}", flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 10.0)
