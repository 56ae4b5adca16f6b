"""Verdicts on single metrics, against exact fractions and by hand."""

import itertools
import json
import math
import statistics
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from slsr.errors import InputError
from slsr.project.gate.rules import Acceptance, Policy, Protocol
from slsr.project.gate.verdicts import (
    defects_as_base,
    judge,
    matches,
    parse_metrics,
    parse_name,
    protocol_differences,
    shown,
)


def flat(**files):
    found = {}
    for name, value in files.items():
        found |= parse_metrics(f"{name}.json", json.dumps(value).encode(), name)
    return found


def rule(metric="a.json:x", better="higher", **other):
    return {"metric": metric, "better": better, **other}


def limited(better, value):
    return {"minimum" if better == "higher" else "maximum": value}


def policy(*rules, protocol=None):
    return Policy.model_validate({"rules": list(rules), "protocol": protocol or {}})


def verdict_of(base, head, *rules, accepted=()):
    """The verdict on a.json:x."""
    found = judge(policy(*rules), flat(a=base), flat(a=head), accepted)
    return next(row.verdict for row in found.rows if row.metric == "a.json:x")


decimals = st.integers(-10_000, 10_000).map(lambda n: n / 100)
amounts = st.integers(0, 1000).map(lambda n: n / 100)


@given(decimals, decimals, amounts, st.sampled_from(["absolute", "relative", "deviations", "seed_deviations"]),
       st.sampled_from(["higher", "lower"]), amounts)  # fmt: skip
def test_a_drop_is_judged_as_exact_fractions_judge_it(base, head, amount, kind, better, deviation):
    exact = Fraction(str(base)), Fraction(str(head)), Fraction(str(amount))
    unit = {"absolute": Fraction(1), "relative": abs(exact[0])}.get(kind, Fraction(str(deviation)))
    loss = exact[0] - exact[1] if better == "higher" else exact[1] - exact[0]
    expected = "fail" if loss > exact[2] * unit else "worse" if loss > 0 else "same" if loss == 0 else "better"
    tolerance = {kind: amount} | ({"of": "a.json:d"} if "deviations" in kind else {})
    found = verdict_of({"x": base, "d": deviation}, {"x": head}, rule(better=better, tolerance=tolerance))
    assert found == expected


@given(decimals, decimals, decimals, st.sampled_from(["higher", "lower"]))
def test_directions_mirror_each_other_and_the_limit_too(base, head, limit, better):
    other = {"higher": "lower", "lower": "higher"}[better]
    tolerance = {"absolute": 1}
    found = verdict_of({"x": base}, {"x": head}, rule(better=better, tolerance=tolerance, **limited(better, limit)))
    mirrored = verdict_of({"x": -base}, {"x": -head}, rule(better=other, tolerance=tolerance, **limited(other, -limit)))
    assert found == mirrored


@given(decimals, decimals, amounts, amounts)
def test_a_wider_tolerance_never_fails_what_a_narrower_one_passes(base, head, first, second):
    narrow, wide = sorted([first, second])
    failed = [
        verdict_of({"x": base}, {"x": head}, rule(tolerance={"absolute": size})) == "fail" for size in (narrow, wide)
    ]
    assert failed != [False, True]


def test_without_a_tolerance_nothing_may_be_lost():
    assert verdict_of({"x": 0.5}, {"x": 0.5}, rule()) == "same"
    assert verdict_of({"x": 0.5}, {"x": 0.4999}, rule()) == "fail"


def test_rounding_is_not_a_regression():
    assert verdict_of({"x": 0.8}, {"x": 0.79}, rule(tolerance={"absolute": 0.01})) == "worse"
    assert 0.8 - 0.79 > 0.01


@given(st.lists(decimals, min_size=2, max_size=6), decimals, amounts)
def test_seed_deviation_is_the_sample_deviation_of_the_values_beside(values, head, times):
    spread = math.sqrt(sum((v - sum(values) / len(values)) ** 2 for v in values) / (len(values) - 1))
    base = statistics.mean(values)
    assume(abs(base - head - times * spread) > 1e-6)
    found = verdict_of({"x": base, "x_seeds": values}, {"x": head}, rule(tolerance={"seed_deviations": times}))
    assert (found == "fail") == (base - head > times * spread)


