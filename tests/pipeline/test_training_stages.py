"""What training owes the pipeline: the same hashes again, weights that DVC sees, and a Ctrl-C that loses nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torchvision
import yaml
from safetensors.torch import save_file

pytestmark = pytest.mark.pipeline


def lock_of(project) -> dict:
    return yaml.safe_load((project.folder / "dvc.lock").read_text())["stages"]


@pytest.mark.slow
def test_every_stage_forced_twice_gives_the_hashes_it_gave(copied_run):
    before = lock_of(copied_run)
    assert len(before) == 14
    for stage in before:
        for _ in range(2):
            done = copied_run.run("dvc", "repro", "--force", "--single-item", stage)
            assert f"Running stage '{stage}'" in done.stdout
            assert lock_of(copied_run) == before, stage


@pytest.mark.slow
def test_a_weights_file_is_a_dependency(copied_run):
    """Other bytes under the same name make what starts from them stale, and nothing else."""
    path = copied_run.folder / "params.yaml"
    path.write_text(path.read_text().replace("  weights: none ", "  weights: mine.safetensors ", 1))  # the encoder's
    weights = copied_run.folder / "weights" / "mine.safetensors"
    done = copied_run.run("dvc", "repro", "--single-item", "train_encoder", check=False)
    assert done.returncode != 0
    assert "mine.safetensors" in done.stderr, "a missing file is named"
    save_file(torchvision.models.get_model("resnet18", weights=None).state_dict(), weights)
    assert copied_run.stages_run("--single-item", "train_encoder") == ["train_encoder"]
    assert copied_run.stages_run("--single-item", "train_encoder") == []
    save_file(torchvision.models.get_model("resnet18", weights=None).state_dict(), weights)
    changed = yaml.safe_load(copied_run.run("dvc", "status", "--json", "train_encoder").stdout)
    assert changed["train_encoder"] == [{"changed deps": {"weights/mine.safetensors": "modified"}}]
    assert copied_run.stages_run("--single-item", "train_encoder") == ["train_encoder"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_repro_that_is_cut_off_goes_on_and_ends_with_the_same_hashes(copied_run, number):
    text = (copied_run.folder / "params.yaml").read_text()
    head, train = text.split("\ntrain:")
    (copied_run.folder / "params.yaml").write_text(head + "\ntrain:" + train.replace("epochs: 2", "epochs: 25", 1))
    command = ["dvc", "repro", "--force", "--single-item", "train@none"]
    copied_run.run(*command)
    expected = lock_of(copied_run)["train@none"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        command,
        cwd=copied_run.folder,
        env=os.environ | {"PATH": path, "SLSR_SAVE_EVERY": "1 epoch", "OMP_WAIT_POLICY": "passive"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list(copied_run.folder.glob(".scratch/train-none/*/state.pt")):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.01)
    os.killpg(process.pid, number)  # as a terminal does on Ctrl-C
    said, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    if number == signal.SIGINT:
        assert "the same command goes on from" in said
    done = copied_run.run(*command)
    assert "going on from" in done.stdout + done.stderr
    assert lock_of(copied_run)["train@none"] == expected
    assert not list(copied_run.folder.glob(".scratch/train-none/*"))


@pytest.mark.slow
def test_two_processes_evaluate_as_one_does(copied_run):
    """`slsr evaluate` by itself, features split over two processes, one set of outputs."""
    folder = copied_run.folder / "artifacts" / "evaluate" / "none"
    before = json.loads((folder / "metrics.json").read_text())
    shutil.rmtree(folder)
    environment = ("env", "PYTHONPATH=src", "SLSR_PROCESSES=2", "OMP_NUM_THREADS=1")
    done = copied_run.run(*environment, sys.executable, "-m", "slsr", "evaluate", "none")
    assert done.stderr.count("wrote artifacts/evaluate/none") == 1
    after = json.loads((folder / "metrics.json").read_text())
    for name in ("rank1", "map_trapezoid", "map_standard", "minp"):
        assert after["single_query"][name] == pytest.approx(before["single_query"][name], abs=1e-3)


@pytest.mark.slow
def test_outputs_made_by_hand_are_recorded_as_the_stage_s(copied_run):
    """What docs/training.md says of runs over several machines, which DVC cannot start."""
    shutil.rmtree(copied_run.folder / "artifacts" / "train" / "none")
    copied_run.run("env", "PYTHONPATH=src", sys.executable, "-m", "slsr", "train", "none")
    copied_run.run("dvc", "commit", "--force", "train@none")
    assert copied_run.stages_run("train@none") == []
