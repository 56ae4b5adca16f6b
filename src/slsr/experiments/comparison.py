"""Any set of experiments as one table: means and deviations over seeds, and differences to the baseline."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slsr.errors import InputError
from slsr.evaluation.per_query import read_queries
from slsr.experiments.seeds_and_queries import CrossedMean, crossed_mean
from slsr.experiments.study import EARLIER_SEEDS, LAST, SEED, SeedsOf
from slsr.files import read_json
from slsr.labels.regularizers import REGULARIZERS
from slsr.project.lock import chain, locked_parameters
from slsr.project.revisions import Revision, cached_file, experiments, locked_stages
from slsr.project.staleness import stale_reason
from slsr.reporting.published import Published, published
from slsr.retrieval.bootstrap import PairedDifference, paired_differences

log = logging.getLogger(__name__)

DATA, CODE = "data:", "code:"
# They move the intervals and the pictures of one run, not its measures.
WITHOUT_EFFECT = ("evaluate.bootstrap.", "evaluate.ranked_list.", "evaluate.batch_size", "generate.alarms.")

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Leg:
    """One trained and evaluated network of one revision.

    `settings` holds everything that it rests on but its seeds: parameters (`block.key`), data (`data:path` -> MD5) and
    code (`code:path` -> MD5). `values` holds, under each measure, one value a query with a right match; it is empty
    for a protocol without paired queries. `quality` is the quality.json of the generated images it was trained on; None
    without any, or where the cache lacks it.
    """

    experiment: str
    regularizer: str
    seed: int
    settings: Settings
    metrics: Mapping[str, Any]
    queries: tuple[str, ...]
    values: Mapping[str, NDArray[np.float64]]
    quality: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Row:
    """The legs that differ in their seeds alone, ascending by that of the training."""

    regularizer: str
    settings: Settings
    legs: Sequence[Leg]

    @property
    def seeds(self) -> list[int]:
        """Seeds, ascending."""
        return [leg.seed for leg in self.legs]

    def single(self, measure: str) -> NDArray[np.float64]:
        """[S]: a measure of every seed's network."""
        return np.array([leg.metrics[measure] for leg in self.legs], np.float64)

    def interval(self, measure: str) -> tuple[float, float] | None:
        """The 95 % interval of the mean over seeds and queries; None with one seed or without values of queries."""
        if len(self.legs) < 2 or not all(measure in leg.values for leg in self.legs):
            return None
        return crossed_mean(np.stack([leg.values[measure] for leg in self.legs]), (0, 1)).ci95


@dataclass(frozen=True)
class Difference:
    """A row minus its baseline, paired by seed and query.

    `both` holds for other seeds and other queries, and is None with one common seed; `queries` is the paired bootstrap
    over queries of the mean over seeds, and holds for these seeds alone.
    """

    seeds: Sequence[int]
    both: CrossedMean | None
    queries: PairedDifference


@dataclass(frozen=True)
class Comparison:
    """Rows in the order they are shown, with the differences of each to its baseline, by measure.

    `against` is the one row that all differences are taken to, where the user named one; its settings may be others.
    `seeds_of` says what differs between the seeds of a row.
    """

    ranking: str
    baseline: str
    measures: Sequence[str]
    rows: Sequence[Row]
    differences: Sequence[Mapping[str, Difference]]
    published: Sequence[Published | None]
    against: Row | None = None
    seeds_of: SeedsOf = "training"


def legs_of(revision: Revision, ranking: str) -> list[Leg]:
    """Every network that a revision has evaluated; what its parent left in its dvc.lock is passed over, and said so.

    Raises
    ------
    InputError
        The revision has no dvc.lock, the cache lacks a result, or it was not measured by this way of ranking.
    """
    stages = locked_stages(revision)
    found = []
    for name in sorted(stages):
        stage, _, regularizer = name.partition("@")
        if stage != "evaluate" or not regularizer:
            continue
        if reason := stale_reason(revision, stages, name):
            log.info("%s: passed over %s, which was not run there: %s", revision.name, name, reason)
            continue
        found.append(_leg(revision, stages, name, regularizer, ranking))
    return found


