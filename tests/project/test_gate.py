"""The gate in real git repositories: every exit code, and every way round it."""

import json
import re
from functools import partial
from pathlib import Path

import pytest
from git_project import GitProject
from tiny import ROOT

GATE = """
protocol: {metrics: ["*.json:**.queries"], locked: [artifacts/query.parquet]}
rules:
- {metric: "slsr.json:*.rank1", better: higher, tolerance: {deviations: 2}, minimum: 0.3}
- {metric: "slsr.json:loss", better: lower, tolerance: {relative: 0.1}, level: warn}
"""
GOOD = {"single": {"rank1": 0.8, "rank1_ci95": [0.72, 0.88], "queries": 125}, "loss": 1.0}


def metrics(rank1=0.8, queries=125, loss=1.0):
    return {"single": {"rank1": rank1, "rank1_ci95": [0.72, 0.88], "queries": queries}, "loss": loss}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """On a branch that has left main, where main has metrics and rules."""
    made = GitProject.new(tmp_path / "project")
    made.commit(slsr=GOOD, gate=GATE)
    made.git("checkout", "--quiet", "-b", "change")
    monkeypatch.chdir(made.folder)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    return made


@pytest.fixture
def gate(project, run_slsr):
    """Run `slsr gate`: exit code, stdout, stderr."""
    return partial(run_slsr, "gate")


def test_no_change_passes(project, gate):
    project.commit()
    code, out, err = gate()
    assert (code, err) == (0, "")
    assert out.startswith("Metrics gate: passed\n")
    assert "where HEAD leaves main" in out


@pytest.mark.parametrize("committed", [True, False])
def test_a_drop_beyond_the_tolerance_fails_committed_or_not(project, gate, committed):
    (project.commit if committed else project.write)(slsr=metrics(rank1=0.7))
    code, out, err = gate()
    assert code == 1
    assert re.search(r"^fail +slsr\.json:single\.rank1 +0\.8 +0\.7 ", out, re.MULTILINE)
    assert "1 of 2 metrics fail" in err
    assert "docs/gate.md" in err


def test_a_drop_within_the_tolerance_passes(project, gate):
    project.commit(slsr=metrics(rank1=0.72))  # two deviations are 0.0816
    code, out, _ = gate()
    assert code == 0
    assert "1 worse, within tolerance" in " ".join(out.split())


def test_a_warning_passes_and_is_shown(project, gate):
    project.commit(slsr=metrics(loss=2.0))
    code, out, _ = gate()
    assert code == 0
    assert re.search(r"^warn +slsr\.json:loss ", out, re.MULTILINE)


@pytest.mark.parametrize("text", [json.dumps(metrics()).replace("0.8,", "NaN,", 1),
                                  json.dumps(metrics()).replace("0.8,", "null,", 1),
                                  '{"loss": 1.0, "single": {"queries": 125}}'])  # fmt: skip
def test_a_value_that_is_broken_or_gone_fails(project, gate, text):
    project.commit(slsr=text)
    code, out, _ = gate()
    assert code == 1
    assert "vanished" in out or "not a finite number" in out


def test_a_vanished_file_fails(project, gate):
    project.git("rm", "--quiet", "metrics/slsr.json")
    code, out, _ = gate()
    assert code == 1
    assert "vanished" in out


def test_a_change_cannot_loosen_the_rules_it_is_judged_by(project, gate):
    project.commit(slsr=metrics(rank1=0.5), gate=GATE.replace("deviations: 2", "deviations: 200"))
    code, out, _ = gate()
    assert code == 1
    assert "this change edits it; the rules of" in out
    assert '+- {metric: "slsr.json:*.rank1", better: higher, tolerance: {deviations: 200}, minimum: 0.3}' in out
    assert "slsr.json:single.rank1" in out


def test_a_change_cannot_remove_the_rules(project, gate):
    project.git("rm", "--quiet", "metrics/gate.yaml")
    project.commit(slsr=metrics(rank1=0.5))
    code, out, _ = gate()
    assert code == 1
    assert "this change removes it" in out


def test_a_change_that_no_later_change_could_be_compared_with_fails(project, gate):
    """It would pass itself, and leave main without a gate."""
    without = {"single": {"rank1": 0.8, "rank1_ci95": None, "queries": 125}, "loss": 1.0}
    project.commit(slsr=without)
    code, out, _ = gate()
    assert code == 1
    assert "as the base of the next change: rule 1 of gate.yaml: slsr.json:single.rank1" in out
    project.commit(slsr=without, gate=GATE.replace("deviations: 2", "absolute: 0.1"))
    assert gate()[0] == 0, "the next change is judged by the edited rules"


