"""Models and generators as a registry: a version is a git tag, and its file comes from the remote."""

import pytest
from pipeline.conftest import Project
from projects import commit, outs_of

pytestmark = pytest.mark.remotes

ARTIFACTS = {
    "encoder": "artifacts/encoder/model.safetensors",
    "baseline": "artifacts/train/none/model.safetensors",
    "lsro": "artifacts/train/lsro/model.safetensors",
    "slsr": "artifacts/train/slsr/model.safetensors",
    "generators": "artifacts/gan",
}


@pytest.fixture
def published(stand_in, store, tmp_path):
    """Two versions of every artifact, registered with GTO; the team's git server; and where their outs went."""
    store.configure(stand_in)
    commit(stand_in, "first")
    stand_in.run("dvc", "push")
    for name in ARTIFACTS:
        stand_in.run("gto", "register", name, "--version", "v1.0.0")
    stand_in.run("gto", "assign", "slsr", "--version", "v1.0.0", "--stage", "reviewed")
    (stand_in.folder / ARTIFACTS["slsr"]).unlink()
    (stand_in.folder / ARTIFACTS["slsr"]).write_bytes(b"the second version")
    stand_in.run("dvc", "commit", "--force", "--quiet")
    commit(stand_in, "second")
    stand_in.run("dvc", "push")
    stand_in.run("gto", "register", "slsr")
    stand_in.run("git", "clone", "--quiet", "--bare", str(stand_in.folder), str(tmp_path / "team.git"))
    return stand_in, store, tmp_path / "team.git"


def test_registered_versions_are_fetched_from_a_clone(published, tmp_path):
    project, store, server = published
    assert project.run("git", "tag").stdout.split() == sorted(
        [*(f"{name}@v1.0.0" for name in ARTIFACTS), "slsr#reviewed#1", "slsr@v1.0.1"]
    )
    home = tmp_path / "elsewhere"
    home.mkdir()
    secrets = [word for key, value in store.secrets.items() for word in ("--remote-config", f"{key}={value}")]

    def get(name: str, *arguments: str) -> bytes:
        command = [
            "dvc",
            "artifacts",
            "get",
            server.as_uri(),
            name,
            *arguments,
            *secrets,
            "--out",
            f"{name}.got",
            "--force",
        ]
        Project(home).run(*command)
        return (home / f"{name}.got").read_bytes() if (home / f"{name}.got").is_file() else b""

    assert get("slsr") == b"the second version", "the latest, when no version is named"
    project.run("git", "checkout", "--quiet", "slsr@v1.0.0")
    project.run("dvc", "checkout", "--force")
    first = outs_of(project)
    for name, path in ARTIFACTS.items():
        found = get(name, "--rev", "v1.0.0")
        if name == "generators":
            files = {one.name: one.read_bytes() for one in (home / "generators.got").iterdir()}
            assert files == {one.name: one.read_bytes() for one in (project.folder / path).iterdir()}
        else:
            assert found == (project.folder / path).read_bytes(), path
            assert path in first
    assert get("slsr", "--stage", "reviewed") == (project.folder / ARTIFACTS["slsr"]).read_bytes()
