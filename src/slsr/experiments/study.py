"""Studies: many settings of the pipeline, each run as a DVC experiment under a name that says what it is.

What does not change between settings - encoder, clusters, generators, generated images - is computed once: DVC's run
cache gives it to every later experiment. A name ends in a hash of the code, data and parameters of the experiment, so
that an experiment of that name is finished, and given the same command again a study goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML

from slsr.errors import CheckFailed, InputError
from slsr.files import write_json
from slsr.labels.regularizers import studied_names
from slsr.project.revisions import WORKSPACE, Revision, experiments, parameters

PIPELINE, STUDIED = Path("dvc.yaml"), Path("studies/dvc.yaml")
SeedsOf = Literal["training", "pipeline"]
SEED = "train.seed"
EARLIER_SEEDS = ("encoder.seed", "cluster.seed", "gan.seed", "generate.seed")
LAST = Path(".scratch/studies/last.json")
MOST_QUEUED = 20  # longer queues of DVC misbehave


@dataclass(frozen=True)
class Setting:
    """What one experiment changes in params.yaml, and the regularizers it trains and evaluates."""

    label: str
    overrides: Mapping[str, Any]
    regularizers: tuple[str, ...]


@dataclass(frozen=True)
class Experiment:
    """One `dvc exp run`."""

    name: str
    overrides: Mapping[str, Any]
    targets: tuple[str, ...]

    def command(self, queue: bool) -> list[str]:
        """In a temporary checkout either way, so that the workspace stays as it is."""
        sets = [part for key, value in self.overrides.items() for part in ("-S", f"{key}={_hydra(value)}")]
        return ["dvc", "exp", "run", "--queue" if queue else "--temp", "--name", self.name, *sets, *self.targets]


def _hydra(value: Any) -> str:
    return json.dumps(value, separators=(",", ":")) if isinstance(value, list) else str(value)


def numbers(text: str, option: str) -> list[int]:
    """`1-5`, `1,3,7` and mixtures, ascending as given.

    >>> numbers("1-3,7", "--seeds")
    [1, 2, 3, 7]

    Raises
    ------
    InputError
        The text is something else, or names one number twice.
    """
    found: list[int] = []
    for part in text.split(","):
        ends = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if ends is None or (ends[2] and int(ends[2]) < int(ends[1])):
            raise InputError(f"{option} {text!r}: give numbers and ranges such as 1-5 or 1,3,7")
        found += range(int(ends[1]), int(ends[2] or ends[1]) + 1)
    if len(set(found)) < len(found):
        raise InputError(f"{option} {text!r}: names one number twice; name each once")
    return found


def names(text: str) -> list[str]:
    """`none,lsro` as a list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def targets_of_regularizers() -> dict[str, str]:
    """Regularizer -> the target that evaluates it: those of dvc.yaml, then those studies/dvc.yaml has on demand."""
    found: dict[str, str] = {}
    if PIPELINE.is_file():
        legs = YAML(typ="safe").load(PIPELINE.read_text())["stages"].get("evaluate", {}).get("matrix", {})
        found |= {str(name): f"evaluate@{name}" for name in next(iter(legs.values()), [])}
    if STUDIED.is_file():
        found |= {name: f"{STUDIED}:evaluate@{name}" for name in studied_names()}
    return found


def plan(study: str, settings: Iterable[Setting]) -> list[Experiment]:
    """The experiments of a study, named.

    Where an experiment evaluates every regularizer of dvc.yaml, its target is `report`, so that the metrics that
    `dvc exp show` prints are its own.

    Raises
    ------
    InputError
        A regularizer that no pipeline file has, or an override of a key that params.yaml lacks.
    """
    known = targets_of_regularizers()
    committed = [name for name, target in known.items() if ":" not in target]
    values = parameters(Revision(Path(), WORKSPACE, None))
    code = _code_digest()
    found = []
    for setting in settings:
        if not setting.regularizers:
            raise InputError(f"regularizers: none is named; choose of {', '.join(known)}")
        if unknown := [name for name in setting.regularizers if name not in known]:
            raise InputError(f"regularizer {unknown[0]!r}: no stage evaluates it; choose of {', '.join(known)}")
        whole = set(committed) <= set(setting.regularizers)
        legs = [known[name] for name in known if name in setting.regularizers and not (whole and name in committed)]
        targets = (*legs, "report") if whole else tuple(legs)
        studied = [name for name in known if name in setting.regularizers and name not in committed]
        overrides = {**setting.overrides, **({"studies.regularizers": studied} if studied else {})}
        digest = hashlib.sha256(json.dumps([code, targets, {**values, **overrides}], sort_keys=True).encode())
        name = f"{study}-{setting.label}-{digest.hexdigest()[:8]}"
        found.append(Experiment(name, overrides, targets))
    return found


def _code_digest() -> str:
    """Of the pipeline files, the data they name, and every module that a stage depends on."""
    files = [path for path in (PIPELINE, STUDIED) if path.is_file()]
    modules = sorted({module for path in files for module in _code_of(path)})
    digest = hashlib.sha256("\n".join(path.read_text() for path in files).encode())
    for path in [Path("data.dvc"), *modules, *_weights()]:
        if not path.is_file():
            raise InputError(f"{path}: no such file, and dvc.yaml depends on it; run this in the root of the project")
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _code_of(pipeline: Path) -> Iterator[Path]:
    """Every module below the rooms and files of code that a pipeline file depends on."""
    stages = YAML(typ="safe", pure=True).load(pipeline.read_text()).get("stages") or {}
    for stage in stages.values():
        for dep in stage.get("do", stage).get("deps", []):
            if dep.startswith("src/"):
                yield from sorted(Path(dep).rglob("*.py")) if Path(dep).is_dir() else [Path(dep)]