def _leg(revision: Revision, stages: Mapping[str, Mapping[str, Any]], name: str, regularizer: str, ranking: str) -> Leg:
    settings: dict[str, Any] = {}
    rests_on = list(chain(stages, name))
    for one in rests_on:
        settings |= locked_parameters(stages[one])
        for dep in stages[one]["deps"]:
            if dep["path"].startswith(("data/", "weights/")):
                settings[f"{DATA}{dep['path']}"] = dep["md5"]
            elif dep["path"].startswith("src/"):
                settings[f"{CODE}{dep['path']}"] = dep["md5"]
    seed = settings.pop(SEED)
    folder = f"artifacts/evaluate/{regularizer}"
    metrics = read_json(cached_file(revision, stages[name], f"{folder}/metrics.json"))
    if ranking not in metrics:
        raise InputError(f"{revision.name}: {folder} has no {ranking}; choose --ranking of {', '.join(metrics)}")
    queries = read_queries(cached_file(revision, stages[name], f"{folder}/per_query.parquet"))
    names, evaluation = queries.get(ranking, ([], None))
    return Leg(
        revision.name,
        regularizer,
        seed,
        {key: value for key, value in settings.items() if not key.startswith(WITHOUT_EFFECT)},
        metrics[ranking],
        tuple(one for one, valid in zip(names, evaluation.valid, strict=True) if valid) if evaluation else (),
        evaluation.headline_values() if evaluation else {},
        _quality(revision, stages["generate"]) if "generate" in rests_on else None,
    )


