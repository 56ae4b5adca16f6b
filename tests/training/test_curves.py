"""Curves: a table a metric, and nothing in it but the values."""

import json

import pytest

from slsr.training.curves import curves

VALUES = [
    {"train/loss": 1.5, "validation/accuracy": 0.25, "validation/loss": None},
    {"train/loss": 0.75, "validation/accuracy": 0.5, "validation/loss": None},
    {"train/loss": 0.125, "validation/accuracy": 1.0, "validation/loss": None},
]


def write(folder):
    with curves(folder) as log_step:
        for values in VALUES:
            log_step(values)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_curves_hold_steps_and_values_alone(tmp_path):
    write(tmp_path / "curves")
    found = files(tmp_path / "curves")
    assert found["plots/metrics/train/loss.tsv"].decode().splitlines() == [
        "step\tloss",
        "1\t1.5",
        "2\t0.75",
        "3\t0.125",
    ]
    assert found["plots/metrics/validation/accuracy.tsv"].decode().splitlines() == [
        "step\taccuracy",
        "1\t0.25",
        "2\t0.5",
        "3\t1.0",
    ]
    assert json.loads(found["metrics.json"]) == {
        "train": {"loss": 0.125},
        "validation": {"accuracy": 1.0},
        "step": 3,
    }
    assert set(found) == {"metrics.json", "plots/metrics/train/loss.tsv", "plots/metrics/validation/accuracy.tsv"}


def test_the_same_values_are_the_same_bytes_at_any_time(tmp_path, monkeypatch):
    import time

    write(tmp_path / "one")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 1e6)
    write(tmp_path / "two")
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_nothing_is_written_beside_the_folder(tmp_path):
    write(tmp_path / "curves")
    assert [path.name for path in tmp_path.iterdir()] == ["curves"]


def test_an_error_in_training_comes_through(tmp_path):
    with pytest.raises(RuntimeError, match="diverged"), curves(tmp_path / "curves") as log_step:
        log_step(VALUES[0])
        raise RuntimeError("diverged")
