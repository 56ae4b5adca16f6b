"""Training in images per second: the bare network, our loop on real input, and a plain loop as re-ID code has it.

    python benchmarks/training.py [--height 256 --width 128 --batch 32] [--quick] [--json OUT]

For each network (ResNet-50, DenseNet-121, the DCGAN) in one run:

bare      forwards, loss, backwards and optimizer on one random batch that lies on the device, set up as ours is
          (channels last, fused optimizer, precision, determinism, compilation): what the hardware allows
ours      `train_classifier` or `train_gan` on the images of a prepared table, augmentation and guards included
ours, not deterministic  the same with `deterministic: false`: what determinism costs
plain     a DataLoader that decodes, resizes and augments each image with torchvision, feeding an eager loop in fp32
          with torch's default settings, which reads its loss every step

Every measurement is a process of its own, so that peak memory is its own (the workers of the plain loop included, what
processes share counted once); the ways take turns, `--repeats` times, and the table has medians with the range in
brackets. Images are those of artifacts/prepared/train.parquet (`dvc repro
prepare`), or of another table given with --table; a set too small for the steps asked for is gone through again.
`bare` and `ours` are timed after the steps that warm the device up. For the DCGAN an image is a real one seen.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torchvision
from PIL import Image as PillowImage
from ruamel.yaml import YAML
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from slsr.gan.loop import train_gan
from slsr.gan.steps import build_networks
from slsr.images.augmentation import NORMALIZATION
from slsr.images.decoding import decode_resized
from slsr.images.tables import column_numpy, read_table
from slsr.labels.distributions import one_hot
from slsr.labels.loss import soft_cross_entropy
from slsr.labels.targets import make_targets
from slsr.models.encoder import Encoder, EncoderDescription
from slsr.params.file import Params, validate_params
from slsr.params.gan import Gan
from slsr.params.presets import render_preset
from slsr.runtime.devices import autocast, prepare_device
from slsr.training.classifier import TrainingSet, build_optimizer, train_classifier
from slsr.training.compiling import compiled, compiling_pays

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = ("resnet50", "densenet121", "gan")
WAYS = ("bare", "ours", "ours, not deterministic", "plain")
WARM_UP = 3
SEED = (1, 2, 3)


def main() -> None:
    options = parse()
    if options.measure is not None:
        print(json.dumps(measure(*options.measure, options)))
        return
    print(describe(options))
    results = compare(options)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=2) + "\n")


def parse() -> argparse.Namespace:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=Path("artifacts/prepared/train.parquet"))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--height", type=int, default=256, help="of the crop; images are resized to 9/8 of it")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32, help="of the classifiers; the DCGAN takes twice as many")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="fp32", help="of bare and ours")
    parser.add_argument("--compile", choices=("auto", "never"), default="auto", help="of bare and ours")
    parser.add_argument("--steps", type=int, default=200 if gpu else 8, help="timed in each measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=min(8, len(os.sched_getaffinity(0))), help="of the plain loop")
    parser.add_argument("--quick", action="store_true", help="64x32, two steps, once: whether it works, not how fast")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the numbers here")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.height, options.width, options.batch, options.steps, options.repeats = 64, 32, 8, 2, 1
    return options


def describe(options: argparse.Namespace) -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{device}, {len(os.sched_getaffinity(0))} cores, {platform.machine()}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, load {os.getloadavg()[0]:.1f} before\n"
        f"{options.height}x{options.width}, batch {options.batch}, bare and ours {options.precision}, compile "
        f"{options.compile}; {options.steps} steps a measurement, median of {options.repeats}, plain loop with "
        f"{options.workers} workers"
    )


def compare(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every way of every network, the ways taking turns; print a table a network."""
    results = []
    for network in options.networks:
        runs: dict[str, list[dict[str, float]]] = {way: [] for way in options.ways}
        for _ in range(options.repeats):
            for way in options.ways:
                runs[way].append(in_a_process(network, way))
        print(f"\n  {network:26}{'images/s':>10}{'range':>16}{'of bare':>9}{'peak MB':>10}{'GPU MB':>9}")
        rates = {way: statistics.median(run["rate"] for run in each) for way, each in runs.items()}
        for way, each in runs.items():
            every = [run["rate"] for run in each]
            share = rates[way] / rates["bare"] if "bare" in rates else float("nan")
            memory = max(run["memory"] for run in each), max(run["gpu"] for run in each)
            spread = f"[{min(every):.1f}, {max(every):.1f}]"
            print(
                f"  {way:26}{rates[way]:>10.1f}{spread:>16}{share:>9.3f}{memory[0]:>10.0f}{memory[1]:>9.0f}", flush=True
            )
            results.append(
                {
                    "network": network,
                    "way": way,
                    "images_per_second": every,
                    "memory_mb": memory[0],
                    "gpu_mb": memory[1],
                }
                | {name: getattr(options, name) for name in ("height", "width", "batch", "precision", "compile")}
            )
        if {"ours", "plain"} <= rates.keys():
            print(f"  ours is {rates['ours'] / rates['plain']:.2f} times the plain loop")
        if {"ours", "ours, not deterministic"} <= rates.keys():
            cost = rates["ours, not deterministic"] / rates["ours"] - 1
            print(f"  without determinism ours is {100 * cost:+.1f} % faster")
    return results


