"""What a revision holds, read from git and DVC's cache without checking it out.

A revision is an experiment, a commit, or the workspace. DVC records in dvc.lock what each stage read (parameters, files
by MD5) and wrote; that says which results are there, whether they are those of the revision's own parameters and code,
and where in the cache they lie.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from ruamel.yaml import YAML

from slsr.errors import InputError

WORKSPACE = "workspace"
LOCKS = ("dvc.lock", "studies/dvc.lock")
EXPERIMENT = re.compile(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/([^/]+)")

Stages = Mapping[str, Mapping[str, Any]]


def git(*arguments: str) -> bytes:
    """Run git here and return what it prints.

    Raises
    ------
    InputError
        Git refuses.
    """
    done = subprocess.run(["git", *arguments], capture_output=True)
    if done.returncode:
        raise InputError(f"git {' '.join(arguments)}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


@dataclass(frozen=True)
class Revision:
    """A name and its commit; None is the workspace."""

    name: str
    commit: str | None

    def read(self, path: str) -> bytes | None:
        """The content of a tracked file, None where there is none."""
        if self.commit is None:
            file = Path(path)
            return file.read_bytes() if file.is_file() else None
        done = subprocess.run(["git", "show", f"{self.commit}:{path}"], capture_output=True)
        return done.stdout if done.returncode == 0 else None


def experiments() -> dict[str, str]:
    """Every experiment's name and commit; of a name that several commits have experiments under, the newest."""
    listed = git("for-each-ref", "--sort=committerdate", "--format=%(objectname) %(refname)", "refs/exps").decode()
    found = {}
    for line in listed.splitlines():
        commit, reference = line.split(" ", 1)
        if named := EXPERIMENT.fullmatch(reference):
            found[named[1]] = commit
    return found


def find_revisions(names: list[str]) -> list[Revision]:
    """Revisions by experiment name, pattern of names (`regularizers-*`), git revision, or `workspace`.

    Raises
    ------
    InputError
        A name is none of these.
    """
    known = experiments()
    found: dict[str, Revision] = {}
    for name in names:
        if name == WORKSPACE:
            matches = [Revision(WORKSPACE, None)]
        elif any(character in name for character in "*?["):
            matches = [Revision(one, commit) for one, commit in known.items() if fnmatchcase(one, name)]
            if not matches:
                raise InputError(f"experiment {name!r}: no name fits; `dvc exp list --all-commits` shows them")
        else:
            matches = [Revision(name, known[name] if name in known else _commit(name))]
        found |= {revision.name: revision for revision in matches}
    return list(found.values())


def _commit(name: str) -> str:
    try:
        return git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}").decode().strip()
    except InputError as error:
        raise InputError(
            f"experiment {name!r}: neither an experiment (`dvc exp list --all-commits` shows them, `dvc exp pull` "
            "fetches those of others) nor a git revision"
        ) from error


def locked_stages(revision: Revision) -> dict[str, Mapping[str, Any]]:
    """Stages that have run, as the lock files of the revision record them.

    Raises
    ------
    InputError
        There is no dvc.lock.
    """
    stages: dict[str, Mapping[str, Any]] = {}
    for path in LOCKS:
        if (content := revision.read(path)) is not None:
            stages |= YAML(typ="safe").load(content.decode()).get("stages", {})
    if not stages:
        raise InputError(f"{revision.name}: dvc.lock records no stage; run `dvc repro` there first")
    return stages


