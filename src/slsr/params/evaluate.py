"""The block `evaluate`: how a trained network is measured."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from slsr.params.base import Block, Count, Seed, Share


class Rerank(Block):
    """The k-reciprocal re-ranking of Zhong et al. (CVPR 2017)."""

    k1: Count
    k2: Count
    lambda_value: Share
    junk: Literal["keep", "drop"]


class Bootstrap(Block):
    """The bootstrap over people, with all their queries, that gives intervals."""

    resamples: Annotated[int, Field(ge=100)]
    seed: Seed


class RankedList(Block):
    """The number and length of the ranked lists in the picture."""

    queries: Count
    depth: Count


class Evaluate(Block):
    """The features of query and gallery images, the ranking, the re-ranking and the intervals."""

    flip: bool
    batch_size: Count
    multi_query: Literal["mean", "max"]
    rerank: Rerank
    bootstrap: Bootstrap
    ranked_list: RankedList
