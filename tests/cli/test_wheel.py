"""The wheel, installed outside the clone: the core alone with its own packages, and with all extras."""

import os
import subprocess
import sys

import pytest
from tiny import ROOT

pytestmark = pytest.mark.remotes  # it installs packages

LARGEST = 600e6  # bytes of the core's environment
MOST_PACKAGES = 25
FEATURES = """
import numpy as np
from slsr.retrieval import Labels, evaluate, evaluate_reranked
people = np.arange(1, 30)
queries = np.random.default_rng(0).standard_normal((29, 8))
gallery = queries + np.random.default_rng(1).standard_normal((29, 8)) / 9
labels = Labels(people, people, query_cameras=people * 0, gallery_cameras=people * 0 + 1)
assert evaluate(queries, gallery, labels).means()["rank1"] == 1
assert evaluate_reranked(queries, gallery, labels, k1=3, k2=2).means()["rank1"] == 1
np.savez("f.npz", query_features=queries, gallery_features=gallery, query_identities=people, gallery_identities=people,
         query_cameras=people * 0, gallery_cameras=people * 0 + 1)
"""


def run(*command, folder, **environment):
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=folder, env=clean | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def uv(*arguments, folder):
    return run(sys.executable, "-m", "uv", *arguments, folder=folder)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a clone, so from what is committed, because setuptools writes beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    run("git", "clone", "--quiet", str(ROOT), "source", folder=folder)
    uv(
        "build",
        "--wheel",
        "--no-build-isolation",
        "--python",
        sys.executable,
        "--out-dir",
        ".",
        "source",
        folder=folder,
    )
    (found,) = folder.glob("*.whl")
    return found


def test_the_core_is_small_and_evaluates(wheel, tmp_path):
    uv("venv", "--quiet", "--python", sys.executable, "core", folder=tmp_path)
    python = str(tmp_path / "core/bin/python")
    uv(
        "pip",
        "install",
        "--quiet",
        "--python",
        python,
        "-c",
        str(ROOT / "requirements.txt"),
        str(wheel),
        folder=tmp_path,
    )
    packages = uv("pip", "freeze", "--python", python, folder=tmp_path).splitlines()
    assert len(packages) <= MOST_PACKAGES, packages
    size = sum(path.stat().st_size for path in (tmp_path / "core").rglob("*") if path.is_file())
    assert size < LARGEST
    empty = tmp_path / "empty"
    empty.mkdir()
    run(python, "-c", FEATURES, folder=empty)
    assert "rank-1" in run(str(tmp_path / "core/bin/slsr"), "score", "f.npz", "--rerank", folder=empty)


def test_with_all_extras_it_draws_and_reads_a_data_set(wheel, tmp_path):
    """With the packages of this environment; the wheel comes before the clone's own sources."""
    uv("pip", "install", "--quiet", "--no-deps", "--target", "package", str(wheel), folder=tmp_path)
    package = str(tmp_path / "package")
    where = run(sys.executable, "-c", "import slsr; print(slsr.__file__)", folder=tmp_path, PYTHONPATH=package)
    assert where.startswith(package)
    slsr = (sys.executable, "-m", "slsr")
    run(*slsr, "sample", "x.zip", "--identities", "4", folder=tmp_path, PYTHONPATH=package)
    shown = run(*slsr, "data", "check", "x.zip", folder=tmp_path, PYTHONPATH=package)
    assert "drawn by `slsr sample`" in shown
    program = "import slsr; slsr.load_encoder; import slsr.explore.app, slsr.search.kinds, slsr.embedding.export"
    run(sys.executable, "-c", program, folder=tmp_path, PYTHONPATH=package)
