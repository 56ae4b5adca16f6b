"""Clones that share through real servers, and one with stand-ins for the outs of every stage."""

import json
import os
import random
import shutil
from pathlib import Path

import pytest
from dvc.repo import Repo
from pipeline.conftest import Project, clone, copied_run, tiny_run  # noqa: F401
from projects import commit
from servers import Remote, clean_environment, s3_server, ssh_server

KINDS = ("folder", "ssh", "s3")


@pytest.fixture(autouse=True)
def no_credentials_of_the_shell(monkeypatch):
    """Only what .dvc/config and .dvc/config.local say counts."""
    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def ssh(tmp_path_factory):
    with ssh_server(tmp_path_factory.mktemp("ssh")) as server:
        yield server


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def remotes(request, tmp_path):
    """A function: an empty remote of a kind."""

    def make(kind: str, name: str = "store") -> Remote:
        if kind == "folder":
            folder = tmp_path / "remotes" / name
            return Remote("folder", str(folder), folder=folder)
        return request.getfixturevalue(kind).remote(f"{tmp_path.name}/{name}")

    return make


@pytest.fixture(params=KINDS)
def store(request, remotes) -> Remote:
    """An empty remote, of each kind in turn."""
    return remotes(request.param)


METRICS = "summary.json"  # DVC takes only text
FOLDERS = {"curves": ["metrics/train/loss.tsv", "metrics.json"], "gan": ["cluster_0.safetensors", "preview_0.png"]}


@pytest.fixture(scope="session")
def committed_stand_in(tmp_path_factory) -> Project:
    """A clone whose outs are noise, each file its own, committed to DVC as if the stages had written them."""
    project = clone(tmp_path_factory.mktemp("stand-in") / "slsr")
    project.run("dvc", "pull", "--quiet", "data.dvc")
    with Repo(str(project.folder)) as repo:
        paths = sorted(out.def_path for out in repo.index.outs if out.def_path.startswith("artifacts/"))
    for out in paths:
        for name in FOLDERS.get(Path(out).name, [""]):
            path = project.folder / out / name if name else project.folder / out
            path.parent.mkdir(parents=True, exist_ok=True)
            size = 400_000 if path.suffix == ".safetensors" else 20_000
            noise = random.Random(str(path.relative_to(project.folder))).randbytes(size)
            path.write_bytes(noise if path.name != METRICS else json.dumps({"a": noise.hex()}).encode())
    project.run("dvc", "commit", "--force", "--quiet")
    commit(project, "stand-ins")
    return project


@pytest.fixture
def stand_in(committed_stand_in, tmp_path) -> Project:
    """That clone, for one test's own use."""
    folder = tmp_path / "slsr"
    shutil.copytree(committed_stand_in.folder, folder, symlinks=True)
    return Project(folder)
