"""The block `dataset`: the archive and its split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from slsr.params.base import Block, Count, Seed

PUBLISHED = ("market1501", "dukemtmc", "cuhk03", "viper")
SAMPLE = "slsr-sample.zip"  # has the layout of market1501, but its people are drawn


class Dataset(Block):
    """The archive with the images, and how it is split."""

    name: Literal["market1501", "dukemtmc", "cuhk03", "viper", "table", "folder"]
    archive: Annotated[str, Field(min_length=1)]
    protocol: Literal["classic", "np"] | None
    boxes: Literal["detected", "labeled"] | None
    split: Count | None
    identities: Annotated[int, Field(ge=2)] | None
    validation: Literal["one-per-identity", "none"]
    unreadable_images: Literal["fail", "skip"]
    seed: Seed

    @model_validator(mode="after")
    def archive_stays_in_data(self) -> Self:
        path = Path(self.archive)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"archive {self.archive!r} must be a path below data/, without `..`")
        return self

    @model_validator(mode="after")
    def split_is_one_of_the_data_set(self) -> Self:
        if problem := split_problem(self.name, self.protocol, self.boxes, self.split):
            raise ValueError(problem)
        return self


def split_problem(name: str, protocol: str | None, boxes: str | None, split: int | None) -> str | None:
    """Say why these do not name a split of the data set; return None if they do."""
    for key, value, allowed in (("protocol", protocol, ("classic", "np")), ("boxes", boxes, ("detected", "labeled"))):
        if name == "cuhk03" and value not in allowed:
            return f"{key} {_shown(value)}, but name: cuhk03 needs {' or '.join(allowed)}"
        if name != "cuhk03" and value is not None:
            return f"{key} {value} means nothing for name: {name}; make it null"
    splits = 10 if name == "viper" else 20 if protocol == "classic" else 0
    whose = f"name: {name}" + (f" with protocol: {protocol}" if protocol else "")
    if splits and (split is None or not 1 <= split <= splits):
        return f"split {_shown(split)}, but {whose} has the splits 1 to {splits}; choose one"
    if not splits and split is not None:
        return f"split {split} means nothing for {whose}; make it null"
    return None


def _shown(value: object) -> str:
    return "null" if value is None else str(value)
