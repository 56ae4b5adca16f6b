"""What goes wrong between two machines ends in a message, spoils nothing, and can be tried again."""

import os
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import replace

import pytest
from projects import colleague, commit, contents, forget, md5, outs_of
from servers import HOST, S3Server, clean_environment, free_port, s3_server

pytestmark = pytest.mark.remotes

MODEL = "artifacts/train/slsr/model.safetensors"


def configured(project, remote):
    remote.configure(project)
    commit(project)
    return project


def whole(remote) -> set[str]:
    """Every object under its final name has the content that its name says."""
    import hashlib

    present = remote.objects()
    for oid in present:
        if not oid.endswith(".dir"):
            assert hashlib.md5(remote.read(oid)).hexdigest() == oid, f"half an object under its final name: {oid}"
    return present


def fails(project, *command: str) -> str:
    """The message of a command that must fail; not a traceback, and nothing local is lost or changed."""
    before, cached = contents(project), outs_of(project)
    done = project.run(*command, check=False)
    print(done.stderr)
    assert done.returncode != 0, f"{command} was content:\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    assert "ERROR" in done.stderr
    assert (contents(project), outs_of(project)) == (before, cached)
    return done.stderr


def test_a_wrong_ssh_key(stand_in, ssh, tmp_path):
    remote = ssh.remote(f"{tmp_path.name}/store", key=ssh.strange_key)
    configured(stand_in, remote)
    assert "Permission denied" in fails(stand_in, "dvc", "push")
    assert not remote.files()
    stand_in.run("dvc", "remote", "modify", "--local", "store", "keyfile", str(ssh.key))
    stand_in.run("dvc", "push")
    assert set(outs_of(stand_in).values()) <= whole(remote)


def of_the_doctor(project) -> tuple[str, str]:
    """What it says of the default remote: level and text."""
    from slsr.project.doctor.examine import examine

    found = examine(project.folder, os.environ, seconds=20.0)
    (finding,) = (one for one in found if one.topic == "remote store (default)")
    return finding.level, finding.text


@pytest.mark.parametrize("below", ["", "/store"])
def test_the_doctor_sees_a_bucket_that_cannot_be_used(stand_in, tmp_path, below):
    """The bucket itself as well as a folder of it: S3 has no folders, and roots are often said to exist unasked."""
    with s3_server(tmp_path) as server:
        remote = server.remote("store")
        bucket = remote.url.removesuffix("/store")
        configured(stand_in, replace(remote, url=bucket + below))
        assert of_the_doctor(stand_in) == ("note", f"{bucket}{below} answers, and holds nothing yet")
        stand_in.run("dvc", "push")
        assert of_the_doctor(stand_in) == ("ok", f"{bucket}{below} answers")
        if not below:
            configured(stand_in, replace(remote, url=f"{bucket}-misspelled"))
            level, text = of_the_doctor(stand_in)
            assert level == "problem", text
    configured(stand_in, replace(remote, url=bucket + below))
    level, text = of_the_doctor(stand_in)
    assert level == "problem", text
    (tmp_path / "second").mkdir()
    with s3_server(tmp_path / "second", refuses_everybody=True) as server:
        configured(stand_in, replace(server.remote("store"), url=bucket + below))
        level, text = of_the_doctor(stand_in)
        assert level == "problem", text


def test_a_wrong_s3_key(stand_in, tmp_path):
    with s3_server(tmp_path, refuses_everybody=True) as server:
        configured(stand_in, server.remote("store"))
        message = fails(stand_in, "dvc", "push")
    assert "Forbidden" in message or "InvalidAccessKeyId" in message or "does not exist in our records" in message


