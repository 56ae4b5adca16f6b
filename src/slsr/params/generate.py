"""The block `generate`: the images that the generators make."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from slsr.params.base import Block, Count, Positive, Seed, Share


class Alarms(Block):
    """The limits beyond which generated images count as collapsed, memorized, unlike real images or narrow."""

    coverage: Share
    duplicates: Share
    copies: Share
    precision: Share
    recall: Share
    kernel_deviations: Positive
    density: Positive


class Generate(Block):
    """How many images the generators make, how they are stored, and when their quality raises an alarm."""

    images: Count
    allocation: Literal["equal", "proportional"]
    jpeg_quality: Annotated[int, Field(ge=50, le=100)]
    nearest_images: Count
    alarms: Alarms
    seed: Seed
