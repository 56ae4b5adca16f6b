"""A recipe on real people: a preset's baseline on a part of a real data set, from ImageNet weights and from scratch.

    python benchmarks/real_people.py [--preset market1501-lite] [--identities 200] [--seeds 1-3]
    python benchmarks/real_people.py --validation -S train.optimizer.learning_rate=0.0005 -S none:train.epochs=60

Takes the first --identities training and test identities, without junk and distractors, trains `train` of the preset on
their real images (the regularizer `none`), and ranks the test images by features of an image and of its mirror image,
as `slsr evaluate` does. With --validation it ranks training people who are held out instead, and the tables of test
images are removed: so are recipes chosen.

A finished run is a line of OUT/runs.jsonl, which has numbers only, and is skipped by the next call with the same
parameters (not when the code has changed: name another folder then). Image tables are prepared once for each part of
the data set, below .scratch/, and decoded once in a call; models stay in memory. The table at the end has all runs on
the same people: means over seeds with 95 % intervals over seeds and people (`slsr.experiments.seeds_and_people`; with
one seed over people alone), and the difference of --weights imagenet and none, over the seeds that both have.

The archive is Market-1501's below ../shared/data, or below the folder that SLSR_REAL_DATA names, or the one given.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import logging
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from slsr.datasets.opening import recognize
from slsr.errors import CheckFailed, InputError
from slsr.evaluation.measures import Images, labels_of
from slsr.experiments.seeds_and_people import crossed_mean
from slsr.experiments.study import names, numbers
from slsr.files import read_json
from slsr.images.loading import LabeledImages, load_labeled, load_pixels
from slsr.models.checks import check_networks
from slsr.models.weights import initial_encoder
from slsr.params.dataset import Dataset
from slsr.params.file import Params, validate_params, with_overrides
from slsr.params.presets import render_preset
from slsr.params.reading import parse_yaml
from slsr.params.recipe import Image, Recipe
from slsr.retrieval import headline
from slsr.retrieval.bootstrap import paired_differences
from slsr.retrieval.query_values import QueryValues
from slsr.runtime.devices import prepare_device
from slsr.runtime.machine import usable_cores
from slsr.stages import prepare
from slsr.stages.paths import DATA, FACTS, GALLERY_TABLE, MULTI_QUERY_TABLE, QUERY_TABLE, TRAIN_TABLE, VALIDATION_TABLE
from slsr.training.classifier import TrainingSet, train_classifier
from slsr.training.schedule import planned_steps, steps_of_pass
from slsr.training.validation import HeldOutPeople, Validation, evaluate_people, read_validation

ROOT = Path(__file__).resolve().parents[1]
PREPARED_PEOPLE = ROOT / ".scratch/prepared_people"
MEASURES = {"rank1": "rank-1", "map_trapezoid": "mAP (trapezoid)", "map_standard": "mAP (standard)"}
SETTABLE = ("dataset.", "image.", "train.", "evaluate.bootstrap.")
BY_OPTION = {
    "train.seed": "--seeds",
    "train.weights": "--weights",
    "dataset.archive": "--archive",
    "dataset.identities": "--identities",
}
VALIDATED = {"dataset.validation": "--validation", "dataset.validation_share": "--share"}

Record = dict[str, Any]


@dataclass(frozen=True)
class People:
    """Decoded images: of training, of the people held out, if any, and of those who are searched for."""

    training: LabeledImages
    held_out: Validation | None
    searched: HeldOutPeople


def main() -> None:
    options = parse()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("slsr.training").setLevel(logging.INFO)
    torch.set_num_threads(options.threads)
    try:
        planned = {weights: parameters(options, weights) for weights in names(options.weights)}
        for params in planned.values():
            check_networks(params)
        failed = run_missing(planned, options)
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print(table(planned, read_records(options.out / "runs.jsonl"), options))
    sys.exit(1 if failed else 0)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="market1501-lite", help="a name in presets/")
    parser.add_argument("--archive", type=Path, default=real_archive(), help="in the layout of Market-1501 or DukeMTMC")
    parser.add_argument("--identities", type=int, default=200, help="0: all, with junk and distractors")
    parser.add_argument("--seeds", default="1-3", help="of training: 1-3, or 1,4")
    parser.add_argument("--weights", default="imagenet,none", help="imagenet, none, or files in weights/")
    parser.add_argument(
        "-S",
        "--set",
        action="append",
        default=[],
        metavar="[WEIGHTS:]KEY=VALUE",
        help="changes a parameter of the preset; with the name of weights before it, for these alone",
    )
    parser.add_argument("--validation", action="store_true", help="rank training people who are held out")
    parser.add_argument("--share", type=float, default=0.25, help="of the training people that --validation holds out")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--out", type=Path, default=ROOT / ".scratch/real_people", help="folder of runs.jsonl")
    options = parser.parse_args()
    if not options.archive.exists():
        parser.error(f"no archive at {options.archive}; give --archive, or set SLSR_REAL_DATA")
    options.archive, options.out = options.archive.resolve(), options.out.resolve()
    options.seeds = numbers(options.seeds, "--seeds")
    return options


def real_archive() -> Path:
    folder = Path(os.environ.get("SLSR_REAL_DATA", ROOT.parent / "shared/data"))
    return folder / "market1501/Market-1501-v15.09.15.zip"


def parameters(options: argparse.Namespace, weights: str) -> Params:
    """The preset with the archive, its people, and the overrides for these weights; the seed is set later."""
    params = validate_params(parse_yaml(render_preset(ROOT / "presets", options.preset)), options.preset)
    fixed = {f"dataset.{key}": value for key, value in recognize(options.archive).model_dump().items()}
    fixed |= {"dataset.archive": options.archive.name, "dataset.identities": options.identities or None}
    fixed |= {"train.weights": weights}
    if options.validation:
        fixed |= {"dataset.validation": "identities", "dataset.validation_share": options.share}
    chosen = dict(map(parsed_override, overrides_of(options, weights)))
    for key in chosen:
        taken = BY_OPTION | (VALIDATED if options.validation else {})
        if key in taken:
            raise InputError(f"-S {key}: {taken[key]} sets this parameter")
        if not key.startswith(SETTABLE):
            raise InputError(f"-S {key}: changes nothing here; settable are {', '.join(f'{one}*' for one in SETTABLE)}")
    return with_overrides(params, fixed | chosen, f"preset {options.preset} with -S")


def overrides_of(options: argparse.Namespace, weights: str) -> list[str]:
    """The texts KEY=VALUE that are for all weights or for these."""
    found = []
    for text in options.set:
        scope, colon, rest = text.partition("=")[0].rpartition(":")
        if colon and not rest.startswith("train."):
            raise InputError(f"-S {text}: only parameters of train can differ between weights")
        if not colon or scope == weights:
            found.append(text[len(scope + colon) :])
    return found


def parsed_override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"-S {text}: give KEY=VALUE, such as train.epochs=12")
    return key, parse_yaml(value)


def digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def people_key(params: Params, options: argparse.Namespace) -> str:
    return digest(params.dataset.model_dump(), options.validation, options.archive.stat().st_size)


def settings_key(params: Params, options: argparse.Namespace) -> str:
    """What two runs share that differ in the seed of training alone."""
    recipe, bootstrap = params.train.model_dump(exclude={"seed"}), params.evaluate.bootstrap.model_dump()
    return digest(people_key(params, options), params.image.model_dump(), recipe, bootstrap)


def run_missing(planned: Mapping[str, Params], options: argparse.Namespace) -> bool:
    """Train and measure what runs.jsonl does not have, seed by seed; tell whether a training failed."""
    path, failed = options.out / "runs.jsonl", False
    done = {(record["settings"], record["seed"]) for record in read_records(path)}
    runs = [(weights, seed) for seed in options.seeds for weights in planned]
    missing = [run for run in runs if (settings_key(planned[run[0]], options), run[1]) not in done]
    if not missing:
        return False
    people = prepared_people(planned[missing[0][0]], options)
    for number, (weights, seed) in enumerate(missing, 1):
        params = with_overrides(planned[weights], {"train.seed": seed}, "--seeds")
        print(f"[{number}/{len(missing)}] {params.train.backbone}, weights {weights}, seed {seed}", flush=True)
        try:
            measured = train_and_rank(params, people)
        except CheckFailed as error:
            print(f"weights {weights}, seed {seed}: {error}", file=sys.stderr)
            failed = True
            continue
        append(path, described(params, options) | measured)
        print(", ".join(f"{title} {100 * measured[key]:.1f}" for key, title in MEASURES.items()), flush=True)
    return failed


def prepared_people(params: Params, options: argparse.Namespace) -> People:
    """Run `prepare` in a folder below .scratch/, unless it has run there, and decode the images."""
    folder = PREPARED_PEOPLE / people_key(params, options)
    prepare_below(folder, options.archive, params.dataset)
    with contextlib.chdir(folder):
        if options.validation:
            for test_table in (QUERY_TABLE, GALLERY_TABLE, MULTI_QUERY_TABLE):
                test_table.unlink(missing_ok=True)
        return decoded_people(params.image, options.validation)


def prepare_below(folder: Path, archive: Path, dataset: Dataset) -> None:
    """Run `prepare` on an archive in a folder, unless it has run there."""
    (folder / DATA).mkdir(parents=True, exist_ok=True)
    link = folder / DATA / archive.name
    if not link.exists():
        link.symlink_to(archive)
    with contextlib.chdir(folder):
        if not FACTS.exists():
            prepare.run(dataset)


def decoded_people(image: Image, validation: bool) -> People:
    held_out = read_validation(VALIDATION_TABLE, image)
    if not validation and (protocol := read_json(FACTS)["evaluation"]["protocol"]) != "cross-camera":
        raise InputError(f"--archive: its protocol is {protocol}; only cross-camera ranking is measured here")
    searched = held_out if validation else test_people(image)
    assert isinstance(searched, HeldOutPeople)
    return People(load_labeled(TRAIN_TABLE, image), held_out, searched)


def test_people(image: Image) -> HeldOutPeople:
    labels = labels_of(Images.read(QUERY_TABLE), Images.read(GALLERY_TABLE))
    return HeldOutPeople(load_pixels([QUERY_TABLE, GALLERY_TABLE], image), labels)


def train_and_rank(params: Params, people: People) -> Record:
    """Train as `slsr train none` does, rank as `slsr evaluate` does without re-ranking; numbers of both."""
    recipe, labels = params.train, people.training.labels
    device = prepare_device(recipe.precision, recipe.deterministic)
    encoder = initial_encoder(recipe, int(labels.max()) + 1, params.image, ROOT / "weights")
    training = TrainingSet.of_labeled(people.training, recipe.label_smoothing)
    held_out = people.held_out if recipe.keep == "best" else None
    start, processor = time.perf_counter(), time.process_time()
    train_classifier(encoder, training, held_out, recipe, encoder.image, device)
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    found = evaluate_people(encoder, people.searched, encoder.image, recipe.precision)
    bootstrap, queries = params.evaluate.bootstrap, found.query_values()
    figures = headline(found, resamples=bootstrap.resamples, seed=bootstrap.seed)
    values = queries.pseudovalues().T.round(6).tolist()
    wanted = {name for measure in MEASURES for name in (measure, f"{measure}_ci95")} | {"queries", "people", "gallery"}
    return {
        **{name: value for name, value in figures.items() if name in wanted},
        **lengths(recipe, len(labels), seconds),
        "processor_seconds": round(processor, 1),
        "of_people": {name: one for name, one in zip(queries.keys, values, strict=True) if name in MEASURES},
    }


def lengths(recipe: Recipe, images: int, seconds: float) -> Record:
    steps = planned_steps(recipe, images)
    seen = steps * images / steps_of_pass(images, recipe.batch_size)
    speed = {"seconds": round(seconds, 1), "images_per_second": round(seen / seconds, 1)}
    return {"training_images": images, "steps": steps} | speed


def described(params: Params, options: argparse.Namespace) -> Record:
    """What a run was, and on what machine."""
    weights = params.train.weights
    return {
        "settings": settings_key(params, options),
        "same_people": people_key(params, options),
        "preset": options.preset,
        "set": overrides_of(options, weights),
        "weights": weights,
        "seed": params.train.seed,
        "identities": options.identities,
        "ranked": "validation" if options.validation else "test",
        "machine": machine(),
    }


def machine() -> Record:
    cores = {"cores": usable_cores(), "threads": torch.get_num_threads(), "load": round(os.getloadavg()[0], 1)}
    return {"device": device_name(), "torch": torch.__version__, "python": platform.python_version()} | cores


def device_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def read_records(path: Path) -> list[Record]:
    """The finished runs; a line that was cut off is left out."""
    records = []
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else [], 1):
        try:
            records.append(json.loads(line))
        except ValueError:
            print(f"{path}: line {number} was cut off and is left out", file=sys.stderr)
    return records


def append(path: Path, record: Record) -> None:
    """Add a line in one write, so that two processes may do so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    with path.open("ab", buffering=0) as file:
        file.write(b"\n" * torn + json.dumps(record, sort_keys=True, allow_nan=False).encode() + b"\n")


