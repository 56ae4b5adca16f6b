"""What a workflow may do: who can start it, what its token may write, that its commands exist."""

import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from git_project import GitProject
from tiny import ROOT

GITHUB = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FILES = [*GITHUB, ROOT / ".gitlab-ci.yml", ROOT / ".pre-commit-config.yaml"]


def parsed(path):
    """YAML, where the key `on` is text and not true."""
    return yaml.load(path.read_text(), Loader=yaml.BaseLoader)


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", GITHUB, ids=lambda path: path.name)
def test_a_token_writes_only_where_a_job_says_so(path):
    workflow = parsed(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())


def test_the_job_that_may_comment_runs_no_code_of_the_change():
    jobs = parsed(ROOT / ".github/workflows/ci.yml")["jobs"]
    writing = {name: job for name, job in jobs.items() if "permissions" in job}
    assert list(writing) == ["comment"]
    assert writing["comment"]["permissions"] == {"pull-requests": "write"}
    assert "head.repo.full_name == github.repository" in writing["comment"]["if"]
    assert not [step for step in writing["comment"]["steps"] if "checkout" in step.get("uses", "")]
    assert not re.search(r"python|slsr -|make ", str(writing["comment"]["steps"]))


@pytest.mark.parametrize("path", GITHUB, ids=lambda path: path.name)
def test_a_machine_of_ours_runs_only_what_one_of_us_starts(path):
    workflow = parsed(path)
    assert "pull_request_target" not in workflow["on"]
    if any("self-hosted" in job["runs-on"] for job in workflow["jobs"].values()):
        assert list(workflow["on"]) == ["workflow_dispatch"]


@pytest.mark.parametrize("path", GITHUB, ids=lambda path: path.name)
def test_nothing_that_a_stranger_writes_is_pasted_into_a_script(path):
    """Branch names and inputs reach a script as environment variables, not as text in it."""
    for step in steps(parsed(path)):
        assert "${{" not in step.get("run", ""), step


@pytest.mark.parametrize("path", GITHUB, ids=lambda path: path.name)
def test_only_githubs_own_actions_are_used(path):
    used = [step["uses"] for step in steps(parsed(path)) if "uses" in step]
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", one) for one in used), used


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_commands_of_ours_exist(path):
    used = set(re.findall(r"(?:-m slsr|bin/slsr|- slsr|entry: slsr) ([a-z-]+)", path.read_text()))
    assert used == {
        ".gitlab-ci.yml": {"fresh", "gate", "remote"},
        "gpu.yml": {"fresh", "remote"},
        ".pre-commit-config.yaml": {"fresh"},
    }.get(path.name, {"fresh", "gate"})
    assert "fresh" in used
    done = subprocess.run([sys.executable, "-m", "slsr", "--help"], capture_output=True, text=True, check=True)
    assert all(f" {command} " in done.stdout for command in used)
    targets = set(re.findall(r"^\s*(?:- )?(?:run: )?make ([a-z]+)$", path.read_text(), re.M))
    assert all(re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M) for target in targets)


def test_hooks_fetch_nothing():
    repos = parsed(ROOT / ".pre-commit-config.yaml")["repos"]
    assert [repo["repo"] for repo in repos] == ["local"]
    hooks = [hook for repo in repos for hook in repo["hooks"]]
    assert {hook["language"] for hook in hooks} == {"system"}
    assert not [hook for hook in hooks if re.search(r"push|pull|fetch|checkout", hook["entry"])]


def scripts():
    for path in GITHUB:
        for number, step in enumerate(steps(parsed(path))):
            if "run" in step:
                yield pytest.param(step["run"], id=f"{path.name}-{number}")
    jobs = parsed(ROOT / ".gitlab-ci.yml")
    for name, job in jobs.items():
        if isinstance(job, dict) and "script" in job:
            yield pytest.param("\n".join(job["script"]), id=f"gitlab-{name}")


