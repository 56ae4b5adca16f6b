"""The schema of metrics/gate.yaml, the rules of the gate, and of metrics/accepted.yaml, the drops that a team accepts.

Apart from params.py, which every stage depends on: a change of these models must not make a stage stale.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from slsr.errors import InputError
from slsr.params.base import Block

POLICY = "metrics/gate.yaml"
ACCEPTED = "metrics/accepted.yaml"

Direction = Literal["higher", "lower"]
Level = Literal["fail", "warn"]
NotNegative = Annotated[float, Field(ge=0)]
Text = Annotated[str, Field(min_length=1)]
Model = TypeVar("Model", bound=Block)


def _has_file_and_key(name: str) -> str:
    file, separator, key = name.partition(":")
    if not separator or not file.endswith(".json") or not key or not all(key.split(".")):
        raise ValueError(f"{name!r} is not of the form file.json:dotted.key, such as slsr.json:single_query.rank1")
    return name


class Tolerance(Block):
    """How much worse than the base a metric may be; exactly one of the first four."""

    absolute: NotNegative | None = None
    relative: NotNegative | None = None
    deviations: NotNegative | None = None
    seed_deviations: NotNegative | None = None
    of: Text | None = None

    @model_validator(mode="after")
    def is_of_one_kind(self) -> Self:
        kinds = ("absolute", "relative", "deviations", "seed_deviations")
        given = [kind for kind in kinds if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"{', '.join(given) or 'nothing'} is given; give one of {', '.join(kinds)}")
        if self.of is not None:
            if given[0] not in ("deviations", "seed_deviations"):
                raise ValueError(f"of: {self.of} means nothing for {given[0]}; remove it")
            _has_file_and_key(self.of)
        return self


class Rule(Block):
    """One rule: which metrics, which direction is better, how much worse they may get."""

    metric: str
    better: Direction
    tolerance: Tolerance = Tolerance(absolute=0.0)
    floor: float | str | None = None
    level: Level = "fail"

    @field_validator("metric")
    @classmethod
    def names_a_metric(cls, name: str) -> str:
        return _has_file_and_key(name)

    @field_validator("floor")
    @classmethod
    def floor_is_a_metric_or_number(cls, floor: float | str | None) -> float | str | None:
        return _has_file_and_key(floor) if isinstance(floor, str) else floor


class Protocol(Block):
    """What must be the same on both sides, or the numbers measure different things."""

    metrics: list[str] = Field(default_factory=list)
    locked: list[Text] = Field(default_factory=list)

    @field_validator("metrics")
    @classmethod
    def names_metrics(cls, names: list[str]) -> list[str]:
        return [_has_file_and_key(name) for name in names]


class Policy(Block):
    """All of metrics/gate.yaml."""

    protocol: Protocol = Protocol()
    rules: Annotated[list[Rule], Field(min_length=1)]


class Acceptance(Block):
    """One reviewed line: a metric may fall as far as `worst`, or be gone, or a protocol may change."""

    metric: str | None = None
    worst: float | None = None
    gone: Literal[True] | None = None
    protocol: Text | None = None
    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=10)]

    @model_validator(mode="after")
    def says_one_thing(self) -> Self:
        if (self.metric is None) == (self.protocol is None):
            raise ValueError("give either metric (with worst or gone) or protocol, and a reason")
        if self.protocol is not None and (self.worst is not None or self.gone is not None):
            raise ValueError("worst and gone belong to a metric, not to a protocol")
        if self.metric is not None:
            _has_file_and_key(self.metric)
            if "*" in self.metric:
                raise ValueError(f"metric {self.metric!r}: one metric by its name, no pattern")
            if (self.worst is None) == (self.gone is None):
                raise ValueError("give either worst, the worst value that is accepted, or gone: true")
        return self


class Accepted(Block):
    """All of metrics/accepted.yaml."""

    accepted: list[Acceptance]


def parse_policy(content: bytes, source: str) -> Policy:
    """Read metrics/gate.yaml.

    Raises
    ------
    InputError
        Not YAML, or not valid; the message names `source`, the number of each such rule from 1, and its key.
    """
    return _parse(Policy, content, source)


def parse_accepted(content: bytes, source: str) -> list[Acceptance]:
    """Read metrics/accepted.yaml; raises as `parse_policy`."""
    entries = _parse(Accepted, content, source).accepted
    seen: set[str] = set()
    for number, entry in enumerate(entries, 1):
        name = entry.metric or f"protocol {entry.protocol}"
        if name in seen:
            raise InputError(f"{source}: not valid\n  entry {number}: {name} has an entry already; keep one")
        seen.add(name)
    return entries


def _parse(model: type[Model], content: bytes, source: str) -> Model:
    try:
        values = YAML(typ="safe", pure=True).load(content.decode("utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: not valid YAML ({error})") from error
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = "\n".join(f"  {_describe(problem)}" for problem in error.errors())
        raise InputError(f"{source}: not valid; docs/gate.md explains each key\n{problems}") from error


def _describe(problem: Any) -> str:
    where = _place(problem["loc"])
    value, message = problem["input"], problem["msg"]
    match problem["type"]:
        case "missing":
            return f"{where}: missing"
        case "extra_forbidden":
            return f"{where}: unknown key (value {value!r}); remove it or mend its spelling"
        case "value_error":
            return f"{where}: {problem['ctx']['error']}"
        case "model_type" | "model_attributes_type":
            return f"{where}: holds {type(value).__name__}, not keys and values"
        case _:
            return f"{where}: {value!r} is not allowed; {message[0].lower()}{message[1:]}"


def _place(location: tuple[int | str, ...]) -> str:
    """A location in words: `rule 3, tolerance.absolute`."""
    parts = [str(part) for part in location if part not in ("float", "str")]
    if len(parts) > 1 and parts[0] in ("rules", "accepted"):
        item = f"{'rule' if parts[0] == 'rules' else 'entry'} {int(parts[1]) + 1}"
        return ", ".join(filter(None, [item, ".".join(parts[2:])]))
    return ".".join(parts) or "the file"