def table(planned: Mapping[str, Params], records: Sequence[Record], options: argparse.Namespace) -> str:
    """All runs on the people of this call, a row for each recipe, in Markdown; then imagenet - none of this call."""
    people = people_key(next(iter(planned.values())), options)
    groups: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda one: one["seed"]):
        if record["same_people"] == people:
            groups.setdefault(record["settings"], []).append(record)
    if not groups:
        return "no run is finished"
    one = next(iter(groups.values()))[0]
    lines = [
        f"{one['people']} {one['ranked']} people, {one['queries']} queries, {one['gallery']} images in the gallery"
    ]
    lines += ["", f"| weights | preset, -S | seeds | {', % | '.join(MEASURES.values())}, % | steps | images/s |"]
    lines += ["| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
    lines += [row(group) for group in groups.values()]
    pair = [groups.get(settings_key(planned[name], options), []) for name in ("imagenet", "none") if name in planned]
    return "\n".join([*lines, *([difference_row(*pair)] if len(pair) == 2 and all(pair) else [])])


def row(group: Sequence[Record]) -> str:
    first = group[0]
    recipe = " ".join([first["preset"], *first["set"]])
    speed = float(np.median([record["images_per_second"] for record in group]))
    seeds = ",".join(str(record["seed"]) for record in group)
    cells = [first["weights"], recipe, seeds, *(mean_cell(group, measure) for measure in MEASURES)]
    return f"| {' | '.join(cells)} | {first['steps']} | {speed:.1f} |"


def mean_cell(group: Sequence[Record], measure: str) -> str:
    if len(group) == 1:
        return cell(group[0][measure], group[0][f"{measure}_ci95"])
    found = crossed_mean(values_of(group, measure), (0, 1))
    return cell(found.mean, found.ci95)


def values_of(group: Sequence[Record], measure: str) -> NDArray[np.float64]:
    """A measure of every seed and person, [S, P]."""
    return np.array([record["of_people"][measure] for record in group])


def difference_row(imagenet: Sequence[Record], none: Sequence[Record]) -> str:
    """The mean difference over the seeds that both have, with its interval."""
    seeds = sorted({record["seed"] for record in imagenet} & {record["seed"] for record in none})
    if not seeds:
        return "| imagenet - none | | no common seed | | | | | |"
    cells = []
    for measure in MEASURES:
        first, second = (
            values_of([record for record in group if record["seed"] in seeds], measure) for group in (imagenet, none)
        )
        cells.append(difference_cell(first, second))
    return f"| imagenet - none | | {','.join(map(str, seeds))} | {' | '.join(cells)} | | |"


def difference_cell(first: NDArray[np.float64], second: NDArray[np.float64]) -> str:
    if len(first) == 1:
        pair = (QueryValues(values.T, ("value",)) for values in (second, first))
        found = paired_differences(*pair)["value"]
        return cell(found.difference, found.ci95, "+")
    both = crossed_mean(first - second, (-1, 1))
    return cell(both.mean, both.ci95, "+")


def cell(mean: float, interval: Sequence[float] | None, sign: str = "") -> str:
    ends = "" if interval is None else f" [{100 * interval[0]:{sign}.1f}, {100 * interval[1]:{sign}.1f}]"
    return f"{100 * mean:{sign}.1f}{ends}"


if __name__ == "__main__":
    main()
