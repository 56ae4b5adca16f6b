"""Twenty `kill -9` at random moments of push, pull and repro: nothing is lost, and the same command ends the work."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pipeline.conftest import Project
from projects import colleague, commit, contents, files_below, forget, leftovers, outs_of
from test_faults import MODEL, whole

pytestmark = [pytest.mark.remotes, pytest.mark.slow]

# A push and a pull each: with the four of repro, twenty kills. Up to three times as many where kills come too late.
ROUNDS = {"folder": 2, "ssh": 3, "s3": 3}


def started(project: Project, *command: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.Popen(
        command,
        cwd=project.folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def seconds_of(project: Project, *command: str) -> float:
    """How long a command takes that nobody kills, here and now: what the moments of the kills are drawn from."""
    begun = time.monotonic()
    assert started(project, *command).wait() == 0
    return time.monotonic() - begun


def killed(project: Project, seconds: float, *command: str) -> bool:
    """Start a command, and kill it and all that it started, by force, after so long; whether it was still at work."""
    process = started(project, *command)
    time.sleep(seconds)
    at_work = process.poll() is None
    if at_work:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return at_work


def killed_while_writing(project: Project, *command: str) -> bool:
    """Kill a command while a file below artifacts/ is half-written, where one is seen; all anew where none is."""
    process = started(project, *command)
    while process.poll() is None:
        if leftovers(project):
            os.killpg(process.pid, signal.SIGSTOP)  # it may have renamed the file meanwhile
            if leftovers(project):
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return True
            os.killpg(process.pid, signal.SIGCONT)
        time.sleep(0.001)
    forget(project)
    return False


def again(project: Project, *command: str) -> None:
    """The same command after a kill, once what docs/sharing.md says to do before it is done.

    The files that DVC was writing into the workspace are removed, a lock that was being written at the moment of the
    kill as well; a dvc.lock that was is taken from git; DVC forgets what a killed push or pull had noted, which it may
    take for a list of all there is.
    """
    for path in leftovers(project):
        path.unlink()
    if command[1] in ("push", "pull"):
        assert "Traceback" not in project.slsr("remote").stderr
    done = project.run(*command, check=False)
    if done.returncode and "rwlock" in done.stderr.lower():
        (project.folder / ".dvc" / "tmp" / "rwlock").unlink()
        done = project.run(*command, check=False)
    if done.returncode and "git checkout dvc.lock" in project.slsr("doctor").stdout:
        project.run("git", "checkout", "dvc.lock")
        done = project.run(*command, check=False)
    if "without confirmation" in done.stderr:
        done = project.run(*command, "--force", check=False)
    assert done.returncode == 0, done.stderr


def cached(project: Project) -> None:
    """Every object in the cache under its final name has the content that its name says."""
    import hashlib

    for path in files_below(project.folder / ".dvc" / "cache" / "files" / "md5"):
        if not path.name.endswith(".dir") and len(path.name) == 30:
            assert hashlib.md5(path.read_bytes()).hexdigest() == path.parent.name + path.name


def enlarge(project: Project) -> None:
    """Outs that take a while to send."""
    for path in files_below(project.folder / "artifacts"):
        if path.suffix == ".safetensors":
            content = random.Random(path.name + path.parent.name).randbytes(12_000_000)
            path.unlink()
            path.write_bytes(content)
    project.run("dvc", "commit", "--force", "--quiet")
    commit(project, "large outs")


@pytest.mark.parametrize("kind", ROUNDS)
def test_push_and_pull_are_killed_and_lose_nothing(kind, stand_in, remotes, tmp_path):
    enlarge(stand_in)
    original, wanted = contents(stand_in), set(outs_of(stand_in).values())
    draw = random.Random(kind)
    store = remotes(kind, "undisturbed")
    store.configure(stand_in)
    commit(stand_in)
    push = seconds_of(stand_in, "dvc", "push")
    other = colleague(stand_in, tmp_path / "undisturbed", store)
    pull = seconds_of(other, "dvc", "pull")
    forget(other)
    hits = 0
    for number in range(3 * ROUNDS[kind]):
        if number >= ROUNDS[kind] and hits >= ROUNDS[kind]:
            break
        store = remotes(kind, f"store{number}")
        store.configure(stand_in)
        commit(stand_in)
        hits += killed(stand_in, draw.uniform(0.1, 1) * push, "dvc", "push")
        assert contents(stand_in) == original
        assert whole(store) <= wanted | {oid for oid in store.objects() if oid.endswith(".dir")}
        again(stand_in, "dvc", "push")
        assert wanted <= whole(store)

        other = colleague(stand_in, tmp_path / f"other{number}", store)
        hits += killed(other, draw.uniform(0.1, 1) * pull, "dvc", "pull")
        cached(other)
        again(other, "dvc", "pull")
        assert contents(other) == original
        cached(other)
        forget(other)
    assert hits >= ROUNDS[kind], "most kills came too late to prove anything"


def test_a_pull_is_killed_while_it_writes_into_the_workspace(stand_in, remotes, tmp_path):
    """What it leaves beside an out is ignored, inside a folder it is named; neither is taken for a file of ours."""
    enlarge(stand_in)
    original = contents(stand_in)
    store = remotes("folder")
    store.configure(stand_in)
    commit(stand_in)
    stand_in.run("dvc", "push")
    other = colleague(stand_in, tmp_path / "other", store)
    assert any(killed_while_writing(other, "dvc", "pull") for _ in range(10))
    again(other, "dvc", "pull")
    assert contents(other) == original

    left = other.folder / "artifacts" / "gan" / ".7JzrA7WsqRq-HM_ngNSF2A.tmp"
    left.write_bytes(b"half")
    (other.folder / "artifacts" / "gan" / "cluster_0.safetensors").unlink()
    done = other.run("dvc", "pull", check=False)
    assert done.returncode != 0
    assert left.name in done.stderr
    again(other, "dvc", "pull")
    assert contents(other) == original

    empty = other.folder / MODEL
    empty.unlink()
    empty.touch()
    done = other.run("dvc", "pull", check=False)
    assert done.returncode != 0
    assert empty.name in done.stderr
    again(other, "dvc", "pull")
    assert contents(other) == original


def test_a_dvc_lock_that_was_being_written(copied_run):
    """DVC writes it where it lies: wherever it ends, what had run comes back without running."""
    before, path = contents(copied_run), copied_run.folder / "dvc.lock"
    lock = path.read_text()
    middle = lock.index("  - path: artifacts", len(lock) // 2)
    ends = [middle + len("  - path:"), lock.index("\n", middle) + 1]
    ends += [lock.index(key, middle) + len(key) + 1 for key in ("    md5: ", "    hash: ")]
    for end in (0, *ends):
        path.write_text(lock[:end])
        again(copied_run, "dvc", "repro")
        assert (contents(copied_run), path.read_text()) == (before, lock), lock[max(0, end - 80) : end]
        assert copied_run.stages_run() == []


def test_repro_is_killed_and_ends_with_the_same_outs(tiny_run):
    """Whatever the moment: in DVC before or after a stage, in the stage, while outs go into the cache."""
    before, lock = contents(tiny_run), (tiny_run.folder / "dvc.lock").read_text()
    params = (tiny_run.folder / "params.yaml").read_text()
    draw = random.Random("repro")

    def change(number: int) -> None:
        text = params.replace("    k2: 3", f"    k2: {4 + number}")
        assert text != params
        (tiny_run.folder / "params.yaml").write_text(text)

    change(6)
    repro = seconds_of(tiny_run, "dvc", "repro")
    hits = 0
    for number in range(6):
        if number >= 4 and hits >= 2:
            break
        change(number)
        hits += killed(tiny_run, draw.uniform(0.1, 1) * repro, "dvc", "repro")
        cached(tiny_run)
        again(tiny_run, "dvc", "repro")
        assert tiny_run.stages_run() == []
        cached(tiny_run)
    assert hits >= 2, "most kills came too late to prove anything"
    (tiny_run.folder / "params.yaml").write_text(params)
    again(tiny_run, "dvc", "repro")
    assert contents(tiny_run) == before
    assert (tiny_run.folder / "dvc.lock").read_text() == lock
