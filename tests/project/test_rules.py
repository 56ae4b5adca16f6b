"""What is wrong in gate.yaml and accepted.yaml is named by file, number, key; the committed rules fit."""

import pytest
from tiny import ROOT

from slsr.errors import InputError
from slsr.project.gate.rules import parse_accepted, parse_policy
from slsr.project.gate.verdicts import judge, parse_metrics

GOOD = "rules:\n- {metric: 'a.json:x', better: higher}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules: []", "rules: [] is not allowed"),
        ("rules: 3", "rules: 3 is not allowed"),
        ("rules: [3]", "rule 1: 3 is not allowed"),
        (GOOD + "- {metric: 'a.json:y'}", "rule 2, better: missing"),
        (GOOD + "- {metric: 'a.json:y', better: up}", "rule 2, better: 'up' is not allowed"),
        (GOOD + "- {metric: 'a:y', better: lower}", "rule 2, metric: 'a:y' is not of the form file.json:dotted.key"),
        (GOOD + "- {metric: 'a.json:y..z', better: lower}", "rule 2, metric: 'a.json:y..z' is not of the form"),
        (GOOD + "- {metric: 'a.json:y', better: lower, tolerence: 1}", "rule 2, tolerence: unknown key (value 1)"),
        (GOOD + "- {metric: 'a.json:y', better: lower, tolerance: {}}", "rule 2, tolerance: nothing is given"),
        (GOOD + "- {metric: 'a.json:y', better: lower, tolerance: {absolute: 1, relative: 1}}", "absolute, relative"),
        (GOOD + "- {metric: 'a.json:y', better: lower, tolerance: {absolute: -1}}", "rule 2, tolerance.absolute: -1"),
        (GOOD + "- {metric: 'a.json:y', better: lower, tolerance: {absolute: .nan}}", "tolerance.absolute: nan"),
        (GOOD + "- {metric: 'a.json:y', better: lower, tolerance: {absolute: '1'}}", "rule 2, tolerance.absolute: '1'"),
        (GOOD + "- {metric: 'a.json:y', better: lower, tolerance: {absolute: 1, of: 'a.json:d'}}", "has no meaning"),
        (GOOD + "- {metric: 'a.json:y', better: lower, maximum: untrained}", "maximum: 'untrained' is not of the"),
        (GOOD + "- {metric: 'a.json:y', better: lower, minimum: 1}", "rule 2: minimum has no meaning with"),
        (GOOD + "- {metric: 'a.json:y', better: higher, minimum: 1, floor: 1}", "floor is an earlier name of minimum"),
        (GOOD + "- {metric: 'a.json:y', better: lower, level: error}", "rule 2, level: 'error' is not allowed"),
        (GOOD + "protocol: {metrics: [x]}", "protocol.metrics: 'x' is not of the form"),
        ("rules: 1\nrules: 2", "not valid YAML"),
        ("rules: [", "not valid YAML"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_rules_is_named(text, message):
    with pytest.raises(InputError) as error:
        parse_policy(text.encode(), "metrics/gate.yaml (1a2b3c)")
    assert str(error.value).startswith("metrics/gate.yaml (1a2b3c): not valid")
    assert message in str(error.value)


def test_what_has_no_keys_is_refused():
    with pytest.raises(InputError, match=r"gate.yaml: holds NoneType, not blocks of keys and values; see docs/gate.md"):
        parse_policy(b"", "gate.yaml")


LONG = "reason: re-drawn test people"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{metric: 'a.json:x', worst: 1}", "entry 1, reason: missing"),
        ("{metric: 'a.json:x', worst: 1, reason: ok}", "entry 1, reason: 'ok' is not allowed"),
        ("{metric: 'a.json:x', worst: 1, reason: '               '}", "entry 1, reason: "),
        (f"{{metric: 'a.json:x', {LONG}}}", "entry 1: give either worst"),
        (f"{{metric: 'a.json:x', worst: 1, gone: true, {LONG}}}", "entry 1: give either worst"),
        (f"{{metric: 'a.json:*', worst: 1, {LONG}}}", "name one metric, not a pattern"),
        (f"{{worst: 1, {LONG}}}", "give either metric"),
        (f"{{protocol: x, metric: 'a.json:x', worst: 1, {LONG}}}", "give either metric"),
        (f"{{protocol: x, worst: 1, {LONG}}}", "belong to a metric"),
        (f"{{metric: 'a.json:x', worst: 1, {LONG}}}\n- {{metric: 'a.json:x', gone: true, {LONG}}}", "entry 2: a.js"),
    ],
)  # fmt: skip
def test_a_mistake_in_an_acceptance_is_named(entry, message):
    with pytest.raises(InputError) as error:
        parse_accepted(f"accepted:\n- {entry}".encode(), "metrics/accepted.yaml")
    assert message in str(error.value)


def test_no_acceptance_is_fine():
    assert parse_accepted(b"accepted: []", "x") == []


def committed_metrics():
    found = {}
    for path in sorted((ROOT / "metrics").glob("*.json")):
        found |= parse_metrics(path.name, path.read_bytes(), path.name)
    return found


def test_every_committed_rule_judges_and_the_committed_metrics_pass():
    policy = parse_policy((ROOT / "metrics" / "gate.yaml").read_bytes(), "gate.yaml")
    found = committed_metrics()
    judged = judge(policy, found, found)
    assert judged.defects == []
    assert [row for row in judged.rows if row.verdict == "fail"] == []


def test_the_committed_rules_look_after_every_headline_number():
    policy = parse_policy((ROOT / "metrics" / "gate.yaml").read_bytes(), "gate.yaml")
    judged = [row.metric for row in judge(policy, committed_metrics(), committed_metrics()).rows]
    for leg in ("none", "lsro", "slsr"):
        for key in ("rank1", "map_trapezoid", "minp"):
            assert f"{leg}.json:single_query.{key}" in judged


def test_an_untrained_network_does_not_pass_the_committed_rules():
    """Every trained number replaced by that of random weights: each rank-1 and mAP fails."""
    policy = parse_policy((ROOT / "metrics" / "gate.yaml").read_bytes(), "gate.yaml")
    base = committed_metrics()
    head = base | {
        name: base["floors.json", "untrained", "single_query", name[-1]] - 1e-3
        for name in base
        if name[-1] in ("rank1", "map_trapezoid") and name[0] in ("none.json", "lsro.json", "slsr.json")
    }
    failed = [row.metric for row in judge(policy, base, head).rows if row.verdict == "fail"]
    assert len(failed) == 3 * 4 * 2