def in_a_process(network: str, way: str) -> dict[str, float]:
    """A measurement in a process of its own, whose memory is looked at from here, once a second."""
    command = [sys.executable, __file__, *sys.argv[1:], "--measure", network, way]
    peak = 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peak = max(peak, memory_of(process.pid))
            time.sleep(1)
        lines = process.stdout.read().splitlines() if process.stdout else []
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    measured: dict[str, float] = json.loads(lines[-1])
    return measured | {"memory": peak}


def memory_of(pid: int) -> float:
    """MB of a process and its workers, what they share counted once (proportional set size, Linux)."""
    try:
        process = psutil.Process(pid)
        every = [process, *process.children(recursive=True)]
        return sum(float(each.memory_full_info().pss) for each in every) / 2**20
    except (psutil.Error, AttributeError):  # ended meanwhile, or a system without
        return 0.0


def measure(network: str, way: str, options: argparse.Namespace) -> dict[str, float]:
    """Images per second, and the peak of the device's memory in MB."""
    deterministic = way in ("bare", "ours")
    if way == "plain":
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    else:
        device = prepare_device(options.precision, deterministic)
    table = {"gan": GAN_WAYS}.get(network, CLASSIFIER_WAYS)
    rate = table[way.split(",")[0]](network, settings(network, deterministic, options), options, device)
    return {
        "rate": rate,
        "gpu": torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else 0.0,
    }