@pytest.mark.parametrize("beside", [{"x_ci95": [0.4, 0.6]}, {"x_deviation": 0.1 / 1.959964}])
def test_a_bootstrap_deviation_is_half_the_interval_by_the_normal_quantile(beside):
    rules = rule(tolerance={"deviations": 1.959964})
    assert verdict_of({"x": 0.5, **beside}, {"x": 0.4001}, rules) == "worse"
    assert verdict_of({"x": 0.5, **beside}, {"x": 0.3999}, rules) == "fail"


@pytest.mark.parametrize("key", ["value", "difference", "mean"])
@pytest.mark.parametrize("stated", [{"deviation": 0.1}, {"ci95": [0.0, 0.3919928]}])
def test_a_deviation_may_stand_beside_a_value(key, stated):
    base, rules = flat(a={"q": {key: 1.0, **stated}}), policy(rule(f"a.json:q.{key}", tolerance={"deviations": 2}))
    for head, verdict in ((0.81, "worse"), (0.79, "fail")):
        assert judge(rules, base, flat(a={"q": {key: head}})).rows[0].verdict == verdict


@pytest.mark.parametrize("stated", [{}, {"x_ci95": None}, {"x_ci95": [0.1]}, {"x_ci95": [0.6, 0.4]},
                                    {"x_ci95": [0.1, 0.2, 0.3]}, {"x_deviation": -1}])  # fmt: skip
def test_a_deviation_that_is_not_stated_cannot_be_counted_in(stated):
    with pytest.raises(InputError, match=r"rule 1 of gate.yaml: a.json:x: .* no usable a.json:x_ci95 or a.json:x_dev"):
        verdict_of({"x": 0.5, **stated}, {"x": 0.4}, rule(tolerance={"deviations": 1}))


def test_the_deviation_is_the_bases_so_a_change_cannot_widen_its_own_tolerance():
    base, head = {"x": 0.5, "x_ci95": [0.49, 0.51]}, {"x": 0.4, "x_ci95": [0.0, 1.0]}
    assert verdict_of(base, head, rule(tolerance={"deviations": 2})) == "fail"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, True, "0.9", [], {}, [0.9], 10**400])
@pytest.mark.parametrize("level", ["fail", "warn"])
def test_what_is_not_a_finite_number_fails_at_either_level(value, level):
    assert verdict_of({"x": 0.5}, {"x": value}, rule(tolerance={"absolute": 1000}, level=level)) == "fail"


@pytest.mark.parametrize("level", ["fail", "warn"])
def test_a_vanished_metric_fails_at_either_level(level):
    found = judge(policy(rule("*.json:x", level=level)), flat(a={"x": 1}, b={"x": 1}), flat(b={"x": 1}))
    assert [(row.metric, row.verdict, row.note) for row in found.rows] == [
        ("a.json:x", "fail", "vanished"),
        ("b.json:x", "same", ""),
    ]


def test_a_new_metric_informs_but_its_minimum_holds():
    assert verdict_of({"y": 1}, {"x": 1}, rule()) == "new"
    assert verdict_of({"x": None}, {"x": 1}, rule()) == "new"
    assert verdict_of({"y": 1}, {"x": 1}, rule(minimum=2)) == "fail"
    assert verdict_of({"y": 1}, {"x": 1}, rule(minimum=2, level="warn")) == "warn"


def test_a_minimum_may_be_another_metric_of_the_head():
    rules = rule(minimum="a.json:untrained", tolerance={"absolute": 9})
    assert verdict_of({"x": 5, "untrained": 0}, {"x": 4, "untrained": 4}, rules) == "worse"
    assert verdict_of({"x": 5, "untrained": 0}, {"x": 4, "untrained": 4.1}, rules) == "fail"
    assert verdict_of({"x": 5, "untrained": 0}, {"x": 6}, rules) == "fail"


