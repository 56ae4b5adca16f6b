"""The one reader of dvc.lock."""

import pytest
from ruamel.yaml import YAML
from tiny import ROOT

from slsr.errors import InputError
from slsr.project.lock import locked_parameters, other_inputs, parse_lock

STAGE = "stages: {a: {cmd: x, params: {params.yaml: {rate: %s}}}}"


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-05", 1e-05), ("1e-3", 0.001), (".5", 0.5), ("-3", -3), ("yes", "yes"), ("true", True), ("null", None),
     ("1:30", "1:30"), ("'012'", "012"), (".inf", float("inf"))],
)  # fmt: skip
def test_values_are_read_as_dvc_reads_them(text, value):
    """YAML 1.2, in which 1e-05 is a number and `yes` is text."""
    found = locked_parameters(parse_lock((STAGE % text).encode(), "dvc.lock")["a"])["rate"]
    assert (found, type(found)) == (value, type(value))
    assert YAML(typ="safe", pure=True).load(text) == value


def test_the_committed_lock_is_read_as_ruamel_reads_it():
    content = (ROOT / "dvc.lock").read_bytes()
    assert parse_lock(content, "dvc.lock") == YAML(typ="safe").load(content.decode())["stages"]
    assert [
        found for name in parse_lock(content, "dvc.lock") for found in other_inputs(parse_lock(content, ""), name)
    ] == []


@pytest.mark.parametrize(
    "text", ["[1]", "stages: [1]", "stages: {a: 1}", "stages: {a: {outs: [{md5: 1}]}}", "stages: {", "\xff"]
)
def test_what_is_no_lock_is_named(text):
    with pytest.raises(InputError, match=r"dvc.lock \(abc\): not a lock file of DVC"):
        parse_lock(text.encode("latin-1"), "dvc.lock (abc)")


def test_nothing_has_run_yet():
    assert parse_lock(b"", "dvc.lock") == {}
