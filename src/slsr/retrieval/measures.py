"""Ranks of right matches, and the measures that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from slsr.errors import InputError
from slsr.retrieval.matching import Integers
from slsr.retrieval.query_values import QueryValues

CMC_RANKS = (1, 5, 10, 20)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The ranks of the right matches of every query, and the measures that follow from them.

    Arrays over queries have length Q. A query without a right match is not valid: its list of ranks is empty, its
    `first_rank` is 0, its measures are NaN, and it is left out of every mean.

    Attributes
    ----------
    offsets, ranks
        The 1-based ranks of the right matches of query i, ascending: `ranks[offsets[i]:offsets[i + 1]]`.
    gallery
        G, the number of gallery images, with removed ones.
    identities
        [Q], the person of every query; None if unknown, then intervals treat every query as a person of its own.
    """

    offsets: Integers
    ranks: NDArray[np.int32]
    gallery: int
    identities: Integers | None = None

    def __post_init__(self) -> None:
        if not self.valid.any():
            raise InputError(
                f"none of the {len(self.valid)} queries has a right match, a gallery image of its identity from "
                "another camera; check identities and cameras (images from the query's own camera do not count; camera "
                "-1 means an unknown one)"
            )

    @cached_property
    def matches(self) -> Integers:
        """The number R of right matches of every query."""
        return np.diff(self.offsets)

    @cached_property
    def valid(self) -> NDArray[np.bool_]:
        """Whether the query has a right match."""
        return np.asarray(self.matches > 0)

    @property
    def queries(self) -> int:
        """The number of queries with a right match, over which means are taken."""
        return int(self.valid.sum())

    @property
    def excluded(self) -> int:
        """The number of queries without a right match."""
        return len(self.valid) - self.queries

    def ranks_of(self, query: int) -> NDArray[np.int32]:
        """Return the ranks of one query's right matches, ascending."""
        return self.ranks[self.offsets[query] : self.offsets[query + 1]]

    @cached_property
    def first_rank(self) -> NDArray[np.int32]:
        """The rank r_1 of the first right match of every query; 0 without one."""
        first = np.zeros(len(self.valid), np.int32)
        first[self.valid] = self.ranks[self.offsets[:-1][self.valid]]
        return first

    @cached_property
    def average_precision_standard(self) -> NDArray[np.float64]:
        """The average precision of scikit-learn and of most re-identification code, `(1/R) sum_i i / r_i`."""
        return self._mean_over_matches(self._number / self.ranks)

    @cached_property
    def average_precision_trapezoid(self) -> NDArray[np.float64]:
        """The average precision of Market-1501's official code, `(1/R) sum_i [i / r_i + (i - 1) / (r_i - 1)] / 2`.

        The second term is 1 if r_i = 1.
        """
        before = np.maximum(self.ranks - 1, 1)
        previous = np.where(self.ranks == 1, 1.0, (self._number - 1) / before)
        return self._mean_over_matches((self._number / self.ranks + previous) / 2)

    @cached_property
    def inverse_negative_penalty(self) -> NDArray[np.float64]:
        """The inverse negative penalty `R / r_R` (Ye et al. 2021); its mean is mINP."""
        penalty = np.full(len(self.valid), np.nan)
        penalty[self.valid] = self.matches[self.valid] / self.ranks[self.offsets[1:][self.valid] - 1]
        return penalty

    def cmc(self, depth: int) -> NDArray[np.float64]:
        """Compute the CMC curve [depth]: at k - 1, the share of valid queries with a right match among the first k."""
        if depth < 1:
            raise InputError(f"a CMC curve up to rank {depth} is empty; ask for at least 1")
        first = self.first_rank[self.valid]
        found = np.bincount(first[first <= depth], minlength=depth + 1)[1:]
        return np.cumsum(found) / self.queries

    def query_values(self) -> QueryValues:
        """Compute the values of valid queries whose means are the headline numbers.

        They are `rank1, rank5, rank10, rank20, map_trapezoid, map_standard, minp`.
        """
        first = self.first_rank[self.valid]
        found = {f"rank{rank}": (first <= rank).astype(np.float64) for rank in CMC_RANKS} | {
            "map_trapezoid": self.average_precision_trapezoid[self.valid],
            "map_standard": self.average_precision_standard[self.valid],
            "minp": self.inverse_negative_penalty[self.valid],
        }
        people = None if self.identities is None else self.identities[self.valid]
        return QueryValues(np.stack(list(found.values()), axis=1), tuple(found), people)

    def means(self) -> dict[str, float]:
        """Compute the headline numbers, as fractions: the means of `query_values`."""
        return self.query_values().means()

    @cached_property
    def _number(self) -> Integers:
        """The number i of every r_i."""
        return np.arange(1, len(self.ranks) + 1) - np.repeat(self.offsets[:-1], self.matches)

    def _mean_over_matches(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        means = np.full(len(self.valid), np.nan)
        means[self.valid] = np.add.reduceat(values, self.offsets[:-1][self.valid]) / self.matches[self.valid]
        return means
