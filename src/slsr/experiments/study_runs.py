"""The experiments of a study: each is run by DVC under a name that says what it is.

What does not change between settings (encoder, clusters, generators, generated images) is computed once: every later
experiment receives it from DVC's run cache. A name ends in a hash of the code, data and parameters of the experiment.
So an experiment whose name exists is finished, and a study that is given again continues where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slsr.errors import CheckFailed, InputError
from slsr.experiments.seeds import EARLIER_SEEDS, SPLIT
from slsr.experiments.study import REGULARIZERS_KEY, STEPS_KEY, Study, settings_of
from slsr.files import read_json, require_readable, write_json
from slsr.labels.regularizers import committed_names, studied_names
from slsr.models.checks import check_networks
from slsr.params.dataset import SPLITS
from slsr.params.file import Params, load_params, with_overrides
from slsr.params.reading import read_yaml
from slsr.project.lock import LOCK, flat, locked_parameters, outputs
from slsr.project.repository import stored_object
from slsr.project.revisions import WORKSPACE, Revision, cached_file, experiments, locked_stages
from slsr.training.schedule import images_of_pass, steps_of_pass

log = logging.getLogger(__name__)

PIPELINES = ("dvc.yaml", "studies/dvc.yaml")
LAST_STUDY = ".scratch/studies/last.json"
MOST_QUEUED = 20  # DVC misbehaves with longer queues


@dataclass(frozen=True)
class Experiment:
    """One `dvc exp run`."""

    name: str
    overrides: Mapping[str, Any]
    targets: tuple[str, ...]

    def command(self, queue: bool) -> list[str]:
        """Return the command; it runs in a temporary checkout, with or without a queue, and leaves the workspace."""
        sets = [part for key, value in self.overrides.items() for part in ("-S", f"{key}={_as_override(value)}")]
        return ["dvc", "exp", "run", "--queue" if queue else "--temp", "--name", self.name, *sets, *self.targets]


def _as_override(value: Any) -> str:
    """Write a value as Hydra, which reads overrides for DVC, understands it."""
    plain = isinstance(value, str) and re.fullmatch(r"[\w./+-]+", value)
    return value if plain else json.dumps(value, separators=(",", ":"))


def plan(root: Path, name: str, study: Study) -> list[Experiment]:
    """List the experiments of a study, with their names.

    Raises
    ------
    InputError
        A parameter that the study varies is unknown, or params.yaml may not have such a value; or an error of
        `equal_steps` or `check_networks`.
    """
    params = load_params(root / "params.yaml")
    targets = targets_of(study.regularizers)
    studied = [one for one in studied_names() if one in study.regularizers]
    code = _code_digest(root)
    planned = []
    for setting in settings_of(study, params.cluster.sweep):
        overrides = {**setting.overrides, **({REGULARIZERS_KEY: studied} if studied else {})}
        changed = with_overrides(params, overrides, f"study {name}")
        if study.steps == "equal":
            overrides[STEPS_KEY] = equal_steps(root, changed)
            changed = with_overrides(params, overrides, f"study {name}")
        check_networks(changed)
        parts = [code, _named_files_digest(root, changed), targets, changed.model_dump()]
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        planned.append(Experiment(f"{name}-{setting.label}-{digest[:8]}", overrides, targets))
    return planned


def equal_steps(root: Path, params: Params) -> int:
    """Return the steps of a training on real and generated images, in `train.epochs` passes over both.

    All splits of a data set get the steps of the split that `prepare` has read: their training sets are equally large
    (VIPeR) or nearly so (CUHK03).

    Raises
    ------
    InputError
        `prepare` has not run here with the parameters of the data, so that the number of real images is not known.
    """
    workspace = Revision(root, WORKSPACE, None)
    stage = locked_stages(workspace).get("prepare", {})
    known, asked = locked_parameters(stage), flat({"dataset": params.dataset.model_dump()})
    if differing := sorted(key for key in asked if known.get(key) != asked[key] and key != SPLIT):
        raise InputError(
            "steps: equal needs the number of training images, and the run of `prepare` in dvc.lock has another "
            f"{', '.join(differing)}; set these in params.yaml and run `dvc repro prepare`, or, in a study that varies "
            "them, set train.steps yourself"
        )
    facts = read_json(cached_file(workspace, stage, "artifacts/prepared/facts.json"))
    images = images_of_pass(params.train, facts["splits"]["train"]["images"], params.generate.images)
    return params.train.epochs * steps_of_pass(images, params.train.batch_size)


def targets_of(regularizers: Sequence[str]) -> tuple[str, ...]:
    """List the stages that an experiment with these regularizers has to run.

    With all regularizers of dvc.yaml, the last stage is `report`, so that `metrics/` has the experiment's own
    metrics.
    """
    whole = set(committed_names()) <= set(regularizers)
    committed = [] if whole else [f"evaluate@{name}" for name in committed_names() if name in regularizers]
    studied = [f"{PIPELINES[1]}:evaluate@{name}" for name in studied_names() if name in regularizers]
    return (*committed, *studied, *(["report"] if whole else []))


def _code_digest(root: Path) -> str:
    """Hash the pipeline files, the record of the data, and every module that a stage depends on."""
    pipelines = [root / path for path in PIPELINES if (root / path).is_file()]
    modules = sorted({module for path in pipelines for module in _modules_of(root, path)})
    digest = hashlib.sha256()
    for path in [*pipelines, root / "data.dvc", *modules]:
        digest.update(_content(path))
    return digest.hexdigest()


def _named_files_digest(root: Path, params: Params) -> str:
    """Hash the files in weights/ and splits/ that params.yaml names."""
    names = sorted({params.encoder.weights, params.train.weights})
    files = [*(root / "weights" / name for name in names), root / SPLITS / params.dataset.split_file]
    return hashlib.sha256(b"".join(map(_content, files))).hexdigest()


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(f"{path}: no such file, and dvc.yaml depends on it; run this in the root of the project")
    return path.read_bytes()


def _modules_of(root: Path, pipeline: Path) -> Iterator[Path]:
    """List every module in the folders and files of code that a pipeline file depends on."""
    stages = read_yaml(pipeline).get("stages") or {}
    for stage in stages.values():
        for dep in stage.get("do", stage).get("deps", []):
            if dep.startswith("src/"):
                if (root / dep).is_dir():
                    require_readable(root / dep)
                yield from sorted((root / dep).rglob("*.py")) if (root / dep).is_dir() else [root / dep]


def run_study(
    root: Path, study: str, planned: Sequence[Experiment], *, dry_run: bool, queue: bool, say: Callable[[str], None]
) -> None:
    """Run the experiments that are not finished, one after the other, or put them into DVC's queue.

    A dry run only prints their commands.

    Raises
    ------
    InputError
        DVC could not finish the experiments, because its cache lacks a folder of dvc.lock.
    CheckFailed
        An experiment failed; the ones before it are kept.
    """
    waiting = _queued(root) if queue or not dry_run else set()
    done = experiments(root).keys() | waiting
    left = [one for one in planned if one.name not in done]
    if dry_run:
        for one in left:
            say(" ".join(one.command(queue)))
    say(f"{study}: {len(planned)} experiments, {len(planned) - len(left)} of them finished or queued")
    if dry_run:
        return
    if (root / LOCK).is_file() and any("report" not in one.targets for one in left):
        _check_folders(root)
    write_json(root / LAST_STUDY, {"study": study, "experiments": [one.name for one in planned]})
    chosen = left[: max(0, MOST_QUEUED - len(waiting))] if queue else left
    for number, one in enumerate(chosen, start=1):
        say(f"[{number}/{len(chosen)}] {' '.join(one.command(queue))}")
        if subprocess.run([sys.executable, "-m", *one.command(queue)], cwd=root).returncode:
            raise CheckFailed(
                f"{one.name} failed (its output is above); finished experiments are kept: fix the cause and give the "
                "same command again"
            )
    say(_next_step(queue, len(left) - len(chosen), planned))


def _check_folders(root: Path) -> None:
    """Check that the cache has the folders of dvc.lock.

    DVC 3.67 lists all outputs of dvc.lock when an experiment ends, and fails if it cannot list a folder that the
    experiment did not make.

    Raises
    ------
    InputError
        The cache lacks one.
    """
    for stage in locked_stages(Revision(root, WORKSPACE, None)).values():
        for path, digest in outputs(stage).items():
            if digest is not None and digest.endswith(".dir") and stored_object(root, digest) is None:
                raise InputError(
                    f"DVC's cache lacks the folder {path} of dvc.lock, and DVC fails at the end of an experiment that "
                    "does not make it; run `dvc repro` or `dvc pull` first"
                )


def _next_step(queue: bool, rest: int, planned: Sequence[Experiment]) -> str:
    of_pipeline = any(EARLIER_SEEDS[0] in one.overrides for one in planned)
    splits = any("dataset.split" in one.overrides for one in planned)
    options = (" --seeds-of pipeline" if of_pipeline else "") + (
        " --over splits --ranking single_gallery_shot" if splits else ""
    )
    compare = f"compare them with `slsr compare{options}`"
    if not queue:
        return compare
    start = "start a worker per GPU with `dvc queue start`: docs/experiments.md"
    more = f"{rest} more would make DVC's queue too long: give the same command again when these have run"
    return "; ".join([start, *([more] if rest else []), f"then {compare}"])


def _queued(root: Path) -> set[str]:
    """List the names of the experiments that wait or run in DVC's queue."""
    command = [sys.executable, "-m", "dvc", "queue", "status"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", cwd=root)
    if done.returncode:
        raise InputError(f"`dvc queue status` failed: {done.stderr.strip()}")
    rows = [line.split() for line in done.stdout.splitlines()]
    return {row[1] for row in rows if len(row) > 2 and row[-1] in {"Queued", "Running"}}


def finished_of_last_study(root: Path) -> list[str]:
    """List the finished experiments of the last `slsr study`; a warning says how many are not finished.

    Raises
    ------
    InputError
        No study has run here, or none of its experiments is finished.
    """
    path = root / LAST_STUDY
    if not path.is_file():
        raise InputError("no experiment was named, and no `slsr study` has run here; name experiments, or `workspace`")
    last = read_json(path)
    known = experiments(root)
    finished = [name for name in last["experiments"] if name in known]
    if not finished:
        raise InputError(f"the last study, {last['study']}, has no finished experiment; run it, or name experiments")
    if missing := len(last["experiments"]) - len(finished):
        log.warning(
            "%d of the %d experiments of the last study, %s, are not finished",
            missing,
            len(last["experiments"]),
            last["study"],
        )
    return finished
