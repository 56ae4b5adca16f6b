"""How certain a mean over queries is: bootstrap intervals, and the paired test between two runs.

Queries of one person are alike, so people are drawn, not queries: as many people as there are, with replacement, many
times, each with all queries (the cluster bootstrap; Davison and Hinkley, Bootstrap Methods and their Application, 1997,
section 3.8). A resampled mean is the sum of the drawn values divided by the number of drawn queries.

The middle 95 % of resampled means (percentile method; Efron 1979) are too narrow with few people. Hesterberg's expanded
percentile interval (What Teachers Should Know About the Bootstrap, The American Statistician 69, 2015) takes wider
quantiles instead. They are those that give the t interval of a mean of n people if the means are normal: the tail
on each side is `Phi(-sqrt(n / (n - 1)) t)`, t being the 97.5 % quantile of Student's distribution with n - 1 degrees of
freedom.

An interval covers the choice of people, not the training of the network: runs with other seeds differ by more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from slsr.errors import InputError
from slsr.retrieval.measures import Evaluation
from slsr.retrieval.protocols import SingleGalleryShot
from slsr.retrieval.query_values import QueryValues, Values, require_same_queries
from slsr.retrieval.workers import Workers, compiled

RESAMPLES = 10_000
CONFIDENCE = 0.95
DRAWS_AT_ONCE = 2**21

Interval = tuple[float, float]


@dataclass(frozen=True)
class PairedDifference:
    """Mean of second minus first, its 95 % interval, and the two-sided p-value of no difference.

    The last two are None with one person: nothing is known about others.
    """

    difference: float
    ci95: Interval | None
    p: float | None


def resampled_means(found: QueryValues, *, resamples: int = RESAMPLES, seed: int = 0) -> Values:
    """Compute means over people who are drawn with replacement, each with all queries.

    All measures share the draws, and so do both directions of single-gallery-shot evaluation; a direction of which no
    query is drawn is left out of that resample.

    Parameters
    ----------
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
        No resample is asked for.
    """
    if resamples < 1:
        raise InputError(f"{resamples} resamples were asked for; at least 1 is needed")
    sums, counts = found.sums()
    directions, people, _ = sums.shape
    table = np.concatenate([sums, counts[:, :, None]], axis=2).transpose(1, 0, 2).reshape(people, -1).copy()
    totals = np.zeros((resamples, table.shape[1]))
    random = np.random.default_rng(seed)
    step = max(1, DRAWS_AT_ONCE // people)
    with Workers() as workers:
        for start in range(0, resamples, step):
            block = totals[start : start + step]
            drawn = random.integers(0, people, (len(block), people), dtype=np.int32)
            workers.run(_add_drawn_rows, len(block), drawn, table, block)
    drawn_sums, queries = np.split(totals.reshape(resamples, directions, -1), [-1], axis=2)
    ratios = np.divide(drawn_sums, queries, out=np.zeros_like(drawn_sums), where=queries > 0)
    return np.asarray(ratios.sum(axis=1) / np.count_nonzero(queries, axis=1))


@compiled
def _add_drawn_rows(start: int, stop: int, drawn: NDArray[np.int32], table: Values, totals: Values) -> None:
    for row in range(start, stop):
        for place in range(drawn.shape[1]):
            for column in range(table.shape[1]):
                totals[row, column] += table[drawn[row, place], column]


def intervals(found: QueryValues, *, resamples: int = RESAMPLES, seed: int = 0) -> Values | None:
    """Compute the 95 % interval of each measure's mean, [M, 2]; None with one person, for whom there is none.

    The parameters are those of `resampled_means`.
    """
    if found.people_count < 2:
        return None
    return _expanded(resampled_means(found, resamples=resamples, seed=seed), found.people_count)


def paired_differences(
    first: QueryValues, second: QueryValues, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, PairedDifference]:
    """Compare two runs on the same queries of the same people, in every measure.

    Returns
    -------
    For each measure the mean of `second - first`, its interval, and p. With s the share of resampled means on one side
    of zero, on the side where it is smaller (the observed mean counts as one of them, so that it is never 0), p is
    twice the tail of Student's distribution for which the expanded interval would end at zero:
    `2 T(Phi^-1(s) / sqrt(n / (n - 1)))`. So p is below 5 % if the interval does not contain
    zero, but with few people or resamples it cannot fall so low.

    Raises
    ------
    InputError
        The two have different queries, people or measures; the message says which.
    """
    require_same_queries(first, second)
    values = QueryValues(second.values - first.values, first.keys, first.people, first.directions)
    differences, people = values.means(), values.people_count
    if people < 2:
        return {key: PairedDifference(difference, None, None) for key, difference in differences.items()}
    means = resampled_means(values, resamples=resamples, seed=seed)
    below, above = ((1 + side.sum(axis=0)) / (1 + resamples) for side in (means <= 0, means >= 0))
    share = np.minimum(np.minimum(below, above), 0.5)
    p = 2 * stdtr(people - 1, ndtri(share) / _expansion(people))
    return {
        key: PairedDifference(difference, (float(low), float(high)), float(chance))
        for (key, difference), (low, high), chance in zip(differences.items(), _expanded(means, people), p, strict=True)
    }


def compare(
    first: Evaluation | SingleGalleryShot,
    second: Evaluation | SingleGalleryShot,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, PairedDifference]:
    """Compare two evaluations of the same queries in every headline number; the result has the same keys.

    Raises
    ------
    InputError
        The evaluations have right matches for different queries, or their queries show different people.
    """
    counts = len(first.valid), len(second.valid)
    if type(first) is not type(second) or counts[0] != counts[1]:
        raise InputError(
            f"an evaluation of {counts[0]} queries ({type(first).__name__}) and one of {counts[1]} "
            f"({type(second).__name__}); compare the same queries, evaluated by the same protocol"
        )
    if not np.array_equal(first.valid, second.valid):
        raise InputError("the two evaluations have right matches for different queries; compare the same queries")
    return paired_differences(first.query_values(), second.query_values(), resamples=resamples, seed=seed)


def headline(
    evaluation: Evaluation | SingleGalleryShot, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Compute the headline numbers as `slsr score` writes them.

    They are `rank1, rank5, rank10, rank20, map_trapezoid, map_standard, minp` as fractions (the first four alone for
    single-gallery-shot evaluation), each with its interval `<key>_ci95: [low, high]`, None with one person; `queries`,
    the number of queries with a right match, over which they are means; `people`, the number of people whom these
    show, None if the evaluation does not know them, so that each query counted as a person; and `gallery`, the number
    of gallery images.
    """
    found = evaluation.query_values()
    ranges = intervals(found, resamples=resamples, seed=seed)
    numbers: dict[str, Any] = {}
    for row, (key, mean) in enumerate(found.means().items()):
        numbers |= {key: mean, f"{key}_ci95": None if ranges is None else ranges[row].tolist()}
    people = None if found.people is None else found.people_count
    return numbers | {"queries": evaluation.queries, "people": people, "gallery": evaluation.gallery}


def _expansion(people: int) -> float:
    return math.sqrt(people / (people - 1))


def _expanded(means: Values, people: int) -> Values:
    """Compute the expanded percentile interval of each column, [M, 2]."""
    tail = float(ndtr(-_expansion(people) * stdtrit(people - 1, (1 + CONFIDENCE) / 2)))
    return np.asarray(np.quantile(means, [tail, 1 - tail], axis=0).T)
