"""Intervals of means over seeds and queries together.

Every network (one per seed) ranks the same queries, so the values form a table of S seeds and Q queries. Both are
samples of larger populations, and a value is the sum of an effect of its seed, an effect of its query and a rest. This
is the design of studies in which several readers judge the same cases. The analysis is the one of Dorfman, Berbaum and
Metz (Investigative Radiology 27, 1992), with the degrees of freedom of Hillis (Statistics in Medicine 26, 2007). A
bootstrap over seeds and queries would give intervals that are too short, because five seeds have too few resamples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from slsr.errors import InputError
from slsr.retrieval.bootstrap import CONFIDENCE


@dataclass(frozen=True)
class CrossedMean:
    """A mean over seeds and queries, its 95 % interval, and the two-sided p of the hypothesis that it is 0."""

    mean: float
    ci95: tuple[float, float]
    p: float


def crossed_mean(values: NDArray[np.float64], bounds: tuple[float, float] = (-math.inf, math.inf)) -> CrossedMean:
    """Compute the mean of a table of seeds and queries, both random, with its interval.

    With the mean squares MS of seeds, of queries and of the rest (an analysis of variance without repeats), the
    variance of the mean is `[MS_seeds + max(MS_queries - MS_rest, 0)] / (S Q)`, and its degrees of freedom are
    `[MS_seeds + max(MS_queries - MS_rest, 0)]^2 / [MS_seeds^2 / (S - 1)]`.

    Parameters
    ----------
    values
        [S, Q]: a measure, or its paired difference between two runs, for S seeds and Q queries.
    bounds
        The smallest and the largest possible mean; the interval is cut there.

    Raises
    ------
    InputError
        There are fewer than two seeds or fewer than two queries.
    """
    seeds, queries = values.shape
    if seeds < 2 or queries < 2:
        raise InputError(f"{seeds} seeds and {queries} queries: an interval over both needs at least two of each")
    mean = float(values.mean())
    of_seed, of_query = values.mean(axis=1), values.mean(axis=0)
    rest = values - of_seed[:, None] - of_query[None, :] + mean
    square_seeds = queries * float(((of_seed - mean) ** 2).sum()) / (seeds - 1)
    square_queries = seeds * float(((of_query - mean) ** 2).sum()) / (queries - 1)
    square_rest = float((rest**2).sum()) / ((seeds - 1) * (queries - 1))
    total = square_seeds + max(square_queries - square_rest, 0.0)
    error = math.sqrt(total / (seeds * queries))
    if error < 1e-12:
        return CrossedMean(mean, (mean, mean), 1.0 if abs(mean) < 1e-12 else 0.0)
    freedom = (seeds - 1) * (total / square_seeds) ** 2 if square_seeds > 1e-12 * total else math.inf
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    interval = max(mean - reach, bounds[0]), min(mean + reach, bounds[1])
    return CrossedMean(mean, interval, float(2 * stats.t.sf(abs(mean) / error, freedom)))
