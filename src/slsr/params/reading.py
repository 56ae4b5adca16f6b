"""Read YAML and validate it; errors name the key, the value and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from slsr.errors import InputError
from slsr.params.base import Block

Model = TypeVar("Model", bound=Block)
Location = Sequence[int | str]


def parse_yaml(text: str) -> Any:
    """Parse YAML 1.2, as DVC does: `1e-3` is a number, and a key that is given twice is an error."""
    return YAML(typ="safe", pure=True).load(text)


def read_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises
    ------
    InputError
        The file is not YAML.
    """
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML ({error}); correct it, or write it again") from error


def _dotted(location: Location) -> str:
    return ".".join(str(part) for part in location)


def validated(
    model: type[Model],
    values: Any,
    source: str,
    see: str = "presets/defaults.yaml",
    place: Callable[[Location], str] = _dotted,
) -> Model:
    """Validate parsed YAML.

    Parameters
    ----------
    source
        The name of the file, for the message.
    see
        Where a reader finds the keys that are allowed.
    place
        Writes the location of a problem, a sequence of keys and indices.

    Raises
    ------
    InputError
        A key is unknown, missing, of the wrong type or contradicts another one. The message names all of them.
    """
    if not isinstance(values, dict):
        raise InputError(f"{source}: holds {type(values).__name__}, not blocks of keys and values; see {see}")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = "\n".join(f"  {_describe(problem, see, place)}" for problem in error.errors())
        raise InputError(f"{source}: not valid\n{problems}") from error


def _describe(problem: Any, see: str, place: Callable[[Location], str]) -> str:
    unknown = problem["type"] == "extra_forbidden"
    key = place([part for part in problem["loc"] if unknown or not _is_branch(part)])
    value = problem["input"]
    match problem["type"]:
        case "missing":
            if see.endswith(".yaml"):
                return f"{key}: missing; {see} has it with its default"
            return f"{key}: missing; {see} explains it"
        case "extra_forbidden":
            return f"{key}: unknown key (value {value!r}); remove it or correct its spelling"
        case "value_error":
            return f"{key}: {problem['ctx']['error']}" if key else str(problem["ctx"]["error"])
        case _:
            return f"{key}: {value!r} is not allowed; {_requirement(problem['msg'])}"


def _requirement(message: str) -> str:
    """Turn "Input should be less than 1" into "it must be less than 1"."""
    return re.sub(r"^\w+ should ", "it must ", message).replace(" after validation", "")


def _is_branch(part: int | str) -> bool:
    """Tell whether a part of a location is pydantic's name for a branch of a union, and not a key."""
    return isinstance(part, str) and (part in {"int", "float", "str", "none"} or "[" in part or "constrained" in part)
