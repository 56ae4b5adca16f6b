"""What every block of params.yaml is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Precision = Literal["fp32", "tf32", "bf16"]


Count = Annotated[int, Field(ge=1)]


Seed = Annotated[int, Field(ge=0, lt=2**31)]


Positive = Annotated[float, Field(gt=0)]


Share = Annotated[float, Field(ge=0, le=1)]


class Block(BaseModel):
    """A block of params.yaml: no unknown key, no silent conversion of types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def problems_in_words(error: ValidationError, name: Callable[[Any], str], missing: str = "missing") -> str:
    """Return what is wrong with a file, one line per problem.

    Parameters
    ----------
    name
        Names the key of one of pydantic's problems for a user; empty for the whole file.
    missing
        What to say about a key that is not there.
    """
    return "\n".join(f"  {_in_words(problem, name(problem), missing)}" for problem in error.errors())


def _in_words(problem: Any, name: str, missing: str) -> str:
    value, message = problem["input"], problem["msg"]
    match problem["type"]:
        case "missing":
            return f"{name}: {missing}"
        case "extra_forbidden":
            return f"{name}: unknown key (value {value!r}); remove it or fix its spelling"
        case "value_error":
            return f"{name}: {problem['ctx']['error']}" if name else str(problem["ctx"]["error"])
        case "model_type" | "model_attributes_type":
            return f"{name or 'the file'}: {value!r} is not allowed; give keys and values"
        case _:
            return f"{name}: {value!r} is not allowed; {message[0].lower()}{message[1:]}"
