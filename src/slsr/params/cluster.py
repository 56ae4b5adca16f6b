"""The block `cluster`: k-means on the features."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from slsr.params.base import Block, Count, Seed


class Cluster(Block):
    """How features are clustered with k-means, and when an identity belongs to a cluster."""

    k: Annotated[int, Field(ge=1)] | Literal["auto"]
    sweep: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
    initialization: Literal["k-means++", "random"]
    restarts: Count
    max_iterations: Count
    minibatch_above: Annotated[int, Field(ge=100)]
    minimum_images: Count
    seed: Seed

    @model_validator(mode="after")
    def sweep_has_k(self) -> Self:
        if len(set(self.sweep)) != len(self.sweep):
            raise ValueError(f"sweep {self.sweep} names a k twice; name each once")
        if self.k == "auto" and max(self.sweep) < 2:
            raise ValueError(f"k: auto needs a k of at least 2 in sweep, which is {self.sweep}")
        if max(self.sweep) > self.minibatch_above:
            raise ValueError(
                f"sweep {self.sweep} asks for more clusters than minibatch_above {self.minibatch_above}, the number of "
                "images from which a silhouette is computed; raise minibatch_above"
            )
        if self.k != "auto" and self.k not in self.sweep:
            raise ValueError(f"sweep {self.sweep} lacks the chosen k {self.k}; add it to sweep, or choose another k")
        return self