def test_a_metrics_file_that_is_a_link_is_read_as_git_keeps_it(project, gate):
    """The working tree and the commit give one answer."""
    metrics = project.folder / "metrics"
    (metrics / "slsr.json").rename(project.folder / "elsewhere.json")
    (metrics / "slsr.json").symlink_to("../elsewhere.json")
    answers = [gate()[0]]
    project.commit()
    answers += [gate()[0], gate("--rev", "HEAD")[0]]
    assert answers == [2, 2, 2]


def test_edited_rules_must_be_valid_and_match(project, gate):
    project.commit(gate=GATE.replace("slsr.json:loss", "slsr.json:losss"))
    code, out, _ = gate()
    assert code == 1
    assert "rule 2 of the edited metrics/gate.yaml: `slsr.json:losss` matches no metric" in " ".join(out.split())
    project.commit(gate=GATE.replace("higher", "up"))
    code, _, err = gate()
    assert code == 2
    assert "metrics/gate.yaml (the working tree): not valid" in err
    assert "rule 1, better: 'up'" in err


def test_the_change_that_brings_the_rules_is_judged_by_them(project, gate):
    project.git("checkout", "--quiet", "--orphan", "other")
    project.git("rm", "--quiet", "-rf", ".")
    base = project.commit(slsr=GOOD)
    code, _, err = gate("--against", base)
    assert code == 2
    assert "neither" in err
    project.commit(gate=GATE)
    code, out, _ = gate("--against", base)
    assert code == 0
    assert "this change adds it" in out
    project.commit(slsr=metrics(rank1=0.5))
    assert gate("--against", base)[0] == 1


ACCEPTED = """
accepted:
- {metric: "slsr.json:single.rank1", worst: 0.65, reason: "half of the channels, for twice the speed"}
"""


def test_an_accepted_drop_passes_with_its_reason_and_a_worse_one_fails(project, gate):
    project.commit(slsr=metrics(rank1=0.66), accepted=ACCEPTED)
    code, out, _ = gate()
    assert code == 0
    assert "half of the channels, for twice the speed" in " ".join(out.split())
    project.commit(slsr=metrics(rank1=0.64))
    code, out, _ = gate()
    assert code == 1
    assert "worse than accepted (0.65)" in out


def test_an_acceptance_is_spent_with_the_change_that_brought_it(project, gate):
    project.commit(slsr=metrics(rank1=0.66), accepted=ACCEPTED)
    project.commit(slsr=metrics(rank1=0.8))
    project.git("checkout", "--quiet", "main")
    project.git("merge", "--quiet", "--ff-only", "change")
    project.git("checkout", "--quiet", "-b", "later")
    project.commit(slsr=metrics(rank1=0.66))
    code, out, _ = gate()
    assert code == 1
    assert "the entry of slsr.json:single.rank1 is no longer needed" in out


def test_an_unused_acceptance_is_said(project, gate):
    project.commit(accepted=ACCEPTED)
    code, out, _ = gate()
    assert code == 0
    assert "covers nothing" in out


def test_other_queries_cannot_be_compared_unless_told(project, gate):
    project.commit(slsr=metrics(rank1=0.9, queries=126))
    code, out, err = gate()
    assert (code, out) == (2, "")
    assert "slsr.json:single.queries: 125 in" in err
    assert "--despite-protocol" in err
    code, out, _ = gate("--despite-protocol")
    assert code == 0
    assert "another protocol: slsr.json:single.queries" in out
    project.commit(accepted="accepted: [{protocol: 'slsr.json:single.queries', reason: one more query was labeled}]")
    code, out, _ = gate()
    assert code == 0
    assert "one more query was labeled" in " ".join(out.split())


def test_dropping_the_number_of_queries_does_not_lift_the_check(project, gate):
    fewer = metrics(rank1=0.9, queries=10)
    del fewer["single"]["queries"]
    project.commit(slsr=json.dumps(fewer))
    code, _, err = gate()
    assert code == 2
    assert "slsr.json:single.queries: 125 in" in err
    assert "gone" in err


LOCK = """
schema: '2.0'
stages: {prepare: {cmd: x, outs: [{path: artifacts/query.parquet, md5: MD5}]}}
"""


