"""What a remote lacks although DVC takes it for sent is named and sent: over SSH, S3 and a plain folder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.repo import Repo
from pipeline.conftest import Project
from projects import colleague, commit, contents, md5, outs_of, set_share
from servers import HOST, clean_environment, free_port, running
from test_faults import whole

pytestmark = pytest.mark.remotes

# A push or fetch that kills itself at the worst moment: a folder's list of files is noted as what it is about, and the
# first of its files is not. All notes until then are on the disk: looking up a key ends SQLite's transaction.
ONE_THAT_DIES = """
import os, signal, sys
from sqltrie import SQLiteTrie

write = SQLiteTrie.__setitem__


def write_or_die(trie, key, value):
    if key[0] == sys.argv[1] and "".join(key[-2:]) in sys.argv[2:]:
        trie._traverse(key)
        os.kill(os.getpid(), signal.SIGKILL)
    write(trie, key, value)


SQLiteTrie.__setitem__ = write_or_die
from dvc.cli import main

main([sys.argv[1]])
"""
GENERATORS = ("artifacts/gan/cluster_0.safetensors", "artifacts/gan/preview_0.png")


def dies_while_it_notes(project, command: str, oids: list[str]) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    line = [sys.executable, "-c", ONE_THAT_DIES, command, *oids]
    done = subprocess.run(line, cwd=project.folder, env=environment, capture_output=True)
    assert done.returncode == -signal.SIGKILL


def push_that_dies(project) -> None:
    dies_while_it_notes(project, "push", [outs_of(project)[path] for path in GENERATORS])


def named(done: subprocess.CompletedProcess) -> list[str]:
    """The paths of what is not there."""
    assert done.returncode == 1, done.stderr
    found, folder = [], ""
    for line in done.stdout.splitlines()[1:]:
        name = line.split()[0].removesuffix(":")
        if line.startswith("    "):
            assert name != "and", "a list that is cut off"
            found.append(f"{folder}{name}")
        else:
            folder = name
            found += [name.rstrip("/")] if not name.endswith("/") or "the list of its files" in line else []
    return sorted(found)


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
    assert named(done) == sorted(GENERATORS)
    assert done.stdout.count("DVC believes that it was sent") == 2
    assert "Traceback" not in done.stderr
    examined = stand_in.slsr("doctor").stdout
    assert "never arrived" in examined
    assert "-> slsr remote --send" in examined

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


def test_a_push_after_a_kill_and_the_check_sends_everything(stand_in, store):
    """As docs/sharing.md says: the check has DVC forget what it had noted."""
    store.configure(stand_in)
    commit(stand_in)
    push_that_dies(stand_in)
    assert set(GENERATORS) < set(named(stand_in.slsr("remote")))
    stand_in.run("dvc", "push")
    assert set(outs_of(stand_in).values()) <= whole(store)
    assert stand_in.slsr("remote").returncode == 0


def test_a_pull_after_a_kill_and_the_check_brings_everything(stand_in, remotes, tmp_path):
    store = remotes("folder")
    store.configure(stand_in)
    commit(stand_in)
    stand_in.run("dvc", "push")
    other = colleague(stand_in, tmp_path / "other", store)
    dies_while_it_notes(other, "fetch", [outs_of(stand_in)[path] for path in GENERATORS])
    assert other.run("dvc", "pull", check=False).returncode != 0, "DVC manages alone: docs/sharing.md need not say so"
    assert other.slsr("remote").returncode == 0
    other.run("dvc", "pull")
    assert contents(other) == contents(stand_in)


def test_notes_that_are_damaged_are_named_and_removed(stand_in, remotes):
    store = remotes("folder")
    store.configure(stand_in)
    commit(stand_in)
    stand_in.run("dvc", "push")
    with Repo(str(stand_in.folder)) as repo:
        notes = Path(repo.site_cache_dir) / "index" / "data" / "db.db"
    assert notes.is_file()
    notes.write_bytes(b"no database, " * 1000)
    assert "DVC's notes about transfers are damaged" in stand_in.slsr("doctor").stdout
    assert stand_in.slsr("remote").returncode == 0
    assert "DVC's notes" not in stand_in.slsr("doctor").stdout


def test_what_was_never_pushed_is_lacking_but_not_taken_for_sent(stand_in, remotes):
    store = remotes("folder")
    store.configure(stand_in)
    commit(stand_in)
    stand_in.run("dvc", "push", "train@none")
    done = stand_in.slsr("remote")
    assert "for sent" not in done.stdout
    folders = {
        "artifacts/gan",
        "artifacts/encoder/curves",
        "artifacts/train/lsro/curves",
        "artifacts/train/slsr/curves",
    }
    assert (
        set(named(done))
        == {path for path in outs_of(stand_in) if not path.startswith("artifacts/train/none/")} | folders
    )
    assert "never arrived" not in stand_in.slsr("doctor").stdout


def test_what_this_clone_lacks_too_is_said_and_not_sent(stand_in, remotes, tmp_path):
    store = remotes("folder")
    store.configure(stand_in)
    commit(stand_in)
    pushed_without_generators(stand_in)
    other = colleague(stand_in, tmp_path / "other", store)
    done = other.slsr("remote", "--send")
    assert done.returncode == 1
    assert done.stdout.count("not in this clone's cache either") == 2
    assert "in a clone that has them" in done.stderr


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
    assert named(stand_in.slsr("remote")) == ["artifacts/train/slsr/model.safetensors"]
    for rev in ("no-such-commit", "workspace", ""):
        done = stand_in.slsr("remote", "--rev", rev)
        assert done.returncode == 2
        assert rev in done.stderr
        assert "Traceback" not in done.stderr


def test_private_images_are_neither_asked_for_nor_sent(stand_in, remotes):
    store = remotes("folder")
    store.configure(stand_in)
    set_share(stand_in, "private", "private", "private")
    commit(stand_in)
    for rev in ([], ["--rev", "HEAD"]):
        done = stand_in.slsr("remote", "--send", *rev)
        assert done.returncode == 0, done.stdout
        sent = {path for path, oid in outs_of(stand_in).items() if oid in store.objects()}
        assert "artifacts/train/slsr/model.safetensors" in sent
        assert not [
            one for one in sent for part in ("prepared/train", "/gan/", "sheet", "generated/images") if part in one
        ]
    done = stand_in.slsr("remote", "private")
    assert done.returncode == 0
    assert "nothing to check" in done.stdout


def test_what_was_imported_is_not_handed_on(stand_in, remotes, tmp_path):
    """As `dvc push` does: it comes from where it was imported."""
    source = Project(tmp_path / "source")
    source.folder.mkdir()
    source.run("git", "init", "--quiet")
    source.run("dvc", "init", "--quiet")
    (source.folder / "licensed.bin").write_bytes(b"licensed")
    source.run("dvc", "add", "--quiet", "licensed.bin")
    commit(source)
    store = remotes("folder")
    store.configure(stand_in)
    stand_in.run("dvc", "import", "--quiet", str(source.folder), "licensed.bin")
    commit(stand_in)
    assert stand_in.slsr("remote", "--send").returncode == 0
    assert md5(stand_in.folder / "licensed.bin") not in store.objects()


def test_a_folder_goes_last_and_not_without_its_files(stand_in, remotes):
    store = remotes("folder")
    store.configure(stand_in)
    commit(stand_in)
    lost = outs_of(stand_in)[GENERATORS[1]]
    (stand_in.folder / ".dvc" / "cache" / "files" / "md5" / lost[:2] / lost[2:]).unlink()
    assert set(named(stand_in.slsr("remote", "--send"))) == {"artifacts/gan", GENERATORS[1]}
    assert set(outs_of(stand_in).values()) - store.objects() == {lost}


def test_a_web_server_that_is_down_is_not_one_that_has_nothing(stand_in, remotes, tmp_path):
    store = remotes("folder")
    store.configure(stand_in)
    stand_in.run("dvc", "push")
    port = free_port()
    stand_in.run("dvc", "remote", "add", "web", f"http://{HOST}:{port}")
    command = [sys.executable, "-m", "http.server", "--bind", HOST, "--directory", str(store.folder), str(port)]
    with running(command, port, tmp_path / "log", clean_environment()):
        done = stand_in.slsr("remote", "web")
        assert done.returncode == 0, done.stdout + done.stderr
        store.delete(outs_of(stand_in)[GENERATORS[0]])
        done = stand_in.slsr("remote", "web", "--send")
        assert done.returncode == 2
        assert "1 of 1 objects could not be sent" in done.stderr
        assert "Traceback" not in done.stderr
    done = stand_in.slsr("remote", "web")
    assert done.returncode == 2, done.stdout
    assert f"remote web, http://{HOST}:{port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_remote_that_does_not_answer_or_does_not_exist(stand_in):
    commit(stand_in)
    done = stand_in.slsr("remote")
    assert done.returncode == 2
    assert "it goes to the default remote, and none is set; name a remote, or see docs/sharing.md" in done.stderr
    done = stand_in.slsr("remote", "nowhere")
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    stand_in.run("dvc", "remote", "add", "--default", "store", "ssh://127.0.0.1/x")
    stand_in.run("dvc", "remote", "modify", "store", "port", "1")
    done = stand_in.slsr("remote")
    assert done.returncode == 2
    assert "store, ssh://" in done.stderr
    assert "Traceback" not in done.stderr
