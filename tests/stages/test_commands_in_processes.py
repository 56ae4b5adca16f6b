"""`slsr train` and kin as a user runs them: interrupted and gone on with, in processes, under torchrun and Slurm."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import torch
from ruamel.yaml import YAML
from tiny import colored, encode

from slsr.images.tables import TRAINING, table_writer
from slsr.stages.paths import ASSIGNMENTS, ENCODER, TRAIN_FEATURES, TRAIN_TABLE, TRAINED, VALIDATION_TABLE

ROOT = Path(__file__).parents[2]
LABELS = [number % 4 for number in range(13)]
LAUNCHING = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "SLSR_PROCESSES", "DVC_ROOT")


class Project:
    """A folder with tiny tables and parameters, in which commands run."""

    def __init__(self, folder: Path, values: dict) -> None:
        self.folder, self.values = folder, values
        for path, labels, seed in ((TRAIN_TABLE, LABELS, 0), (VALIDATION_TABLE, [0, 1, 2, 3], 1)):
            pixels = colored(labels, seed=seed).pixels.numpy()
            with table_writer(folder / path, TRAINING) as table:
                for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
                    row = {"image": encode(image), "name": f"{number}.png", "identity": label, "camera": 1}
                    table.append(row | {"label": label})
        (folder / "weights").mkdir()
        size = {"height": 32, "width": 32, "resize_height": 36, "resize_width": 36, "test": "center-crop"}
        values["image"] |= size
        for block in ("encoder", "train"):
            values[block] |= {"backbone": "resnet18", "weights": "none", "epochs": 2, "batch_size": 5}
            values[block]["optimizer"] |= {"name": "sgd", "learning_rate": 0.001, "head_learning_rate": 0.001}
        self.write()

    def write(self) -> None:
        with (self.folder / "params.yaml").open("w") as file:
            YAML().dump(self.values, file)

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in LAUNCHING}
        kept = {name: value for name, value in kept.items() if not name.startswith("SLURM_")}
        return kept | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "CUDA_VISIBLE_DEVICES": ""} | more

    def start(self, *arguments: str, program: tuple[str, ...] = ("-m", "slsr"), **more: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, *program, *arguments],
            cwd=self.folder,
            env=self.environment(**more),
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, **more: str) -> tuple[int, str]:
        """Exit status and messages."""
        return ended(self.start(*arguments, **more))

    def read(self, path: Path) -> bytes:
        return (self.folder / path).read_bytes()


def ended(process: subprocess.Popen, within: float = 300) -> tuple[int, str]:
    try:
        _, err = process.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return process.returncode, err


def wait_for(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.01)


@pytest.fixture
def project(tmp_path, values):
    return Project(tmp_path, values)


MODEL = TRAINED / "none" / "model.safetensors"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "processes"), [(signal.SIGTERM, "1"), (signal.SIGINT, "1"), (signal.SIGINT, "2")])
def test_a_command_that_is_interrupted_saves_says_how_to_go_on_and_goes_on(project, number, processes):
    project.values["train"]["epochs"] = 30
    project.write()
    if processes == "1":
        assert project.run("train", "none")[0] == 0
        expected = project.read(MODEL)
    process = project.start("train", "none", SLSR_SAVE_EVERY="1 epoch", SLSR_PROCESSES=processes)
    wait_for(lambda: list(project.folder.glob(".scratch/train-none/*/state.pt")), process)
    if processes == "1":
        process.send_signal(number)
    else:
        os.killpg(process.pid, number)  # as a terminal does on Ctrl-C
    status, err = ended(process)
    assert status == 130, err
    assert "the same command goes on from .scratch/train-none/" in err
    assert "nothing could be saved" not in err
    assert "Traceback" not in err
    assert "nothing half-written was left" not in err, "how to go on is the last word"
    assert not list(project.folder.glob("artifacts/train/.none.partial")), "nothing half-written"
    status, err = project.run("train", "none", SLSR_PROCESSES=processes)
    assert status == 0, err
    assert "going on from .scratch/train-none/" in err
    assert not list(project.folder.glob(".scratch/train-none/*"))
    if processes == "1":
        assert project.read(MODEL) == expected


def free_port() -> str:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return str(listening.getsockname()[1])


def in_two(project, how, *arguments):
    """Run a command in two processes, started in one of the ways there are; messages of both."""
    if how == "SLSR_PROCESSES":
        runs = [project.start(*arguments, SLSR_PROCESSES="2")]
    elif how == "torchrun":
        torchrun = ("-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}", "-m", "slsr")
        runs = [project.start(*arguments, program=torchrun)]
    else:
        job = {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        tasks = ({"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(2))
        runs = [project.start(*arguments, **job, **task) for task in tasks]
    results = [ended(run) for run in runs]
    assert [status for status, _ in results] == [0] * len(runs), results
    return "".join(err for _, err in results)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["Slurm", "SLSR_PROCESSES", "torchrun"])
def test_two_processes_however_started_write_once_what_one_writes(project, how):
    project.values["encoder"]["batch_size"] = 13
    project.values["encoder"]["optimizer"]["learning_rate"] = 0.0003
    project.write()
    assert project.run("train-encoder")[0] == 0
    assert project.run("extract-features")[0] == 0
    alone = np.load(project.folder / TRAIN_FEATURES)
    curve = project.read(ENCODER / "curves/plots/metrics/train/loss.tsv").decode()
    (project.folder / TRAIN_FEATURES).unlink()
    err = in_two(project, how, "extract-features")
    assert err.count("wrote artifacts/features/train.npy") == 1
    assert "2 processes" in err
    np.testing.assert_allclose(np.load(project.folder / TRAIN_FEATURES), alone, atol=1e-5, rtol=1e-5)
    err = in_two(project, how, "train-encoder")
    assert err.count("wrote artifacts/encoder") == 1
    assert err.count("epoch 2/2: loss") == 1
    together = project.read(ENCODER / "curves/plots/metrics/train/loss.tsv").decode()
    np.testing.assert_allclose(losses(together), losses(curve), atol=1e-4)


def losses(table: str) -> list[float]:
    return [float(line.split("\t")[-1]) for line in table.splitlines()[1:]]


def test_slurm_without_an_address_says_what_to_set(project):
    status, err = project.run("train-encoder", SLURM_STEP_NUM_TASKS="2", SLURM_PROCID="0", SLURM_LOCALID="0")
    assert status == 2
    assert "MASTER_ADDR and MASTER_PORT not set: Slurm started 2 tasks" in err
    assert "Traceback" not in err


def workers_of(process) -> list[int]:
    """The two processes that a launcher started, in the order of their starts."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [int(pid) for pid in children if b"slsr" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(workers) == 2
    return workers


