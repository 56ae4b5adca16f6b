"""The schemas of metrics/gate.yaml (the rules) and metrics/accepted.yaml (the drops that a team accepts)."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator
from ruamel.yaml.error import YAMLError

from slsr.errors import InputError
from slsr.params.base import Block
from slsr.params.reading import Location, Model, parse_yaml, validated

POLICY = "metrics/gate.yaml"
ACCEPTED = "metrics/accepted.yaml"

Direction = Literal["higher", "lower"]
Level = Literal["fail", "warn"]
NotNegative = Annotated[float, Field(ge=0)]
Text = Annotated[str, Field(min_length=1)]


def _has_file_and_key(name: str) -> str:
    file, separator, key = name.partition(":")
    if not separator or not file.endswith(".json") or not key or not all(key.split(".")):
        raise ValueError(f"{name!r} is not of the form file.json:dotted.key, such as slsr.json:single_query.rank1")
    return name


class Tolerance(Block):
    """How much worse than the base a metric may be; exactly one of the first four is given."""

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
                raise ValueError(f"of: {self.of} has no meaning for {given[0]}; remove it")
            _has_file_and_key(self.of)
        return self


class Rule(Block):
    """One rule: which metrics it judges, which direction is better, and how bad they may become.

    `minimum` belongs to `better: higher`, `maximum` to `better: lower`. `floor` is their earlier name, still read.
    """

    metric: str
    better: Direction
    tolerance: Tolerance = Tolerance(absolute=0.0)
    minimum: float | str | None = None
    maximum: float | str | None = None
    floor: float | str | None = None
    level: Level = "fail"

    @field_validator("metric")
    @classmethod
    def names_a_metric(cls, name: str) -> str:
        return _has_file_and_key(name)

    @field_validator("minimum", "maximum", "floor")
    @classmethod
    def limit_is_a_metric_or_number(cls, limit: float | str | None) -> float | str | None:
        return _has_file_and_key(limit) if isinstance(limit, str) else limit

    @model_validator(mode="after")
    def has_one_limit_on_the_worse_side(self) -> Self:
        wrong, right = ("maximum", "minimum") if self.better == "higher" else ("minimum", "maximum")
        if getattr(self, wrong) is not None:
            raise ValueError(f"{wrong} has no meaning with better: {self.better}; give a {right}")
        if self.floor is not None and getattr(self, right) is not None:
            raise ValueError(f"floor is an earlier name of {right}; remove floor")
        return self

    @property
    def limit(self) -> float | str | None:
        """The worst value allowed, whatever the base had: a number, or the name of a metric."""
        limits = (self.minimum, self.maximum, self.floor)
        return next((limit for limit in limits if limit is not None), None)


class Protocol(Block):
    """What must be the same on both sides; otherwise the numbers measure different things."""

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
    """One reviewed line: a metric may become as bad as `worst`, or be gone, or a protocol may differ."""

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
                raise ValueError(f"metric {self.metric!r}: name one metric, not a pattern")
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
        The content is not YAML, or not valid; the message names `source`, and the number (from 1) and key of each rule
        that is wrong.
    """
    return _parse(Policy, content, source)


def parse_accepted(content: bytes, source: str) -> list[Acceptance]:
    """Read metrics/accepted.yaml.

    Raises
    ------
    InputError
        As `parse_policy`, or one metric has two entries.
    """
    entries = _parse(Accepted, content, source).accepted
    seen: set[str] = set()
    for number, entry in enumerate(entries, 1):
        name = entry.metric or f"protocol {entry.protocol}"
        if name in seen:
            raise InputError(f"{source}: not valid\n  entry {number}: {name} has two entries; keep one")
        seen.add(name)
    return entries


def _parse(model: type[Model], content: bytes, source: str) -> Model:
    try:
        values = parse_yaml(content.decode("utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: not valid YAML ({error})") from error
    return validated(model, values, source, "docs/gate.md", _place)


def _place(location: Location) -> str:
    """Write a location in words: `rule 3, tolerance.absolute`."""
    parts = [str(part) for part in location]
    if len(parts) > 1 and parts[0] in ("rules", "accepted"):
        item = f"{'rule' if parts[0] == 'rules' else 'entry'} {int(parts[1]) + 1}"
        return ", ".join(filter(None, [item, ".".join(parts[2:])]))
    return ".".join(parts)
