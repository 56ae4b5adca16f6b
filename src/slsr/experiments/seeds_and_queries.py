"""Intervals of means over seeds and queries at once.

Every network (a seed) ranks the same queries, so the values form a table of S seeds and Q queries: both are drawn from
larger populations, and a value holds an effect of its seed, one of its query and the rest. This is the design of
studies in which several readers judge the same cases; the analysis is that of Dorfman, Berbaum and Metz (Investigative
Radiology 27, 1992), with the degrees of freedom of Hillis (Statistics in Medicine 26, 2007). Resampling a handful of
seeds instead (a bootstrap over both margins) gives intervals that are too short: five seeds have too few resamples.
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
    """A mean over seeds and queries, its 95 % interval, and the two-sided p of a mean of 0."""

    mean: float
    ci95: tuple[float, float]
    p: float


def crossed_mean(values: NDArray[np.float64], bounds: tuple[float, float] = (-math.inf, math.inf)) -> CrossedMean:
    """The mean of a table of seeds and queries, both random, and how sure it is.

    With the mean squares MS of seeds, of queries and of the rest (an analysis of variance without repeats), the
    variance of the mean is `[MS_seeds + max(MS_queries - MS_rest, 0)] / (S Q)`, and its degrees of freedom are
    `[MS_seeds + max(MS_queries - MS_rest, 0)]^2 / [MS_seeds^2 / (S - 1)]`.

    Parameters
    ----------
    values
        [S, Q]: one measure, or the paired difference of one between two runs, of S seeds and Q queries.
    bounds
        What the mean can be at all; the interval ends there.

    Raises
    ------
    InputError
        Fewer than two seeds or two queries.
    """
    seeds, queries = values.shape
    if seeds < 2 or queries < 2:
        raise InputError(f"{seeds} seeds and {queries} queries: an interval over both takes at least two of each")
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
