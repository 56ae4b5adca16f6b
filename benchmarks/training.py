"""Training in images per second: our loop against the bare network, and against a plain loop as re-ID code has it.

    python benchmarks/training.py [--networks resnet50-strong ...] [--height 128 --width 64 --batch 32] [--quick]
    python benchmarks/training.py --presets market1501-strong ...   # at their full size, and the minutes of a whole run
    python benchmarks/training.py --ways [ours plain ...]           # each in a process of its own, with its memory

bare      forwards, loss, backwards and optimizer on batches that lie on the device, set up as ours is (channels last,
          fused optimizer, precision, determinism, compilation): what the hardware allows
ours      `train_classifier` or `train_gan` on images in memory, augmentation and guards included
ours, not deterministic  the same with `deterministic: false`: what determinism costs
plain     a DataLoader that decodes, resizes and augments each image with torchvision, feeding an eager loop in fp32
          with torch's default settings, which reads its loss every step

Without --ways, ours and bare take turns in one process: the epochs of ours have --steps steps, and after each of them
bare takes as many. The table has medians over --repeats such turns, and the ratio of speeds, by the clock and by
processor time, with its range in brackets (the goal is 0.95; on a CPU with other users look at processor time).
`resnet50-strong` has the parts of the strong baseline; for it, and for such presets, the table also has the shares of a
step that the triplet loss takes, forwards and backwards, and that drawing the batches of identities for a pass over
Market-1501 takes (the goal is 2 % together), by processor time on a CPU. Images are noise, whose content costs nothing.

--presets measures the trainings of a preset and its generator, and says how long a run over as many images as
Market-1501 has would take. It counts training alone: no features, clusters, validation or evaluation.

With --ways the measurements take turns as processes, so that peak memory is their own (the workers of the plain loop
included, what processes share counted once). Images are then those of artifacts/prepared/train.parquet (`dvc repro
prepare`), or of another table given with --table; a set too small for the steps asked for is gone through again.
Steps that warm the device up are not timed. For the DCGAN an image is a real one seen.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
import torchvision
from PIL import Image as PillowImage
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from slsr.gan.loop import train_gan
from slsr.gan.steps import build_networks
from slsr.images.augmentation import NORMALIZATION
from slsr.images.decoding import decode_resized
from slsr.images.loading import LabeledImages
from slsr.images.tables import column_numpy, read_table
from slsr.labels.loss import soft_cross_entropy
from slsr.labels.targets import real_targets
from slsr.models.encoder import Encoder
from slsr.models.weights import initial_encoder
from slsr.params.file import Params, validate_params, with_overrides
from slsr.params.gan import Gan
from slsr.params.presets import render_preset
from slsr.params.reading import parse_yaml
from slsr.params.recipe import Image, Recipe
from slsr.runtime.devices import autocast, prepare_device
from slsr.training.classifier import Epoch, TrainingSet, build_optimizer, train_classifier
from slsr.training.compiling import compiled, compiling_pays
from slsr.training.metric_losses import batch_hard_triplet
from slsr.training.sampling import identity_batches
from slsr.training.schedule import images_of_pass, planned_steps, steps_of_pass

ROOT = Path(__file__).resolve().parents[1]
STRONG = {
    "backbone": "resnet50",
    "last_stride": 1,
    "head": "bnneck",
    "sampler": "identities",
    "padding": 10,
    "label_smoothing": 0.1,
    "triplet.weight": 1.0,
}
# What each network changes in the block `train` of the preset market1501.
RECIPES: dict[str, dict[str, Any]] = {
    "tf_efficientnet_lite0": {"backbone": "tf_efficientnet_lite0"},
    "resnet50-strong": STRONG,
    "resnet18": {"backbone": "resnet18"},
    "densenet121": {"backbone": "densenet121"},
    "vit_tiny_patch16_224": {"backbone": "vit_tiny_patch16_224", "pooling": "class-token"},
    "resnet50": {"backbone": "resnet50"},
}
NETWORKS = (*RECIPES, "gan")
IN_TURNS = NETWORKS[:5]
IN_PROCESSES = ("resnet50", "densenet121", "gan")
WAYS = ("bare", "ours", "ours, not deterministic", "plain")
IMAGES, PEOPLE = 12_185, 751  # in the training set of Market-1501, after one image of each person is held out
TRAININGS_WITH_GENERATED = 2  # of a whole run: lsro and slsr; the baseline has none
WARM_UP = 3
LOSSES_TIMED = 10
SEED = (1, 2, 3)


def main() -> None:
    options = parse()
    if options.measure is not None:
        print(json.dumps(measure(options.measure[0], options.measure[1], options)))
        return
    print(describe(options))
    if options.presets:
        results = compare_presets(options)
    else:
        results = compare_in_turns(options) if options.ways is None else compare_ways(options)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=2) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, help=f"default {', '.join(IN_TURNS)}")
    parser.add_argument("--presets", nargs="+", default=[], metavar="NAME", help="names in presets/")
    parser.add_argument(
        "--ways",
        nargs="*",
        choices=WAYS,
        help=f"without names: all; networks then default to the paper's, {', '.join(IN_PROCESSES)}",
    )
    parser.add_argument("--table", type=Path, default=Path("artifacts/prepared/train.parquet"), help="for --ways")
    parser.add_argument("--height", type=int, help="of the crop, 128; images are resized to 9/8 of it")
    parser.add_argument("--width", type=int, help="64")
    parser.add_argument("--batch", type=int, help="of the classifiers, 32; the DCGAN takes twice as many")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), help="of bare and ours, fp32")
    parser.add_argument("--compile", choices=("auto", "never"), default="auto", help="of bare and ours")
    parser.add_argument("--steps", type=int, help="of a turn, 3 (on a GPU 50); of a measurement of --ways, 8 (200)")
    parser.add_argument("--repeats", type=int, help="turns, 5; measurements of each way, 3")
    parser.add_argument("--workers", type=int, default=min(8, len(os.sched_getaffinity(0))), help="of the plain loop")
    parser.add_argument("--quick", action="store_true", help="64x32, two steps, once: whether it works, not how fast")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the numbers here")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if "gan" in (options.networks or []) and options.ways is None:
        parser.error("the network gan is measured with --ways, or with --presets")
    return with_defaults(options)


def with_defaults(options: argparse.Namespace) -> argparse.Namespace:
    """Fill in what was not given; sizes, batch and precision stay None where a preset decides."""
    gpu, in_turns = torch.cuda.is_available(), options.ways is None
    if options.quick:
        options.height, options.width, options.batch, options.steps, options.repeats = 64, 32, 8, 2, 1
    options.networks = options.networks or (IN_TURNS if in_turns else IN_PROCESSES)
    options.ways = WAYS if options.ways == [] else options.ways
    options.steps = options.steps or ((50 if gpu else 3) if in_turns else (200 if gpu else 8))
    options.repeats = options.repeats or (5 if in_turns else 3)
    if not options.presets:
        for name, value in {"height": 128, "width": 64, "batch": 32, "precision": "fp32"}.items():
            setattr(options, name, getattr(options, name) or value)
    return options


def describe(options: argparse.Namespace) -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    size = f"{options.height}x{options.width}, batch {options.batch}" if options.height else "the presets' sizes"
    kind = "turn" if options.ways is None else "measurement"
    precision = options.precision or "in the presets' precision"
    plain = "" if options.ways is None else f", plain loop with {options.workers} workers"
    return (
        f"{device}, {len(os.sched_getaffinity(0))} cores, {torch.get_num_threads()} threads, {platform.machine()}, "
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, load {os.getloadavg()[0]:.1f} before\n"
        f"{size}, bare and ours {precision}, compile {options.compile}; "
        f"{options.steps} steps a {kind}, median of {options.repeats}{plain}"
    )


def compare_in_turns(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure ours and bare of every network in turns; print one table."""
    print(TURNS_HEADER)
    results = []
    for network in options.networks:
        results.append({"network": network} | in_a_process(network, "turns"))
        print(row_of_turns(network, results[-1]), flush=True)
    return results