@pytest.mark.parametrize(("better", "sign"), [("higher", 1), ("lower", -1)])
def test_of_a_limit_on_both_sides_the_stricter_holds(better, sign):
    """Or a change could loosen the limit that it is judged by."""
    rules = rule(better=better, **limited(better, "a.json:untrained"), tolerance={"absolute": 9})
    base = {"x": 5 * sign, "untrained": 4 * sign}
    assert verdict_of(base, {"x": 3 * sign, "untrained": 0}, rules) == "fail"
    assert verdict_of(base, {"x": 4 * sign, "untrained": 0}, rules) == "worse"
    assert verdict_of(base, {"x": 4.5 * sign, "untrained": 4.6 * sign}, rules) == "fail"
    (row,) = judge(policy(rules), flat(a=base), flat(a={"x": 3 * sign, "untrained": 0})).rows
    assert row.note.endswith(f"{4 * sign} (a.json:untrained of the base)")


def test_the_minimum_of_other_data_does_not_hold():
    """Where a change of the protocol is accepted, the base's minimum is of what is no longer measured."""
    base, head = {"x": 0.8, "untrained": 0.3}, {"x": 0.2, "untrained": 0.1}
    rules = rule(minimum="a.json:untrained", tolerance={"absolute": 9})
    verdicts = [judge(policy(rules), flat(a=base), flat(a=head), (), same).rows[0].verdict for same in (True, False)]
    assert verdicts == ["fail", "worse"]


def test_what_no_later_change_could_be_compared_with_is_a_defect():
    rules = policy(rule("a.json:x", tolerance={"deviations": 2}), rule("a.json:y", tolerance={"absolute": 1}))
    assert defects_as_base(rules, flat(a={"x": 1.0, "x_ci95": [0.9, 1.1], "y": 2.0})) == []
    assert defects_as_base(rules, flat(a={"y": 2.0})) == []
    (defect,) = defects_as_base(rules, flat(a={"x": 1.0, "x_ci95": None, "y": 2.0}))
    assert "a.json:x: its tolerance counts in deviations" in defect


def test_a_rule_that_judges_nothing_is_a_defect():
    found = judge(policy(rule(), rule("a.json:z"), rule("b.json:**")), flat(a={"x": 1}), flat(a={"x": 1}))
    assert found.defects == [
        "rule 2: `a.json:z` matches no metric; fix or remove it",
        "rule 3: `b.json:**` matches no metric; fix or remove it",
    ]
    assert found.failures == 2
    hidden = judge(policy(rule(), rule("a.json:*")), flat(a={"x": 1}), flat(a={"x": 1}))
    assert hidden.defects == ["rule 1: `a.json:x` later rules judge all that it matches; fix or remove it"]


def test_the_last_rule_of_a_level_judges_and_levels_are_apart():
    strict, lax = rule("a.json:*", tolerance={"absolute": 0}), rule("a.json:x", tolerance={"absolute": 1})
    base, head = {"x": 1, "y": 1}, {"x": 0.5, "y": 0.5}
    found = judge(policy(strict, lax), flat(a=base), flat(a=head))
    assert [(row.metric, row.rule, row.verdict) for row in found.rows] == [
        ("a.json:x", 2, "worse"),
        ("a.json:y", 1, "fail"),
    ]
    assert verdict_of({"x": 1}, {"x": 0.5}, strict | {"level": "warn"}, lax) == "warn"


def test_opposite_directions_for_one_metric_are_refused():
    with pytest.raises(InputError, match=r"rules 1 and 2 of .*: opposite directions for a"):
        verdict_of({"x": 1}, {"x": 1}, rule(), rule(better="lower", level="warn"))


def accept(metric="a.json:x", **entry):
    return Acceptance(metric=metric, reason="a reason that says something", **entry)


def test_an_acceptance_covers_its_drop_and_no_worse_one():
    entry = [accept(worst=0.7)]
    assert verdict_of({"x": 0.8}, {"x": 0.75}, rule(), accepted=entry) == "accepted"
    assert verdict_of({"x": 0.8}, {"x": 0.7}, rule(), accepted=entry) == "accepted"
    assert verdict_of({"x": 0.8}, {"x": 0.69}, rule(), accepted=entry) == "fail"
    assert verdict_of({"x": 0.2}, {"x": 0.4}, rule(better="lower"), accepted=[accept(worst=0.3)]) == "fail"
    assert verdict_of({"x": 0.2}, {"x": 0.3}, rule(better="lower"), accepted=[accept(worst=0.3)]) == "accepted"
    assert verdict_of({"x": 0.8}, {"x": math.nan}, rule(), accepted=entry) == "fail"
    assert verdict_of({"x": 0.8}, {"y": 1}, rule(), accepted=entry) == "fail"
    assert verdict_of({"x": 0.8}, {"y": 1}, rule(), accepted=[accept(gone=True)]) == "accepted"


