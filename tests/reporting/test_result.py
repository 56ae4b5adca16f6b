"""What a run prints at its end, and `slsr results` at any time."""

import json

import pytest
from tiny import ROOT
from typer.testing import CliRunner

from slsr.cli.main import app
from slsr.labels.regularizers import committed_names
from slsr.reporting.result import render_result
from slsr.reporting.titles import title_of


def committed(name):
    return json.loads((ROOT / "metrics" / f"{name}.json").read_text())


@pytest.fixture
def runs():
    return {name: committed(name) for name in committed_names()}


def test_the_table_has_floors_and_methods_with_intervals(runs):
    text = render_result(committed("floors"), runs, of_sample=False)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == ["", "rank-1", "mAP (trapezoid)"]
    single = runs["lsro"]["single_query"]
    shown = next(row for row in rows if row[0] == title_of("lsro"))
    for cell, key in zip(shown[1:], ("rank1", "map_trapezoid"), strict=True):
        low, high = single[f"{key}_ci95"]
        assert cell == f"{100 * single[key]:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    assert [row[0] for row in rows[2:]] == [title_of(name) for name in (*committed("floors"), *runs)]


def test_it_says_what_to_do_next_in_lines_that_fit(runs):
    for of_sample in (False, True):
        text = render_result(committed("floors"), runs, of_sample)
        for command in ("metrics/report.md", "dvc plots show --open", "slsr explore"):
            assert command in text
        assert ("git diff metrics" in text) == of_sample, "other metrics than the sample's were never committed"
        assert max(map(len, text.splitlines())) <= 110


def test_the_command_prints_it_and_says_what_is_missing(runs, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(app, ["results"])
    assert done.exit_code == 0, done.output
    assert done.output == render_result(committed("floors"), runs, of_sample=True)
    monkeypatch.chdir(tmp_path)
    missing = CliRunner().invoke(app, ["results"])
    assert "metrics/floors.json: no such file; run `dvc repro`" in str(missing.exception)
