"""The block `dataset`: which archive, and how it is split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from slsr.params.base import Block, Count, Seed

Validation = Literal["one-per-identity", "identities", "none"]
DatasetName = Literal["market1501", "dukemtmc", "cuhk03", "msmt17", "viper", "table", "folder"]

PUBLISHED = ("market1501", "dukemtmc", "cuhk03", "msmt17", "viper")


SPLITS = Path("splits")
NO_SPLIT_FILE = "none"
MOST_SPLITS = 10_000  # of a file

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
        splits = self.split_count()
        whose = f"name: {name}" + (f" with protocol: {protocol}" if protocol else "")
        if problem := self.problem_of_split_file():
            return problem
        if splits and (self.split is None or not 1 <= self.split <= splits):
            return f"split {_shown(self.split)}, but {whose} has the splits 1 to {splits}; choose one"
        if not splits and self.split is not None:
            return f"split {self.split} means nothing for {whose}; make it null"
        return None

    def problem_of_split_file(self) -> str | None:
        """Say why the data set has no file of splits; a variant names none."""
        return None

    def split_count(self) -> int:
        """Return the number of splits; 0 if there is only one."""
        return 10 if self.name == "viper" else 20 if self.protocol == "classic" else 0


class Dataset(DatasetVariant):
    """Which archive, and how it is split.

    `split_file` is a file in splits/ with halves of VIPeR that authors published, or `none`.
    """

    archive: Annotated[str, Field(min_length=1)]
    split_file: Annotated[str, Field(min_length=1)]
    cameras: Literal["unknown"] | None
    identities: Annotated[int, Field(ge=2)] | None
    validation: Validation
    validation_share: Annotated[float, Field(gt=0, lt=1)]
    unreadable_images: Literal["fail", "skip"]
    seed: Seed

    @model_validator(mode="after")
    def files_stay_in_their_folders(self) -> Self:
        for key, folder in (("archive", "data"), ("split_file", "splits")):
            path = Path(getattr(self, key))
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"{key} {str(path)!r} must be a path below {folder}/, without `..`")
        return self

    def problem_of_split_file(self) -> str | None:
        """Say that only VIPeR has files of halves."""
        if self.split_file != NO_SPLIT_FILE and self.name != "viper":
            return f"split_file {self.split_file} means nothing for name: {self.name}; make it none"
        return None

    def split_count(self) -> int:
        """Return the number of splits; what a file has is known when it is read."""
        return MOST_SPLITS if self.split_file != NO_SPLIT_FILE else super().split_count()

    def halves(self, root: Path = Path()) -> Path | None:
        """Return the path of `split_file`, below the root of the project; None if there is none."""
        return None if self.split_file == NO_SPLIT_FILE else root / SPLITS / self.split_file


def _shown(value: object) -> str:
    return "null" if value is None else str(value)
