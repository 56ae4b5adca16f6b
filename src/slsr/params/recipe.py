"""The blocks `image`, `encoder` and `train`: how a network learns to classify identities."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from slsr.params.base import Block, Count, Positive, Precision, Seed, Share

Backbone = Literal["resnet18", "resnet50", "densenet121"]
HeadName = Literal["plain", "linear", "bottleneck"]
Normalization = Literal["imagenet", "symmetric", "unit", "clip", "dpn"]
Interpolation = Literal["bilinear", "bicubic"]
Compile = Literal["auto", "never"]
NO_WEIGHTS_FILE = ("imagenet", "none")


class Image(Block):
    """The input of the networks; sizes are in pixels."""

    height: Annotated[int, Field(ge=32)]
    width: Annotated[int, Field(ge=32)]
    resize_height: Annotated[int, Field(ge=32)]
    resize_width: Annotated[int, Field(ge=32)]
    interpolation: Interpolation
    normalization: Normalization
    test: Literal["whole", "center-crop"]

    @model_validator(mode="after")
    def crop_fits(self) -> Self:
        if self.height > self.resize_height or self.width > self.resize_width:
            raise ValueError(
                f"the crop height x width = {self.height}x{self.width} is larger than the resized image "
                f"resize_height x resize_width = {self.resize_height}x{self.resize_width}; make it at most that"
            )
        return self


class Optimizer(Block):
    """The optimizer and its rates."""

    name: Literal["sgd", "sgd-nesterov", "adamw"]
    learning_rate: Positive
    head_learning_rate: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: Annotated[float, Field(ge=0)]
    decay_norms_and_biases: bool

    @model_validator(mode="after")
    def nesterov_has_momentum(self) -> Self:
        if self.name == "sgd-nesterov" and self.momentum == 0:
            raise ValueError("momentum 0 contradicts name: sgd-nesterov; raise it, or use name: sgd")
        return self


class Schedule(Block):
    """How the learning rate changes during training."""

    name: Literal["constant", "step", "inverse-iteration", "inverse-epoch", "one-cycle"]
    step_epochs: Count
    step_factor: Annotated[float, Field(gt=0, lt=1)]
    inverse_gamma: Positive
    inverse_power: Positive
    one_cycle_warmup: Annotated[float, Field(gt=0, lt=1)]


class Recipe(Block):
    """The recipe for training a classifier of identities: the encoder and the re-ID network both have one.

    With `steps`, a run has that many steps; what counts epochs then counts `epochs` equal parts of the run.
    """

    backbone: Backbone
    weights: Annotated[str, Field(min_length=1)]
    head: HeadName
    epochs: Count
    steps: Count | None
    validate_every: Count
    keep: Literal["last", "best"]
    batch_size: Annotated[int, Field(ge=2)]
    random_crop: bool
    horizontal_flip: bool
    random_erasing: Share
    precision: Precision
    deterministic: bool
    compile: Compile
    seed: Seed
    optimizer: Optimizer
    schedule: Schedule

    @model_validator(mode="after")
    def weights_stay_in_their_folder(self) -> Self:
        path = Path(self.weights)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(
                f"weights {self.weights!r} must be imagenet, none, or a file below weights/, named from there, so that "
                "DVC sees when it changes; put the file (or a link to it) there"
            )
        return self


class Train(Recipe):
    """The recipe of the re-ID network, for the baseline and for every regularizer."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
