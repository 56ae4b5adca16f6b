"""Intervals of means over seeds and people together.

Every network (one per seed) ranks the same queries of the same people, so the values form a table of S seeds and P
people, with all queries of a person in one value (`QueryValues.pseudovalues`). Both are samples of larger populations,
and a value is the sum of an effect of its seed, an effect of its person and a rest. This is the design of studies in
which several readers judge the same cases. The analysis is the one of Dorfman, Berbaum and Metz (Investigative
Radiology 27, 1992): an analysis of variance of pseudovalues. A bootstrap over seeds and people would give intervals
that are too short, because five seeds have too few resamples.
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
    """A mean over seeds and people, its 95 % interval, and the two-sided p of the hypothesis that it is 0."""

    mean: float
    ci95: tuple[float, float]
    p: float


def crossed_mean(values: NDArray[np.float64], bounds: tuple[float, float] = (-math.inf, math.inf)) -> CrossedMean:
    """Compute the mean of a table of seeds and people, both random, with its interval.

    With the mean squares MS of seeds, of people and of the rest (an analysis of variance without repeats), the variance
    of the mean is `V / (S P)`, `V = MS_rest + max(MS_seeds - MS_rest, 0) + max(MS_people - MS_rest, 0)`: what looks
    less than noise counts as noise. Its degrees of freedom are Satterthwaite's (An Approximate Distribution of
    Estimates of Variance Components, Biometrics Bulletin 2, 1946), as Dorfman, Berbaum and Metz have them:
    `V^2 / [MS_seeds^2 / (S - 1) + MS_people^2 / (P - 1) + MS_rest^2 / ((S - 1) (P - 1))]`, with the mean squares that V
    contains. Hillis (Statistics in Medicine 26, 2007) leaves out the last two terms; with 32 people his intervals are
    too narrow if seeds agree. Two seeds have one degree, because one number decides whether they seem to agree.

    Parameters
    ----------
    values
        [S, P]: a measure, or its paired difference between two runs, for S seeds and P people.
    bounds
        The smallest and the largest possible mean; the interval is cut there.

    Raises
    ------
    InputError
        There are fewer than two seeds or fewer than two people.
    """
    seeds, people = values.shape
    if seeds < 2 or people < 2:
        raise InputError(f"{seeds} seeds and {people} people: an interval over both needs at least two of each")
    mean = float(values.mean())
    square_seeds, square_people, square_rest = _mean_squares(values)
    of_seeds, of_people = square_seeds > square_rest, square_people > square_rest
    total = square_rest + max(square_seeds - square_rest, 0.0) + max(square_people - square_rest, 0.0)
    uncertain = 0.0
    if of_seeds:
        uncertain += square_seeds**2 / (seeds - 1)
    if of_people:
        uncertain += square_people**2 / (people - 1)
    if of_seeds == of_people:
        uncertain += square_rest**2 / ((seeds - 1) * (people - 1))
    freedom = 1.0 if seeds == 2 or not uncertain else total**2 / uncertain
    return mean_with_interval(mean, math.sqrt(total / (seeds * people)), freedom, bounds)


def mean_with_interval(mean: float, error: float, freedom: float, bounds: tuple[float, float]) -> CrossedMean:
    """Return a mean with the t interval of its standard error, cut at `bounds`, and p.

    Without any spread, nothing is known about the error: the interval is then all that is possible, and p is 1. A mean
    of zeros is 0, though: there is no difference.
    """
    if error < 1e-12:
        return CrossedMean(mean, (mean, mean) if abs(mean) < 1e-12 else bounds, 1.0)
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    interval = max(mean - reach, bounds[0]), min(mean + reach, bounds[1])
    return CrossedMean(mean, interval, float(2 * stats.t.sf(abs(mean) / error, freedom)))


def _mean_squares(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """Compute the mean squares of seeds, of people, and of the rest."""
    seeds, people = values.shape
    of_seed, of_person = values.mean(axis=1), values.mean(axis=0)
    rest = values - of_seed[:, None] - of_person[None, :] + values.mean()
    return (
        people * float(of_seed.var(ddof=1)),
        seeds * float(of_person.var(ddof=1)),
        float((rest**2).sum()) / ((seeds - 1) * (people - 1)),
    )
