"""The block `studies`: the regularizers beside those of dvc.yaml."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from slsr.labels.regularizers import studied_names
from slsr.params.base import Block


class Studies(Block):
    """The regularizers for which studies/dvc.yaml has stages, in addition to those of dvc.yaml."""

    regularizers: list[str]

    @model_validator(mode="after")
    def regularizers_differ_and_exist(self) -> Self:
        """Refuse a regularizer that is listed twice or that studies/dvc.yaml cannot run."""
        if len(set(self.regularizers)) != len(self.regularizers):
            raise ValueError(f"regularizers {self.regularizers} names one twice; name each once")
        if unknown := [name for name in self.regularizers if name not in studied_names()]:
            raise ValueError(
                f"regularizers has {unknown[0]!r}, for which studies/dvc.yaml has no stage; choose among "
                f"{', '.join(studied_names())}"
            )
        return self