def test_other_test_images_cannot_be_compared(project, gate):
    (project.folder / "dvc.lock").write_text(LOCK.replace("MD5", "1"))
    base = project.commit()
    (project.folder / "dvc.lock").write_text(LOCK.replace("MD5", "2"))
    project.commit()
    code, _, err = gate("--against", base)
    assert code == 2
    assert "artifacts/query.parquet: 1 in" in err
    (project.folder / "dvc.lock").write_text("stages: [1]")
    assert gate("--against", base)[0] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--against", "nothing"], "nothing: no such commit in this clone"),
        (["--rev", "main"], "say with --against"),
        (["--rev", "nothing"], "nothing: no such commit"),
    ],
)
def test_what_cannot_be_compared_is_exit_2(project, gate, arguments, message):
    project.commit(slsr=metrics(rank1=0.1))
    code, _, err = gate(*arguments)
    assert code == 2
    assert message in err


def test_a_metrics_file_that_is_not_json_is_exit_2(project, gate):
    project.commit(slsr="{")
    code, _, err = gate()
    assert code == 2
    assert "metrics/slsr.json (the working tree): not valid JSON" in err


def test_a_commit_is_judged_without_the_edits_after_it(project, gate):
    project.commit(slsr=metrics(rank1=0.85))
    project.write(slsr=metrics(rank1=0.1))
    assert gate()[0] == 1
    assert gate("--rev", "HEAD")[0] == 0


def test_markdown_json_and_the_step_summary(project, gate, monkeypatch, tmp_path):
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    project.commit(slsr=metrics(rank1=0.5))
    code, out, _ = gate("--json", str(tmp_path / "gate.json"), "--markdown", str(tmp_path / "gate.md"))
    assert code == 1
    written = (tmp_path / "gate.md").read_text()
    assert summary.read_text() == "before\n" + written
    assert "<details>" in written
    assert "<details>" not in out
    found = json.loads((tmp_path / "gate.json").read_text())
    assert found["passed"] is False
    assert [row["verdict"] for row in found["metrics"]] == ["same", "fail"]
    assert found["metrics"][1]["change"] == pytest.approx(-0.3)


def tables(text):
    return [
        [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()]
        for block in text.split("\n\n")
        if block.startswith("|")
    ]


def test_the_table_is_markdown_of_one_width(project, gate):
    project.commit(slsr=metrics(rank1=0.66, loss=3), accepted=ACCEPTED.replace("half of", "a | b: half of"))
    gate("--markdown", "gate.md")
    (table,) = tables(Path("gate.md").read_text())
    assert {len(line) for line in table} == {8}
    assert len({tuple(map(len, line)) for line in table}) == 1
    assert all(set(cell.strip()) <= set("-:") for cell in table[1])


def marked(text, name):
    """The block of docs/gate.md that follows a mark."""
    return re.search(rf"<!-- {name} -->\n```\w*\n(.*?)```", text, re.S).group(1)


def ranking(rank1, rank1_ci95, map_trapezoid, map_trapezoid_ci95):
    return {"rank1": rank1, "rank1_ci95": rank1_ci95, "map_trapezoid": map_trapezoid,
            "map_trapezoid_ci95": map_trapezoid_ci95, "queries": 125}  # fmt: skip


def test_the_page_shows_what_the_gate_really_prints(project, gate):
    """docs/gate.md: its rules, its acceptance, and the table of its failing change."""
    page = (ROOT / "docs" / "gate.md").read_text()
    project.git("checkout", "--quiet", "main")
    before = {
        "single_query": ranking(0.776, [0.704, 0.848], 0.541, [0.497, 0.586]),
        "single_query_rerank": ranking(0.776, [0.704, 0.848], 0.641, [0.59, 0.69]),
    }
    floors = {"untrained": {"single_query": {"rank1": 0.32, "queries": 125}}}
    base = project.commit(slsr=before, floors=floors, gate=marked(page, "rules"))
    after = {
        "single_query": before["single_query"] | {"rank1": 0.688, "map_trapezoid": 0.503},
        "single_query_rerank": ranking(0.736, [0.66, 0.81], 0.655, [0.6, 0.7]),
    }
    project.write(slsr=after)
    code, out, _ = gate("--against", base)
    assert code == 1
    assert out.replace(project.git("rev-parse", "--short", base), "1a2b3c4").strip() == marked(page, "table").strip()
    project.write(accepted=marked(page, "acceptance"))
    assert gate("--against", base)[0] == 0
