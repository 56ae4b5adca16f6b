"""The block `dataset`: which archive, and how it is split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from slsr.params.base import Block, Count, Seed

DatasetName = Literal["market1501", "dukemtmc", "cuhk03", "msmt17", "viper", "table", "folder"]

PUBLISHED = ("market1501", "dukemtmc", "cuhk03", "msmt17", "viper")


SAMPLE = "slsr-sample.zip"  # has the layout of market1501, but its people are drawn


class DatasetVariant(Block):
    """Which data set, and which of its protocols, bounding boxes and splits.

    `protocol` and `boxes` belong to CUHK03. `split` is 1 to 20 for its protocol `classic`, and 1 to 10 for VIPeR.
    Everything that a data set does not have is None.
    """

    name: DatasetName
    protocol: Literal["classic", "np"] | None
    boxes: Literal["detected", "labeled"] | None
    split: Count | None

    @model_validator(mode="after")
    def exists(self) -> Self:
        if problem := self.problem():
            raise ValueError(problem)
        return self

    def problem(self) -> str | None:
        """Say why the data set has no such variant; None if it has."""
        name, protocol = self.name, self.protocol
        for key, value, allowed in (
            ("protocol", protocol, ("classic", "np")),
            ("boxes", self.boxes, ("detected", "labeled")),
        ):
            if name == "cuhk03" and value not in allowed:
                return f"{key} {_shown(value)}, but name: cuhk03 needs {' or '.join(allowed)}"
            if name != "cuhk03" and value is not None:
                return f"{key} {value} means nothing for name: {name}; make it null"
        splits = 10 if name == "viper" else 20 if protocol == "classic" else 0
        whose = f"name: {name}" + (f" with protocol: {protocol}" if protocol else "")
        if splits and (self.split is None or not 1 <= self.split <= splits):
            return f"split {_shown(self.split)}, but {whose} has the splits 1 to {splits}; choose one"
        if not splits and self.split is not None:
            return f"split {self.split} means nothing for {whose}; make it null"
        return None


class Dataset(DatasetVariant):
    """Which archive, and how it is split."""

    archive: Annotated[str, Field(min_length=1)]
    cameras: Literal["unknown"] | None
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


def _shown(value: object) -> str:
    return "null" if value is None else str(value)
