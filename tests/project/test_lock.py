"""Whether a result that dvc.lock records belongs to the revision: its parameters, code, data and weights."""

import hashlib
import json

import pytest
import yaml
from git_project import GitProject

from slsr.project import lock as revisions
from slsr.project.lock import Revision, locked_stages, parameters, stale_reason


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


ARCHIVE, OTHER_ARCHIVE, WEIGHTS = md5(b"archive"), md5(b"another"), md5(b"weights")
CODE = "WIDTH = 3\n"


def listing(archive: str) -> bytes:
    return json.dumps([{"md5": archive, "relpath": "a.zip"}]).encode()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Two stages have run: `prepare` reads the archive, `evaluate@none` what it wrote, weights and a module."""
    made = GitProject.new(tmp_path / "project")
    cache = tmp_path / "cache"
    for archive in (ARCHIVE, OTHER_ARCHIVE):
        digest = md5(listing(archive))
        path = cache / "files" / "md5" / digest[:2] / f"{digest[2:]}.dir"
        path.parent.mkdir(parents=True)
        path.write_bytes(listing(archive))
    lock = {
        "prepare": {
            "deps": [{"path": "data/a.zip", "md5": ARCHIVE}],
            "outs": [{"path": "artifacts/train.parquet", "md5": "1"}],
        },
        "evaluate@none": {
            "deps": [
                {"path": "artifacts/train.parquet", "md5": "1"},
                {"path": "src/model.py", "md5": md5(CODE.encode())},
                {"path": "weights/mine.safetensors", "md5": WEIGHTS},
            ],
            "params": {"params.yaml": {"train": {"seed": 1}}},
            "outs": [{"path": "artifacts/evaluate/none/metrics.json", "md5": "2"}],
        },
    }
    (made.folder / "src").mkdir()
    (made.folder / "weights").mkdir()
    (made.folder / "src" / "model.py").write_text(CODE)
    (made.folder / "params.yaml").write_text("train: {seed: 1}\n")
    (made.folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": lock}))
    track(made, "data", f"{md5(listing(ARCHIVE))}.dir")
    track(made, "weights/mine.safetensors", WEIGHTS)
    monkeypatch.chdir(made.folder)
    monkeypatch.setattr(revisions, "cache_folder", lambda: cache)
    return made


def track(project: GitProject, path: str, digest: str) -> None:
    outs = [{"md5": digest, "path": path.rsplit("/", 1)[-1]}]
    (project.folder / f"{path}.dvc").write_text(yaml.safe_dump({"outs": outs}))


def reason(project: GitProject) -> str | None:
    """The answer for the workspace, which must be that for a commit of it."""
    workspace = Revision("workspace", None)
    project.git("add", "--all")
    project.git("commit", "--quiet", "--allow-empty", "--message", "x")
    commit = Revision("commit", project.git("rev-parse", "HEAD"))
    found = [stale_reason(r, locked_stages(r), "evaluate@none", parameters(r)) for r in (workspace, commit)]
    assert found[0] == found[1]
    return found[0]


def test_a_result_of_the_revision_s_own_is_not_stale(project):
    assert reason(project) is None


def test_a_changed_parameter_module_archive_or_weights_file_is_named(project):
    (project.folder / "params.yaml").write_text("train: {seed: 2}\n")
    assert reason(project) == "evaluate@none ran with train.seed: 1, and params.yaml has 2"
    (project.folder / "params.yaml").write_text("train: {seed: 1}\n")
    (project.folder / "src" / "model.py").write_text("WIDTH = 4\n")
    assert reason(project) == "evaluate@none ran with another src/model.py"
    (project.folder / "src" / "model.py").write_text(CODE)
    track(project, "data", f"{md5(listing(OTHER_ARCHIVE))}.dir")
    assert reason(project) == "prepare ran with another data/a.zip than its .dvc file records"
    track(project, "data", f"{md5(listing(ARCHIVE))}.dir")
    track(project, "weights/mine.safetensors", md5(b"others"))
    assert reason(project) == "evaluate@none ran with another weights/mine.safetensors than its .dvc file records"


def test_what_cannot_be_told_is_no_reason(project):
    """A listing that was never pulled, and weights that nobody tracks."""
    track(project, "data", f"{md5(b'unknown')}.dir")
    (project.folder / "weights" / "mine.safetensors.dvc").unlink()
    assert reason(project) is None
