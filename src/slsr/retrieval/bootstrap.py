"""How certain a mean over queries is: bootstrap intervals, and the paired test between two runs.

As many queries as there are, are drawn with replacement, many times (Efron 1979); an interval contains the middle 95 %
of the resampled means (percentile method). It covers the choice of queries, not the training of the network: runs with
other seeds differ by more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slsr.errors import InputError
from slsr.retrieval.measures import Evaluation
from slsr.retrieval.workers import Workers, compiled

RESAMPLES = 10_000
CONFIDENCE = 0.95
DRAWS_AT_ONCE = 2**21

Values = NDArray[np.float64]


@dataclass(frozen=True)
class PairedDifference:
    """Mean of second minus first, its 95 % interval, and the two-sided p-value of no difference."""

    difference: float
    ci95: tuple[float, float]
    p: float


def resampled_means(values: Values, *, resamples: int = RESAMPLES, seed: int = 0) -> Values:
    """Compute means over queries drawn with replacement.

    Parameters
    ----------
    values
        [Q, M]: M measures of Q queries. All measures share the draws.
    resamples
        B, how many times to draw.
    seed
        Seed of the draws; the same seed gives the same means.

    Returns
    -------
    [B, M]

    Raises
    ------
    InputError
        There are no queries or no resamples, or a value is not finite.
    """
    if values.ndim != 2 or not len(values) or not np.isfinite(values).all():
        raise InputError(
            f"values to resample have shape {list(values.shape)}; they must be [queries, measures], finite, not empty"
        )
    if resamples < 1:
        raise InputError(f"{resamples} resamples were asked for; at least 1 is needed")
    center = values.mean(axis=0)
    deviations = np.ascontiguousarray(values - center)
    sums = np.zeros((resamples, values.shape[1]))
    random = np.random.default_rng(seed)
    step = max(1, DRAWS_AT_ONCE // len(values))
    with Workers() as workers:
        for start in range(0, resamples, step):
            block = sums[start : start + step]
            drawn = random.integers(0, len(values), (len(block), len(values)), dtype=np.int32)
            workers.run(_add_drawn_rows, len(block), drawn, deviations, block)
    return np.asarray(sums / len(values) + center)


@compiled
def _add_drawn_rows(start: int, stop: int, drawn: NDArray[np.int32], values: Values, sums: Values) -> None:
    for row in range(start, stop):
        for place in range(drawn.shape[1]):
            for measure in range(values.shape[1]):
                sums[row, measure] += values[drawn[row, place], measure]


def intervals(values: Values, *, resamples: int = RESAMPLES, seed: int = 0) -> Values:
    """Compute the 95 % percentile interval of each measure's mean over queries, [M, 2].

    The parameters are those of `resampled_means`.
    """
    return _middle(resampled_means(values, resamples=resamples, seed=seed))


def paired_differences(
    first: Values, second: Values, *, resamples: int = RESAMPLES, seed: int = 0
) -> list[PairedDifference]:
    """Compare two runs on the same queries, measure by measure.

    Parameters
    ----------
    first, second
        [Q, M]: M measures of the same Q queries in the same order.

    Returns
    -------
    For each measure the mean of `second - first`, its interval, and p: twice the share of resampled means on one side
    of zero, on the side where it is smaller. The observed mean counts as one of them, so that p is never 0.

    Raises
    ------
    InputError
        The two differ in shape, or they cannot be resampled.
    """
    if first.shape != second.shape:
        raise InputError(
            f"the two runs have shapes {list(first.shape)} and {list(second.shape)}; compare runs on the same queries"
        )
    means = resampled_means(second - first, resamples=resamples, seed=seed)
    below, above = ((1 + side.sum(axis=0)) / (1 + resamples) for side in (means <= 0, means >= 0))
    p = np.minimum(1, 2 * np.minimum(below, above))
    return [
        PairedDifference(float(difference), (float(low), float(high)), float(chance))
        for difference, (low, high), chance in zip((second - first).mean(axis=0), _middle(means), p, strict=True)
    ]


def compare(
    first: Evaluation, second: Evaluation, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, PairedDifference]:
    """Compare two evaluations of the same queries in every headline number; the result has the same keys.

    Raises
    ------
    InputError
        The evaluations have right matches for different queries.
    """
    if not np.array_equal(first.valid, second.valid):
        raise InputError("the two evaluations have right matches for different queries; compare the same queries")
    differences = paired_differences(_columns(first), _columns(second), resamples=resamples, seed=seed)
    return dict(zip(first.headline_values(), differences, strict=True))


def headline(evaluation: Evaluation, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Compute the headline numbers as `slsr score` writes them.

    They are `rank1, rank5, rank10, rank20, map_trapezoid, map_standard, minp` as fractions, each with its interval
    `<key>_ci95: [low, high]`; `queries`, the number of queries with a right match, over which they are means; and
    `gallery`, the number of gallery images.
    """
    numbers: dict[str, Any] = {}
    ranges = intervals(_columns(evaluation), resamples=resamples, seed=seed)
    for (key, mean), interval in zip(evaluation.means().items(), ranges, strict=True):
        numbers |= {key: mean, f"{key}_ci95": [float(bound) for bound in interval]}
    return numbers | {"queries": evaluation.queries, "gallery": evaluation.gallery}


def _columns(evaluation: Evaluation) -> Values:
    return np.stack(list(evaluation.headline_values().values()), axis=1)


def _middle(means: Values) -> Values:
    tail = (1 - CONFIDENCE) / 2
    return np.asarray(np.quantile(means, [tail, 1 - tail], axis=0).T)
