"""The blocks `image`, `encoder` and `train`: how a network learns to classify identities."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from slsr.params.base import Block, Count, Positive, Precision, Seed, Share

HeadName = Literal["plain", "linear", "bottleneck", "bnneck"]
Pooling = Literal["average", "gem", "class-token"]
Normalization = Literal["imagenet", "symmetric", "unit", "clip", "dpn", "backbone"]
Interpolation = Literal["bilinear", "bicubic"]
Compile = Literal["auto", "never"]
NO_WEIGHTS_FILE = ("imagenet", "none")
# Backbones that need no check by timm.
ANY_SIZE = ("resnet18", "resnet50", "densenet121", "tf_efficientnet_lite0", "tf_efficientnet_lite1")


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

    name: Literal["sgd", "sgd-nesterov", "adam", "adamw"]
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

    name: Literal["constant", "step", "inverse-iteration", "inverse-epoch", "one-cycle", "cosine"]
    step_epochs: Count | Annotated[list[Count], Field(min_length=1)]
    step_factor: Annotated[float, Field(gt=0, lt=1)]
    inverse_gamma: Positive
    inverse_power: Positive
    one_cycle_warmup: Annotated[float, Field(gt=0, lt=1)]
    warmup_epochs: Annotated[int, Field(ge=0)]
    warmup_start: Annotated[float, Field(gt=0, le=1)]

    @model_validator(mode="after")
    def steps_ascend(self) -> Self:
        if isinstance(self.step_epochs, list) and sorted(set(self.step_epochs)) != self.step_epochs:
            raise ValueError(f"step_epochs {self.step_epochs} must be one number, or ascending ones such as [40, 70]")
        return self

    @model_validator(mode="after")
    def one_warmup(self) -> Self:
        if self.name == "one-cycle" and self.warmup_epochs > 0:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs} contradicts name: one-cycle, which warms up by one_cycle_warmup; "
                "set warmup_epochs to 0"
            )
        return self


class Triplet(Block):
    """The triplet loss on the real images of a batch; a weight of 0 switches it off."""

    weight: Annotated[float, Field(ge=0)]
    margin: Positive | None


class Center(Block):
    """The center loss on the real images of a batch; a weight of 0 switches it off."""

    weight: Annotated[float, Field(ge=0)]
    learning_rate: Positive


class Recipe(Block):
    """The recipe for training a classifier of identities: the encoder and the re-ID network both have one.

    With `steps`, a run has that many steps; what counts epochs then counts `epochs` equal parts of the run.
    """

    backbone: Annotated[str, Field(min_length=1)]
    weights: Annotated[str, Field(min_length=1)]
    last_stride: Literal[1, 2]
    pooling: Pooling
    head: HeadName
    epochs: Count
    steps: Count | None
    validate_every: Count
    keep: Literal["last", "best"]
    ema: Annotated[float, Field(ge=0, lt=1)]
    batch_size: Annotated[int, Field(ge=2)]
    sampler: Literal["shuffle", "identities"]
    images_per_identity: Count
    random_crop: bool
    padding: Annotated[int, Field(ge=0)]
    horizontal_flip: bool
    color_jitter: Annotated[float, Field(ge=0, lt=1)]
    random_erasing: Share
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    triplet: Triplet
    center: Center
    precision: Precision
    deterministic: bool
    compile: Compile
    seed: Seed
    optimizer: Optimizer
    schedule: Schedule

    @model_validator(mode="after")
    def batch_holds_whole_groups(self) -> Self:
        if self.sampler == "identities" and self.batch_size % self.images_per_identity:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of images_per_identity {self.images_per_identity}; with "
                "sampler: identities a batch holds batch_size / images_per_identity identities: change one of the two"
            )
        if self.sampler == "identities" and self.batch_size < 2 * self.images_per_identity:
            raise ValueError(
                f"batch_size {self.batch_size} holds one identity with images_per_identity {self.images_per_identity}; "
                "make it at least twice as large"
            )
        return self

    @model_validator(mode="after")
    def padding_is_cropped(self) -> Self:
        if self.padding > 0 and not self.random_crop:
            raise ValueError(
                f"padding {self.padding} has no effect with random_crop: false, which takes the center; set padding to "
                "0, or random_crop to true"
            )
        return self

    @model_validator(mode="after")
    def triplets_exist(self) -> Self:
        if self.triplet.weight > 0 and (self.sampler != "identities" or self.images_per_identity < 2):
            raise ValueError(
                f"triplet.weight {self.triplet.weight} needs two images of each identity in a batch, and sampler is "
                f"{self.sampler} with images_per_identity {self.images_per_identity}; set sampler: identities and "
                "images_per_identity to 2 or more, or triplet.weight to 0"
            )
        return self

    @model_validator(mode="after")
    def warmup_ends(self) -> Self:
        if self.schedule.warmup_epochs >= self.epochs:
            raise ValueError(
                f"schedule.warmup_epochs {self.schedule.warmup_epochs} must be less than epochs {self.epochs}"
            )
        return self

    @model_validator(mode="after")
    def weights_stay_in_their_folder(self) -> Self:
        path = Path(self.weights)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(
                f"weights {self.weights!r} must be imagenet, none, or a file below weights/, named from there, so that "
                "DVC sees when it changes; put the file (or a link to it) there"
            )
        return self
