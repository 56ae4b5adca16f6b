"""A clone of this repository in a temporary folder, with the sample pulled and parameters of a minute's scale."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]

TINY = """
dataset: {archive: slsr-sample.zip, identities: 8}
image: {height: 32, width: 32, resize_height: 36, resize_width: 36, test: center-crop}
encoder: {backbone: resnet18, weights: none, epochs: 2, optimizer: {name: adamw}, schedule: {name: one-cycle}}
cluster: {k: 2, sweep: [2, 3], restarts: 2, minimum_images: 6}
gan: {height: 32, width: 32, channels: 4, epochs: 1, minimum_steps: 2, batch_size: 16}
generate: {images: 24}
train: {backbone: resnet18, weights: none, epochs: 2, optimizer: {name: adamw, learning_rate: 0.001}}
evaluate: {bootstrap: {resamples: 200}, rerank: {k1: 10, k2: 3}, ranked_list: {queries: 2, depth: 4}}
share: {prepared: null, pictures: null, generated: null}
"""


class Project:
    """A checkout in which commands run as a user's would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess:
        done = subprocess.run(command, cwd=self.folder, env=self.environment(), capture_output=True, text=True)
        if check and done.returncode:
            raise AssertionError(f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def environment(self) -> dict[str, str]:
        """What a command runs in: this interpreter's tools first, and an author for commits."""
        return os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "OMP_WAIT_POLICY": "passive",
            "GIT_AUTHOR_NAME": "t",
            "GIT_AUTHOR_EMAIL": "t@example.org",
            "GIT_COMMITTER_NAME": "t",
            "GIT_COMMITTER_EMAIL": "t@example.org",
        }

    def stages_run(self, *arguments: str) -> list[str]:
        """The stages that `dvc repro` really ran, in order."""
        lines = self.run("dvc", "repro", *arguments).stdout.splitlines()
        return [line.split("'")[1] for line in lines if line.startswith("Running stage")]

    def slsr(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run this checkout's own package."""
        program = "import sys; sys.path.insert(0, 'src'); from slsr.cli.main import main; main()"
        return self.run(sys.executable, "-c", program, *arguments, check=False)


def clone(folder: Path) -> Project:
    """Clone the repository as it stands in the working tree, edits included."""
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(folder)], check=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        source, target = ROOT / name, folder / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
        else:
            target.unlink(missing_ok=True)
    take_compiled_kernels(folder)
    project = Project(folder)
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--allow-empty", "--message", "as it stands")
    return project


def take_compiled_kernels(folder: Path) -> None:
    """Copy numba's cache, which is valid for files of the same time and size; to compile anew takes half a minute."""
    for source in (ROOT / "src").rglob("__pycache__/*.nb[ci]"):
        target = folder / source.relative_to(ROOT)
        target.parent.mkdir(exist_ok=True)
        shutil.copy2(source, target)


@pytest.fixture(scope="session")
def fresh_clone(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone, nothing done to it."""
    return clone(tmp_path_factory.mktemp("clone") / "slsr")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Project:
    """A clone in which the whole pipeline has run at a minute's scale: run once, copied for each process."""
    own = tmp_path_factory.getbasetemp()
    shared = (own if worker_id == "master" else own.parent) / "finished"
    with FileLock(f"{shared}.lock"):
        if not shared.exists():
            running = clone(tmp_path_factory.mktemp("run") / "slsr")
            run_at_a_minutes_scale(running)
            running.folder.rename(shared)
    return Project(shutil.copytree(shared, tmp_path_factory.mktemp("copy") / "slsr", symlinks=True))


def run_at_a_minutes_scale(project: Project) -> None:
    """The whole pipeline with the parameters above."""
    (project.folder / "presets" / "tiny.yaml").write_text(TINY)
    done = project.slsr("preset", "tiny")
    assert done.returncode == 0, done.stderr
    project.run("dvc", "pull", "data.dvc")
    project.run("dvc", "repro")


@pytest.fixture
def copied_run(tiny_run: Project, tmp_path: Path) -> Project:
    """A copy of the project in which everything has run, to be changed at will."""
    return Project(shutil.copytree(tiny_run.folder, tmp_path / "slsr", symlinks=True))