@pytest.mark.slow
def test_when_the_launcher_is_killed_its_processes_end_and_the_same_command_goes_on(project):
    """They would go on beside those of the next start, and both would write one folder."""
    project.values["train"]["epochs"] = 40
    project.write()
    assert project.run("train", "none", SLSR_PROCESSES="2")[0] == 0
    expected = project.read(MODEL)
    (project.folder / MODEL).unlink()
    process = project.start("train", "none", SLSR_SAVE_EVERY="1 epoch", SLSR_PROCESSES="2")
    wait_for(lambda: list(project.folder.glob(".scratch/train-none/*/state.pt")), process)
    workers = workers_of(process)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while any(psutil.pid_exists(worker) for worker in workers):
        assert time.monotonic() < deadline, "they live on"
        time.sleep(0.1)
    process.stderr.close()
    status, err = project.run("train", "none", SLSR_PROCESSES="2")
    assert status == 0, err
    assert "going on from .scratch/train-none/" in err
    assert project.read(MODEL) == expected


@pytest.mark.slow
def test_two_generators_in_two_processes_are_interrupted_and_gone_on_with(project):
    """One of them waits for the other by then, outside Python; each says where its own state is."""
    project.values["cluster"] |= {"k": 2, "sweep": [2]}
    project.values["gan"] |= {"epochs": 120, "batch_size": 4, "parent_epochs": 0, "channels": 8}
    project.write()
    for command in ("train-encoder", "extract-features", "cluster"):
        status, err = project.run(command)
        assert status == 0, err
    process = project.start("train-gan", SLSR_SAVE_EVERY="1 epoch", SLSR_PROCESSES="2")
    wait_for(lambda: len(list(project.folder.glob(".scratch/train_gan/*/cluster_*/state.pt"))) == 2, process)
    smaller = np.bincount(pq.read_table(project.folder / ASSIGNMENTS)["cluster"].to_numpy()).argmin()
    (state,) = project.folder.glob(f".scratch/train_gan/*/cluster_{smaller}_0/state.pt")
    last = 0
    while (step := torch.load(state, weights_only=True)["step"]) > last or step == 0:
        last = step
        time.sleep(2)
    assert process.poll() is None, "one is still at work"
    os.killpg(process.pid, signal.SIGINT)
    status, err = ended(process)
    assert status == 130, err
    assert "Traceback" not in err
    assert "interrupted while waiting for another process" in err
    assert f"cluster_{1 - smaller}_0" in err
    status, err = project.run("train-gan", SLSR_PROCESSES="2")
    assert status == 0, err
    assert err.count("going on from") == (1 if smaller else 2), "only the first process's messages are shown"


@pytest.mark.slow
def test_a_process_that_is_killed_is_named_and_the_others_end(project):
    """As the kernel does when memory runs out; the other process waits outside Python for the one that is gone."""
    project.values["train"]["epochs"] = 1000
    project.write()
    process = project.start("train", "none", SLSR_SAVE_EVERY="1 epoch", SLSR_PROCESSES="2")
    wait_for(lambda: list(project.folder.glob(".scratch/train-none/*/state.pt")), process)
    workers = workers_of(process)
    os.kill(workers[1], signal.SIGKILL)
    status, err = ended(process, within=30)
    assert status == 1
    assert "process 1 was killed by SIGKILL; if the machine ran out of memory, lower batch_size" in err
    assert not Path(f"/proc/{workers[0]}").exists()
