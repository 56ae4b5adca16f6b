"""Which commit a change is compared with, in the situations that a clone and a CI bring."""

import json

import pytest
from git_project import GitProject

from slsr.errors import InputError
from slsr.project.git import commit_of, default_base, edited_files, file_at, find_commit, listed_files


@pytest.fixture
def project(tmp_path):
    made = GitProject.new(tmp_path / "project")
    made.first = made.commit(slsr={"rank1": 1})
    made.second = made.commit(slsr={"rank1": 2})
    return made


def clone(project, tmp_path, *options):
    project.git("clone", "--quiet", *options, f"file://{project.folder}", str(tmp_path / "clone"))
    return GitProject(tmp_path / "clone")


def test_a_branch_is_compared_with_where_it_left_main(project):
    project.git("checkout", "--quiet", "-b", "change")
    project.commit(slsr={"rank1": 3})
    project.git("checkout", "--quiet", "main")
    project.commit(slsr={"rank1": 4})
    project.git("checkout", "--quiet", "change")
    assert default_base(project.folder).commit == project.second


def test_the_merge_commit_of_a_pull_request_is_compared_with_main(project):
    project.git("checkout", "--quiet", "-b", "change")
    project.commit(slsr={"rank1": 3})
    project.git("checkout", "--quiet", "main")
    tip = project.commit(lsro={"rank1": 4})
    project.git("checkout", "--quiet", "--detach")
    project.git("merge", "--quiet", "--no-ff", "--no-edit", "change")
    assert default_base(project.folder).commit == tip


def test_on_main_itself_it_is_the_commit_before(project):
    assert default_base(project.folder).commit == project.first
    assert "before HEAD" in default_base(project.folder).why


def test_on_main_a_merge_is_compared_with_main_before_it(project):
    project.git("checkout", "--quiet", "-b", "change")
    project.commit(slsr={"rank1": 3})
    project.git("checkout", "--quiet", "main")
    project.git("merge", "--quiet", "--no-ff", "--no-edit", "change")
    assert default_base(project.folder).commit == project.second


def test_on_main_edited_metrics_are_compared_with_head(project):
    project.write(slsr={"rank1": 3})
    assert default_base(project.folder).commit == project.second
    assert default_base(project.folder, edits=False).commit == project.first


def test_the_remotes_main_is_asked_first(project, tmp_path):
    copy = clone(project, tmp_path)
    copy.commit(slsr={"rank1": 3})
    copy.commit(slsr={"rank1": 4})
    assert default_base(copy.folder).commit == project.second


def test_a_shallow_clone_says_how_to_deepen_it(project, tmp_path):
    copy = clone(project, tmp_path, "--depth", "1")
    for ask in (lambda: default_base(copy.folder), lambda: commit_of(copy.folder, project.first)):
        with pytest.raises(InputError, match=r"shallow; `git fetch --unshallow` .*fetch-depth: 0, GIT_DEPTH: 0"):
            ask()


def test_a_shallow_pull_request_without_a_common_commit_too(project, tmp_path):
    project.git("checkout", "--quiet", "-b", "change")
    project.commit(slsr={"rank1": 3})
    project.git("checkout", "--quiet", "main")
    copy = clone(project, tmp_path, "--depth", "1", "--no-single-branch", "--branch", "change")
    with pytest.raises(InputError, match="no commit in common here; this clone is shallow"):
        default_base(copy.folder)


def test_no_main_no_earlier_commit_no_repository(project, tmp_path):
    project.git("branch", "--move", "trunk")
    with pytest.raises(InputError, match="main: no branch main"):
        default_base(project.folder)
    alone = GitProject.new(tmp_path / "alone")
    with pytest.raises(InputError, match="HEAD: no such commit"):
        default_base(alone.folder)
    alone.commit(slsr={"rank1": 1})
    with pytest.raises(InputError, match="no commit before it here"):
        default_base(alone.folder)
    (tmp_path / "plain").mkdir()
    with pytest.raises(InputError, match="not a git repository"):
        default_base(tmp_path / "plain")