def test_floor_is_read_as_the_earlier_name_of_either_limit():
    assert verdict_of({"x": 5}, {"x": 4}, rule(floor=4.5, tolerance={"absolute": 9})) == "fail"
    assert verdict_of({"x": 4}, {"x": 5}, rule(floor=4.5, better="lower", tolerance={"absolute": 9})) == "fail"


def test_a_minimum_is_not_accepted_away():
    assert verdict_of({"x": 0.8}, {"x": 0.75}, rule(minimum=0.78), accepted=[accept(worst=0.7)]) == "fail"


def test_an_acceptance_that_covers_nothing_is_said():
    found = judge(policy(rule()), flat(a={"x": 1}), flat(a={"x": 1}), [accept(worst=0), accept("a.json:q", gone=True)])
    assert [notice.split()[4] for notice in found.notices] == ["a.json:x", "a.json:q"]


KEYS = ["a", "ab", "b"]


def naive_match(pattern, keys):
    """Without regular expressions: `**` takes any number of keys, `*` any part of one."""
    if not pattern:
        return not keys
    if pattern[0] == "**":
        return any(naive_match(pattern[1:], keys[taken:]) for taken in range(len(keys) + 1))
    return bool(keys) and naive_part(pattern[0], keys[0]) and naive_match(pattern[1:], keys[1:])


def naive_part(pattern, key):
    if "*" not in pattern:
        return pattern == key
    start, _, rest = pattern.partition("*")
    return key.startswith(start) and any(naive_part(rest, key[at:]) for at in range(len(start), len(key) + 1))


@given(st.lists(st.sampled_from(["**", "*", "a", "a*", "*b", "b"]), min_size=1, max_size=4))
def test_patterns_match_as_a_naive_reading_of_them(pattern):
    for length in range(1, 4):
        for keys in itertools.product(KEYS, repeat=length):
            assert matches(f"f.json:{'.'.join(pattern)}", ("f.json", *keys)) == naive_match(pattern, list(keys))


def test_a_pattern_is_no_regular_expression_and_stays_in_its_part():
    assert matches("*.json:x", ("slsr.json", "x"))
    assert not matches("*.json:x", ("sub/slsr.json", "x"))
    assert not matches("a.json:x", ("abjson", "x"))
    assert not matches("a.json:*", ("a.json", "x", "y"))
    assert matches("a.json:*", ("a.json", "Thumbs.db"))


def test_leaves_are_named_by_their_keys():
    found = flat(a={"b": [{"c": 1}, 2], "d": {}, "e": None})
    assert {shown(name): value for name, value in found.items()} == {
        "a.json:b.0.c": 1,
        "a.json:b.1": 2,
        "a.json:d": {},
        "a.json:e": None,
    }
    assert parse_name("a.json:b.0.c") in found


@pytest.mark.parametrize("text", ["{", '{"a": 1, "a": 2}', ""])
def test_a_metrics_file_that_is_not_json_is_named(text):
    with pytest.raises(InputError, match=r"metrics/a.json \(abc\): not valid JSON"):
        parse_metrics("a.json", text.encode(), "metrics/a.json (abc)")


def test_a_changed_protocol_is_found():
    protocol = Protocol(metrics=["*.json:**.queries", "a.json:dataset"], locked=["query.parquet", "gallery.parquet"])
    base = flat(a={"dataset": "m", "s": {"queries": 125}}, b={"s": {"queries": 125}})
    locked = {"query.parquet": "1", "gallery.parquet": "2"}
    assert protocol_differences(protocol, base, base | flat(c={"s": {"queries": 7}}), locked, locked) == {}
    head = flat(a={"s": {"queries": 126}})
    assert protocol_differences(protocol, base, head, locked, {"query.parquet": "3"}) == {
        "a.json:s.queries": ("125", "126"),
        "a.json:dataset": ("m", "gone"),
        "query.parquet": ("1", "3"),
        "gallery.parquet": ("2", "gone"),
    }
