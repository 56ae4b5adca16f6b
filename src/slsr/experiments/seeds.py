"""Which seeds of params.yaml an experiment sets, and what a comparison is a mean over."""

from __future__ import annotations

from typing import Literal

SeedsOf = Literal["training", "pipeline"]
Over = Literal["seeds", "splits"]
SEED = "train.seed"
SPLIT = "dataset.split"
EARLIER_SEEDS = ("encoder.seed", "cluster.seed", "gan.seed", "generate.seed")


def seed_overrides(seed: int, seeds_of: SeedsOf) -> dict[str, int]:
    """Set the seed of the re-ID network's training, or the seeds of the whole pipeline.

    With `training`, all seeds share one encoder, one clustering, one set of generators and their images. With
    `pipeline`, seeds share the data only.

    >>> seed_overrides(3, "training")
    {'train.seed': 3}
    """
    return dict.fromkeys([SEED] if seeds_of == "training" else [*EARLIER_SEEDS, SEED], seed)