def test_a_name_that_looks_like_an_option_is_no_commit(project):
    with pytest.raises(InputError, match="--all: no such commit"):
        commit_of(project.folder, "--all")


def test_files_are_those_of_the_commit_and_below_the_folder(project):
    project.commit(lsro={"rank1": 1})
    assert listed_files(project.folder, project.second) == {"metrics/slsr.json"}
    assert listed_files(project.folder) == {"metrics/slsr.json", "metrics/lsro.json"}
    assert listed_files(project.folder / "metrics", project.second) == {"slsr.json"}
    assert file_at(project.folder, project.first, "metrics/slsr.json") == b'{"rank1": 1}'
    assert file_at(project.folder / "metrics", project.first, "slsr.json") == b'{"rank1": 1}'
    assert file_at(project.folder, project.first, "metrics/lsro.json") is None


def objects_apart(project):
    """Keep every object in a file of its own, so that a test can take one away."""
    return lambda name: project.folder / ".git" / "objects" / name[:2] / name[2:]


def test_a_commit_that_is_named_and_missing_is_not_called_unknown(project):
    objects_apart(project)(project.second).unlink()
    for name in ("HEAD", "main"):
        with pytest.raises(InputError, match=f"{name}: names {project.second}, which is no commit or is missing"):
            find_commit(project.folder, name)
    assert find_commit(project.folder, "nowhere") is None
    assert find_commit(project.folder, "0" * 40) is None


@pytest.mark.parametrize(
    ("path", "ask"),
    [
        (".git/index", listed_files),
        (".git/index", edited_files),
        (".git/HEAD", listed_files),
        (".git/refs/heads/main", default_base),
        (".git/refs/heads/other", default_base),
    ],
)
def test_what_is_damaged_is_not_empty(project, path, ask):
    project.git("branch", "other")
    (project.folder / path).write_text("x")
    with pytest.raises(InputError, match=r"git .* failed: |HEAD: no such commit; .*git fsck"):
        ask(project.folder)


def test_a_content_that_is_missing_is_an_error(project):
    content = project.git("rev-parse", "HEAD:metrics/slsr.json")
    objects_apart(project)(content).unlink()
    with pytest.raises(InputError, match=f"git cat-file failed: .*{content}"):
        file_at(project.folder, project.second, "metrics/slsr.json")


def test_a_partial_clone_fetches_what_it_lacks(project, tmp_path):
    project.git("config", "uploadpack.allowFilter", "true")
    copy = clone(project, tmp_path, "--filter=blob:none", "--no-checkout")
    assert json.loads(file_at(copy.folder, project.first, "metrics/slsr.json")) == {"rank1": 1}
    copy.git("remote", "set-url", "origin", str(tmp_path / "away"))
    with pytest.raises(InputError, match=r"git cat-file failed: .*away"):
        file_at(copy.folder, project.second, "metrics/slsr.json")


def test_a_folder_of_a_larger_repository_has_paths_of_its_own(tmp_path):
    whole = GitProject.new(tmp_path / "whole")
    part = GitProject(whole.folder / "a part")
    part.folder.mkdir()
    (whole.folder / "other.txt").write_text("1")
    head = part.commit(slsr={"rank1": 1})
    (whole.folder / "other.txt").write_text("2")
    part.write(slsr={"rank1": 2})
    assert listed_files(part.folder) == listed_files(part.folder, head) == {"metrics/slsr.json"}
    assert edited_files(part.folder) == edited_files(part.folder, "metrics") == ["metrics/slsr.json"]


def test_traces_of_git_are_no_failure(project, monkeypatch):
    monkeypatch.setenv("GIT_TRACE", "1")
    monkeypatch.setenv("LANGUAGE", "de")
    assert find_commit(project.folder, "nowhere") is None
    assert default_base(project.folder).commit == project.first


def test_git_that_cannot_be_started_and_a_folder_that_is_absent(project, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"absent: no such folder"):
        listed_files(tmp_path / "absent")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(InputError, match="git: no such command; install git"):
        listed_files(project.folder)
    (tmp_path / "bin" / "git").mkdir(parents=True)
    with pytest.raises(InputError, match="git: cannot be started"):
        listed_files(project.folder)
