"""What a remote lacks although DVC takes it for sent is named and sent: over SSH, S3 and a plain folder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from projects import colleague, commit, contents, forget, outs_of, set_share
from test_faults import whole

pytestmark = pytest.mark.remotes

# `dvc push`, killed by itself at the worst moment: a folder's list of files is noted as what to push, the first of its
# files is not. What was noted until then is on the disk: SQLite's script that looks up a key ends the transaction.
PUSH_THAT_DIES = """
import os, signal, sys
from sqltrie import SQLiteTrie

write = SQLiteTrie.__setitem__


def write_or_die(trie, key, value):
    if key[0] == "push" and "".join(key[-2:]) in sys.argv[1:]:
        trie._traverse(key)
        os.kill(os.getpid(), signal.SIGKILL)
    write(trie, key, value)


SQLiteTrie.__setitem__ = write_or_die
from dvc.cli import main

main(["push"])
"""
GENERATORS = ("artifacts/gan/cluster_0.safetensors", "artifacts/gan/preview_0.png")


def push_that_dies(project) -> None:
    oids = [outs_of(project)[path] for path in GENERATORS]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-c", PUSH_THAT_DIES, *oids]
    done = subprocess.run(command, cwd=project.folder, env=environment, capture_output=True)
    assert done.returncode == -signal.SIGKILL


def pushed_without_generators(project) -> None:
    """The command again, until DVC says that all is there."""
    push_that_dies(project)
    project.run("dvc", "push")
    project.run("dvc", "push")
    assert "in sync" in project.run("dvc", "status", "--cloud").stdout


def test_files_that_dvc_takes_for_sent_are_named_and_sent(stand_in, store, tmp_path):
    store.configure(stand_in)
    commit(stand_in)
    wanted = outs_of(stand_in)
    pushed_without_generators(stand_in)
    assert set(wanted.values()) - whole(store) == {wanted[path] for path in GENERATORS}

    done = stand_in.slsr("remote")
    assert done.returncode == 1
    named = [line.split()[0] for line in done.stdout.splitlines()[1:]]
    assert named == sorted(GENERATORS)
    assert done.stdout.count("DVC takes it for sent") == 2
    assert "Traceback" not in done.stderr
    examined = stand_in.slsr("doctor").stdout
    assert "never arrived" in examined
    assert "-> slsr remote store --send" in examined

    done = stand_in.slsr("remote", "--send")
    assert done.returncode == 0, done.stderr
    assert set(wanted.values()) <= whole(store)
    assert "never arrived" not in stand_in.slsr("doctor").stdout
    other = colleague(stand_in, tmp_path / "other", store)
    other.run("dvc", "pull")
    assert contents(other) == contents(stand_in)
    done = other.slsr("remote")
    assert done.returncode == 0
    assert f"all {len(store.objects())} objects are there" in done.stdout


def test_sent_at_once_after_the_kill_nothing_is_taken_for_sent(stand_in, remotes):
    """As docs/sharing.md says: before the next push, which then knows of everything."""
    store = remotes("folder")
    store.configure(stand_in)
    commit(stand_in)
    push_that_dies(stand_in)
    assert stand_in.slsr("remote", "--send").returncode == 0
    assert set(outs_of(stand_in).values()) <= whole(store)
    assert "Everything is up to date" in stand_in.run("dvc", "push").stdout


def test_what_was_never_pushed_is_lacking_but_not_taken_for_sent(stand_in, remotes):
    store = remotes("folder")
    store.configure(stand_in)
    commit(stand_in)
    stand_in.run("dvc", "push", "train@none")
    done = stand_in.slsr("remote")
    assert done.returncode == 1
    assert "taken" not in done.stdout
    named = {line.split()[0] for line in done.stdout.splitlines()[1:]}
    folders = {
        "artifacts/gan",
        "artifacts/encoder/curves",
        "artifacts/train/lsro/curves",
        "artifacts/train/slsr/curves",
    }
    assert named == {path for path in outs_of(stand_in) if not path.startswith("artifacts/train/none/")} | folders
    assert "never arrived" not in stand_in.slsr("doctor").stdout


def test_what_this_clone_lacks_too_is_said_and_not_sent(stand_in, remotes, tmp_path):
    store = remotes("folder")
    store.configure(stand_in)
    commit(stand_in)
    pushed_without_generators(stand_in)
    other = colleague(stand_in, tmp_path / "other", store)
    done = other.slsr("remote", "--send")
    assert done.returncode == 1
    assert done.stdout.count("nor in this clone's cache") == 2
    assert "from a clone that has them" in done.stderr


def test_another_commit_is_asked_for_by_its_name(stand_in, remotes):
    store = remotes("folder")
    store.configure(stand_in)
    commit(stand_in)
    stand_in.run("git", "tag", "before")
    stand_in.run("dvc", "push")
    model = stand_in.folder / "artifacts/train/slsr/model.safetensors"
    model.unlink()
    model.write_bytes(b"a better model")
    stand_in.run("dvc", "commit", "--force", "--quiet")
    assert stand_in.slsr("remote", "--rev", "before").returncode == 0
    done = stand_in.slsr("remote")
    assert done.returncode == 1
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == ["artifacts/train/slsr/model.safetensors"]
    done = stand_in.slsr("remote", "--rev", "no-such-commit")
    assert done.returncode == 2
    assert "no-such-commit" in done.stderr
    assert "Traceback" not in done.stderr


def test_private_images_are_neither_asked_for_nor_sent(stand_in, remotes):
    store = remotes("folder")
    store.configure(stand_in)
    set_share(stand_in, "private", "private", "private")
    commit(stand_in)
    done = stand_in.slsr("remote", "--send")
    assert done.returncode == 0, done.stderr
    sent = {path for path, oid in outs_of(stand_in).items() if oid in store.objects()}
    assert "artifacts/train/slsr/model.safetensors" in sent
    assert not [
        path for path in sent if any(part in path for part in ("prepared/train", "/gan/", "sheet", "generated/images"))
    ]


def test_a_remote_that_does_not_answer_or_does_not_exist(stand_in, remotes, tmp_path):
    commit(stand_in)
    done = stand_in.slsr("remote")
    assert done.returncode == 2
    assert "no remote specified" in done.stderr
    done = stand_in.slsr("remote", "nowhere")
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    stand_in.run("dvc", "remote", "add", "--default", "store", "ssh://127.0.0.1/x")
    stand_in.run("dvc", "remote", "modify", "store", "port", "1")
    done = stand_in.slsr("remote")
    assert done.returncode == 2
    assert "store, ssh://" in done.stderr
    assert "Traceback" not in done.stderr
    store = remotes("folder", "read-only")
    store.configure(stand_in)
    store.folder.parent.mkdir(parents=True)
    store.folder.write_text("a file where the folder should be")
    done = stand_in.slsr("remote", "--send")
    assert done.returncode == 2, done.stdout
    assert "Traceback" not in done.stderr
    forget(stand_in)
    assert not (tmp_path / "x").exists()
