"""`slsr fresh` against `dvc status`, in a small repository of real git and real DVC, for every way to go stale."""

import contextlib
import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from git_project import IDENTITY, GitProject

from slsr.errors import InputError
from slsr.project.fresh import describe, freshness
from slsr.project.remotes import holdings
from slsr.project.revisions import Revision

DVC_YAML = """
stages:
  prepare:
    cmd: mkdir -p artifacts && cat data/a.txt code.py > artifacts/p.txt
    deps: [data/a.txt, code.py]
    params: [seed, block]
    outs: [artifacts/p.txt]
  fold:
    cmd: mkdir -p artifacts/f && cp artifacts/p.txt artifacts/f/x
    deps: [artifacts/p.txt]
    outs: [artifacts/f]
  report:
    cmd: mkdir -p metrics && echo 1 > metrics/m.json && cat artifacts/f/x > metrics/report.md
    deps: [artifacts/f, report.py]
    metrics: [metrics/m.json: {cache: false}]
    outs: [metrics/report.md: {cache: false}]
"""


def dvc(folder: Path, *arguments: str) -> None:
    """DVC in this process."""
    from dvc.cli import main

    assert main(["--cd", str(folder), *arguments, "--quiet"]) == 0


def status(folder: Path) -> dict:
    from dvc.repo import Repo

    with contextlib.chdir(folder), Repo() as repo:  # it names stages relative to the current folder
        return repo.status()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The repository after a run, committed."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in IDENTITY.items():
            patch.setenv(name, value)
        project = GitProject.new(tmp_path_factory.mktemp("fresh") / "project")
        folder = project.folder
        dvc(folder, "init")
        files = {"dvc.yaml": DVC_YAML, "code.py": "x = 1\n", "report.py": "y = 1\n",
                 "params.yaml": "seed: 1\nblock: {a: 1, b: {c: 2}}\nother: 1\n",
                 ".gitignore": "/artifacts\n/data\n", "data/a.txt": "a\n"}  # fmt: skip
        for name, text in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        dvc(folder, "add", "data")
        dvc(folder, "repro")
        project.commit()
    return folder


@pytest.fixture
def folder(made, tmp_path):
    """A copy with everything that the run left behind."""
    return Path(shutil.copytree(made, tmp_path / "project", symlinks=True))


def edit(folder, name, old, new):
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))


def change_data(folder):
    (folder / "data" / "a.txt").write_text("b\n")
    dvc(folder, "add", "data")


def rename_data(folder):
    (folder / "data" / "a.txt").rename(folder / "data" / "b.txt")
    dvc(folder, "add", "data")


def drop_from_lock(folder):
    dvc(folder, "remove", "fold")
    (folder / "dvc.yaml").write_text(DVC_YAML)


