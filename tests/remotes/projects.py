"""What the tests of sharing do to a clone, and read from it."""

import hashlib
import re
import shutil
from pathlib import Path

import yaml
from pipeline.conftest import Project
from servers import Remote

# Which outs show images, said again in another way than dvc.yaml does.
PREPARED = re.compile(r"artifacts/prepared/.*\.parquet")
GENERATED = re.compile(r"artifacts/generated/images\.parquet")
PICTURES = re.compile(r"artifacts/gan/.*|.*/members\.png|.*/sheet\.png|.*/ranked_lists\w*\.png")


def outs_of(project: Project) -> dict[str, str]:
    """Path and md5 of every file that the stages wrote and DVC caches, folders file by file."""
    lock = yaml.safe_load((project.folder / "dvc.lock").read_text())["stages"]
    found = {}
    for stage in lock.values():
        for out in stage["outs"]:
            if out["path"].startswith("artifacts/"):
                for path in files_below(project.folder / out["path"]):
                    found[path.relative_to(project.folder).as_posix()] = md5(path)
    return found


def files_below(path: Path) -> list[Path]:
    return sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def contents(project: Project) -> dict[str, str]:
    """Path and md5 of every file below artifacts/, none where there is no such folder."""
    found = [path for path in (project.folder / "artifacts").rglob("*") if path.is_file()]
    return {path.relative_to(project.folder).as_posix(): md5(path) for path in sorted(found)}


def leftovers(project: Project) -> list[Path]:
    """What a DVC command that was killed has left of the files that it was writing below artifacts/."""
    return sorted((project.folder / "artifacts").rglob(".*.tmp"))


def commit(project: Project, message: str = "work") -> None:
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--allow-empty", "--message", message)


def set_share(project: Project, prepared: str | None, pictures: str | None, generated: str | None) -> None:
    values = {"prepared": prepared, "pictures": pictures, "generated": generated}
    path = project.folder / "params.yaml"
    lines = path.read_text().splitlines()
    start = lines.index(next(line for line in lines if line.startswith("share:")))
    for number in range(start + 1, len(lines)):
        key = lines[number].split(":")[0].strip()
        if key in values:
            lines[number] = f"  {key}: {values.pop(key) or 'null'}"
    assert not values
    path.write_text("\n".join(lines) + "\n")
    assert project.slsr("preset").returncode == 0


def colleague(project: Project, folder: Path, remote: Remote | None = None) -> Project:
    """A clone of the project as committed, with the colleague's own secrets and nothing else."""
    project.run("git", "clone", "--quiet", str(project.folder), str(folder))
    other = Project(folder)
    if remote is not None:
        for key, value in remote.secrets.items():
            other.run("dvc", "remote", "modify", "--local", "store", key, value)
    return other


def matching(project: Project, *patterns: re.Pattern) -> set[str]:
    """The md5 of the outs whose path fits one of the patterns; there is at least one."""
    found = {oid for path, oid in outs_of(project).items() if any(pattern.fullmatch(path) for pattern in patterns)}
    assert found
    return found


def forget(project: Project) -> None:
    """Leave what a fresh clone has."""
    shutil.rmtree(project.folder / "artifacts", ignore_errors=True)
    shutil.rmtree(project.folder / ".dvc" / "cache", ignore_errors=True)
