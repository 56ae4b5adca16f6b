"""The block `evaluate`: features of query and gallery, ranking, re-ranking and intervals."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from slsr.params.base import Block, Count, Seed, Share


class Rerank(Block):
    """k-reciprocal re-ranking (Zhong et al., CVPR 2017)."""

    k1: Count
    k2: Count
    lambda_value: Share
    junk: Literal["keep", "drop"]


class Bootstrap(Block):
    """Confidence intervals over queries."""

    resamples: Annotated[int, Field(ge=100)]
    seed: Seed


class RankedList(Block):
    """The picture of ranked lists."""

    queries: Count
    depth: Count


class Evaluate(Block):
    """Features of query and gallery, ranking, re-ranking, intervals."""

    flip: bool
    batch_size: Count
    multi_query: Literal["mean", "max"]
    rerank: Rerank
    bootstrap: Bootstrap
    ranked_list: RankedList
