"""The blocks `generated`, `lsr` and `pseudo_labels`: what the regularizers take."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from slsr.params.base import Block


class Generated(Block):
    """What generated images weigh in training, and whether a noise layer stands between them and their labels."""

    weight: Annotated[float, Field(ge=0)]
    noise_learning_rate: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def noise_layer_can_learn(self) -> Self:
        if self.noise_learning_rate > 0 and self.weight == 0:
            raise ValueError(
                f"noise_learning_rate {self.noise_learning_rate} contradicts weight 0, which leaves the noise layer "
                "nothing to learn from; raise weight, or make noise_learning_rate 0"
            )
        return self


class Lsr(Block):
    """Label smoothing of real images, as a regularizer of its own."""

    epsilon: Annotated[float, Field(gt=0, lt=1)]


class PseudoLabels(Block):
    """The regularizers that label generated images by the network's own predictions, one-hot and mprl."""

    start: Annotated[float, Field(ge=0, lt=1)]