def parameters(revision: Revision) -> dict[str, Any]:
    """The parameters of a revision, `block.key` -> value."""
    content = revision.read("params.yaml")
    if content is None:
        raise InputError(f"{revision.name}: has no params.yaml; name a revision of this project")
    return flat(YAML(typ="safe", pure=True).load(content.decode()))


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested blocks as `block.key` -> value."""
    if not isinstance(values, Mapping):
        return {prefix[:-1]: values}
    return {key: leaf for name, value in values.items() for key, leaf in flat(value, f"{prefix}{name}.").items()}


def chain(stages: Stages, leg: str) -> Iterator[str]:
    """The names of a stage and of all stages whose outputs it rests on."""
    written_by = {out["path"]: name for name, stage in stages.items() for out in stage.get("outs", [])}
    waiting, seen = [leg], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        yield name
        waiting += [written_by[dep["path"]] for dep in stages[name]["deps"] if dep["path"] in written_by]


def stale_reason(revision: Revision, stages: Stages, leg: str, values: Mapping[str, Any]) -> str | None:
    """Why a locked stage is not the result of the revision's own code, data and parameters; None where it is.

    An experiment that ran some stages keeps in its dvc.lock what its parent recorded of the others.
    """
    written = {out["path"]: out.get("md5") for stage in stages.values() for out in stage.get("outs", [])}
    for name in chain(stages, leg):
        for key, value in locked_parameters(stages[name]).items():
            if values.get(key) != value:
                return f"{name} ran with {key}: {value}, and params.yaml has {values.get(key)}"
        for dep in stages[name]["deps"]:
            path = dep["path"]
            if path in written:
                if written[path] != dep.get("md5"):
                    return f"{name} read another {path} than the one recorded"
            elif path.startswith("src/"):
                if _digest(revision, path) != dep["md5"]:
                    return f"{name} ran with another {path}"
            elif _recorded(revision, path) not in (None, dep["md5"]):
                return f"{name} ran with another {path} than its .dvc file records"
    return None


def _recorded(revision: Revision, path: str) -> str | None:
    """The MD5 that a .dvc file has for a path or for a folder above it; None where it cannot be told."""
    for tracked in (PurePosixPath(path), *PurePosixPath(path).parents[:-1]):
        content = _content(revision, f"{tracked}.dvc")
        if content is not None:
            digest: str = YAML(typ="safe").load(content.decode())["outs"][0]["md5"]
            return digest if tracked == PurePosixPath(path) else _member(digest, path, tracked)
    return None


def _member(listing: str, path: str, folder: PurePosixPath) -> str | None:
    """The MD5 of a file by the listing of its folder, `absent` where that lacks it; None without the listing."""
    cached = cache_folder() / "files" / "md5" / listing[:2] / listing[2:]
    if not cached.is_file():
        return None
    entries: dict[str, str] = {one["relpath"]: one["md5"] for one in json.loads(cached.read_bytes())}
    return entries.get(PurePosixPath(path).relative_to(folder).as_posix(), "absent")


def _digest(revision: Revision, path: str) -> str | None:
    """The hash that DVC has for a file or a folder of code, as the revision has it; None if it has neither."""
    content = _content(revision, path)
    return _md5(content) if content is not None else _folder_digest(revision, path)


def _folder_digest(revision: Revision, path: str) -> str | None:
    from dvc_data.hashfile.tree import Tree

    if revision.commit is None:
        listed = git("ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", path).decode().split("\0")
        files = sorted({name for name in listed if name and Path(name).is_file()})
    else:
        files = sorted(name for name in _blobs(revision.commit) if name.startswith(f"{path}/"))
    entries = [
        {"md5": _md5(content), "relpath": PurePosixPath(name).relative_to(path).as_posix()}
        for name in files
        if (content := _content(revision, name)) is not None
    ]
    if not entries:
        return None
    tree = Tree.from_list(entries, hash_name="md5")
    tree.digest()
    digest: str = tree.hash_info.value
    return digest


def _content(revision: Revision, path: str) -> bytes | None:
    """As `Revision.read`, but that a commit is listed once and a content is asked of git once, whoever has it."""
    if revision.commit is None:
        return revision.read(path)
    blob = _blobs(revision.commit).get(path)
    return None if blob is None else _blob(blob)


@cache
def _blobs(commit: str) -> dict[str, str]:
    """Path -> git's name of its content."""
    listed = git("ls-tree", "-r", "-z", commit).decode().split("\0")
    entries = (line.split("\t", 1) for line in listed if line)
    return {path: described.split(" ")[2] for described, path in entries}


@cache
def _blob(blob: str) -> bytes:
    return git("cat-file", "blob", blob)


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def locked_parameters(stage: Mapping[str, Any]) -> dict[str, Any]:
    """What a locked stage read of params.yaml, `block.key` -> value."""
    return flat({key: value for one in stage.get("params", {}).values() for key, value in one.items()})


def cached_file(revision: Revision, stage: Mapping[str, Any], path: str) -> Path:
    """Where a stage's output of this revision lies, read only: in DVC's cache.

    Raises
    ------
    InputError
        The stage has no such output, or the cache lacks it; the message says how to fetch it.
    """
    digest = next((out.get("md5") for out in stage["outs"] if out["path"] == path), None)
    if digest is None:
        raise InputError(f"{revision.name}: dvc.lock records no {path}; run `dvc repro` there")
    file: Path = cache_folder() / "files" / "md5" / digest[:2] / digest[2:]
    if not file.is_file():
        remedy = (
            "`dvc pull`"
            if revision.commit is None
            else f"`dvc exp pull REMOTE {revision.name}`, or `dvc fetch --all-commits` for a commit"
        )
        raise InputError(f"{revision.name}: {path} (md5 {digest}) is not in DVC's cache; fetch it with {remedy}")
    return file


@cache
def cache_folder() -> Path:
    """DVC's cache, wherever the configuration puts it."""
    done = subprocess.run(["dvc", "cache", "dir"], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"dvc cache dir: {done.stderr.strip()}; run this in the root of the project")
    return Path(done.stdout.strip())