def _weights() -> list[Path]:
    """What stands below weights/ for the parameters `weights`: a file's own bytes, or the words for `none`."""
    values = parameters(Revision(Path(), WORKSPACE, None))
    return sorted({Path("weights") / values[f"{block}.weights"] for block in ("encoder", "train")})


def with_seeds(setting: Setting, seeds: Sequence[int], seeds_of: SeedsOf = "training") -> list[Setting]:
    """A setting once for each seed.

    `training`: a seed moves the training of the re-ID network. `pipeline`: it moves the encoder, the clustering, the
    generators and the images drawn from them as well, so that nothing is shared between seeds but the data.
    """
    moved = [SEED] if seeds_of == "training" else [*EARLIER_SEEDS, SEED]
    title = "seed" if seeds_of == "training" else "pipeline"
    return [
        Setting(
            f"{setting.label}-{title}{seed}",
            {**setting.overrides, **dict.fromkeys(moved, seed)},
            setting.regularizers,
        )
        for seed in seeds
    ]


def regularizer_settings(
    seeds: Sequence[int], backbones: Sequence[str], regularizers: Sequence[str], seeds_of: SeedsOf = "training"
) -> list[Setting]:
    """Table 4 of the paper: regularizer x backbone, over seeds; one experiment trains every regularizer of a seed."""
    return [
        setting
        for backbone in backbones
        for setting in with_seeds(Setting(backbone, {"train.backbone": backbone}, tuple(regularizers)), seeds, seeds_of)
    ]


def cluster_settings(
    seeds: Sequence[int],
    clusters: Sequence[int],
    images: Sequence[int],
    regularizers: Sequence[str],
    sweep: list[int],
    seeds_of: SeedsOf = "training",
) -> list[Setting]:
    """Table 2 of the paper: K x N, over seeds; a K that the sweep of params.yaml lacks is added to it."""
    settings = []
    for k in clusters:
        swept = {} if k in sweep else {"cluster.sweep": sorted([*sweep, k])}
        for n in images:
            overrides = {"cluster.k": k, **swept, "generate.images": n}
            settings += with_seeds(Setting(f"k{k}-n{n}", overrides, tuple(regularizers)), seeds, seeds_of)
    return settings


def image_settings(
    seeds: Sequence[int], images: Sequence[int], regularizers: Sequence[str], seeds_of: SeedsOf = "training"
) -> list[Setting]:
    """Numbers of generated images, over seeds; 0 is the baseline, which sees none."""
    settings = []
    for n in images:
        if n == 0:
            settings += with_seeds(Setting("n0", {}, ("none",)), seeds)
        else:
            settings += with_seeds(Setting(f"n{n}", {"generate.images": n}, tuple(regularizers)), seeds, seeds_of)
    return settings


def epoch_settings(
    seeds: Sequence[int], epochs: Sequence[int], regularizers: Sequence[str], seeds_of: SeedsOf = "training"
) -> list[Setting]:
    """Numbers of epochs, over seeds.

    An epoch is one pass over real and generated images, so that the baseline takes fewer steps in it: a baseline with
    more epochs tells what the images give from what the steps give.
    """
    return [
        setting
        for number in epochs
        for setting in with_seeds(Setting(f"e{number}", {"train.epochs": number}, tuple(regularizers)), seeds, seeds_of)
    ]


def run_study(
    study: str, planned: Sequence[Experiment], *, dry_run: bool, queue: bool, say: Callable[[str], None]
) -> None:
    """Run what is not finished, one after the other, or put it into DVC's queue; a dry run prints the commands alone.

    Raises
    ------
    CheckFailed
        An experiment failed; those before it are kept.
    """
    waiting = _queued() if queue or not dry_run else set()
    done = experiments(Path()).keys() | waiting
    left = [one for one in planned if one.name not in done]
    if dry_run:
        for one in left:
            say(" ".join(one.command(queue)))
    say(f"{study}: {len(planned)} experiments, {len(planned) - len(left)} of them finished or queued")
    if dry_run:
        return
    write_json(LAST, {"study": study, "experiments": [one.name for one in planned]})
    chosen = left[: max(0, MOST_QUEUED - len(waiting))] if queue else left
    for number, one in enumerate(chosen, start=1):
        say(f"[{number}/{len(chosen)}] {' '.join(one.command(queue))}")
        if subprocess.run(one.command(queue)).returncode:
            raise CheckFailed(
                f"{one.name} failed (its output is above); finished experiments are kept: mend the cause and give the "
                "same command again"
            )
    say(_next_step(queue, len(left) - len(chosen), planned))


def _next_step(queue: bool, rest: int, planned: Sequence[Experiment]) -> str:
    everything = any(EARLIER_SEEDS[0] in one.overrides for one in planned)
    compare = f"`slsr compare{' --seeds-of pipeline' if everything else ''}`"
    if not queue:
        return f"compare them with {compare}"
    more = (
        f"; {rest} more would make DVC's queue too long: give the same command again when these have run"
        if rest
        else ""
    )
    return (
        f"start a worker with `dvc queue start`, one a GPU: docs/experiments.md{more}; then compare them with {compare}"
    )


def _queued() -> set[str]:
    """Names of the experiments that wait or run in DVC's queue."""
    done = subprocess.run(["dvc", "queue", "status"], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"dvc queue status: {done.stderr.strip()}; run this in the root of the project")
    rows = [line.split() for line in done.stdout.splitlines()]
    return {row[1] for row in rows if len(row) > 2 and row[-1] in {"Queued", "Running"}}
