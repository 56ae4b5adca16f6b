"""What a colleague gets from a remote, without running it: over SSH, S3 and a plain folder."""

import pytest
from projects import PREPARED, colleague, commit, contents, forget, matching, outs_of, set_share

pytestmark = pytest.mark.remotes


def test_a_colleague_restores_every_expensive_stage_and_runs_only_the_report(tiny_run, store, tmp_path):
    store.configure(tiny_run)
    commit(tiny_run)
    tiny_run.run("dvc", "push")
    tiny_run.run("dvc", "push", "--run-cache")
    other = colleague(tiny_run, tmp_path / "other", store)
    assert other.stages_run("--pull") == []
    assert contents(other) == contents(tiny_run)

    # Nor when dvc.lock does not say what came out: then the records of runs do.
    forget(other)
    (other.folder / "dvc.lock").unlink()
    assert other.stages_run("--pull") == ["report"]
    assert contents(other) == contents(tiny_run)
    assert other.run("git", "status", "--porcelain", "metrics").stdout == ""


def test_what_was_pushed_is_all_there_and_pull_brings_it(stand_in, store, tmp_path):
    store.configure(stand_in)
    commit(stand_in)
    stand_in.run("dvc", "push")
    assert set(outs_of(stand_in).values()) <= store.objects()
    assert "in sync" in stand_in.run("dvc", "status", "--cloud").stdout
    other = colleague(stand_in, tmp_path / "other", store)
    other.run("dvc", "pull")
    assert contents(other) == contents(stand_in)


def test_an_experiment_goes_to_a_colleague_with_its_outs(stand_in, store, tmp_path):
    store.configure(stand_in)
    commit(stand_in)
    other = colleague(stand_in, tmp_path / "other", store)
    (stand_in.folder / "artifacts/train/slsr/model.safetensors").unlink()
    (stand_in.folder / "artifacts/train/slsr/model.safetensors").write_bytes(b"a better model")
    stand_in.run("dvc", "commit", "--force", "--quiet")
    stand_in.run("dvc", "exp", "save", "--name", "better")
    stand_in.run("git", "init", "--quiet", "--bare", str(tmp_path / "team.git"))
    for project in (stand_in, other):
        project.run("git", "remote", "add", "team", str(tmp_path / "team.git"))
    stand_in.run("git", "push", "--quiet", "team", "HEAD:main")
    stand_in.run("dvc", "exp", "push", "team", "better")
    assert outs_of(stand_in)["artifacts/train/slsr/model.safetensors"] in store.objects()

    other.run("dvc", "pull", "data.dvc")
    other.run("dvc", "exp", "pull", "team", "better")
    other.run("dvc", "exp", "apply", "better")
    assert (other.folder / "artifacts/train/slsr/model.safetensors").read_bytes() == b"a better model"


def test_without_the_image_tables_a_colleague_with_the_archive_runs_prepare_alone(tiny_run, remotes, tmp_path):
    """`share: {prepared: private}`, the archive at hand, the rest from the remote."""
    store = remotes("folder")
    store.configure(tiny_run)
    set_share(tiny_run, "private", None, None)
    commit(tiny_run)
    try:
        tiny_run.run("dvc", "push")
        assert not store.objects() & matching(tiny_run, PREPARED)
        other = colleague(tiny_run, tmp_path / "other", store)
        assert other.stages_run("--pull") == ["prepare"]
        assert contents(other) == contents(tiny_run)
    finally:
        set_share(tiny_run, None, None, None)
        commit(tiny_run)
