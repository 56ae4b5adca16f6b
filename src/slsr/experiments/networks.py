"""The trained and evaluated networks of experiments, read from DVC's cache."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from slsr.errors import InputError
from slsr.evaluation.per_query import read_queries
from slsr.experiments.seeds import SEED
from slsr.files import read_json
from slsr.project.lock import Stages, chain, locked_parameters
from slsr.project.revisions import Revision, cached_file, locked_stages
from slsr.project.staleness import stale_reason
from slsr.retrieval.query_values import QueryValues

log = logging.getLogger(__name__)

DATA, CODE = "data:", "code:"
# These parameters change the intervals and the pictures of a run, but not its measures.
WITHOUT_EFFECT = ("evaluate.bootstrap.", "evaluate.ranked_list.", "evaluate.batch_size", "generate.alarms.")

Settings = Mapping[str, Any]


class Training(NamedTuple):
    """How long a network was trained: the steps, and the sum of the backbone's learning rate over them."""

    steps: float
    rate_sum: float


@dataclass(frozen=True)
class EvaluatedNetwork:
    """One trained and evaluated network of one experiment, or of another revision.

    `settings` has everything except the seed of its training that its results depend on: parameters (`block.key`), data
    (`data:path` -> MD5) and code (`code:path` -> MD5). `values` has every measure of every query with a right match,
    with its person; None for single-gallery-shot results of earlier versions, which did not keep them. `quality` is the
    quality.json of the generated images that it was trained on; None if there are none, or if the cache does not have
    it. `training_people` is the number of identities in the training images; None if the cache lacks facts.json.
    `training` is None if the cache does not have its curves.
    """

    experiment: str
    regularizer: str
    seed: int
    settings: Settings
    metrics: Mapping[str, Any]
    values: QueryValues | None
    quality: Mapping[str, Any] | None = None
    training_people: int | None = None
    training: Training | None = None


def read_networks(revisions: Sequence[Revision], ranking: str) -> list[EvaluatedNetwork]:
    """Read every network that the revisions have evaluated.

    A result that a revision only inherited from its parent is left out, and a log message says so.

    Raises
    ------
    InputError
        No revision has a result of its own, a revision has no dvc.lock, the cache does not have a result, or a network
        was not measured by this way of ranking.
    """
    found = [_measured(files, ranking) for revision in revisions for files in files_of(revision)]
    if not found:
        raise InputError(f"{', '.join(revision.name for revision in revisions)}: no evaluated network to compare")
    return found


@dataclass(frozen=True)
class NetworkFiles:
    """What `EvaluatedNetwork` is read from: as there, but with the files of all ways of ranking."""

    experiment: str
    regularizer: str
    seed: int
    settings: Settings
    metrics: Path
    per_query: Path
    quality: Mapping[str, Any] | None
    training_people: int | None
    training: Training | None


def files_of(revision: Revision) -> list[NetworkFiles]:
    """Find the files of every network that a revision has evaluated itself.

    Raises
    ------
    InputError
        The revision has no dvc.lock, or the cache does not have a result.
    """
    stages = locked_stages(revision)
    found = []
    for name in sorted(stages):
        stage, _, regularizer = name.partition("@")
        if stage != "evaluate" or not regularizer:
            continue
        if reason := stale_reason(revision, stages, name):
            log.info("%s: left out %s, which was not run there: %s", revision.name, name, reason)
            continue
        found.append(_files_of(revision, stages, regularizer))
    return found


def _measured(files: NetworkFiles, ranking: str) -> EvaluatedNetwork:
    """Read the measures of one way of ranking."""
    metrics = read_json(files.metrics)
    if ranking not in metrics:
        raise InputError(
            f"{files.experiment}: artifacts/evaluate/{files.regularizer} has no {ranking}; choose --ranking of "
            f"{', '.join(metrics)}"
        )
    return EvaluatedNetwork(
        files.experiment,
        files.regularizer,
        files.seed,
        files.settings,
        metrics[ranking],
        read_queries(files.per_query).get(ranking),
        files.quality,
        files.training_people,
        files.training,
    )


def _files_of(revision: Revision, stages: Stages, regularizer: str) -> NetworkFiles:
    name, folder = f"evaluate@{regularizer}", f"artifacts/evaluate/{regularizer}"
    earlier = list(chain(stages, name))
    settings = _settings_of(stages, earlier)
    return NetworkFiles(
        revision.name,
        regularizer,
        settings.pop(SEED),
        settings,
        cached_file(revision, stages[name], f"{folder}/metrics.json"),
        cached_file(revision, stages[name], f"{folder}/per_query.parquet"),
        _read_quality(revision, stages["generate"]) if "generate" in earlier else None,
        _training_people(revision, stages["prepare"]) if "prepare" in earlier else None,
        _read_training(revision, stages[f"train@{regularizer}"], f"artifacts/train/{regularizer}/curves"),
    )


def _settings_of(stages: Stages, names: Sequence[str]) -> dict[str, Any]:
    """Gather the parameters, the data and the code of stages, without what does not change measures."""
    settings: dict[str, Any] = {}
    for name in names:
        settings |= locked_parameters(stages[name])
        for dep in stages[name]["deps"]:
            if dep["path"].startswith(("data/", "splits/", "weights/")):
                settings[f"{DATA}{dep['path']}"] = dep["md5"]
            elif dep["path"].startswith("src/"):
                settings[f"{CODE}{dep['path']}"] = dep["md5"]
    return {key: value for key, value in settings.items() if not key.startswith(WITHOUT_EFFECT)}


def _training_people(revision: Revision, stage: Mapping[str, Any]) -> int | None:
    """Read the number of training identities."""
    try:
        return int(read_json(cached_file(revision, stage, "artifacts/prepared/facts.json"))["training_identities"])
    except InputError as error:
        log.info("%s: without the number of its training people: %s", revision.name, error)
        return None


def _read_quality(revision: Revision, stage: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Read the measured quality of the generated images; the file may exist only where the images were made."""
    try:
        found: Mapping[str, Any] = read_json(cached_file(revision, stage, "artifacts/generated/quality.json"))
    except InputError as error:
        log.info("%s: without the quality of its generated images: %s", revision.name, error)
        return None
    return found


def _read_training(revision: Revision, stage: Mapping[str, Any], curves: str) -> Training | None:
    """Read how long a network was trained from the last values of its curves."""
    try:
        last = read_json(cached_file(revision, stage, curves, "metrics.json"))["train"]
    except InputError as error:
        log.info("%s: without the number of steps of its training: %s", revision.name, error)
        return None
    return Training(last["steps"], last["rate_sum"]) if "steps" in last else None
