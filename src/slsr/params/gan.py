"""The block `gan`: the generators."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from slsr.params.base import Block, Count, Positive, Precision, Seed, Share

DiscriminatorActivation = Literal["leaky-relu", "relu"]
DiscriminatorBatchNorm = Literal["all-but-first", "all", "none"]
Upsampling = Literal["transposed", "nearest"]
GanLoss = Literal["cross-entropy", "hinge"]
GanBalance = Literal["clusters", "images"]
GanKind = Literal["per-cluster", "conditional"]
OnCollapse = Literal["warn", "stop", "restart"]
DiscriminatorKind = Literal["pixels", "projected", "both"]
GeneratorKind = Literal["dcgan", "light"]
GanAugmentation = Literal["flip", "color", "translation", "cutout"]


class Collapse(Block):
    """The limits beyond which a trained generator has collapsed, and how often it is then trained again."""

    coverage: Share
    duplicates: Share
    restarts: Count


class Gan(Block):
    """The generators: one per cluster, or one network that receives the cluster as an input."""

    kind: GanKind
    balance: GanBalance
    generator: GeneratorKind
    discriminator: DiscriminatorKind
    height: Annotated[int, Field(ge=32)]
    width: Annotated[int, Field(ge=32)]
    latent: Count
    channels: Annotated[int, Field(ge=4)]
    upsampling: Upsampling
    parent_epochs: Annotated[int, Field(ge=0)]
    epochs: Count
    minimum_steps: Annotated[int, Field(ge=0)]
    batch_size: Annotated[int, Field(ge=2)]
    loss: GanLoss
    learning_rate: Positive
    discriminator_learning_rate: Positive | None
    beta1: Annotated[float, Field(ge=0, lt=1)]
    beta2: Annotated[float, Field(ge=0, lt=1)]
    reconstruction: Annotated[float, Field(ge=0)]
    reconstruction_epochs: Annotated[int, Field(ge=0)]
    generator_steps: Count
    discriminator_activation: DiscriminatorActivation
    discriminator_batch_norm: DiscriminatorBatchNorm
    projected_channels: Annotated[int, Field(ge=4)]
    projected_enlargement: Count
    pixel_weight: Positive
    spectral_norm: bool
    r1: Annotated[float, Field(ge=0)]
    augmentation: list[GanAugmentation]
    ema: Annotated[float, Field(ge=0, lt=1)]
    on_collapse: OnCollapse
    collapse: Collapse
    precision: Precision
    deterministic: bool
    seed: Seed

    @model_validator(mode="after")
    def sizes_divide(self) -> Self:
        if self.height % 16 or self.width % 16:
            raise ValueError(
                f"height x width = {self.height}x{self.width}: both must be multiples of 16 (four stride-2 layers)"
            )
        if len(set(self.augmentation)) != len(self.augmentation):
            raise ValueError(f"augmentation {self.augmentation} names one twice; name each once")
        return self

    @model_validator(mode="after")
    def penalty_is_on_pixels(self) -> Self:
        if self.discriminator != "pixels" and self.r1:
            raise ValueError(
                f"r1 {self.r1} is a penalty for discriminator: pixels, and this one is {self.discriminator}; make it 0"
            )
        return self

    @model_validator(mode="after")
    def reconstruction_comes_first_and_stays(self) -> Self:
        if self.reconstruction_epochs and not self.reconstruction:
            raise ValueError(
                f"reconstruction_epochs {self.reconstruction_epochs} needs reconstruction above 0; make it 0, or give "
                "reconstruction a weight"
            )
        return self

    @model_validator(mode="after")
    def conditional_has_no_parent(self) -> Self:
        if self.kind == "conditional" and self.parent_epochs:
            raise ValueError(
                f"parent_epochs {self.parent_epochs} means nothing for kind: conditional, which is one network; "
                "make it 0"
            )
        return self
