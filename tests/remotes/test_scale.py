"""docs/scale.md as far as one machine goes: two workers of a queue, and two nodes of torchrun."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from projects import commit, contents
from servers import free_port

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

LONGEST = 420  # seconds that either may take


def edited(project, old: str, new: str) -> None:
    path = project.folder / "params.yaml"
    assert path.read_text().count(old) == 1, old
    path.write_text(path.read_text().replace(old, new))


def test_a_training_on_two_nodes_is_committed_and_the_rest_goes_on(tiny_run):
    before = (tiny_run.folder / "params.yaml").read_text()
    edited(tiny_run, "  label_smoothing: 0.0", "  label_smoothing: 0.1")
    model = tiny_run.folder / "artifacts/train/none/model.safetensors"
    old = model.read_bytes()
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d"]
    command += [f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--local-addr=127.0.0.1", "-m", "slsr", "train", "none"]
    environment = os.environ | {"PYTHONPATH": "src", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    nodes = [
        subprocess.Popen(command, cwd=tiny_run.folder, env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for node in nodes:
        _, said = node.communicate(timeout=LONGEST)
        assert node.returncode == 0, said
    assert model.read_bytes() != old
    tiny_run.run("dvc", "commit", "--force", "train@none")
    changed = json.loads(tiny_run.run("dvc", "status", "--json").stdout)
    assert "train@none" not in changed
    new = model.read_bytes()
    ran = tiny_run.stages_run("evaluate@none")
    assert ran == ["evaluate@none"]
    assert model.read_bytes() == new
    (tiny_run.folder / "params.yaml").write_text(before)
    tiny_run.run("dvc", "repro")
    assert model.read_bytes() == old


def workers(token: str) -> dict[str, str]:
    """GPU by process, of the queue's workers that carry the token in their environment."""
    found = {}
    for process in psutil.process_iter():
        try:
            environment, command = process.environ(), process.cmdline()
        except psutil.Error:
            continue
        if environment.get("SLSR_TEST_TOKEN") == token and "queue-worker" in command:
            found[process.pid] = environment["CUDA_VISIBLE_DEVICES"]
    return found


def start_worker(project, token: str, gpu: int) -> None:
    """The worker keeps what it inherits, so that a pipe would be at its end only when the worker is."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": str(gpu), "SLSR_TEST_TOKEN": token, "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    command = ["dvc", "queue", "start", "--jobs", str(gpu + 1)]
    log = project.folder.parent / f"worker-{gpu}.log"
    with log.open("wb") as output:
        started = subprocess.run(command, cwd=project.folder, env=environment, stdout=output, stderr=output)
    assert started.returncode == 0, log.read_text()


def test_a_queue_has_a_worker_for_each_gpu(tiny_run, tmp_path):
    commit(tiny_run)
    before = contents(tiny_run)
    tiny_run.run("dvc", "exp", "run", "--queue", "-S", "evaluate.rerank.k2=5,6")
    token = tmp_path.name + str(os.getpid())
    try:
        start_worker(tiny_run, token, 0)
        start_worker(tiny_run, token, 1)
        end, seen, status = time.monotonic() + LONGEST, set(), ""
        while time.monotonic() < end and status.count("Success") < 2:
            assert "Failed" not in status, status
            seen |= set(workers(token).values())
            time.sleep(1)
            status = tiny_run.run("dvc", "queue", "status").stdout
        assert status.count("Success") == 2, status
        assert seen == {"0", "1"}
    finally:
        tiny_run.run("dvc", "queue", "stop", "--kill", check=False)
    shown = json.loads(tiny_run.run("dvc", "exp", "show", "--json").stdout)
    assert {"5", "6"} <= set(_values_of_k2(shown))
    assert contents(tiny_run) == before, "the workspace is as it was"


def _values_of_k2(shown) -> list[str]:
    """Every k2 in what `dvc exp show` prints, wherever it stands there."""
    if isinstance(shown, dict):
        own = [str(shown["k2"])] if "k2" in shown else []
        return own + [value for part in shown.values() for value in _values_of_k2(part)]
    return [value for part in shown for value in _values_of_k2(part)] if isinstance(shown, list) else []