MUTATIONS = {
    "code": (lambda at: edit(at, "code.py", "1", "2"), {"prepare": "code.py: changed since the run"}),
    "a comment": (lambda at: edit(at, "report.py", "y", "# why\ny"), {"report": "report.py: changed since the run"}),
    "line endings": (
        lambda at: (at / "code.py").write_bytes(b"x = 1\r\n"),
        {"prepare": "code.py: changed since the run in its line endings alone: git turned LF into CRLF; "
                    "`git config core.autocrlf false`, then check out again"},
    ),
    "a parameter": (
        lambda at: edit(at, "params.yaml", "seed: 1", "seed: 2"),
        {"prepare": "params.yaml: seed is 2, and was 1 in the run"},
    ),
    "a nested parameter": (
        lambda at: edit(at, "params.yaml", "c: 2", "c: 3"),
        {"prepare": "params.yaml: block.b.c is 3, and was 2 in the run"},
    ),
    "a new key in a block": (
        lambda at: edit(at, "params.yaml", "{a: 1,", "{a: 1, z: 5,"),
        {"prepare": "params.yaml: block.z is 5, and was absent in the run"},
    ),
    "a lost parameter": (
        lambda at: edit(at, "params.yaml", "seed: 1\n", ""),
        {"prepare": "params.yaml: seed is absent, and was 1 in the run"},
    ),
    "another parameter listed": (
        lambda at: edit(at, "dvc.yaml", "[seed, block]", "[seed, block, other]"),
        {"prepare": "params.yaml: other is a new parameter, which dvc.lock does not have"},
    ),
    "a metric edited by hand": (
        lambda at: edit(at, "metrics/m.json", "1", "2"),
        {"report": "metrics/m.json: not what the run wrote (edited, or from another run)"},
    ),
    "a report lost": (
        lambda at: (at / "metrics/report.md").unlink(),
        {"report": "metrics/report.md: missing; the run wrote it"},
    ),
    "data": (change_data, {"prepare": "data/a.txt: changed since the run, by data.dvc"}),
    "data renamed": (rename_data, {"prepare": "data/a.txt: changed since the run, by data.dvc"}),
    "a command": (
        lambda at: edit(at, "dvc.yaml", "echo 1", "echo 1 "),
        {"report": "its command is not the one in dvc.lock"},
    ),
    "a dependency listed": (
        lambda at: edit(at, "dvc.yaml", "[artifacts/p.txt]\n    outs", "[artifacts/p.txt, code.py]\n    outs"),
        {"fold": "code.py: a new dependency, which dvc.lock does not have"},
    ),
    "code lost": (
        lambda at: (at / "code.py").unlink(),
        {"prepare": "code.py: no such file, and no stage writes it; commit it, or `dvc add` it"},
    ),
    "an output listed": (
        lambda at: edit(at, "dvc.yaml", "outs: [metrics/report", "outs: [more.md: {cache: false}, metrics/report"),
        {"report": "more.md: a new output, which dvc.lock does not have"},
    ),
    "a stage without entry": (drop_from_lock, {"fold": "is not in dvc.lock: never run, or its entry was lost"}),
    "nothing": (lambda at: None, {}),
    "a parameter that no stage reads": (lambda at: edit(at, "params.yaml", "other: 1", "other: 2"), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTATIONS)
def test_fresh_says_what_dvc_status_says_and_why(folder, name):
    mutate, expected = MUTATIONS[name]
    mutate(folder)
    found = freshness(folder)
    assert {finding.stage: finding.reason for finding in found.stale} == expected
    assert found.unknown == []
    assert sorted(stage for stage in status(folder) if not stage.endswith(".dvc")) == sorted(expected)


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_answer_is_the_same_where_nothing_was_pulled(folder, name, tmp_path):
    """The mutation committed and cloned, without data, artifacts or cache."""
    mutate, expected = MUTATIONS[name]
    mutate(folder)
    GitProject(folder).commit()
    GitProject(folder).git("clone", "--quiet", str(folder), str(tmp_path / "clone"))
    assert not (tmp_path / "clone" / "data").exists()
    found = freshness(tmp_path / "clone")
    assert {finding.stage: finding.reason for finding in found.stale} == expected
    assert found.unknown == []
    assert {finding.stage: finding.reason for finding in freshness(folder, "HEAD").stale} == expected


def test_what_stale_stages_feed_is_named(folder):
    edit(folder, "code.py", "1", "2")
    assert freshness(folder).downstream == ["fold", "report"]
    assert "and what depends on them: fold, report" in describe(freshness(folder))


def test_an_output_exchanged_in_the_lock_is_found(folder):
    """The entry of the stage that writes differs from that of the stage that reads."""
    lock = yaml.safe_load((folder / "dvc.lock").read_text())
    lock["stages"]["fold"]["deps"][0]["md5"] = "0" * 32
    (folder / "dvc.lock").write_text(yaml.safe_dump(lock))
    found = freshness(folder)
    assert [(finding.stage, finding.reason) for finding in found.stale] == [
        ("fold", "artifacts/p.txt: not the one that prepare records")
    ]
    assert "fold" in status(folder)


def test_edits_are_said_and_a_commit_is_judged_without_them(folder):
    edit(folder, "code.py", "1", "2")
    found = freshness(folder)
    assert found.stale
    assert any(notice.startswith("1 of the project's files differ from HEAD (code.py)") for notice in found.notices)
    assert freshness(folder, "HEAD").stale == []


def test_a_frozen_stage_is_stale_all_the_same(folder):
    """DVC passes over it; the metrics are not those of the code for all that."""
    edit(folder, "dvc.yaml", "  report:\n", "  report:\n    frozen: true\n")
    assert freshness(folder).stale == []
    edit(folder, "report.py", "1", "2")
    assert "report" not in status(folder)
    (finding,) = freshness(folder).stale
    assert finding.reason == "report.py: changed since the run (the stage is frozen: `dvc unfreeze` it first)"


def test_a_file_of_a_removed_stage_is_stale_and_an_entry_left_behind_is_said(folder):
    text = (folder / "dvc.yaml").read_text()
    (folder / "dvc.yaml").write_text(text[: text.index("  report:")])
    found = freshness(folder)
    assert [finding.reason for finding in found.stale] == [
        f"metrics/{name}: in git, but no stage writes it any more; `git rm` it" for name in ("m.json", "report.md")
    ]
    assert "dvc.lock has report, which dvc.yaml no longer has; remove the entry" in found.notices


@pytest.mark.parametrize("name", ["metrics/invented.json", "metrics/below/invented.json"])
def test_a_metrics_file_that_no_stage_writes_is_stale(folder, name):
    """The gate would read it."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("{}")
    GitProject(folder).commit()
    (finding,) = freshness(folder).stale
    assert finding.stage == "metrics/"
    assert finding.reason == f"{name}: no stage writes it; `git rm` it"


def test_a_metric_that_stops_being_an_out_of_its_stage_is_stale(folder):
    """Otherwise leaving it out of dvc.yaml and dvc.lock would let anybody edit it."""
    edit(folder, "dvc.yaml", "    metrics: [metrics/m.json: {cache: false}]\n", "")
    lock = yaml.safe_load((folder / "dvc.lock").read_text())
    outs = lock["stages"]["report"]["outs"]
    lock["stages"]["report"]["outs"] = [out for out in outs if out["path"] != "metrics/m.json"]
    (folder / "dvc.lock").write_text(yaml.safe_dump(lock))
    (folder / "metrics" / "m.json").write_text("2\n")
    assert [finding.stage for finding in freshness(folder).stale] == ["metrics/"]


def test_a_metric_in_git_that_dvc_is_said_to_cache_is_stale(folder):
    """Its bytes would be compared by nobody: DVC looks at its cache, and git at its own."""
    edit(folder, "dvc.yaml", "[metrics/m.json: {cache: false}]", "[metrics/m.json]")
    (finding,) = freshness(folder).stale
    assert finding.reason.startswith("metrics/m.json: in git, while DVC caches it; set `cache: false`")


def test_a_file_in_git_below_a_folder_that_dvc_caches_is_stale(folder):
    GitProject(folder).git("add", "--force", "artifacts/f/x")
    (reason,) = reasons(folder)
    assert reason.startswith("artifacts/f/x: in git, while DVC caches it")


@pytest.mark.parametrize(("old", "new", "what"), [
    (", report.py]", "]", "report.py: dvc.lock has this dependency, and dvc.yaml no longer"),
    ("params: [seed, block]", "params: [seed]", "params.yaml: dvc.lock has the parameter block, and dvc.yaml"),
    ("    params: [seed, block]\n", "", "params.yaml: dvc.lock has the parameter seed, and dvc.yaml"),
])  # fmt: skip
def test_what_dvc_yaml_no_longer_names_is_stale_until_the_stage_has_run_without_it(folder, old, new, what):
    """DVC itself takes such a stage for unchanged, so that edits of what was left out would go unseen."""
    edit(folder, "dvc.yaml", old, new)
    stage = "report" if "report.py" in what else "prepare"
    assert stage not in status(folder)
    assert any(reason.startswith(what) for reason in reasons(folder))
    dvc(folder, "repro", "--force", "--single-item", stage)
    assert reasons(folder) == []


def reasons(folder):
    return [finding.reason for finding in freshness(folder).stale]


def test_code_that_is_not_in_git_is_said(folder):
    GitProject(folder).git("rm", "--quiet", "--cached", "code.py")
    assert "code.py is not in git, so others do not have it; `git add` it" in freshness(folder).notices
    (folder / "code.py").unlink()
    assert [finding.stage for finding in freshness(folder).stale] == ["prepare"]


def test_other_files_of_stages_count_where_git_keeps_what_they_write(folder):
    (folder / "studies").mkdir()
    study = "stages: {study: {cmd: echo 1 > out.txt, deps: [../code.py], outs: [OUT]}}"
    (folder / "studies" / "dvc.yaml").write_text(study.replace("OUT", "out.txt"))
    assert freshness(folder).stale == []
    (folder / "studies" / "dvc.yaml").write_text(study.replace("OUT", "out.txt: {cache: false}"))
    assert [finding.stage for finding in freshness(folder).stale] == ["studies/dvc.yaml:study"]


def test_several_files_of_data_need_their_list(folder, tmp_path):
    """With the list at hand (where the data were added) it is used; in a bare clone nothing can be said."""
    (folder / "data" / "more.txt").write_text("m\n")
    dvc(folder, "add", "data")
    assert freshness(folder).stale == []
    (folder / "data" / "a.txt").write_text("b\n")
    dvc(folder, "add", "data")
    assert [finding.reason for finding in freshness(folder).stale] == ["data/a.txt: changed since the run, by data.dvc"]
    GitProject(folder).commit()
    assert [finding.reason for finding in freshness(folder, "HEAD").stale] == [
        "data/a.txt: changed since the run, by data.dvc"
    ]
    GitProject(folder).git("clone", "--quiet", str(folder), str(tmp_path / "clone"))
    (reason,) = freshness(tmp_path / "clone").unknown
    assert reason.startswith("data/a.txt: data.dvc records the hash of 2 files together, and the list of them is not")


def test_a_remote_inside_the_repository_has_the_list(folder, tmp_path):
    (folder / "data" / "more.txt").write_text("m\n")
    dvc(folder, "remote", "add", "seed", str(folder / ".dvcstore"))
    dvc(folder, "add", "data")
    edit(folder, "data.dvc", "  path: data", "  path: data\n  remote: seed")
    dvc(folder, "push", "--remote", "seed", "data.dvc")
    GitProject(folder).commit()
    GitProject(folder).git("clone", "--quiet", str(folder), str(tmp_path / "clone"))
    found = freshness(tmp_path / "clone")
    assert (found.stale, found.unknown) == ([], [])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("dvc.yaml", "stages: [", "DVC failed"),
        ("dvc.yaml", "stages: {a: {cmd: x, depz: [y]}}", "DVC failed"),
        ("dvc.lock", "<<<<<<< HEAD\n", "DVC failed"),
        ("params.yaml", "a: [", "DVC failed"),
        ("dvc.yaml", "stages: {}", "dvc.yaml has no stage"),
    ],
)
def test_what_cannot_be_read_is_named(folder, name, content, message):
    (folder / name).write_text(content)
    if name == "dvc.yaml":
        (folder / "dvc.lock").unlink()
    with pytest.raises(InputError, match=message):
        freshness(folder)


def test_outside_of_a_project(tmp_path):
    with pytest.raises(InputError, match="no DVC repository"):
        freshness(tmp_path)


@pytest.mark.parametrize(
    ("mutate", "code"),
    [(lambda at: None, 0), (lambda at: edit(at, "metrics/m.json", "1", "2"), 1),
     (lambda at: (at / "dvc.yaml").write_text("stages: ["), 2)],
)  # fmt: skip
def test_the_command_ends_with_the_answer(folder, mutate, code, monkeypatch, run_slsr):
    mutate(folder)
    monkeypatch.chdir(folder)
    ended, out, err = run_slsr("fresh")
    assert ended == code
    assert ("fresh: the metrics are those of this code" in out) == (code == 0)
    assert ("metrics/m.json: not what the run wrote" in out) == (code == 1)
    assert err.startswith("slsr: ") == (code > 0)


@pytest.fixture
def room(folder):
    """The stage `report` depends on a folder of code."""
    for name, text in {"room/a.py": "a = 1\n", "room/deep/b.py": "b = 1\n", ".dvcignore": "__pycache__/\n"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    edit(folder, "dvc.yaml", "[artifacts/f, report.py]", "[artifacts/f, report.py, room]")
    dvc(folder, "repro")
    GitProject(folder).commit()
    return folder


@pytest.mark.parametrize("rev", [None, "HEAD"])
def test_the_hash_of_a_folder_of_code_is_the_one_of_dvc(room, rev):
    """In the workspace and in a commit."""
    recorded = yaml.safe_load((room / "dvc.lock").read_text())["stages"]["report"]["deps"]
    (dep,) = (dep for dep in recorded if dep["path"] == "room")
    revision = Revision(room, "x", rev and GitProject(room).git("rev-parse", rev))
    assert dep["md5"].endswith(".dir")
    assert revision.digest("room") == dep["md5"]
    assert reasons(room) == []
    (room / "room" / "deep" / "b.py").write_text("b = 2\n")
    GitProject(room).commit()
    assert [one.reason for one in freshness(room, rev).stale] == ["room: changed since the run"]
    assert revision.digest("room") == dep["md5"] or rev is None


def test_files_below_a_folder_of_code_that_git_does_not_track_are_said(room):
    """DVC hashes them, git does not have them; what DVC ignores does not count."""
    (room / "room" / "__pycache__").mkdir()
    (room / "room" / "__pycache__" / "a.pyc").write_text("x")
    assert reasons(room) == []
    (room / "room" / "new.py").write_text("n = 1\n")
    found = freshness(room)
    assert [one.reason for one in found.stale] == ["room: changed since the run"]
    assert "report" in status(room)
    assert found.notices == ["room/new.py is not in git, so others do not have it; `git add` it"]
    dvc(room, "repro")
    assert reasons(room) == []
    GitProject(room).git("add", "dvc.lock")
    GitProject(room).git("commit", "--quiet", "--message", "x")
    assert [one.reason for one in freshness(room, "HEAD").stale] == ["room: changed since the run"]


def test_a_clone_that_git_refuses_to_read_is_not_called_fresh(folder, monkeypatch, run_slsr):
    """It belongs to another user, in a container or on a mounted disk."""
    (folder / "metrics" / "old.json").write_text("{}")
    GitProject(folder).commit()
    assert [one.stage for one in freshness(folder).stale] == ["metrics/"]
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.chdir(folder)
    for arguments in ((), ("--rev", "HEAD")):
        code, out, err = run_slsr("fresh", *arguments)
        assert (code, out) == (2, "")
        assert "detected dubious ownership" in err
        assert "git config --global --add safe.directory" in err


def test_outside_of_git_nothing_can_be_said(folder):
    shutil.rmtree(folder / ".git")
    with pytest.raises(InputError, match="not a git repository"):
        freshness(folder)


def test_nothing_is_written_into_the_repository(folder):
    def files():
        return {
            str(path): path.stat().st_mtime_ns
            for path in folder.rglob("*")
            if path.is_file() and ".git" not in path.parts and "tmp" not in path.parts
        }

    before = files()
    freshness(folder)
    freshness(folder, "HEAD")
    assert files() == before
    assert json.loads((folder / "metrics" / "m.json").read_text()) == 1


def test_a_lost_index_is_not_a_project_without_files(folder):
    (folder / ".git" / "index").unlink()
    with pytest.raises(InputError, match=r"git tracks no file here .workspace., .*`git reset`"):
        freshness(folder)


def test_a_commit_without_its_dvc_lock_ends_instead_of_waiting(folder):
    project = GitProject(folder)
    name = project.git("rev-parse", "HEAD:dvc.lock")
    (folder / ".git" / "objects" / name[:2] / name[2:]).unlink()
    with pytest.raises(InputError, match=f"git cat-file failed: .*{name}"):
        freshness(folder, "HEAD")


def test_a_folder_of_code_that_cannot_be_listed_is_named(room, monkeypatch):
    """DVC passes over it, so that its files would be called removed."""
    (room / "room" / "below").mkdir()
    listed = os.scandir

    def refuse(path):
        if str(path).endswith("below"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="below"):
        freshness(room)


def test_a_remote_with_a_damaged_list_of_files_is_not_called_complete(tmp_path):
    """Nobody can say which files belong there, so they cannot all be there."""
    root, remote = tmp_path / "project", tmp_path / "remote"
    GitProject.new(root)
    (root / "f").mkdir()
    for name in "ab":
        (root / "f" / name).write_text(name)
    dvc(root, "init")
    dvc(root, "remote", "add", "--default", "o", str(remote))
    dvc(root, "add", "f")
    dvc(root, "push")
    assert (holdings(root).asked, holdings(root).lacking) == (3, [])
    for store in (remote, root / ".dvc" / "cache"):
        (listing,) = store.rglob("*.dir")
        listing.chmod(0o644)
        listing.write_bytes(listing.read_bytes()[:20])
    with pytest.raises(InputError, match=r"f: the list of its files, .*\.dir, is damaged in "):
        holdings(root)
