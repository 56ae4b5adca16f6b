"""Generators against time: the quality of their images while they train, for the generators of two or more presets.

    python benchmarks/generators.py --name light --seconds 3600                      # on a real archive
    python benchmarks/generators.py --name dcgan --seconds 3600 --preset market1501 -S gan.height=128 -S gan.width=64
    python benchmarks/generators.py --name k30 --clusters 30 --seconds 900
    python benchmarks/generators.py --sample --name light --epochs                   # on the sample, after `dvc repro`
    python benchmarks/generators.py --sample --name run --trained artifacts/gan      # the generators of that run

Trains the generators of a preset's block `gan` on all training images, and measures them every --every seconds of
training, in the ImageNet space, in that of another ImageNet network, and in the handcrafted one. Only the processor
time of training counts, so that neither measurements nor other work on the machine do. With `gan.kind: per-cluster`
the generators of all clusters take turns, a step each, and have no parent. --epochs trains as long as the preset says,
instead of --seconds. Images are drawn in proportion to the clusters.

The archive is Market-1501's below ../shared/data, or below the folder that SLSR_REAL_DATA names, or --archive. Its
clusters are those of k-means on ImageNet features; the sample's are those of the pipeline's run. A line of
OUT/runs.jsonl is a measurement, numbers only; OUT/<name>.png is a sheet to look at, which shows people, and
OUT/<name>.pt the state. The same call goes on from there. The table at the end has all names in OUT, and
the same measures of real images that were left out; --picture puts
their sheets below each other.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from real_people import prepare_below, real_archive

from slsr.clustering.kmeans import k_means
from slsr.errors import InputError
from slsr.gan.batches import epoch_plan
from slsr.gan.generator import Generator
from slsr.gan.images import ClusteredImages, evenly, load_clustered
from slsr.gan.loop import GanLearner
from slsr.gan.networks import draw_images, draw_noise, load_generator
from slsr.images.decoding import Pixels, decode_resized
from slsr.images.tables import read_table
from slsr.markdown import table
from slsr.params.dataset import Dataset
from slsr.params.file import Params, validate_params, with_overrides
from slsr.params.gan import Gan
from slsr.params.presets import render_preset
from slsr.params.reading import parse_yaml
from slsr.quality.assessment import assess
from slsr.quality.features import Features, handcrafted
from slsr.quality.imagenet import imagenet
from slsr.quality.spaces import IMAGENET_NETWORKS
from slsr.reporting.sheets import Panel, draw_panels
from slsr.runtime.clock import Step
from slsr.runtime.devices import prepare_device
from slsr.runtime.machine import usable_cores
from slsr.stages.generate import allocate
from slsr.stages.paths import ASSIGNMENTS, TRAIN_TABLE

ROOT = Path(__file__).resolve().parents[1]
PREPARED = ROOT / ".scratch/generators/prepared"
SPACES = {
    "imagenet": ["kernel", "coverage", "precision", "recall", "density", "duplicates", "copies"],
    "imagenet_lite1": ["kernel", "coverage"],
    "handcrafted": ["kernel", "coverage"],
}
SHOWN = 48

Generators = dict[int | None, Generator]  # by the cluster, None for one that is told the cluster


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    try:
        params = parameters(options)
        images = sample_images(params.gan) if options.sample else archive_images(params.gan, options)
        if options.trained:
            pixels = evenly(images.pixels, 5 * options.images)
            note(trained(options.trained), images, spaces_of(pixels, torch.device("cpu")), options, 0, 0.0)
        else:
            train(params.gan, images, options)
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print(summary(options.out / "runs.jsonl"))
    if options.picture:
        stack(sorted(options.out.glob("*.png")), options.picture)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="of this generator, in OUT")
    parser.add_argument("--preset", default=None, help="a name in presets/; by default market1501-lite, or sample")
    parser.add_argument("--sample", action="store_true", help="train on the images and clusters of the pipeline's run")
    parser.add_argument("--archive", type=Path, default=real_archive(), help="in the layout of Market-1501")
    parser.add_argument("--clusters", type=int, default=3, help="of the archive")
    parser.add_argument("--seconds", type=float, default=3600.0, help="of processor time of training")
    parser.add_argument("--epochs", action="store_true", help="train as long as the preset says")
    parser.add_argument("--every", type=float, default=300.0, help="seconds between measurements")
    parser.add_argument("--images", type=int, default=2000, help="how many are drawn for a measurement")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("-S", "--set", action="append", default=[], metavar="KEY=VALUE", help="changes a parameter")
    parser.add_argument("--trained", type=Path, help="measure the generators of this folder, such as artifacts/gan")
    parser.add_argument("--picture", type=Path, help="write the sheets of all names in OUT to this file")
    parser.add_argument("--out", type=Path, default=ROOT / ".scratch/generators", help="folder of runs.jsonl")
    options = parser.parse_args()
    options.preset = options.preset or ("sample" if options.sample else "market1501-lite")
    if not options.sample and not options.archive.exists():
        parser.error(f"no archive at {options.archive}; give --archive, or set SLSR_REAL_DATA")
    options.archive, options.out = options.archive.resolve(), options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    return options


def parameters(options: argparse.Namespace) -> Params:
    params = validate_params(parse_yaml(render_preset(ROOT / "presets", options.preset)), options.preset)
    pairs = [pair.partition("=") for pair in options.set]
    return with_overrides(params, {key: parse_yaml(value) for key, _, value in pairs}, "--set")


def sample_images(gan: Gan) -> ClusteredImages:
    return load_clustered(ROOT / TRAIN_TABLE, ROOT / ASSIGNMENTS, gan.height, gan.width)


def archive_images(gan: Gan, options: argparse.Namespace) -> ClusteredImages:
    """Run `prepare` below .scratch/, unless it has run there, and cluster the training images."""
    preset = validate_params(parse_yaml(render_preset(ROOT / "presets", "market1501-lite")), "market1501-lite")
    chosen: dict[str, Any] = preset.dataset.model_dump() | {"archive": options.archive.name, "validation": "none"}
    prepare_below(PREPARED, options.archive, Dataset(**chosen))
    with contextlib.chdir(PREPARED):
        train_table = read_table(TRAIN_TABLE, ["image", "name"])
    encoded, names = (train_table.column(name).to_pylist() for name in ("image", "name"))
    features = PREPARED / "imagenet.npy"
    if not features.exists():
        np.save(features, imagenet(decode_resized(encoded, 128, 64, names=names), torch.device("cpu")))
    centered = np.load(features)
    centered -= centered.mean(axis=0)
    found = k_means(centered, options.clusters, seed=1, initialization="k-means++", restarts=3, max_iterations=100)
    pixels = decode_resized(encoded, gan.height, gan.width, names=names)
    return ClusteredImages(pixels, found.assignments.astype(np.int32))


def train(gan: Gan, images: ClusteredImages, options: argparse.Namespace) -> None:
    """Train, or go on, and note a measurement every so often and at the end."""
    device = prepare_device(gan.precision, gan.deterministic)
    learners = make_learners(gan, images, device)
    state = options.out / f"{options.name}.pt"
    step, seconds = load(state, learners)
    known = spaces_of(evenly(images.pixels, 5 * options.images), device)
    limit = float("inf") if options.epochs else options.seconds
    steps = epoch_steps(gan, images, learners)
    measured = seconds
    while seconds < limit and not (options.epochs and step >= max(steps.values())):
        start = time.process_time()
        for cluster, learner in learners.items():
            if not options.epochs or step < steps[cluster]:
                in_epoch = -(-len(learner.images) // gan.batch_size)
                learner.learn(Step(step, step // in_epoch, step % in_epoch, ends_epoch=False))
        step, seconds = step + 1, seconds + time.process_time() - start
        if seconds - measured >= options.every:
            measured = seconds
            note(settled(learners), images, known, options, step, seconds)
            save(state, learners, step, seconds)
    if measured < seconds:
        note(settled(learners), images, known, options, step, seconds)
        save(state, learners, step, seconds)


def make_learners(gan: Gan, images: ClusteredImages, device: torch.device) -> dict[int | None, GanLearner]:
    if gan.kind == "conditional":
        return {None: GanLearner(images.pixels, gan, (gan.seed, 2), device, "all", None, images.clusters)}
    clusters = range(int(images.clusters.max()) + 1)
    return {one: GanLearner(images.of(one), gan, (gan.seed, 0, one), device, str(one), None, None) for one in clusters}


def epoch_steps(gan: Gan, images: ClusteredImages, learners: dict[int | None, GanLearner]) -> dict[int | None, int]:
    found = {}
    for cluster, learner in learners.items():
        epochs, steps = epoch_plan(len(learner.images), gan)
        found[cluster] = (epochs + gan.reconstruction_epochs) * steps
    return found


def load(path: Path, learners: dict[int | None, GanLearner]) -> tuple[int, float]:
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    for learner, own in zip(learners.values(), state["learners"], strict=True):
        learner.load_state_dict(own)
    return state["step"], state["seconds"]


def save(path: Path, learners: dict[int | None, GanLearner], step: int, seconds: float) -> None:
    state = {"learners": [each.state_dict() for each in learners.values()], "step": step, "seconds": seconds}
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").rename(path)


def spaces_of(pixels: Pixels, device: torch.device) -> dict[str, Features]:
    found = {name: imagenet(pixels, device, network) for name, network in IMAGENET_NETWORKS.items()}
    return found | {"handcrafted": handcrafted(pixels)}


def note(
    generators: Generators,
    images: ClusteredImages,
    known: dict[str, Features],
    options: argparse.Namespace,
    step: int,
    seconds: float,
) -> None:
    """Draw images, measure them, and write a line and a sheet."""
    start = time.perf_counter()
    drawn = drawn_images(generators, images, options.images)
    found = spaces_of(drawn, next(next(iter(generators.values())).parameters()).device)
    assessed = {
        f"{space}_{name}": one
        for space, names in SPACES.items()
        for name, one in assess(known[space], found[space], names, 1, subsets=3).items()
    }
    measures = {name: None if one.value is None else round(one.value, 4) for name, one in assessed.items()}
    real = {name: None if one.reference is None else round(one.reference, 4) for name, one in assessed.items()}
    clusters = int(images.clusters.max()) + 1
    line = {"name": options.name, "clusters": clusters, "steps": step, "seconds": round(seconds, 1)} | measures
    how = {"threads": options.threads, "set": options.set, "preset": options.preset, "real": real}
    with (options.out / "runs.jsonl").open("a") as file:
        file.write(json.dumps(line | how) + "\n")
    print(json.dumps(line), f"measured in {time.perf_counter() - start:.0f} s", flush=True)
    caption = f"{options.name}: {step:,} steps" if step else options.name
    shown = [Panel(caption, evenly(drawn, SHOWN)), Panel("real", evenly(images.pixels, 16))]
    draw_panels(options.out / f"{options.name}.png", shown, 16)


def drawn_images(generators: Generators, images: ClusteredImages, count: int) -> NDArray[np.uint8]:
    """Draw images of each cluster, in proportion to its real ones."""
    counts = allocate(count, np.bincount(images.clusters).tolist(), "proportional")
    parts: list[Pixels] = []
    for cluster, own in enumerate(counts):
        told = cluster if None in generators else None
        generator = generators[None if told is not None else cluster]
        parts.append(draw_images(generator, draw_noise((1, cluster), own, generator.description.latent), told))
    return np.concatenate(parts)


def settled(learners: dict[int | None, GanLearner]) -> Generators:
    """Return copies of the generators that draw, with their batch norms measured."""
    generators = {}
    for cluster, learner in learners.items():
        generators[cluster] = copy.deepcopy(learner.adversaries.drawing)
        learner.settle(generators[cluster])
    return generators


def trained(folder: Path) -> Generators:
    """Read the generators of a run of the pipeline."""
    told = folder / "conditional.safetensors"
    if told.exists():
        return {None: load_generator(told)}
    found = sorted(folder.glob("cluster_*.safetensors"), key=lambda path: int(path.stem.partition("_")[2]))
    return {number: load_generator(path) for number, path in enumerate(found)}


def summary(path: Path) -> str:
    """Return a table of all measurements, the last of each name at the end."""
    lines: Sequence[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    wanted = [f"{space}_{name}" for space, names in SPACES.items() for name in names]
    head = ["name", "clusters", "seconds", "steps", *(name.replace("_", " ") for name in wanted)]
    rows = [
        [line["name"], str(line["clusters"]), f"{line['seconds']:.0f}", f"{line['steps']:,}"]
        + ["-" if line[name] is None else f"{line[name]:.2f}" for name in wanted]
        for line in lines
    ]
    real = next((line["real"] for line in reversed(lines) if "real" in line), None)
    if real is not None:
        cells = ["-" if real.get(name) is None else f"{real[name]:.2f}" for name in wanted]
        rows.append(["real images that were left out", "-", "-", "-", *cells])
    return table(head, rows)


def stack(sheets: Sequence[Path], path: Path) -> None:
    """Put pictures of one width below each other."""
    shown = [Image.open(sheet).convert("RGB") for sheet in sheets]
    picture = Image.new("RGB", (shown[0].width, sum(sheet.height for sheet in shown)), "white")
    top = 0
    for sheet in shown:
        picture.paste(sheet, (0, top))
        top += sheet.height
    picture.save(path, optimize=True)


if __name__ == "__main__":
    main()