def _quality(revision: Revision, stage: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """How good the generated images were measured to be; it may have stayed where they were made."""
    try:
        found: Mapping[str, Any] = read_json(cached_file(revision, stage, "artifacts/generated/quality.json"))
    except InputError as error:
        log.info("%s: without the quality of its generated images: %s", revision.name, error)
        return None
    return found


def without_earlier_seeds(legs: Iterable[Leg]) -> list[Leg]:
    """Legs of which a seed stands for the whole pipeline: those of the stages before training are no settings.

    Raises
    ------
    InputError
        Two legs with other seeds of training share one of an earlier stage, so that their spread leaves that out.
    """
    found: list[Leg] = []
    owners: dict[str, Leg] = {}
    for leg in legs:
        settings = {key: value for key, value in leg.settings.items() if key not in EARLIER_SEEDS}
        for key in EARLIER_SEEDS:
            if key in leg.settings:
                place = json.dumps([leg.regularizer, sorted(settings.items()), key, leg.settings[key]])
                other = owners.setdefault(place, leg)
                if other.seed != leg.seed:
                    raise InputError(
                        f"{other.experiment} and {leg.experiment}: both with {key} {leg.settings[key]}, so that their "
                        "spread is not the whole pipeline's; leave --seeds-of pipeline away, or name experiments of "
                        "`slsr study ... --seeds-of pipeline` alone"
                    )
        found.append(replace(leg, settings=settings))
    return found


def rows_of(legs: Iterable[Leg]) -> list[Row]:
    """Legs of the same settings together, in order of appearance.

    Raises
    ------
    InputError
        Two legs of one seed and the same settings have other results.
    """
    gathered: dict[str, dict[int, Leg]] = {}
    for leg in legs:
        key = json.dumps([leg.regularizer, dict(sorted(leg.settings.items()))])
        other = gathered.setdefault(key, {}).setdefault(leg.seed, leg)
        if _values(other.metrics) != _values(leg.metrics):
            raise InputError(
                f"{other.experiment} and {leg.experiment}: {leg.regularizer} with seed {leg.seed}, of the same code, "
                "data and parameters, has two results (another machine, or seeds of earlier stages that --seeds-of "
                "pipeline leaves out?); name only one of them"
            )
    of_rows = [[found[seed] for seed in sorted(found)] for found in gathered.values()]
    return [Row(together[0].regularizer, together[0].settings, together) for together in of_rows]


def _values(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metrics.items() if not key.endswith("_ci95")}


def baseline_of(row: Row, rows: Sequence[Row], regularizer: str) -> Row | None:
    """The one row of that regularizer with which a row shares every setting that both have; None where there is none.

    A baseline without generated images has no setting of generators, so it stands for every K and N.
    """
    fitting = [
        other
        for other in rows
        if other.regularizer == regularizer
        and all(row.settings[key] == other.settings[key] for key in row.settings.keys() & other.settings.keys())
    ]
    return fitting[0] if len(fitting) == 1 else None


def difference(row: Row, baseline: Row, measure: str, resamples: int, seed: int) -> Difference | None:
    """A row minus its baseline in one measure, over the seeds that both have; None without any, or without queries.

    Raises
    ------
    InputError
        The two were not measured on the same queries.
    """
    first, second = ({leg.seed: leg for leg in one.legs} for one in (baseline, row))
    seeds = sorted(first.keys() & second.keys())
    if not seeds or not all(measure in one[s].values for one in (first, second) for s in seeds):
        return None
    if len({one[s].queries for one in (first, second) for s in seeds}) > 1:
        raise InputError(
            f"{first[seeds[0]].experiment} and {second[seeds[0]].experiment}: measured on other queries; a difference "
            "needs the same ones"
        )
    values = [np.stack([one[s].values[measure] for s in seeds]) for one in (first, second)]
    means = [one.mean(axis=0)[:, None] for one in values]
    return Difference(
        seeds,
        crossed_mean(values[1] - values[0], (-1, 1)) if len(seeds) > 1 else None,
        paired_differences(means[0], means[1], resamples=resamples, seed=seed)[0],
    )


def compare_experiments(
    revisions: Sequence[Revision],
    ranking: str,
    baseline: str,
    against: Sequence[Revision] = (),
    resamples: int = 10_000,
    seed: int = 1,
    seeds_of: SeedsOf = "training",
) -> Comparison:
    """Gather revisions into one comparison; `resamples` and `seed` as in `difference`, `seeds_of` as in `with_seeds`.

    Without `against` the baseline of a row is as in `baseline_of`. With it, it is the one row that those revisions have
    of the regularizer `baseline`, whatever its settings: the way to a control that is to differ, such as a baseline
    trained for as many steps as a run with generated images. A difference then stands for all that differs.

    Raises
    ------
    InputError
        No revision has a result of its own, `against` has no or several rows of the baseline, or as `legs_of`,
        `without_earlier_seeds`, `rows_of` and `difference`.
    """
    legs = {revision: legs_of(revision, ranking) for revision in dict.fromkeys([*revisions, *against])}
    if seeds_of == "pipeline":
        pooled = iter(without_earlier_seeds(leg for found in legs.values() for leg in found))
        legs = {revision: [next(pooled) for _ in found] for revision, found in legs.items()}
    every = [leg for found in legs.values() for leg in found]
    if not every:
        raise InputError(f"{', '.join(revision.name for revision in legs)}: no evaluated network to compare")
    rows = sorted(rows_of(every), key=lambda row: _order(row, baseline))
    stated = _stated(rows, rows_of(leg for one in against for leg in legs[one]), baseline) if against else None
    measures = [key for key in every[0].metrics if f"{key}_ci95" in every[0].metrics]
    differences = []
    for row in rows:
        other = stated or baseline_of(row, rows, baseline)
        found = (
            {measure: difference(row, other, measure, resamples, seed) for measure in measures}
            if other is not None and other is not row
            else {}
        )
        differences.append({measure: one for measure, one in found.items() if one is not None})
    stand_beside = [published(row.regularizer, ranking, row.settings, row.legs[0].metrics) for row in rows]
    return Comparison(ranking, baseline, measures, rows, differences, stand_beside, stated, seeds_of)


def _stated(rows: Sequence[Row], against: Sequence[Row], baseline: str) -> Row:
    """The row, of all, that the one of `against` with the baseline's regularizer has become a part of."""
    fitting = [row for row in against if row.regularizer == baseline]
    if len(fitting) != 1:
        raise InputError(
            f"--against: the experiments named have {len(fitting)} rows of {baseline!r}; name ones that evaluated it "
            "and that differ in their seed alone, or another --baseline"
        )
    return next(row for row in rows if row.regularizer == baseline and row.settings == fitting[0].settings)


def _order(row: Row, baseline: str) -> tuple[Any, ...]:
    known = list(REGULARIZERS)
    place = known.index(row.regularizer) if row.regularizer in known else len(known)
    shown = [row.settings.get(key) for key in ("dataset.archive", "train.backbone", "cluster.k", "generate.images")]
    numbers = [value if isinstance(value, int) else -1 for value in shown[2:]]
    return (str(shown[0]), str(shown[1]), row.regularizer != baseline, place, *numbers)


def varying_settings(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Settings that differ between rows, one text a row; '-' where a row does not depend on it.

    Differing data and code are told apart by the first digits of a hash of their MD5s.
    """
    keys = sorted({key for row in rows for key in row.settings})
    varying = [key for key in keys if len({json.dumps(row.settings[key]) for row in rows if key in row.settings}) > 1]
    columns = {
        key: [_text(row.settings[key]) if key in row.settings else "-" for row in rows]
        for key in varying
        if not key.startswith((DATA, CODE))
    }
    for prefix in (DATA, CODE):
        if hashed := [key for key in varying if key.startswith(prefix)]:
            columns[prefix[:-1]] = [_short_hash([str(row.settings.get(key)) for key in hashed]) for row in rows]
    return columns


def _text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _short_hash(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:6]


def finished_of_last_study(root: Path) -> list[str]:
    """The finished experiments of the last `slsr study`; how many are missing is said.

    Raises
    ------
    InputError
        No study has run here, or none of its experiments is finished.
    """
    if not (root / LAST).is_file():
        raise InputError("no experiment was named, and no `slsr study` has run here; name experiments, or `workspace`")
    last = read_json(root / LAST)
    known = experiments(root)
    finished = [name for name in last["experiments"] if name in known]
    if not finished:
        raise InputError(f"the last study, {last['study']}, has no finished experiment; run it, or name experiments")
    if missing := len(last["experiments"]) - len(finished):
        log.warning("the last study, %s, lacks %d of %d experiments", last["study"], missing, len(last["experiments"]))
    return finished