TURNS_HEADER = (
    f"\n  {'images/s':34}{'ours':>9}{'bare':>9}{'ours/bare':>11}{'range':>16}{'processor':>11}{'range':>16}"
    f"{'triplet':>9}{'sampler':>9}"
)


def row_of_turns(name: str, turns: Mapping[str, Any]) -> str:
    ours, bare = (statistics.median(turns[key]) for key in ("ours", "bare"))
    ratios = [
        f"{statistics.median(turns[key]):>11.3f}{f'[{min(turns[key]):.3f}, {max(turns[key]):.3f}]':>16}"
        for key in Seconds._fields
    ]
    shares = [f"{100 * statistics.median(turns[key]):.3f} %" if turns[key] else "" for key in ("triplet", "sampler")]
    return f"  {name:34}{ours:>9.1f}{bare:>9.1f}{''.join(ratios)}{shares[0]:>9}{shares[1]:>9}"


def compare_presets(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure the trainings of every preset at its full size; print a table and the minutes of a whole run."""
    results = []
    for name in options.presets:
        found = {block: in_a_process(name, block) for block in ("encoder", "train", "gan")}
        print(TURNS_HEADER)
        for block in ("encoder", "train"):
            print(row_of_turns(f"{name}: {block}", found[block]))
        parts = minutes_of_run(preset(name, options), {block: rate_in(one) for block, one in found.items()})
        print(f"  {'':2}generators {found['gan']['rate']:.1f} images/s")
        listed = ", ".join(f"{part} {minutes:.1f}" for part, minutes in parts.items())
        print(f"  a run over {IMAGES:,} images would take {sum(parts.values()):.0f} minutes: {listed}", flush=True)
        results.append({"preset": name, "minutes": parts} | found)
    return results


def rate_in(measured: Mapping[str, Any]) -> float:
    return float(statistics.median(measured["ours"]) if "ours" in measured else measured["rate"])


def minutes_of_run(params: Params, rates: Mapping[str, float]) -> dict[str, float]:
    """The minutes of every training of a run, from images per second.

    Batches with generated images beside the real ones (the sampler `identities`) are taken to be as fast an image.
    """
    generated, train = params.generate.images, params.train
    beside = round(train.batch_size * generated / IMAGES) if train.sampler == "identities" else 0
    images = {
        "encoder": planned_steps(params.encoder, IMAGES) * params.encoder.batch_size,
        "generators": (params.gan.parent_epochs + params.gan.epochs) * IMAGES,
        "none": planned_steps(train, IMAGES) * train.batch_size,
        "lsro and slsr": TRAININGS_WITH_GENERATED
        * planned_steps(train, images_of_pass(train, IMAGES, generated))
        * (train.batch_size + beside),
    }
    rate = {"encoder": rates["encoder"], "generators": rates["gan"]}
    return {part: count / rate.get(part, rates["train"]) / 60 for part, count in images.items()}


def compare_ways(options: argparse.Namespace) -> list[dict[str, Any]]:
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


def in_a_process(network: str, way: str) -> dict[str, Any]:
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
    measured: dict[str, Any] = json.loads(lines[-1])
    return measured | {"memory": peak}


def memory_of(pid: int) -> float:
    """MB of a process and its workers, what they share counted once (proportional set size, Linux)."""
    try:
        process = psutil.Process(pid)
        every = [process, *process.children(recursive=True)]
        return sum(float(each.memory_full_info().pss) for each in every) / 2**20
    except (psutil.Error, AttributeError):  # ended meanwhile, or a system without
        return 0.0


def measure(network: str, way: str, options: argparse.Namespace) -> dict[str, Any]:
    """Images per second, and the peak of the device's memory in MB."""
    if options.presets:
        measured = measure_preset(preset(network, options), way, options)
    elif way == "turns":
        params = settings(network, True, options)
        measured = in_turns(params.train, params.image, options)
    else:
        measured = {"rate": measure_way(network, way, options)}
    peak = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0
    return measured | {"gpu": peak}


def measure_preset(params: Params, block: str, options: argparse.Namespace) -> dict[str, Any]:
    """Ours and bare of the recipe `encoder` or `train` of a preset in turns, or the rate of its generators."""
    if block != "gan":
        return in_turns(getattr(params, block), params.image, options)
    device, gan = prepare_device(params.gan.precision, params.gan.deterministic), params.gan
    count = gan.batch_size * max(options.steps // 2, 1)
    return {"rate": rate_of_gan(noise(count, gan.height, gan.width).numpy(), gan, device)}


def measure_way(network: str, way: str, options: argparse.Namespace) -> float:
    deterministic = way in ("bare", "ours")
    if way == "plain":
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    else:
        device = prepare_device(options.precision, deterministic)
    table = {"gan": GAN_WAYS}.get(network, CLASSIFIER_WAYS)
    return table[way.split(",")[0]](settings(network, deterministic, options), options, device)


def settings(network: str, deterministic: bool, options: argparse.Namespace) -> Params:
    """The preset market1501 with a network, at the size asked for."""
    changes: dict[str, Any] = {f"train.{key}": value for key, value in RECIPES.get(network, {}).items()}
    changes |= {f"{block}.deterministic": deterministic for block in ("train", "gan")}
    return preset("market1501", options, changes)


def preset(name: str, options: argparse.Namespace, changes: Mapping[str, Any] | None = None) -> Params:
    """A preset without weights to download, with the changes, and with the options that were given."""
    params = validate_params(parse_yaml(render_preset(ROOT / "presets", name)), f"presets/{name}.yaml")
    chosen: dict[str, Any] = {"encoder.weights": "none", "train.weights": "none", "image.test": "center-crop"}
    if options.height and options.width:
        chosen |= {"image.height": options.height, "image.width": options.width}
        chosen |= {"image.resize_height": options.height * 9 // 8, "image.resize_width": options.width * 9 // 8}
        chosen |= {"gan.height": options.height, "gan.width": options.width}
    if options.batch:
        chosen |= {"encoder.batch_size": options.batch, "train.batch_size": options.batch}
        chosen |= {"gan.batch_size": 2 * options.batch}
    if options.precision:
        chosen |= {f"{block}.precision": options.precision for block in ("encoder", "train", "gan")}
    if options.compile == "never":
        chosen |= {"encoder.compile": "never", "train.compile": "never"}
    return with_overrides(params, {**chosen, **(changes or {})}, f"benchmarks/training.py, {name}")


def in_turns(recipe: Recipe, image: Image, options: argparse.Namespace) -> dict[str, Any]:
    """Ours and bare in turns: the images per second of both in each turn, their ratio, and the shares of a step."""
    device = prepare_device(recipe.precision, recipe.deterministic)
    images = drawn_images(recipe, image, options.steps)
    encoder = initial_encoder(recipe, PEOPLE, image)
    step = bare_step(recipe, image, images.labels, device)
    for _ in range(WARM_UP):
        step()
    wait(device)
    turns: list[tuple[Seconds, Seconds]] = []
    shares: dict[str, list[float]] = {"triplet": [], "sampler": []}
    started = Seconds.now()

    def on_epoch(epoch: Epoch) -> None:
        nonlocal started
        wait(device)
        ours, bare = Seconds.since(started), seconds_of(step, options.steps, device)
        if epoch.number > 1:  # the first one warms the device up
            turns.append((ours, bare))
            for name, cost in costs_of_sampling(recipe, encoder.dimension, device).items():
                shares[name].append(cost * options.steps / ours.on(device))
        started = Seconds.now()

    training = TrainingSet.of_labeled(images, recipe.label_smoothing)
    train_classifier(encoder, training, None, steady(recipe, options.repeats + 1), encoder.image, device, on_epoch)
    count = len(images.labels)
    rates = {"ours": [count / ours.clock for ours, _ in turns], "bare": [count / bare.clock for _, bare in turns]}
    ratios = {name: [getattr(bare, name) / getattr(ours, name) for ours, bare in turns] for name in Seconds._fields}
    size = {"height": image.height, "width": image.width, "batch": recipe.batch_size, "precision": recipe.precision}
    return rates | ratios | shares | size


def steady(recipe: Recipe, epochs: int) -> Recipe:
    """The same steps, for this many epochs, at a constant rate and without held-out people."""
    schedule = recipe.schedule.model_copy(update={"name": "constant", "warmup_epochs": 0})
    return recipe.model_copy(update={"epochs": epochs, "steps": None, "keep": "last", "schedule": schedule})


def drawn_images(recipe: Recipe, image: Image, steps: int) -> LabeledImages:
    """Noise for a pass of this many steps, some images of each person, with the highest of `PEOPLE` labels."""
    count = steps * recipe.batch_size
    labels = PEOPLE - 1 - torch.arange(count) // recipe.images_per_identity % PEOPLE
    return LabeledImages(noise(count, image.resize_height, image.resize_width), labels)


def noise(count: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator)


def bare_step(recipe: Recipe, image: Image, labels: Tensor, device: torch.device) -> Callable[[], None]:
    """A step of the same network and losses, on batches of noise that lie on the device as the network takes them."""
    encoder = initial_encoder(recipe, int(labels.max()) + 1, image)
    encoder.to(device).to(memory_format=torch.channels_last).train()
    optimizer = build_optimizer(encoder, recipe.optimizer)
    dense = real_targets(labels, recipe.label_smoothing).batch(torch.arange(len(labels)))
    size = (len(labels), 3, image.height, image.width)
    loaded = torch.randn(size).to(device).to(memory_format=torch.channels_last)
    parts = (one.split(recipe.batch_size) for one in (loaded, dense.to(device), labels.to(device)))
    batches = itertools.cycle(list(zip(*parts, strict=True)))
    pooled: Callable[[Tensor], Tensor] = encoder.pooled
    if compiling_pays(recipe.compile, device):
        with autocast(device, recipe.precision):
            pooled = compiled(encoder.pooled, encoder, loaded[: recipe.batch_size])

    def step() -> None:
        images, targets, people = next(batches)
        with autocast(device, recipe.precision):
            features = pooled(images)
            logits = encoder.head(encoder.neck(features))
        loss = soft_cross_entropy(logits, targets)
        if recipe.triplet.weight > 0:
            loss = loss + recipe.triplet.weight * batch_hard_triplet(features, people, recipe.triplet.margin)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def costs_of_sampling(recipe: Recipe, dimension: int, device: torch.device) -> dict[str, float]:
    """The seconds of a step that the triplet loss and the batches of identities take; none if a recipe has neither."""
    costs = {}
    if recipe.triplet.weight > 0:
        features = torch.randn(recipe.batch_size, dimension, device=device, requires_grad=True)
        people = torch.arange(recipe.batch_size, device=device) // recipe.images_per_identity

        def loss() -> None:
            batch_hard_triplet(features, people, recipe.triplet.margin).backward()

        loss()
        costs["triplet"] = seconds_of(loss, LOSSES_TIMED, device).on(device) / LOSSES_TIMED
    if recipe.sampler == "identities":
        labels, steps = torch.arange(IMAGES) % PEOPLE, steps_of_pass(IMAGES, recipe.batch_size)
        generator = torch.Generator().manual_seed(0)
        start = Seconds.now()
        identity_batches(labels, recipe.batch_size, recipe.images_per_identity, steps, generator)
        costs["sampler"] = Seconds.since(start).on(device) / steps
    return costs


def read_images(options: argparse.Namespace, count: int) -> tuple[list[bytes], np.ndarray]:
    """`count` encoded images with their labels, spread over the table, or gone through again where it has fewer."""
    table = read_table(options.table, ["image", "label"])
    rows = [row * max(len(table) // count, 1) % len(table) for row in range(count)]
    encoded, labels = table.column("image").to_pylist(), column_numpy(table, "label")
    return [encoded[row] for row in rows], labels[rows].astype(np.int64)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Seconds(NamedTuple):
    """By the clock, and of processor time, all threads together, which other users of the machine disturb less."""

    clock: float
    processor: float

    @classmethod
    def now(cls) -> Seconds:
        return cls(time.perf_counter(), time.process_time())

    @classmethod
    def since(cls, start: Seconds) -> Seconds:
        return cls(*(end - begin for begin, end in zip(start, cls.now(), strict=True)))

    def on(self, device: torch.device) -> float:
        """Those that tell the cost of work on a device."""
        return self.clock if device.type == "cuda" else self.processor


def seconds_of(step: Callable[[], object], steps: int, device: torch.device) -> Seconds:
    start = Seconds.now()
    for _ in range(steps):
        step()
    wait(device)
    return Seconds.since(start)


def rate_of(step: Callable[[], object], images: int, steps: int, device: torch.device) -> float:
    """Images per second of a step, after some that are not counted."""
    for _ in range(WARM_UP):
        step()
    wait(device)
    return images * steps / seconds_of(step, steps, device).clock


def bare_classifier(params: Params, options: argparse.Namespace, device: torch.device) -> float:
    labels = torch.from_numpy(read_images(options, params.train.batch_size)[1])
    step = bare_step(params.train, params.image, labels, device)
    return rate_of(step, params.train.batch_size, options.steps, device)


def our_classifier(params: Params, options: argparse.Namespace, device: torch.device) -> float:
    """From the end of the first epoch to the end of the last; an epoch has half of the steps."""
    recipe, image = steady(params.train, 3), params.image
    encoded, labels = read_images(options, recipe.batch_size * max(options.steps // 2, 1))
    pixels = decode_resized(encoded, image.resize_height, image.resize_width, image.interpolation)
    images = LabeledImages(torch.from_numpy(pixels), torch.from_numpy(labels))
    training = TrainingSet.of_labeled(images, recipe.label_smoothing)
    encoder = initial_encoder(recipe, int(labels.max()) + 1, image)
    moments: list[float] = []

    def on_epoch(epoch: Epoch) -> None:
        wait(device)
        moments.append(time.perf_counter())

    train_classifier(encoder, training, None, recipe, encoder.image, device, on_epoch)
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


def plain_classifier(params: Params, options: argparse.Namespace, device: torch.device) -> float:
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
    encoder: Encoder = initial_encoder(recipe, classes, image).to(device).train()  # as torch has networks by default
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
        on_real, on_fake = (networks.discriminator([images])[0].float() for images in (real, fake.detach()))
        loss = softplus(-on_real) + softplus(on_fake)
    first = loss.mean()
    optimizers[1].zero_grad(set_to_none=True)
    first.backward()
    optimizers[1].step()
    networks.discriminator.requires_grad_(not sparing)
    for number in range(params.generator_steps):
        with autocast(device, params.precision):
            if number > 0 or not sparing:
                fake = networks.generator(torch.rand(len(real), params.latent, device=device) * 2 - 1)
            second = softplus(-networks.discriminator([fake])[0].float()).mean()
        optimizers[0].zero_grad(set_to_none=True)
        second.backward()
        optimizers[0].step()
    networks.discriminator.requires_grad_(True)
    return first.detach(), second.detach()


def bare_gan(params: Params, options: argparse.Namespace, device: torch.device) -> float:
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


def our_gan(params: Params, options: argparse.Namespace, device: torch.device) -> float:
    encoded, _ = read_images(options, params.gan.batch_size * max(options.steps // 2, 1))
    return rate_of_gan(decode_resized(encoded, params.gan.height, params.gan.width), params.gan, device)


def rate_of_gan(pixels: np.ndarray, gan: Gan, device: torch.device) -> float:
    """Real images seen per second: the difference of a run of three epochs and one of one."""
    seconds = []
    for epochs in (1, 1, 3):
        start = time.perf_counter()
        train_gan(pixels, gan.model_copy(update={"epochs": epochs, "minimum_steps": 0}), SEED, device, "images")
        wait(device)
        seconds.append(time.perf_counter() - start)
    return 2 * len(pixels) / (seconds[2] - seconds[1])


def plain_gan(params: Params, options: argparse.Namespace, device: torch.device) -> float:
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
