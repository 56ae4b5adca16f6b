"""The whole of params.yaml: its blocks, how it is read, and how a stage receives its blocks.

Every parameter is required, so that params.yaml alone says what a run was; presets/defaults.yaml explains each one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import model_validator

from slsr.errors import InputError
from slsr.params.base import Block
from slsr.params.cluster import Cluster
from slsr.params.dataset import PUBLISHED, SAMPLE, Dataset
from slsr.params.evaluate import Evaluate
from slsr.params.gan import Gan
from slsr.params.generate import Generate
from slsr.params.labels import Generated, Lsr, PseudoLabels
from slsr.params.reading import read_yaml, validated
from slsr.params.recipe import Image, Recipe
from slsr.params.share import Sharing
from slsr.params.studies import Studies


class Params(Block):
    """All blocks of params.yaml."""

    dataset: Dataset
    image: Image
    encoder: Recipe
    cluster: Cluster
    gan: Gan
    generate: Generate
    generated: Generated
    lsr: Lsr
    pseudo_labels: PseudoLabels
    train: Recipe
    evaluate: Evaluate
    studies: Studies
    share: Sharing

    @model_validator(mode="after")
    def best_epoch_is_measured(self) -> Self:
        """Refuse to keep the best epoch where validation does not measure retrieval."""
        keys = [f"{name}.keep" for name in ("encoder", "train") if getattr(self, name).keep == "best"]
        if keys and self.dataset.validation != "identities":
            raise ValueError(
                f"{', '.join(keys)} best, but dataset.validation is {self.dataset.validation}: the best epoch is the "
                "one with the highest mAP on people who are held out; set dataset.validation: identities, or keep: last"
            )
        return self

    @model_validator(mode="after")
    def people_are_not_shared_by_oversight(self) -> Self:
        """Refuse a published data set of people without a named remote for its images."""
        dataset = self.dataset
        unnamed = [f"share.{what}" for what, remote in self.share.model_dump().items() if remote is None]
        if dataset.name in PUBLISHED and dataset.archive != SAMPLE and unnamed:
            raise ValueError(
                f"{', '.join(unnamed)} null, but {dataset.archive} ({dataset.name}) shows people, under a license: "
                "name the remote that may have their images, or `private`, which keeps them in this clone "
                "(docs/sharing.md)"
            )
        return self


def load_params(path: Path) -> Params:
    """Read and validate a params.yaml.

    Raises
    ------
    InputError
        The file is missing, is not YAML, or a key is unknown, missing, of the wrong type or contradicts another one.
        The message names every such key, its value and what is allowed.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; run `slsr preset sample` to write one, or work in the project's root")
    return validate_params(read_yaml(path), str(path))


def validate_params(values: Any, source: str) -> Params:
    """Validate parsed parameters; `source` names their file in the message."""
    return validated(Params, values, source)


def with_overrides(params: Params, overrides: Mapping[str, Any], source: str) -> Params:
    """Replace parameters, given by dotted keys such as `train.epochs`, and validate the result.

    Raises
    ------
    InputError
        A key is unknown, or a value is not allowed; `source` begins the message.
    """
    values: dict[str, Any] = params.model_dump()
    for key, value in overrides.items():
        *path, last = key.split(".")
        block: Any = values
        for name in path:
            block = block.get(name) if isinstance(block, dict) else None
        if not isinstance(block, dict) or last not in block:
            raise InputError(f"{source}: {key}: unknown key (value {value!r}); presets/defaults.yaml lists all keys")
        block[last] = value
    return validate_params(values, source)


def run_with_blocks(run: Callable[..., None], params: Params, *arguments: object) -> None:
    """Call a stage: its parameters that are named after blocks receive the blocks, the others `arguments`, in order.

    Raises
    ------
    TypeError
        The number of arguments is not the number of the other parameters.
    """
    names = inspect.signature(run).parameters
    blocks = {name: getattr(params, name) for name in names if name in Params.model_fields}
    others = [name for name in names if name not in blocks]
    if len(others) != len(arguments):
        raise TypeError(f"{run.__module__}.run takes {others} in addition to its blocks, and was given {arguments}")
    run(**blocks, **dict(zip(others, arguments, strict=True)))