def settings(network: str, deterministic: bool, options: argparse.Namespace) -> Params:
    """The preset market1501 at the size asked for, without weights to download."""
    text = render_preset(ROOT / "presets", "market1501")
    params = validate_params(YAML(typ="safe", pure=True).load(text), "presets/market1501.yaml")
    size = {"height": options.height, "width": options.width}
    resized = {"resize_height": options.height * 9 // 8, "resize_width": options.width * 9 // 8}
    common = {"precision": options.precision, "deterministic": deterministic}
    recipe = {"weights": "none", "batch_size": options.batch, "compile": options.compile}
    if network != "gan":
        recipe["backbone"] = network
    return params.model_copy(
        update={
            "image": params.image.model_copy(update=size | resized),
            "train": params.train.model_copy(update=recipe | common),
            "gan": params.gan.model_copy(
                update={"batch_size": 2 * options.batch, "height": options.height, "width": options.width} | common
            ),
        }
    )


def read_images(options: argparse.Namespace, count: int) -> tuple[list[bytes], np.ndarray]:
    """`count` encoded images with their labels, gone through again where the table has fewer."""
    table = read_table(options.table, ["image", "label"])
    rows = [row % len(table) for row in range(count)]
    encoded, labels = table.column("image").to_pylist(), column_numpy(table, "label")
    return [encoded[row] for row in rows], labels[rows].astype(np.int64)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rate_of(step: Callable[[], object], images: int, steps: int, device: torch.device) -> float:
    """Images per second of a step, after some that are not counted."""
    for _ in range(WARM_UP):
        step()
    wait(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    wait(device)
    return images * steps / (time.perf_counter() - start)


def bare_classifier(network: str, params: Params, options: argparse.Namespace, device: torch.device) -> float:
    recipe, image, batch = params.train, params.image, params.train.batch_size
    _, labels = read_images(options, batch * options.steps)
    classes = int(labels.max()) + 1
    encoder = Encoder(EncoderDescription(recipe.backbone, recipe.head, classes, image))
    encoder.to(device).to(memory_format=torch.channels_last).train()
    optimizer = build_optimizer(encoder, recipe.optimizer)
    images = torch.randn(batch, 3, image.height, image.width, device=device).to(memory_format=torch.channels_last)
    targets = nn.functional.one_hot(torch.arange(batch) % classes, classes).float().to(device)
    features: Callable[[Tensor], Tensor] = encoder.features
    if compiling_pays(recipe.compile, device):
        with autocast(device, recipe.precision):
            features = compiled(encoder.features, encoder, images)

    def step() -> None:
        with autocast(device, recipe.precision):
            logits = encoder.head(features(images))
        loss = soft_cross_entropy(logits, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return rate_of(step, batch, options.steps, device)


def our_classifier(network: str, params: Params, options: argparse.Namespace, device: torch.device) -> float:
    """From the end of the first epoch to the end of the last; an epoch has half of the steps."""
    recipe, image = params.train.model_copy(update={"epochs": 3}), params.image
    steps = max(options.steps // 2, 1)
    encoded, labels = read_images(options, recipe.batch_size * steps)
    pixels = decode_resized(encoded, image.resize_height, image.resize_width, image.interpolation)
    classes = int(labels.max()) + 1
    targets = make_targets([one_hot(int(label)) for label in labels], classes)
    training = TrainingSet(torch.from_numpy(pixels), targets, torch.ones(len(labels)), torch.from_numpy(labels))
    encoder = Encoder(EncoderDescription(recipe.backbone, recipe.head, classes, image))
    moments: list[float] = []

    def on_epoch(epoch: object) -> None:
        wait(device)
        moments.append(time.perf_counter())

    train_classifier(encoder, training, None, recipe, image, device, on_epoch)
    return 2 * len(labels) / (moments[-1] - moments[0])


class Encoded(Dataset):
    """Images decoded and transformed one at a time."""

    def __init__(self, encoded: list[bytes], labels: np.ndarray, transform: Callable[[Any], Tensor]) -> None:
        self.encoded, self.labels, self.transform = encoded, labels, transform

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = PillowImage.open(io.BytesIO(self.encoded[index])).convert("RGB")
        return self.transform(image), int(self.labels[index])


def endless(
    dataset: Dataset, batch: int, options: argparse.Namespace, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    loader = DataLoader(
        dataset,
        batch,
        shuffle=True,
        drop_last=True,
        num_workers=options.workers,
        persistent_workers=options.workers > 0,
        pin_memory=device.type == "cuda",
    )
    while True:
        for images, labels in loader:
            yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def plain_classifier(network: str, params: Params, options: argparse.Namespace, device: torch.device) -> float:
    recipe, image, batch = params.train, params.image, params.train.batch_size
    mean, deviation = NORMALIZATION["imagenet"]
    transform = transforms.Compose(
        [
            transforms.Resize((image.resize_height, image.resize_width), transforms.InterpolationMode.BICUBIC),
            transforms.RandomCrop((image.height, image.width)),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean, deviation),
            transforms.RandomErasing(recipe.random_erasing),
        ]
    )
    encoded, labels = read_images(options, batch * options.steps)
    classes = int(labels.max()) + 1
    batches = endless(Encoded(encoded, labels, transform), batch, options, device)
    # the same network and head, as torch has them by default
    encoder = Encoder(EncoderDescription(recipe.backbone, recipe.head, classes, image)).to(device).train()
    optimizer = torch.optim.SGD(encoder.parameters(), 0.01, 0.9, weight_decay=5e-4, nesterov=True)
    losses: list[float] = []

    def step() -> None:
        images, labels = next(batches)
        loss = nn.functional.cross_entropy(encoder(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    return rate_of(step, batch, options.steps, device)


def adversarial_step(
    networks: Any, optimizers: tuple[Any, Any], real: Tensor, params: Gan, device: torch.device, sparing: bool = False
) -> tuple[Tensor, Tensor]:
    """One step of the discriminator and `generator_steps` of the generator.

    `sparing` leaves out what has no effect, as ours does: the generator's first step is on the images just judged, and
    takes no gradient of the discriminator's weights. Common code draws images anew and takes all gradients.
    """
    softplus = nn.functional.softplus
    noise = torch.rand(len(real), params.latent, device=device) * 2 - 1
    with autocast(device, params.precision):
        fake = networks.generator(noise)
        loss = softplus(-networks.discriminator(real).float()) + softplus(networks.discriminator(fake.detach()).float())
    first = loss.mean()
    optimizers[1].zero_grad(set_to_none=True)
    first.backward()
    optimizers[1].step()
    networks.discriminator.requires_grad_(not sparing)
    for number in range(params.generator_steps):
        with autocast(device, params.precision):
            if number > 0 or not sparing:
                fake = networks.generator(torch.rand(len(real), params.latent, device=device) * 2 - 1)
            second = softplus(-networks.discriminator(fake).float()).mean()
        optimizers[0].zero_grad(set_to_none=True)
        second.backward()
        optimizers[0].step()
    networks.discriminator.requires_grad_(True)
    return first.detach(), second.detach()


def bare_gan(network: str, params: Params, options: argparse.Namespace, device: torch.device) -> float:
    gan = params.gan
    networks = build_networks(gan, SEED)
    for each in (networks.generator, networks.discriminator):
        each.to(device).to(memory_format=torch.channels_last).train()
    optimizers = tuple(
        torch.optim.Adam(each.parameters(), gan.learning_rate, (gan.beta1, 0.999), fused=True)
        for each in (networks.generator, networks.discriminator)
    )
    real = torch.rand(gan.batch_size, 3, gan.height, gan.width, device=device) * 2 - 1
    real = real.to(memory_format=torch.channels_last)
    return rate_of(
        lambda: adversarial_step(networks, optimizers, real, gan, device, sparing=True),
        gan.batch_size,
        options.steps,
        device,
    )


def our_gan(network: str, params: Params, options: argparse.Namespace, device: torch.device) -> float:
    """The difference of a run of three epochs and one of one, each epoch half of the steps."""
    steps, seconds = max(options.steps // 2, 1), []
    encoded, _ = read_images(options, params.gan.batch_size * steps)
    pixels = decode_resized(encoded, params.gan.height, params.gan.width)
    for epochs in (1, 1, 3):
        start = time.perf_counter()
        train_gan(pixels, params.gan.model_copy(update={"epochs": epochs, "minimum_steps": 0}), SEED, device, "images")
        wait(device)
        seconds.append(time.perf_counter() - start)
    return 2 * len(pixels) / (seconds[2] - seconds[1])


def plain_gan(network: str, params: Params, options: argparse.Namespace, device: torch.device) -> float:
    gan = params.gan.model_copy(update={"precision": "fp32"})
    transform = transforms.Compose(
        [
            transforms.Resize((gan.height, gan.width), transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize((0.5,) * 3, (0.5,) * 3),
        ]
    )
    encoded, labels = read_images(options, gan.batch_size * options.steps)
    batches = endless(Encoded(encoded, labels, transform), gan.batch_size, options, device)
    networks = build_networks(gan, SEED)
    optimizers = tuple(
        torch.optim.Adam(each.to(device).train().parameters(), gan.learning_rate, (gan.beta1, 0.999))
        for each in (networks.generator, networks.discriminator)
    )

    def step() -> None:
        for loss in adversarial_step(networks, optimizers, next(batches)[0], gan, device):
            loss.item()

    return rate_of(step, gan.batch_size, options.steps, device)


CLASSIFIER_WAYS = {"bare": bare_classifier, "ours": our_classifier, "plain": plain_classifier}
GAN_WAYS = {"bare": bare_gan, "ours": our_gan, "plain": plain_gan}


if __name__ == "__main__":
    main()
