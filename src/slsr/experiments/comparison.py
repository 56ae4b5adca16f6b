"""Compare evaluated networks: means and deviations over seeds, and differences to the baseline."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slsr.errors import InputError
from slsr.experiments.networks import EvaluatedNetwork, Settings, Training
from slsr.experiments.seeds import EARLIER_SEEDS, Over, SeedsOf
from slsr.experiments.seeds_and_people import CrossedMean, crossed_mean
from slsr.labels.regularizers import REGULARIZERS
from slsr.reporting.published import Published, published
from slsr.retrieval.bootstrap import PairedDifference, paired_differences
from slsr.retrieval.query_values import QueryValues, require_same_queries

# What decides which people are searched, and among whom.
ABSENT = {"dataset.split_file": "none"}  # what experiments of earlier versions, without the key, mean
TEST_SETTINGS = ("archive", "name", "protocol", "boxes", "split", "split_file", "identities")

EQUAL = 0.01  # trainings are equally long if their steps, and their summed rates, differ by at most this share


@dataclass(frozen=True)
class SeedGroup:
    """The networks that differ only in their seeds, by ascending seed of the training: one row of a table."""

    regularizer: str
    settings: Settings
    networks: Sequence[EvaluatedNetwork]

    @property
    def seeds(self) -> list[int]:
        """The seeds, ascending."""
        return [network.seed for network in self.networks]

    @property
    def size(self) -> int:
        """The number of values that a mean is taken over."""
        return len(self.networks)

    def measured(self, measure: str) -> NDArray[np.float64]:
        """Return a measure of the network of every seed, [S]."""
        return np.array([network.metrics[measure] for network in self.networks], np.float64)

    def training(self) -> Training | None:
        """Return the mean length of the trainings; None if that of one of them is not known."""
        found = [network.training for network in self.networks if network.training is not None]
        if len(found) < len(self.networks):
            return None
        return Training(*np.mean(found, axis=0).tolist())

    def interval(self, measure: str) -> tuple[float, float] | None:
        """Return the 95 % interval of the mean over seeds and people; None with one of them or without their values."""
        values = [network.values.of(measure) for network in self.networks if network.values is not None]
        if len(values) < max(2, len(self.networks)) or values[0].people_count < 2:
            return None
        return crossed_mean(_of_people(values), (0, 1)).ci95


@dataclass(frozen=True)
class Difference:
    """A group minus its baseline, paired by seed and query, over the seeds that both have.

    The interval of `both` is for other seeds and other people; `both` is None with one common seed or one person.
    `people` is the paired bootstrap over people of the mean over seeds, for these seeds only. Over splits, `both` is
    for other splits, and `people` is None.
    """

    seeds: Sequence[int]
    both: CrossedMean | None
    people: PairedDifference | None

    @property
    def mean(self) -> float:
        """The mean difference."""
        if self.people is not None:
            return self.people.difference
        return self.both.mean if self.both is not None else math.nan


@dataclass(frozen=True)
class ExperimentComparison:
    """Groups of networks in the order of the table, and the differences of each to its baseline, by measure.

    `against` is the one baseline of all groups, if the user named one. `seeds_of` says what differs within a group, and
    `over` whether a group has several splits. `unequal` says of each group how its training and that of its baseline
    differ in length, or is empty.
    """

    ranking: str
    baseline: str
    measures: Sequence[str]
    groups: Sequence[SeedGroup]
    differences: Sequence[Mapping[str, Difference]]
    published: Sequence[Published | None]
    against: SeedGroup | None = None
    seeds_of: SeedsOf = "training"
    over: Over = "seeds"
    unequal: Sequence[str] = ()


def compare_networks(
    networks: Sequence[EvaluatedNetwork],
    ranking: str,
    baseline: str,
    against: Sequence[EvaluatedNetwork] | None = None,
    *,
    resamples: int = 10_000,
    seed: int = 1,
    seeds_of: SeedsOf = "training",
) -> ExperimentComparison:
    """Compare networks that were measured by the same way of ranking.

    Without `against`, the baseline of a group is the one of `baseline_of`. With it, the baseline of every group is the
    one group of the regularizer `baseline` that `against` has, whatever its settings. This allows a control that is
    different on purpose, such as a baseline that was trained for as many steps as a run with generated images; the
    difference is then the effect of all that differs.

    Raises
    ------
    InputError
        `against` has no group or several groups of the baseline; or an error of `without_earlier_seeds`,
        `group_by_settings` or `difference`.
    """
    every, controls = [*networks, *(against or [])], list(against or [])
    if seeds_of == "pipeline":
        every = without_earlier_seeds(every)
        controls = every[len(networks) :]
    groups = sorted(group_by_settings(every), key=lambda group: order_of(group, baseline))
    control = None if against is None else control_of(groups, group_by_settings(controls), baseline)
    measures = [key for key in every[0].metrics if f"{key}_ci95" in every[0].metrics]
    baselines = [control or baseline_of(group, groups, baseline) for group in groups]
    differences = [
        _differences(group, one, measures, resamples, seed) for group, one in zip(groups, baselines, strict=True)
    ]
    unequal = unequal_trainings(groups, baselines, differences)
    rows = [published(group.regularizer, ranking, group.settings, group.networks[0].metrics) for group in groups]
    return ExperimentComparison(
        ranking, baseline, measures, groups, differences, rows, control, seeds_of, unequal=unequal
    )


def without_earlier_seeds(networks: Iterable[EvaluatedNetwork]) -> list[EvaluatedNetwork]:
    """Remove the seeds of the stages before training from the settings, so that a seed means the whole pipeline.

    Raises
    ------
    InputError
        Two networks with different seeds of training share a seed of an earlier stage, so that their spread does not
        include that stage.
    """
    found: list[EvaluatedNetwork] = []
    owners: dict[str, EvaluatedNetwork] = {}
    for network in networks:
        settings = {key: value for key, value in network.settings.items() if key not in EARLIER_SEEDS}
        for key in EARLIER_SEEDS:
            if key in network.settings:
                place = json.dumps([network.regularizer, sorted(settings.items()), key, network.settings[key]])
                other = owners.setdefault(place, network)
                if other.seed != network.seed:
                    raise InputError(
                        f"{other.experiment} and {network.experiment}: both have {key} {network.settings[key]}, so "
                        "their spread is not that of the whole pipeline; remove --seeds-of pipeline, or name only "
                        "experiments of `slsr study ... --seeds-of pipeline`"
                    )
        found.append(replace(network, settings=settings))
    return found


def group_by_settings(networks: Iterable[EvaluatedNetwork]) -> list[SeedGroup]:
    """Group the networks that differ only in their seeds, in order of appearance.

    Raises
    ------
    InputError
        Two networks with the same seed and the same settings have different results.
    """
    gathered: dict[str, dict[int, EvaluatedNetwork]] = {}
    for network in networks:
        key = json.dumps([network.regularizer, dict(sorted(network.settings.items()))])
        other = gathered.setdefault(key, {}).setdefault(network.seed, network)
        if _without_intervals(other.metrics) != _without_intervals(network.metrics):
            raise InputError(
                f"{other.experiment} and {network.experiment}: {network.regularizer} with seed {network.seed} has two "
                "results for the same code, data and parameters (from another machine, or with other seeds of earlier "
                "stages, which --seeds-of pipeline ignores?); name only one of them"
            )
    groups = [[found[seed] for seed in sorted(found)] for found in gathered.values()]
    return [SeedGroup(group[0].regularizer, group[0].settings, group) for group in groups]


def _without_intervals(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metrics.items() if not key.endswith("_ci95")}


def baseline_of(group: SeedGroup, groups: Sequence[SeedGroup], regularizer: str) -> SeedGroup | None:
    """Find the only group of a regularizer that has the same value for every setting that both have.

    A baseline without generated images has no setting of generators, so it is the baseline for every K and N. The
    answer is None if no group fits, or several.
    """
    fitting = [
        other
        for other in groups
        if other.regularizer == regularizer
        and all(group.settings[key] == other.settings[key] for key in group.settings.keys() & other.settings.keys())
    ]
    return fitting[0] if len(fitting) == 1 else None


def difference(
    group: SeedGroup, baseline: SeedGroup, measure: str, resamples: int = 10_000, seed: int = 1
) -> Difference | None:
    """Subtract the baseline from a group in one measure, over the seeds that both have.

    The answer is None if they have no common seed, or no values of queries.

    Raises
    ------
    InputError
        The two were not measured on the same queries of the same people; the message names the setting that differs.
    """
    pair = paired_values(group, baseline, measure)
    if pair is None:
        return None
    seeds, values = pair
    subtracted = _of_people(values[1]) - _of_people(values[0])
    means = [replace(one[0], values=np.mean([of_seed.values for of_seed in one], axis=0)) for one in values]
    return Difference(
        seeds,
        crossed_mean(subtracted, (-1, 1)) if min(subtracted.shape) > 1 else None,
        paired_differences(*means, resamples=resamples, seed=seed)[measure],
    )


def paired_values(
    group: SeedGroup, baseline: SeedGroup, measure: str
) -> tuple[list[int], tuple[list[QueryValues], list[QueryValues]]] | None:
    """Return the common seeds, and the values of the baseline and of the group for each; errors as `difference`."""
    first, second = ({network.seed: network for network in one.networks} for one in (baseline, group))
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    _require_same_test(first[seeds[0]], second[seeds[0]])
    both = [[one[s].values for s in seeds] for one in (first, second)]
    values = [[one.of(measure) for one in of_seeds if one is not None] for of_seeds in both]
    if len(values[0]) < len(seeds) or len(values[1]) < len(seeds):
        return None
    for number, pair in enumerate(zip(*values, strict=True)):
        _require_same_people(first[seeds[number]], second[seeds[number]], *pair)
    return seeds, (values[0], values[1])


def _of_people(values: Sequence[QueryValues]) -> NDArray[np.float64]:
    """Gather one measure of every seed and person, [S, P]."""
    for other in values[1:]:
        require_same_queries(values[0], other)
    return np.stack([one.pseudovalues()[:, 0] for one in values])


def _require_same_test(first: EvaluatedNetwork, second: EvaluatedNetwork) -> None:
    """Require that two networks searched for the same people in the same gallery, as far as their settings say."""
    found = []
    for key in (f"dataset.{name}" for name in TEST_SETTINGS):
        one, other = (network.settings.get(key, ABSENT.get(key)) for network in (first, second))
        if one != other:
            found.append(f"{key} ({_shown(one)} and {_shown(other)})")
    for name, key in (("queries", "queries"), ("gallery images", "gallery")):
        if not found and first.metrics[key] != second.metrics[key]:
            found.append(f"the number of {name} ({first.metrics[key]:,} and {second.metrics[key]:,})")
    if found:
        raise InputError(
            f"{first.experiment} and {second.experiment}: they differ in {', '.join(found)}; a difference needs "
            "the same test images: name experiments of one data set, protocol and split"
        )


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)


def _require_same_people(
    first: EvaluatedNetwork, second: EvaluatedNetwork, values: QueryValues, others: QueryValues
) -> None:
    try:
        require_same_queries(values, others)
    except InputError as error:
        raise InputError(f"{first.experiment} and {second.experiment}: {error}") from error


def _differences(
    group: SeedGroup, baseline: SeedGroup | None, measures: Sequence[str], resamples: int, seed: int
) -> dict[str, Difference]:
    """Subtract the baseline in every measure; there is nothing to subtract from the baseline itself."""
    if baseline is None or baseline is group:
        return {}
    found = {measure: difference(group, baseline, measure, resamples, seed) for measure in measures}
    return {measure: one for measure, one in found.items() if one is not None}


def unequal_trainings(
    groups: Sequence[SeedGroup],
    baselines: Sequence[SeedGroup | None],
    differences: Sequence[Mapping[str, Difference]],
) -> list[str]:
    """Say for each difference how the two trainings differ in length; empty if they do not, or without a difference."""
    return [
        _unequal(group, baseline) if baseline is not None and found else ""
        for group, baseline, found in zip(groups, baselines, differences, strict=True)
    ]


def _unequal(group: SeedGroup, baseline: SeedGroup) -> str:
    """Say how two trainings differ in length by more than 1 %."""
    one, other = group.training(), baseline.training()
    if one is None or other is None:
        return "length of training unknown"
    parts = []
    if not math.isclose(one.steps, other.steps, rel_tol=EQUAL):
        parts.append(f"steps: {one.steps:,.0f} vs {other.steps:,.0f}")
    if not math.isclose(one.rate_sum, other.rate_sum, rel_tol=EQUAL):
        parts.append(f"summed rate: {one.rate_sum:.4g} vs {other.rate_sum:.4g}")
    return f"unequal {', '.join(parts)}" if parts else ""


def control_of(groups: Sequence[SeedGroup], against: Sequence[SeedGroup], baseline: str) -> SeedGroup:
    """Find the group that contains the only baseline of `against`."""
    fitting = [group for group in against if group.regularizer == baseline]
    if len(fitting) != 1:
        raise InputError(
            f"--against: the experiments named have {len(fitting)} rows of {baseline!r}; name experiments that "
            "evaluated it and that differ only in their seed, or another --baseline"
        )
    return next(group for group in groups if group.regularizer == baseline and group.settings == fitting[0].settings)


def order_of(group: SeedGroup, baseline: str) -> tuple[Any, ...]:
    """Sort by data, backbone, regularizer (the baseline first), number of clusters and number of images."""
    known = list(REGULARIZERS)
    place = known.index(group.regularizer) if group.regularizer in known else len(known)
    shown = [group.settings.get(key) for key in ("dataset.archive", "train.backbone", "cluster.k", "generate.images")]
    numbers = [value if isinstance(value, int) else -1 for value in shown[2:]]
    return (str(shown[0]), str(shown[1]), group.regularizer != baseline, place, *numbers)
