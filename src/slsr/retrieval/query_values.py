"""Values of single queries, the people whom they show, and the means that are reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from slsr.errors import InputError
from slsr.retrieval.matching import Integers

Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class QueryValues:
    """Measures of Q queries, such as their average precisions, of which a ranking reports the means.

    Attributes
    ----------
    values
        [Q, M], finite: M measures of every query that has a right match.
    keys
        The M names of the measures: `rank1`, `map_trapezoid`, ...
    people
        [Q], the identity of each query; None if unknown, then each query counts as a person.
    directions
        [Q], from 0: a mean is the mean over directions of the mean over the direction's queries. None is one direction;
        only single-gallery-shot evaluation has several.
    names
        The Q names of the query images, if they are known.

    Raises
    ------
    InputError
        There are no queries, a value is not finite, or the arrays do not fit.
    """

    values: Values
    keys: tuple[str, ...]
    people: Integers | None = None
    directions: Integers | None = None
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        shape = self.values.shape
        if len(shape) != 2 or not len(self.values) or not np.isfinite(self.values).all() or shape[1] != len(self.keys):
            raise InputError(
                f"values of queries have shape {list(shape)}; they must be [queries, {len(self.keys)} measures], "
                "finite, not empty"
            )
        for name in ("people", "directions", "names"):
            found = getattr(self, name)
            if found is not None and len(found) != len(self.values):
                raise InputError(f"{len(self.values)} queries have {len(found)} {name}; give one for each query")

    @cached_property
    def person(self) -> Integers:
        """The number of the person of each query, 0 to P - 1, [Q]."""
        if self.people is None:
            return np.arange(len(self.values))
        return np.unique(self.people, return_inverse=True)[1].reshape(-1).astype(np.int64)

    @property
    def people_count(self) -> int:
        """P, the number of people; of queries, if the people are unknown."""
        return int(self.person.max()) + 1

    @cached_property
    def direction(self) -> Integers:
        """The number of the direction of each query, from 0, without gaps, [Q]."""
        if self.directions is None:
            return np.zeros(len(self.values), np.int64)
        return np.unique(self.directions, return_inverse=True)[1].reshape(-1).astype(np.int64)

    def means(self) -> dict[str, float]:
        """Compute the mean of every measure, by its key."""
        return dict(zip(self.keys, self._direction_means().mean(axis=0).tolist(), strict=True))

    def of(self, key: str) -> QueryValues:
        """Keep one measure alone."""
        return replace(self, values=self.values[:, [self.keys.index(key)]], keys=(key,))

    def named(self, names: Sequence[str], valid: NDArray[np.bool_]) -> QueryValues:
        """Add the names of the queries; `names` has those without a right match too, which are not `valid`."""
        return replace(self, names=tuple(name for name, one in zip(names, valid, strict=True) if one))

    def sums(self) -> tuple[Values, Values]:
        """Compute the sums [D, P, M] of the values of each person by direction, and the numbers of queries [D, P]."""
        directions = int(self.direction.max()) + 1
        sums = np.zeros((directions, self.people_count, self.values.shape[1]))
        counts = np.zeros(sums.shape[:2])
        np.add.at(sums, (self.direction, self.person), self.values)
        np.add.at(counts, (self.direction, self.person), 1.0)
        return sums, counts

    def pseudovalues(self) -> Values:
        """Compute one value for each person, [P, M], whose mean over people is the mean over queries.

        A mean over queries is a ratio: its numerator and its denominator are sums over people. Linearized (Cochran,
        Sampling Techniques, 1977, section 6), the value of person p with n_p of the N queries is the mean plus
        `(P n_p / N) (mean of p - mean)`.
        """
        means = self._direction_means()
        per_direction = np.bincount(self.direction)
        deviations = (self.values - means[self.direction]) / (len(means) * per_direction[self.direction])[:, None]
        of_people = np.zeros((self.people_count, self.values.shape[1]))
        np.add.at(of_people, self.person, deviations)
        return np.asarray(means.mean(axis=0) + self.people_count * of_people)

    def _direction_means(self) -> Values:
        """Compute the mean over the queries of each direction, [D, M]."""
        return np.stack([self.values[self.direction == d].mean(axis=0) for d in range(self.direction.max() + 1)])


def require_same_queries(first: QueryValues, second: QueryValues) -> None:
    """Require that two runs have the same measures of the same queries of the same people.

    Raises
    ------
    InputError
        They differ; the message says in what.
    """
    if first.keys != second.keys:
        raise InputError(f"the two runs have different measures: {_listed(first.keys)} and {_listed(second.keys)}")
    if len(first.values) != len(second.values):
        raise InputError(
            f"the two runs have {len(first.values)} and {len(second.values)} queries with a right match; compare runs "
            "on the same queries"
        )
    for name in ("people", "directions", "names"):
        one, other = getattr(first, name), getattr(second, name)
        if (one is None) != (other is None):
            raise InputError(f"only one of the two runs knows the {name} of its queries; give them for both")
        if one is not None and (rows := np.flatnonzero(np.asarray(one) != np.asarray(other))).size:
            row = int(rows[0])
            raise InputError(
                f"the queries of the two runs differ in {name}: query {row} has {one[row]} and {other[row]}; compare "
                "runs on the same queries"
            )


def _listed(keys: Sequence[str]) -> str:
    return ", ".join(keys)
