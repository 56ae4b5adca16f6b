"""A cache on a disk that several clones share: docs/scale.md, as far as one machine goes."""

import shutil
import stat

import pytest
from projects import colleague, commit, contents, files_below, outs_of

pytestmark = pytest.mark.remotes


def share_cache(project, folder) -> None:
    """As docs/scale.md says."""
    project.run("dvc", "cache", "dir", "--local", str(folder))
    project.run("dvc", "config", "--local", "cache.shared", "group")
    project.run("dvc", "config", "--local", "cache.type", "reflink,hardlink,symlink,copy")


@pytest.fixture
def shared(stand_in, tmp_path):
    """A project whose cache has moved to a folder of the group's."""
    folder = tmp_path / "shared-cache"
    shutil.move(stand_in.folder / ".dvc" / "cache", folder)
    stand_in.run("find", str(folder), "-type", "d", "-exec", "chmod", "g+rws", "{}", "+")
    share_cache(stand_in, folder)
    stand_in.run("dvc", "checkout", "--relink")
    commit(stand_in)
    return stand_in, folder


def test_a_second_clone_has_everything_without_a_remote(shared, tmp_path):
    project, folder = shared
    other = colleague(project, tmp_path / "other")
    share_cache(other, folder)
    other.run("dvc", "checkout")
    assert contents(other) == contents(project)
    assert not (other.folder / ".dvc" / "cache").exists()


def test_the_files_of_two_clones_lie_on_the_disk_once(shared, tmp_path):
    """By reflink where the file system has it (nothing to see), else by hard link (one file)."""
    project, folder = shared
    other = colleague(project, tmp_path / "other")
    share_cache(other, folder)
    other.run("dvc", "checkout")
    if not can_reflink(folder, tmp_path):
        for path in outs_of(project):
            assert (project.folder / path).samefile(other.folder / path), path


def can_reflink(cache, workspace) -> bool:
    from slsr.project.doctor.clone import working_links

    return "reflink" in working_links(cache, workspace)


def test_what_one_adds_the_group_may_use_and_nobody_may_change(shared):
    project, folder = shared
    path = project.folder / "artifacts/train/slsr/model.safetensors"
    path.unlink()
    path.write_bytes(b"a new model")
    project.run("dvc", "commit", "--force", "--quiet")
    oid = outs_of(project)["artifacts/train/slsr/model.safetensors"]
    entry = folder / "files" / "md5" / oid[:2] / oid[2:]
    assert entry.read_bytes() == b"a new model"
    assert stat.S_IMODE(entry.stat().st_mode) == 0o444
    for parent in (entry.parent, entry.parent.parent):
        assert parent.stat().st_mode & stat.S_IWGRP, f"{parent} is not writable for the group"


def test_collecting_garbage_asks_for_every_clone(shared, tmp_path):
    """`dvc gc -w` in one clone would take away what another uses: `--projects` names the others."""
    project, folder = shared
    other = colleague(project, tmp_path / "other")
    share_cache(other, folder)
    other.run("dvc", "checkout")
    path = other.folder / "artifacts/train/slsr/model.safetensors"
    path.unlink()
    path.write_bytes(b"only in the other clone")
    other.run("dvc", "commit", "--force", "--quiet")
    before = {one.name for one in files_below(folder / "files")}
    project.run("dvc", "gc", "--workspace", "--force", "--projects", str(other.folder))
    assert set(outs_of(other).values()) <= {one.parent.name + one.name for one in files_below(folder / "files")}
    project.run("dvc", "gc", "--workspace", "--force")
    assert {one.name for one in files_below(folder / "files")} < before
    assert outs_of(other)["artifacts/train/slsr/model.safetensors"] not in {
        one.parent.name + one.name for one in files_below(folder / "files")
    }
