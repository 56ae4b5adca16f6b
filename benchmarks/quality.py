"""Time and memory of the quality measures, and of drawing and storing generated images.

    python benchmarks/quality.py                                     # a tenth of Market-1501's size
    python benchmarks/quality.py --real 12936 --generated 12000      # its size: minutes

Features are random, images come from an untrained generator: neither changes what it costs.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import time
from collections.abc import Callable

import numpy as np
import torch

from slsr.gan.dcgan import DcganGenerator, initialize
from slsr.gan.generator import GeneratorDescription
from slsr.gan.networks import draw_noise, iterate_images
from slsr.images.decoding import encode_jpeg
from slsr.quality.assessment import assess
from slsr.quality.features import handcrafted
from slsr.quality.imagenet import imagenet
from slsr.quality.spaces import MEASURES

SPACES = {
    "imagenet": (1280, [*MEASURES["imagenet"]]),
    "encoder": (2048, [*MEASURES["encoder"], "frechet"]),
    "handcrafted": (4804, [*MEASURES["handcrafted"]]),
}


def timed(title: str, work: Callable[[], object]) -> None:
    started = time.perf_counter()
    work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"| {title} | {time.perf_counter() - started:.1f} | {peak:.1f} |", flush=True)


def draw(count: int) -> None:
    generator = DcganGenerator(GeneratorDescription(128, 64, 100, 64)).eval()
    initialize(generator, torch.Generator().manual_seed(1))
    for batch in iterate_images(generator, draw_noise((1,), count, 100)):
        for pixels in batch:
            encode_jpeg(pixels, 95)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=int, default=1294)
    parser.add_argument("--generated", type=int, default=1200)
    counts = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{counts.real:,} real and {counts.generated:,} generated images\n")
    print("| what | seconds | peak memory so far, GiB |\n|---|---|---|")
    timed("draw 128x64 images and store them as JPEG", lambda: draw(counts.generated))
    stream = np.random.default_rng(1)
    pixels = stream.integers(0, 256, (counts.generated, 128, 64, 3), dtype=np.uint8)
    timed("ImageNet features of the generated", lambda: imagenet(pixels, torch.device("cpu")))
    timed("handcrafted features of the generated", lambda: handcrafted(pixels))
    for space, (width, names) in SPACES.items():
        real, fake = (
            np.maximum(stream.standard_normal((count, width), dtype=np.float32), 0)
            for count in (counts.real, counts.generated)
        )
        for name in names:
            timed(f"{name}, {space} space, D = {width:,}", lambda n=name, r=real, f=fake: assess(r, f, [n], 1))


if __name__ == "__main__":
    main()
