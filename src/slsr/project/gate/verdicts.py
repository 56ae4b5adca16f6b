"""Whether metrics have become worse than rules allow: plain numbers in, one verdict per metric out.

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
class MetricVerdict:
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
    """A verdict on every metric that a rule judges, by name; rules that are wrong themselves; and notices."""

    rows: list[MetricVerdict] = field(default_factory=list)
    defects: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    @property
    def failures(self) -> int:
        """The number of metrics and rules that fail."""
        return len(self.defects) + sum(row.verdict == "fail" for row in self.rows)


def parse_metrics(file: str, content: bytes, source: str) -> dict[Name, Any]:
    """Return the leaves of a JSON file by name; an empty list or object is a leaf.

    Raises
    ------
    InputError
        The content is not JSON, or one object has a key twice.
    """
    try:
        return dict(_leaves((file,), json.loads(content, object_pairs_hook=_unique)))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source}: not valid JSON ({error}); make it again with `dvc repro`") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is twice in one object")
    return found


def _leaves(name: Name, value: Any) -> Iterator[tuple[Name, Any]]:
    if isinstance(value, dict | list) and value:
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves((*name, str(key)), one)
    else:
        yield name, value


def shown(name: Name) -> str:
    """Write a name as `file.json:dotted.key`."""
    return f"{name[0]}:{'.'.join(name[1:])}"


def parse_name(text: str) -> Name:
    """Read a name that `shown` has written; its keys have no dots."""
    file, _, key = text.partition(":")
    return (file, *key.split("."))


@cache
def _expression(pattern: str) -> re.Pattern[str]:
    file, *keys = parse_name(pattern)
    parts = [re.escape(file).replace(r"\*", "[^/\0]*") + "\0"]
    parts += ["(?:[^\0]*\0)*" if key == "**" else re.escape(key).replace(r"\*", "[^\0]*") + "\0" for key in keys]
    return re.compile("".join(parts))


def matches(pattern: str, name: Name) -> bool:
    """Return whether a pattern matches a name."""
    return _expression(pattern).fullmatch("\0".join((*name, ""))) is not None


def protocol_differences(
    protocol: Protocol,
    base: Metrics,
    head: Metrics,
    base_locked: Mapping[str, str],
    head_locked: Mapping[str, str],
) -> dict[str, tuple[str, str]]:
    """Map what must be the same on both sides and is not to its value in the base and its value in the head.

    What only the head has is no difference. What only the base has is a difference if its file is still there, or if
    the protocol names it without a pattern.
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

    Of the rules of one level (fail, warn), the last that matches a metric judges it; if both levels judge it, the worse
    verdict counts. A metric that is gone, not a number or not finite fails at either level. If the protocol differs
    (and that is accepted), limits that are metrics are read from the head alone: the base measured other data.

    Raises
    ------
    InputError
        Two rules give one metric opposite directions, or the base lacks a deviation that a rule counts in.
    """
    found = Judgment()
    wanted = {entry.metric: entry for entry in acceptances if entry.metric is not None}
    used: set[str] = set()
    at_work: set[int] = set()
    limits = (head, base) if same_protocol else (head,)
    for name in sorted({*base, *head}):
        rows = []
        for number, rule in _judges(policy, name):
            at_work.add(number)
            row = _verdict(number, rule, name, base, head, wanted.get(shown(name)), limits)
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
    """Return why a later change could not be compared with the head: it lacks deviations that rules count in."""
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
        raise InputError(f"rules {numbers} of gate.yaml: opposite directions for {shown(name)}; fix one")
    return list(last.values())


def _idle(policy: Policy, at_work: set[int], names: set[Name]) -> list[str]:
    defects = []
    for number, rule in enumerate(policy.rules, 1):
        if number not in at_work:
            why = "later rules judge all that it matches" if any(matches(rule.metric, name) for name in names) else ""
            defects.append(f"rule {number}: `{rule.metric}` {why or 'matches no metric'}; fix or remove it")
    for pattern in policy.protocol.metrics:
        if not any(matches(pattern, name) for name in names):
            defects.append(f"protocol: `{pattern}` matches no metric; fix or remove it")
    return defects


def _verdict(
    number: int,
    rule: Rule,
    name: Name,
    base: Metrics,
    head: Metrics,
    entry: Acceptance | None,
    limits: Sequence[Metrics],
) -> MetricVerdict:
    before, now = _number(base.get(name)), _number(head.get(name))

    def row(verdict: Verdict, note: str = "", allowed: float | None = None) -> MetricVerdict:
        return MetricVerdict(shown(name), verdict, number, before, now, allowed, note)

    if name not in head:
        if entry is not None and entry.gone:
            return row("accepted", f"gone: {entry.reason}")
        return row("fail", "vanished")
    if now is None:
        return row("fail", f"not a finite number: {_text(head[name])}")
    beyond = _beyond_limit(rule, now, limits)
    if before is None:
        note = "new" if name not in base else f"new: it was {_text(base[name])}"
        return row(rule.level, beyond) if beyond else row("new", note)
    allowed = tolerance(number, rule, name, base)
    loss = before - now if rule.better == "higher" else now - before
    if beyond:
        return row(rule.level, beyond, allowed)
    if loss <= allowed + ROUNDING * max(abs(before), abs(now), allowed):
        return row("worse" if loss > 0 else "same" if loss == 0 else "better", "", allowed)
    if entry is not None and entry.worst is not None:
        if _no_worse(rule, now, entry.worst):
            return row("accepted", entry.reason, allowed)
        return row(rule.level, f"worse than accepted ({entry.worst:g})", allowed)
    return row(rule.level, "worse than allowed", allowed)


def _number(value: Any) -> float | None:
    """Return a finite number as float, None for anything else."""
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


def _beyond_limit(rule: Rule, value: float, sides: Sequence[Metrics]) -> str:
    """Return why the value is worse than the rule's limit; empty if it is not.

    A limit that is another metric is the stricter of its values on the sides, of which the head is the first, so that a
    change cannot loosen it for itself.
    """
    kind = "below its minimum" if rule.better == "higher" else "above its maximum"
    if rule.limit is None:
        return ""
    if not isinstance(rule.limit, str):
        return "" if _no_worse(rule, value, rule.limit) else f"{kind} {rule.limit:.4g}"
    now, *before = (_number(side.get(parse_name(rule.limit))) for side in sides)
    if now is None:
        return f"its limit {rule.limit} is not a finite number"
    strictest = max if rule.better == "higher" else min
    limit = strictest([now, *(one for one in before if one is not None)])
    if _no_worse(rule, value, limit):
        return ""
    return f"{kind} {limit:.4g} ({rule.limit}{'' if limit == now else ' of the base'})"


def tolerance(number: int, rule: Rule, name: Name, base: Metrics) -> float:
    """Return how much worse than the base a metric may be, in its unit.

    `absolute` is that much; `relative` is that share of the base's absolute value; `deviations` and `seed_deviations`
    are multiples of the deviations that the base has.

    Raises
    ------
    InputError
        The base has no such deviation.
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
    """Return the deviation at a place, or the one of the normal distribution with the 95 % interval at this place."""
    if place in base:
        return _deviation(_number(base[place]))
    if (*place, "2") in base:
        return None
    low, high = (_number(base.get((*place, bound))) for bound in ("0", "1"))
    return None if low is None or high is None else _deviation((high - low) / (2 * NORMAL_975))


def _seed_deviation(base: Metrics, place: Name) -> float | None:
    """Return the deviation at a place, or the sample deviation (n - 1) of the values of several seeds at this place."""
    if place in base:
        return _deviation(_number(base[place]))
    values: list[float | None] = []
    while (item := (*place, str(len(values)))) in base:
        values.append(_number(base[item]))
    numbers = [value for value in values if value is not None]
    return statistics.stdev(numbers) if len(numbers) == len(values) >= 2 else None


def _deviation(value: float | None) -> float | None:
    return value if value is not None and value >= 0 else None