def test_no_credentials_at_all(stand_in, s3, tmp_path, monkeypatch):
    """Nothing in .dvc/config.local, nothing in the environment or the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    configured(stand_in, replace(s3.remote("store"), secrets={}))
    assert "redentials" in fails(stand_in, "dvc", "push")


@pytest.mark.parametrize("kind", ["ssh", "s3"])
def test_a_host_that_does_not_answer(kind, stand_in, ssh, tmp_path):
    if kind == "ssh":
        remote = replace(ssh, port=free_port()).remote(f"{tmp_path.name}/store")
    else:
        remote = S3Server(f"http://{HOST}:{free_port()}").remote("store")
    configured(stand_in, remote)
    message = fails(stand_in, "dvc", "push")
    assert "connect" in message.lower()
    forget(stand_in)
    assert stand_in.run("dvc", "pull", check=False).returncode != 0


@contextmanager
def small_disk(folder, size: str):
    """A file system of that size, where the system lets us have one; the function given makes it larger."""
    folder.mkdir(parents=True, exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if os.getuid() != 0 or subprocess.run(["mount", *options], capture_output=True).returncode:
        pytest.skip("a full disk needs the right to mount a small one")
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("kind", ["folder", "ssh"])
def test_a_full_disk_at_the_remote(kind, stand_in, remotes, tmp_path):
    remote = remotes(kind)
    configured(stand_in, remote)
    with small_disk(remote.folder, "1m") as enlarge:
        fails(stand_in, "dvc", "push")
        assert len(whole(remote)) < len(set(outs_of(stand_in).values()))
        enlarge()
        stand_in.run("dvc", "push")
        assert set(outs_of(stand_in).values()) <= whole(remote)
        other = colleague(stand_in, tmp_path / "other", remote)
        other.run("dvc", "pull")
        assert contents(other) == contents(stand_in)


def test_a_full_disk_of_the_one_who_pulls(stand_in, store, tmp_path):
    """What was cut short is not taken for the object, and comes whole when there is room."""
    configured(stand_in, store)
    stand_in.run("dvc", "push")
    other = colleague(stand_in, tmp_path / "other", store)
    with small_disk(tmp_path / "cache", "1m") as enlarge:
        other.run("dvc", "cache", "dir", "--local", str(tmp_path / "cache"))
        done = other.run("dvc", "pull", check=False)
        assert done.returncode != 0
        assert "No space left" in done.stderr or "missing-files" in done.stderr
        original = contents(stand_in)
        assert all(original[path] == content for path, content in contents(other).items())
        enlarge()
        other.run("dvc", "pull")
        assert contents(other) == original


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_a_flipped_bit_in_the_remote(stand_in, store, tmp_path):
    """`verify` finds it, everything else comes, and the remedy of docs/sharing.md mends it."""
    configured(stand_in, store)
    stand_in.run("dvc", "push")
    oid = outs_of(stand_in)[MODEL]
    sound = store.read(oid)
    store.overwrite(oid, flipped(sound))
    other = colleague(stand_in, tmp_path / "other", store)
    done = other.run("dvc", "pull", check=False)
    assert done.returncode != 0
    assert MODEL in done.stderr
    assert not (other.folder / MODEL).exists()
    assert contents(other) == {path: content for path, content in contents(stand_in).items() if path != MODEL}

    store.delete(oid)
    stand_in.run("dvc", "push")
    assert store.read(oid) == sound
    other.run("dvc", "pull")
    assert contents(other) == contents(stand_in)


def test_without_verify_a_flipped_bit_is_believed(stand_in, remotes, tmp_path):
    """The reason for `verify`: DVC's default takes a remote's word for what an object holds."""
    store = remotes("folder")
    configured(stand_in, store)
    stand_in.run("dvc", "push")
    oid = outs_of(stand_in)[MODEL]
    store.overwrite(oid, flipped(store.read(oid)))
    other = colleague(stand_in, tmp_path / "other", store)
    other.run("dvc", "remote", "modify", "--local", "store", "verify", "false")
    other.run("dvc", "pull")
    assert md5(other.folder / MODEL) != oid


def test_a_remote_over_http_can_be_read_but_has_no_records_of_runs(stand_in, remotes, tmp_path):
    import sys

    from servers import running

    store = remotes("folder")
    configured(stand_in, store)
    stand_in.run("dvc", "push")
    port = free_port()
    command = [sys.executable, "-m", "http.server", "--bind", HOST, "--directory", str(store.folder), str(port)]
    with running(command, port, tmp_path / "log", clean_environment()):
        other = colleague(stand_in, tmp_path / "other")
        other.run("dvc", "remote", "modify", "store", "url", f"http://{HOST}:{port}")
        other.run("dvc", "pull")
        assert contents(other) == contents(stand_in)
        before = store.files()
        shutil.rmtree(other.folder / ".dvc" / "tmp")
        done = other.run("dvc", "push", "--run-cache", check=False)
        assert store.files() == before, done.stdout
