"""The key of an unfinished run: anything that could change what it ends with changes it, and nothing else does."""

import shutil
from pathlib import Path

import pytest
import torch

import slsr
from slsr.errors import InputError
from slsr.models.weights import weights_files
from slsr.params.file import validate_params
from slsr.runtime.scratch import scratch_folder
from slsr.stages.paths import scratch_root

INPUTS = [Path("train.parquet"), Path("validation.parquet")]


@pytest.fixture
def folder(tmp_path, monkeypatch, values):
    """A function: the folder of a run under parameters with differences."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    for path in INPUTS:
        path.write_bytes(path.name.encode())
    Path("weights").mkdir()
    Path("weights/start.pth").write_bytes(b"one")
    package = tmp_path / "package"
    shutil.copytree(Path(slsr.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(slsr, "__file__", str(package / "__init__.py"))

    def find(stage="train", **differences):
        values["train"] |= differences
        params = validate_params(values, "params.yaml")
        inputs = [*INPUTS, *weights_files(params.train.weights, Path("weights"))]
        return scratch_folder(scratch_root(), stage, [params.image, params.train], inputs)

    return find


def test_the_same_run_finds_its_state(folder):
    first = folder()
    assert first == folder()
    assert first.parent == Path(".scratch/train")
    assert folder("train-slsr").parent == Path(".scratch/train-slsr")


@pytest.mark.parametrize("differences", [{"seed": 2}, {"batch_size": 31}, {"precision": "bf16"}, {"compile": "never"}])
def test_other_parameters_find_nothing(folder, differences):
    assert folder() != folder(**differences)


def test_other_inputs_find_nothing(folder):
    before = folder()
    INPUTS[1].write_bytes(b"validation.parqueu")
    assert folder() != before


def test_other_code_finds_nothing(folder, tmp_path):
    before = folder()
    with (tmp_path / "package" / "files.py").open("a") as file:
        file.write("# a comment\n")
    assert folder() != before


def test_another_torch_finds_nothing(folder, monkeypatch):
    before = folder()
    monkeypatch.setattr(torch, "__version__", "0.4.1")
    assert folder() != before


def test_other_bytes_of_the_weights_file_find_nothing(folder):
    before = folder(weights="start.pth")
    assert before == folder(weights="start.pth")
    Path("weights/start.pth").write_bytes(b"two")
    assert folder(weights="start.pth") != before


def test_a_missing_weights_file_is_named(folder):
    with pytest.raises(InputError, match=r"weights/absent\.pth"):
        folder(weights="absent.pth")


def test_a_queued_experiment_keeps_its_state_in_the_main_checkout(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "main"))
    assert folder().parent == tmp_path / "main" / ".scratch" / "train"
