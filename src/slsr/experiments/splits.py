"""Compare networks over the splits of a data set: VIPeR's ten halves, CUHK03's twenty test sets.

A row has one network per split (or several seeds of it), each tested on the people of its split. Two rows are paired by
split: the difference of a split is taken over the same test people, and the splits are the sample. But splits are no
independent sample, because their training sets overlap, and so do their test sets. The variance of the mean over n
splits is therefore not `s^2 / n` but about `s^2 (1/n + n_test/n_train)`: the corrected resampled t-test of Nadeau and
Bengio ("Inference for the generalization error", Machine Learning 52, 2003), with people as cases and n - 1 degrees of
freedom. It is an approximation, as every estimate of this variance from overlapping splits is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slsr.errors import InputError
from slsr.experiments.comparison import (
    Difference,
    ExperimentComparison,
    SeedGroup,
    baseline_of,
    control_of,
    group_by_settings,
    order_of,
    paired_values,
    unequal_trainings,
    without_earlier_seeds,
)
from slsr.experiments.networks import EvaluatedNetwork
from slsr.experiments.seeds import SPLIT, SeedsOf
from slsr.experiments.seeds_and_people import CrossedMean, mean_with_interval


@dataclass(frozen=True)
class SplitGroup(SeedGroup):
    """The networks that differ only in their split and seeds: one row of a table; `of_splits` has them by split."""

    of_splits: Mapping[int, SeedGroup]

    @property
    def splits(self) -> list[int]:
        """The splits, ascending."""
        return sorted(self.of_splits)

    @property
    def size(self) -> int:
        """The number of values that a mean is taken over: of splits."""
        return len(self.of_splits)

    def measured(self, measure: str) -> NDArray[np.float64]:
        """Return a measure of every split, [n], each the mean over its seeds."""
        return np.array([self.of_splits[split].measured(measure).mean() for split in self.splits])

    def interval(self, measure: str) -> tuple[float, float] | None:
        """Return the 95 % interval of the mean over splits; None with one split, or if the people are not known."""
        share = test_share(self.networks)
        if len(self.of_splits) < 2 or share is None:
            return None
        return corrected_mean(self.measured(measure), share, (0, 1)).ci95


def corrected_mean(
    values: NDArray[np.float64], test_per_training: float, bounds: tuple[float, float] = (-math.inf, math.inf)
) -> CrossedMean:
    """Compute the mean of one value per split, with the interval and p of the corrected resampled t-test.

    Parameters
    ----------
    values
        [n], n > 1: a measure of each split, or its paired difference between two rows.
    test_per_training
        n_test / n_train, the number of test people per training person.
    bounds
        The smallest and the largest possible mean; the interval is cut there.
    """
    count, mean = len(values), float(values.mean())
    error = math.sqrt(float(values.var(ddof=1)) * (1 / count + test_per_training))
    return mean_with_interval(mean, error, count - 1, bounds)


def test_share(networks: Sequence[EvaluatedNetwork]) -> float | None:
    """Return the mean number of test people per training person; None if a number is not known."""
    shares = [
        network.values.people_count / network.training_people
        for network in networks
        if network.values is not None and network.training_people
    ]
    return float(np.mean(shares)) if len(shares) == len(networks) else None


def compare_over_splits(
    networks: Sequence[EvaluatedNetwork],
    ranking: str,
    baseline: str,
    against: Sequence[EvaluatedNetwork] | None = None,
    *,
    seeds_of: SeedsOf = "training",
) -> ExperimentComparison:
    """Compare networks as `compare_networks` does, with all splits of a row together.

    Raises
    ------
    InputError
        A network's data set has no splits, or an error of `compare_networks`.
    """
    every, controls = [*networks, *(against or [])], list(against or [])
    if seeds_of == "pipeline":
        every = without_earlier_seeds(every)
        controls = every[len(networks) :]
    groups = sorted(group_splits(every), key=lambda group: order_of(group, baseline))
    control = None if against is None else control_of(groups, group_splits(controls), baseline)
    measures = [key for key in every[0].metrics if f"{key}_ci95" in every[0].metrics]
    baselines = [control or baseline_of(group, groups, baseline) for group in groups]
    differences = []
    for group, other in zip(groups, baselines, strict=True):
        pair = {} if other is None or other is group else {one: difference(group, other, one) for one in measures}
        differences.append({measure: found for measure, found in pair.items() if found is not None})
    unequal = unequal_trainings(groups, baselines, differences)
    return ExperimentComparison(
        ranking, baseline, measures, groups, differences, [None] * len(groups), control, seeds_of, "splits", unequal
    )


def group_splits(networks: Iterable[EvaluatedNetwork]) -> list[SplitGroup]:
    """Group the networks that differ only in their split and seeds, in order of appearance."""
    gathered: dict[str, dict[int, SeedGroup]] = {}
    for group in group_by_settings(networks):
        split = group.settings.get(SPLIT)
        if split is None:
            raise InputError(
                f"{group.networks[0].experiment}: {SPLIT} is null, so there are no splits to compare over; leave out "
                "--over splits, or name experiments of `slsr study splits`"
            )
        key = json.dumps([group.regularizer, dict(sorted(_without_split(group).items()))])
        gathered.setdefault(key, {})[split] = group
    found = []
    for of_splits in gathered.values():
        first = next(iter(of_splits.values()))
        every = [network for split in sorted(of_splits) for network in of_splits[split].networks]
        found.append(SplitGroup(first.regularizer, _without_split(first), every, of_splits))
    return found


def _without_split(group: SeedGroup) -> dict[str, object]:
    return {key: value for key, value in group.settings.items() if key != SPLIT}


def difference(group: SeedGroup, baseline: SeedGroup, measure: str) -> Difference | None:
    """Subtract the baseline from a row in one measure, over the splits that both have; None with fewer than two.

    Within a split, the difference is the mean over the seeds that both have.

    Raises
    ------
    InputError
        In a split, the two were not measured on the same queries of the same people.
    """
    if not (isinstance(group, SplitGroup) and isinstance(baseline, SplitGroup)):
        return None
    subtracted: list[float] = []
    for split in sorted(group.of_splits.keys() & baseline.of_splits.keys()):
        if pair := paired_values(group.of_splits[split], baseline.of_splits[split], measure):
            means = [np.mean([one.means()[measure] for one in of_seeds]) for of_seeds in pair[1]]
            subtracted.append(float(means[1] - means[0]))
    share = test_share(group.networks)
    if len(subtracted) < 2 or share is None:
        return None
    return Difference(
        sorted({*group.seeds} & {*baseline.seeds}), corrected_mean(np.array(subtracted), share, (-1, 1)), None
    )
