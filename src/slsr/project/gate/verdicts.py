"""Whether metrics have become worse than rules allow: plain numbers in, one verdict a metric out.

A metric is a leaf of a JSON file, named `file.json:dotted.key`; items of a list count from 0. In a pattern `*` stands
for any part of one key (or of the file's name), `**` for any number of keys.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from slsr.errors import InputError
from slsr.project.gate.rules import Acceptance, Level, Policy, Protocol, Rule

Name = tuple[str, ...]
Metrics = Mapping[Name, Any]
Verdict = Literal["fail", "warn", "accepted", "new", "worse", "same", "better"]

SEVERITY: tuple[Verdict, ...] = ("fail", "warn", "accepted", "new", "worse", "same", "better")
NORMAL_975 = statistics.NormalDist().inv_cdf(0.975)
ROUNDING = 1e-9
STATED_BESIDE = ("value", "difference", "mean")


@dataclass(frozen=True)
class Row:
    """The verdict on one metric.

    `change` is head minus base; `allowed` how much worse than the base it may be, in the metric's unit; `rule` counts
    from 1.
    """

    metric: str
    verdict: Verdict
    rule: int
    base: float | None
    head: float | None
    allowed: float | None = None
    note: str = ""

    @property
    def change(self) -> float | None:
        """Head minus base."""
        return None if self.base is None or self.head is None else self.head - self.base


@dataclass
class Judgment:
    """One row a judged metric, in the order of their names; rules that are wrong themselves; and what to know."""

    rows: list[Row] = field(default_factory=list)
    defects: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    @property
    def failures(self) -> int:
        """How many metrics and rules fail."""
        return len(self.defects) + sum(row.verdict == "fail" for row in self.rows)


def parse_metrics(file: str, content: bytes, source: str) -> dict[Name, Any]:
    """The leaves of a JSON file by name; an empty list or object is a leaf.

    Raises
    ------
    InputError
        Not JSON, or a key stands twice in one object.
    """
    try:
        return dict(_leaves((file,), json.loads(content, object_pairs_hook=_unique)))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source}: not valid JSON ({error}); make it again with `dvc repro`") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice in one object")
    return found


def _leaves(name: Name, value: Any) -> Iterator[tuple[Name, Any]]:
    if isinstance(value, dict | list) and value:
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves((*name, str(key)), one)
    else:
        yield name, value


def shown(name: Name) -> str:
    """`file.json:dotted.key`."""
    return f"{name[0]}:{'.'.join(name[1:])}"


def parse_name(text: str) -> Name:
    """The name that `shown` writes, for keys without dots."""
    file, _, key = text.partition(":")
    return (file, *key.split("."))


@cache
def _expression(pattern: str) -> re.Pattern[str]:
    file, *keys = parse_name(pattern)
    parts = [re.escape(file).replace(r"\*", "[^/\0]*") + "\0"]
    parts += ["(?:[^\0]*\0)*" if key == "**" else re.escape(key).replace(r"\*", "[^\0]*") + "\0" for key in keys]
    return re.compile("".join(parts))


def matches(pattern: str, name: Name) -> bool:
    """Whether a pattern stands for a name."""
    return _expression(pattern).fullmatch("\0".join((*name, ""))) is not None


def protocol_differences(
    protocol: Protocol,
    base: Metrics,
    head: Metrics,
    base_locked: Mapping[str, str],
    head_locked: Mapping[str, str],
) -> dict[str, tuple[str, str]]:
    """What must be the same on both sides and is not: its name, the value of the base and that of the head.

    What only the head has is no difference. What only the base has is one where its file is still there, or where it
    is named without a pattern.
    """
    found = {}
    files = {name[0] for name in head}
    for pattern in protocol.metrics:
        for name in sorted(name for name in base if matches(pattern, name)):
            if name in head and head[name] != base[name]:
                found[shown(name)] = (str(base[name]), str(head[name]))
            elif name not in head and (name[0] in files or "*" not in pattern):
                found[shown(name)] = (str(base[name]), "gone")
    for path in protocol.locked:
        if path in base_locked and base_locked[path] != head_locked.get(path):
            found[path] = (base_locked[path], head_locked.get(path, "gone"))
    return found


def judge(
    policy: Policy,
    base: Metrics,
    head: Metrics,
    acceptances: Sequence[Acceptance] = (),
    same_protocol: bool = True,
) -> Judgment:
    """Judge every metric that a rule matches on either side.

    Of the rules of one level (fail, warn), the last that matches a metric judges it; where both levels judge, the row
    is that of the worse verdict. A metric that is gone, not a number or not finite fails at either level. Where the
    protocol is not the same (and that is accepted), named floors are the head's alone: the base's are of other data.

    Raises
    ------
    InputError
        Two rules give one metric opposite directions, or the base does not state a deviation that a rule counts in.
    """
    found = Judgment()
    wanted = {entry.metric: entry for entry in acceptances if entry.metric is not None}
    used: set[str] = set()
    at_work: set[int] = set()
    floors = (head, base) if same_protocol else (head,)
    for name in sorted({*base, *head}):
        rows = []
        for number, rule in _judges(policy, name):
            at_work.add(number)
            row = _verdict(number, rule, name, base, head, wanted.get(shown(name)), floors)
            if row.verdict in ("fail", "warn", "accepted"):
                used.add(row.metric)
            rows.append(row)
        if rows:
            found.rows.append(min(rows, key=lambda row: SEVERITY.index(row.verdict)))
    found.defects += _idle(policy, at_work, {*base, *head})
    found.notices += [
        f"accepted.yaml: the entry of {metric} covers nothing: that metric is not worse than allowed; remove it"
        for metric in wanted
        if metric not in used
    ]
    return found


def defects_as_base(policy: Policy, head: Metrics) -> list[str]:
    """Why a later change could not be compared with the head: deviations that rules count in and it does not state."""
    defects: dict[str, None] = {}
    for name in sorted(name for name, value in head.items() if _number(value) is not None):
        try:
            for number, rule in _judges(policy, name):
                tolerance(number, rule, name, head)
        except InputError as error:
            defects[f"as the base of the next change: {error}"] = None
    return list(defects)


def _judges(policy: Policy, name: Name) -> list[tuple[int, Rule]]:
    last: dict[Level, tuple[int, Rule]] = {}
    for number, rule in enumerate(policy.rules, 1):
        if matches(rule.metric, name):
            last[rule.level] = number, rule
    if len({rule.better for _, rule in last.values()}) > 1:
        numbers = " and ".join(str(number) for number, _ in last.values())
        raise InputError(f"rules {numbers} of gate.yaml: opposite directions for {shown(name)}; mend one")
    return list(last.values())


def _idle(policy: Policy, at_work: set[int], names: set[Name]) -> list[str]:
    defects = []
    for number, rule in enumerate(policy.rules, 1):
        if number not in at_work:
            why = "later rules judge all that it matches" if any(matches(rule.metric, name) for name in names) else ""
            defects.append(f"rule {number}: `{rule.metric}` {why or 'matches no metric'}; mend or remove it")
    for pattern in policy.protocol.metrics:
        if not any(matches(pattern, name) for name in names):
            defects.append(f"protocol: `{pattern}` matches no metric; mend or remove it")
    return defects


def _verdict(
    number: int,
    rule: Rule,
    name: Name,
    base: Metrics,
    head: Metrics,
    entry: Acceptance | None,
    floors: Sequence[Metrics],
) -> Row:
    before, now = _number(base.get(name)), _number(head.get(name))

    def row(verdict: Verdict, note: str = "", allowed: float | None = None) -> Row:
        return Row(shown(name), verdict, number, before, now, allowed, note)

    if name not in head:
        if entry is not None and entry.gone:
            return row("accepted", f"gone: {entry.reason}")
        return row("fail", "vanished")
    if now is None:
        return row("fail", f"not a finite number: {_text(head[name])}")
    below = _below_floor(rule, now, floors)
    if before is None:
        note = "new" if name not in base else f"new: it was {_text(base[name])}"
        return row(rule.level, below) if below else row("new", note)
    allowed = tolerance(number, rule, name, base)
    loss = before - now if rule.better == "higher" else now - before
    if below:
        return row(rule.level, below, allowed)
    if loss <= allowed + ROUNDING * max(abs(before), abs(now), allowed):
        return row("worse" if loss > 0 else "same" if loss == 0 else "better", "", allowed)
    if entry is not None and entry.worst is not None:
        if _no_worse(rule, now, entry.worst):
            return row("accepted", entry.reason, allowed)
        return row(rule.level, f"worse than accepted ({entry.worst:g})", allowed)
    return row(rule.level, "worse than allowed", allowed)


def _number(value: Any) -> float | None:
    """A finite number as float, anything else as None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _text(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _no_worse(rule: Rule, value: float, limit: float) -> bool:
    lacking = limit - value if rule.better == "higher" else value - limit
    return lacking <= ROUNDING * max(abs(limit), abs(value))


def _below_floor(rule: Rule, value: float, sides: Sequence[Metrics]) -> str:
    """Why the value is worse than the rule's floor; empty where it is not.

    A floor that is another metric is the stricter of its values on the sides, of which the head is the first, so that a
    change cannot lower it for itself.
    """
    if rule.floor is None:
        return ""
    if not isinstance(rule.floor, str):
        return "" if _no_worse(rule, value, rule.floor) else f"{_side_of(rule)} {rule.floor:.4g}"
    now, *before = (_number(side.get(parse_name(rule.floor))) for side in sides)
    if now is None:
        return f"its floor {rule.floor} is not a finite number"
    strictest = max if rule.better == "higher" else min
    floor = strictest([now, *(one for one in before if one is not None)])
    if _no_worse(rule, value, floor):
        return ""
    return f"{_side_of(rule)} {floor:.4g} ({rule.floor}{'' if floor == now else ' of the base'})"


def _side_of(rule: Rule) -> str:
    return "below its floor" if rule.better == "higher" else "above its limit"


def tolerance(number: int, rule: Rule, name: Name, base: Metrics) -> float:
    """How much worse than the base a metric may be, in its unit.

    `absolute`: that much; `relative`: that share of the base's absolute value; `deviations` and `seed_deviations`:
    so many of the deviations that the base states.

    Raises
    ------
    InputError
        The base states no such deviation.
    """
    given = rule.tolerance
    if given.absolute is not None:
        return given.absolute
    if given.relative is not None:
        return given.relative * abs(float(base[name]))
    if given.deviations is not None:
        places = [parse_name(given.of)] if given.of else _places_of_deviation(name)
        deviation = next((found for place in places if (found := _bootstrap_deviation(base, place)) is not None), None)
        times = given.deviations
    else:
        places = [parse_name(given.of)] if given.of else [(*name[:-1], f"{name[-1]}_seeds")]
        deviation = _seed_deviation(base, places[0])
        times = given.seed_deviations or 0.0
    if deviation is None:
        looked = " or ".join(shown(place) for place in places)
        raise InputError(
            f"rule {number} of gate.yaml: {shown(name)}: its tolerance counts in deviations, and the base has no "
            f"usable {looked}; name another place (of:), or give an absolute or relative tolerance"
        )
    return times * deviation


def _places_of_deviation(name: Name) -> list[Name]:
    parent, key = name[:-1], name[-1]
    beside: list[Name] = [(*parent, f"{key}_ci95"), (*parent, f"{key}_deviation")]
    return beside + [(*parent, place) for place in ("ci95", "deviation") if key in STATED_BESIDE]


def _bootstrap_deviation(base: Metrics, place: Name) -> float | None:
    """A deviation stated as such, or that of the normal distribution with the 95 % interval stated there."""
    if place in base:
        return _deviation(_number(base[place]))
    if (*place, "2") in base:
        return None
    low, high = (_number(base.get((*place, bound))) for bound in ("0", "1"))
    return None if low is None or high is None else _deviation((high - low) / (2 * NORMAL_975))


def _seed_deviation(base: Metrics, place: Name) -> float | None:
    """A deviation stated as such, or the sample deviation (n - 1) of the values of several seeds stated there."""
    if place in base:
        return _deviation(_number(base[place]))
    values: list[float | None] = []
    while (item := (*place, str(len(values)))) in base:
        values.append(_number(base[item]))
    numbers = [value for value in values if value is not None]
    return statistics.stdev(numbers) if len(numbers) == len(values) >= 2 else None


def _deviation(value: float | None) -> float | None:
    return value if value is not None and value >= 0 else None
