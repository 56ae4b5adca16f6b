"""The block `generate`: the images that the generators draw."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from slsr.params.base import Block, Count, Seed, Share


class Alarms(Block):
    """Limits beyond which generated images are called collapsed, memorized, unlike the real ones or narrow."""

    coverage: Share
    duplicates: Share
    copies: Share
    precision: Share
    recall: Share


class Generate(Block):
    """How many images come out of the generators, how they are stored, and when their quality sounds an alarm."""

    images: Count
    allocation: Literal["equal", "proportional"]
    jpeg_quality: Annotated[int, Field(ge=50, le=100)]
    alarms: Alarms
    seed: Seed
