"""The blocks `generated`, `lsr` and `pseudo_labels`: parameters of the regularizers."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from slsr.params.base import Block


class Generated(Block):
    """The weight of generated images in training, and the noise layer between the network and their labels."""

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
    """Label smoothing of real images: the regularizer `lsr`."""

    epsilon: Annotated[float, Field(gt=0, lt=1)]


class PseudoLabels(Block):
    """The regularizers `one-hot` and `mprl`, which label generated images by the predictions of the network."""

    start: Annotated[float, Field(ge=0, lt=1)]