@pytest.mark.parametrize("script", list(scripts()))
def test_every_script_is_valid_shell(script):
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def a_project(tmp_path, *values):
    """Whose commits have these values of a metric, with our code, and what ci.yml finds on a runner."""
    project = GitProject.new(tmp_path / "project")
    shutil.copytree(ROOT / "src", project.folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (project.folder / "requirements.txt").write_text("")
    for value in values:
        project.commit(a={"x": value}, gate="rules: [{metric: 'a.json:x', better: higher}]")
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").symlink_to(sys.executable)
    return project


def run_steps(project, tmp_path, against, *names):
    """The scripts of ci.yml as a runner runs them: the last one's exit code, what it said, and the summary."""
    site = ":".join(path for path in sys.path if path.endswith("site-packages"))
    summary = tmp_path / "summary.md"
    environment = os.environ | {"AGAINST": against, "GITHUB_STEP_SUMMARY": str(summary), "RUNNER_TEMP": str(tmp_path)}
    every = {step.get("name"): step for step in steps(parsed(ROOT / ".github/workflows/ci.yml"))}
    for name in names:
        script = every[name]["run"].replace(
            'PYTHONPATH="$RUNNER_TEMP/judge/src"', f'PYTHONPATH="$RUNNER_TEMP/judge/src:{site}"'
        )
        command = ["bash", "--noprofile", "--norc", "-e", "-c", script]
        done = subprocess.run(command, cwd=project.folder, env=environment, capture_output=True, text=True)
    return done.returncode, done.stderr, summary.read_text() if summary.exists() else ""


JUDGE = "The two commands as the change found them, so that it is not judged by its own copy"


@pytest.mark.parametrize(
    ("against", "code", "title"),
    [
        ("HEAD^1", 1, "## Metrics gate: regression"),
        ("0" * 40, 1, "## Metrics gate: regression"),
        ("", 1, "## Metrics gate: regression"),
        ("gone", 2, "## Metrics gate: cannot compare"),
    ],
)
def test_the_step_of_the_gate_leaves_a_table_or_the_reason(tmp_path, against, code, title):
    """In a project whose last commit makes a metric worse."""
    project = a_project(tmp_path, 2, 1)
    returned, said, summary = run_steps(project, tmp_path, against, JUDGE, "slsr gate")
    assert returned == code, said
    assert (project.folder / "gate.md").read_text().startswith(title)
    assert summary.startswith(title)
    assert "slsr: " in said


@pytest.mark.parametrize("against", ["HEAD^1", ""])
def test_a_change_is_not_judged_by_its_own_copy_of_the_gate(tmp_path, against):
    """Nor by modules that it puts beside. Where there is no commit to compare with, its own is all there is."""
    project = a_project(tmp_path, 2)
    judgment = project.folder / "src" / "slsr" / "project" / "gate" / "verdicts.py"
    text = judgment.read_text()
    lenient = text.replace("return len(self.defects) + sum(", "return 0 * sum(")
    assert lenient != text
    judgment.write_text(lenient)
    (project.folder / "slsr").mkdir()
    for name in ("slsr/__init__.py", "slsr/__main__.py", "typer.py", "yaml.py"):
        (project.folder / name).write_text("raise SystemExit(0)\n")
    project.commit(a={"x": 1})
    assert run_steps(project, tmp_path, against, JUDGE, "slsr gate")[0] == (1 if against else 0)


def test_the_table_says_first_that_the_metrics_are_stale(tmp_path):
    """Or a comment could say "passed" of a check that failed."""
    project = a_project(tmp_path, 1, 1)
    code, said, summary = run_steps(project, tmp_path, "HEAD^1", JUDGE, "slsr fresh", "slsr gate")
    assert code == 0, said
    table = (project.folder / "gate.md").read_text()
    assert table.startswith("## Metrics: not those of the code")
    assert "no DVC repository" in table
    assert table.index("not those") < table.index("## Metrics gate: passed")
    assert summary.startswith("## Metrics: not those of the code")


def test_make_works_in_a_folder_of_any_name(tmp_path):
    """A Python that notes what it is asked for stands in for the real one."""
    folder = tmp_path / "My Drive" / "Anna's $HOME (re-ID) \u00fc" / ("long" * 50)
    folder.mkdir(parents=True)
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\necho "$PWD: $*" >> "$NOTES"\n'
        'if [ "$2" = venv ]; then mkdir -p "$3/bin" && cp "$STUB" "$3/bin/python"; fi\n'
    )
    python.chmod(0o755)
    environment = os.environ | {"NOTES": str(tmp_path / "notes"), "STUB": str(python)}
    subprocess.run(["make", "repro", f"PYTHON={python}"], cwd=folder, env=environment, check=True, capture_output=True)
    noted = (tmp_path / "notes").read_text().splitlines()
    assert {line.rpartition(": ")[0] for line in noted} == {str(folder)}
    asked = [line.rpartition(": ")[2] for line in noted]
    assert asked[-3:] == ["-m dvc pull --quiet data.dvc", "-m dvc repro", "-m slsr results"]
    assert any(line.startswith("-m uv pip sync") for line in asked)
