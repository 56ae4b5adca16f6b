"""Whether a result that dvc.lock records belongs to the revision: its parameters, code, data and weights."""

import hashlib
import json

import pytest
import yaml
from git_project import GitProject

from slsr.errors import InputError
from slsr.project.revisions import WORKSPACE, Revision, Tracked, locked_stages, md5_of, members
from slsr.project.staleness import stale_reason

ARCHIVE, OTHER_ARCHIVE, WEIGHTS = md5_of(b"archive"), md5_of(b"another"), md5_of(b"weights")
CODE = "WIDTH = 3\n"


def listing(archive: str) -> bytes:
    return json.dumps([{"md5": archive, "relpath": "a.zip"}]).encode()


@pytest.fixture
def project(tmp_path):
    """Two stages have run: `prepare` reads the archive, `evaluate@none` what it wrote, weights and a module."""
    made = GitProject.new(tmp_path / "project")
    cache = tmp_path / "cache"
    for archive in (ARCHIVE, OTHER_ARCHIVE):
        digest = md5_of(listing(archive))
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
                {"path": "src/model.py", "md5": md5_of(CODE.encode())},
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
    track(made, "data", f"{md5_of(listing(ARCHIVE))}.dir")
    track(made, "weights/mine.safetensors", WEIGHTS)
    (made.folder / ".dvc").mkdir()
    (made.folder / ".dvc" / "config").write_text(f"[cache]\n    dir = {cache}\n")
    (made.folder / ".gitignore").write_text("/weights/*.safetensors\n")
    return made


def track(project: GitProject, path: str, digest: str) -> None:
    outs = [{"md5": digest, "path": path.rsplit("/", 1)[-1]}]
    (project.folder / f"{path}.dvc").write_text(yaml.safe_dump({"outs": outs}))


def reason(project: GitProject) -> str | None:
    """The answer for the workspace, which must be that for a commit of it."""
    workspace = Revision(project.folder, WORKSPACE, None)
    project.git("add", "--all")
    project.git("commit", "--quiet", "--allow-empty", "--message", "x")
    commit = Revision(project.folder, "commit", project.git("rev-parse", "HEAD"))
    found = [stale_reason(revision, locked_stages(revision), "evaluate@none") for revision in (workspace, commit)]
    assert found[0] == found[1]
    return found[0]


def test_a_result_of_the_revision_s_own_is_not_stale(project):
    assert reason(project) is None


def test_a_changed_parameter_module_archive_or_weights_file_is_named(project):
    (project.folder / "params.yaml").write_text("train: {seed: 2}\n")
    assert reason(project) == "evaluate@none: params.yaml: train.seed is 2, and was 1 in the run"
    (project.folder / "params.yaml").write_text("train: {seed: 1}\n")
    (project.folder / "src" / "model.py").write_text("WIDTH = 4\n")
    assert reason(project) == "evaluate@none: src/model.py: changed since the run"
    (project.folder / "src" / "model.py").write_text(CODE)
    track(project, "data", f"{md5_of(listing(OTHER_ARCHIVE))}.dir")
    assert reason(project) == "prepare: data/a.zip: changed since the run, by data.dvc"
    track(project, "data", f"{md5_of(listing(ARCHIVE))}.dir")
    track(project, "weights/mine.safetensors", md5_of(b"others"))
    assert (
        reason(project)
        == "evaluate@none: weights/mine.safetensors: changed since the run, by weights/mine.safetensors.dvc"
    )


def test_what_cannot_be_told_is_no_reason(project):
    """A listing that was never pulled, and weights that git ignores and DVC does not track."""
    track(project, "data", f"{md5_of(b'unknown')}.dir")
    (project.folder / "weights" / "mine.safetensors.dvc").unlink()
    assert reason(project) is None


def test_a_lost_module_is_a_reason(project):
    (project.folder / "src" / "model.py").unlink()
    assert "src/model.py: no such file" in reason(project)


def test_an_input_that_its_writer_has_written_anew_is_a_reason(project):
    lock = project.folder / "dvc.lock"
    content = yaml.safe_load(lock.read_text())
    content["stages"]["prepare"]["outs"][0]["md5"] = "9"
    lock.write_text(yaml.safe_dump(content))
    assert reason(project) == "evaluate@none: artifacts/train.parquet: not the one that prepare records"


def test_a_damaged_object_is_not_read(tmp_path):
    """A kill or a full disk cut it off; what is left may still be a valid list or table."""
    content = b'[{"md5": "1", "relpath": "a"}, {"md5": "2", "relpath": "b"}]'
    md5 = f"{hashlib.md5(content).hexdigest()}.dir"
    place = tmp_path / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]
    place.parent.mkdir(parents=True)
    (tmp_path / ".dvc" / "config").touch()
    place.write_bytes(content)
    folder = Tracked("data.dvc", "data", md5, 2)
    assert members(tmp_path, folder, {"a": "1"}) == {"a": "1", "b": "2"}
    place.write_bytes(b'[{"md5": "1", "relpath": "a"}]')
    with pytest.raises(InputError, match=f"{md5[2:]}: damaged, .*`dvc pull`"):
        members(tmp_path, folder, {"a": "1"})


@pytest.mark.parametrize("content", ["", "outs: []", "outs:\n- path: data", "- 1"])
def test_a_dvc_file_without_an_output_is_named(tmp_path, content):
    (tmp_path / "data.dvc").write_text(content)
    with pytest.raises(InputError, match=r"data.dvc .workspace.: has no output with an md5; `git checkout data.dvc`"):
        Revision(tmp_path, "workspace", None).tracked("data/a.zip")
