"""The schema of params.yaml: the one place where parameters are validated.

Every knob is required, so that params.yaml alone says what a run was; presets/defaults.yaml explains each.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from slsr.errors import InputError
from slsr.labels.regularizers import studied_names
from slsr.params.base import Block
from slsr.params.cluster import Cluster
from slsr.params.dataset import PUBLISHED, SAMPLE, Dataset
from slsr.params.evaluate import Evaluate
from slsr.params.gan import Gan
from slsr.params.generate import Generate
from slsr.params.labels import Generated, Lsr, PseudoLabels
from slsr.params.recipe import Image, Recipe, Train

RemoteName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Studies(Block):
    """Which regularizers studies/dvc.yaml has stages for, beside dvc.yaml's own."""

    regularizers: list[str]

    @model_validator(mode="after")
    def regularizers_differ(self) -> Self:
        if len(set(self.regularizers)) != len(self.regularizers):
            raise ValueError(f"regularizers {self.regularizers} names one twice; name each once")
        if unknown := [name for name in self.regularizers if name not in studied_names()]:
            raise ValueError(
                f"regularizers has {unknown[0]!r}, which studies/dvc.yaml has no stage for; choose among "
                f"{', '.join(studied_names())}"
            )
        return self


class Sharing(Block):
    """Which DVC remote may have what shows people; null is the default remote, no stage reads this."""

    prepared: RemoteName | None
    pictures: RemoteName | None
    generated: RemoteName | None

    @model_validator(mode="after")
    def what_shows_more_goes_no_further(self) -> Self:
        for more, less in (("prepared", "pictures"), ("pictures", "generated")):
            allowed = getattr(self, less)
            if allowed is not None and getattr(self, more) is None:
                raise ValueError(
                    f"{more} null, while {less} go to {allowed} alone: {more} show as much; name a remote there too"
                )
        return self


class Params(Block):
    """All of params.yaml."""

    dataset: Dataset
    image: Image
    encoder: Recipe
    cluster: Cluster
    gan: Gan
    generate: Generate
    generated: Generated
    lsr: Lsr
    pseudo_labels: PseudoLabels
    train: Train
    evaluate: Evaluate
    studies: Studies
    share: Sharing

    @model_validator(mode="after")
    def people_are_not_shared_by_oversight(self) -> Self:
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
    """Read and validate a params.yaml, as YAML 1.2, which is how DVC reads it: 1e-3 is a number, no key stands twice.

    Raises
    ------
    InputError
        The file is missing, is not YAML, or a key is unknown, missing, of the wrong type or in contradiction
        with another; the message names every such key, its value and what is allowed.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; run `slsr preset sample` to write one, or work in the project's root")
    try:
        values = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML ({error}); mend it, or write it anew with `slsr preset`") from error
    return validate_params(values, str(path))


def run_with_blocks(run: Callable[..., None], params: Params, *arguments: object) -> None:
    """Call a function with the blocks of params.yaml that its parameters are named after, and with `arguments`."""
    blocks = {name: getattr(params, name) for name in inspect.signature(run).parameters if name in Params.model_fields}
    others = [name for name in inspect.signature(run).parameters if name not in blocks]
    run(**blocks, **dict(zip(others, arguments, strict=False)))


def validate_params(values: Any, source: str) -> Params:
    """Validate parsed parameters; `source` names their file in the message."""
    if not isinstance(values, dict):
        raise InputError(f"{source}: holds {type(values).__name__}, not blocks; see presets/defaults.yaml")
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        problems = "\n".join(f"  {_describe(problem)}" for problem in error.errors())
        raise InputError(f"{source}: not valid\n{problems}") from error


def _describe(problem: Any) -> str:
    unknown = problem["type"] == "extra_forbidden"
    key = ".".join(str(part) for part in problem["loc"] if unknown or not _is_branch(part))
    value = problem["input"]
    match problem["type"]:
        case "missing":
            return f"{key}: missing; presets/defaults.yaml has it with its default"
        case "extra_forbidden":
            return f"{key}: unknown key (value {value!r}); remove it or mend its spelling"
        case "value_error":
            return f"{key}: {problem['ctx']['error']}" if key else str(problem["ctx"]["error"])
        case _:
            return f"{key}: {value!r} is not allowed; {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _is_branch(part: int | str) -> bool:
    """Whether a part of the location is pydantic's name of one branch of a union, not a key."""
    return isinstance(part, str) and (part in {"int", "float", "str", "none"} or "[" in part or "constrained" in part)
