"""Whether the metrics that git keeps are those of the code, parameters and data beside them.

A stage is fresh if its entry in dvc.lock names what dvc.yaml names (the same command, dependencies, parameters and
outputs), if nothing of that has changed since (see `slsr.project.staleness`), and if the outputs that git keeps have
the bytes that the run wrote.

DVC itself resolves dvc.yaml, so that `dvc status` after a full pull gives the same answer.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from slsr.errors import InputError
from slsr.files import METRICS
from slsr.project.git import commit_of, edited_files, require_pipeline_files
from slsr.project.lock import LOCK, Entry, Stages, dependencies, outputs, parse_lock
from slsr.project.repository import opened, require_repository
from slsr.project.revisions import WORKSPACE, Revision
from slsr.project.staleness import changes, line_endings

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import Stage


@dataclass(frozen=True)
class StaleStage:
    """One reason why a stage must run again."""

    stage: str
    reason: str


@dataclass
class Freshness:
    """What was found.

    Attributes
    ----------
    stale
        The reasons, stage by stage.
    unknown
        What cannot be decided in this clone, with the remedy.
    downstream
        Stages that are stale only because of a stage above them.
    notices
        What does not change the answer.
    """

    stages: int = 0
    stale: list[StaleStage] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    downstream: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def freshness(folder: Path, rev: str | None = None) -> Freshness:
    """Compare dvc.lock with everything that git keeps.

    Parameters
    ----------
    folder
        The root of the DVC repository.
    rev
        A commit; None for the working tree, uncommitted edits included.

    Raises
    ------
    InputError
        There is no DVC repository or no such commit, or git or DVC cannot read something.
    """
    require_repository(folder)
    commit = None if rev is None else commit_of(folder, rev)
    revision = Revision(folder, rev or WORKSPACE, commit)
    in_git = revision.in_git()
    if not in_git:
        raise InputError(
            f"{folder.resolve()}: git tracks no file here ({revision.name}), so it keeps no metrics to check; "
            "`git add` the project, or `git reset` if the index was lost"
        )
    if commit is not None:
        require_pipeline_files(folder, commit)
    with opened(folder) as repo:
        for _ in repo.brancher(revs=None if commit is None else [commit], workspace=commit is None):
            found = _Check(repo, revision, in_git).run()
    if commit is None and (edited := edited_files(folder)):
        shown = ", ".join(edited[:3]) + (", ..." if len(edited) > 3 else "")
        found.notices.append(
            f"{len(edited)} of the project's files differ from HEAD ({shown}): this answer is about the working tree; "
            "--rev HEAD checks the commit"
        )
    return found


class _Check:
    """One look at a revision, whose dvc.yaml files DVC has resolved."""

    def __init__(self, repo: Repo, revision: Revision, in_git: set[str]) -> None:
        self.root = PurePosixPath(repo.root_dir)
        self.revision = revision
        self.in_git = in_git
        self.found = Freshness()
        every = list(repo.index.stages)
        self.writers = {self._name(out.fs_path): out.stage for stage in every for out in stage.outs}
        self.stages = self._relevant([stage for stage in every if stage.cmd])

    def run(self) -> Freshness:
        if not self.stages:
            raise InputError(f"{self.revision.root}: dvc.yaml has no stage; run this in the root of the project")
        self.found.stages = len(self.stages)
        for name, stage in self.stages.items():
            if "cmd" not in self.locked[name]:
                self._stale(name, "is not in dvc.lock: never run, or its entry was lost")
                continue
            for reason in (*self._renamed(name, stage), *self._changed(name, stage), *self._written(name, stage)):
                self._stale(name, reason)
        self._leftovers()
        self.found.downstream = self._downstream({one.stage for one in self.found.stale})
        return self.found

    def _relevant(self, stages: list[Stage]) -> dict[str, Stage]:
        """Return the stages of the root's dvc.yaml, and of other files those whose outputs git keeps."""
        waiting = [
            stage
            for stage in stages
            if self._name(stage.path) == "dvc.yaml"
            or any(not out.use_cache or self._kept(self._name(out.fs_path)) for out in stage.outs)
        ]
        chosen = set()
        while waiting:
            stage = waiting.pop()
            if (name := self._address(stage)) not in chosen and stage.cmd:
                chosen.add(name)
                waiting += self._above(stage)
        return {self._address(stage): stage for stage in stages if self._address(stage) in chosen}

    def _above(self, stage: Stage) -> list[Stage]:
        """Return the stages that write what a stage reads, or a folder above it."""
        paths = [PurePosixPath(self._name(dep.fs_path)) for dep in stage.deps]
        places = [str(place) for path in paths for place in (path, *path.parents)]
        return [self.writers[place] for place in places if place in self.writers]

    @cached_property
    def locked(self) -> dict[str, Entry]:
        """The entry of every stage in its lock file, with paths from the root; outputs it lacks have no hash."""
        return {name: self._entry(stage) for name, stage in self.stages.items()}

    def _entry(self, stage: Stage) -> Entry:
        folder = posixpath.dirname(self._name(stage.path))
        entry = self._lock(posixpath.join(folder, LOCK)).get(getattr(stage, "name", None) or "", {})
        start = self._name(stage.wdir)

        def from_root(path: str) -> str:
            return posixpath.normpath(posixpath.join(start, path))

        deps, outs = (
            [{**one, "path": from_root(one["path"])} for one in entry.get(key) or []] for key in ("deps", "outs")
        )
        recorded = {one["path"] for one in outs}
        new = [{"path": path} for out in stage.outs if (path := self._name(out.fs_path)) not in recorded]
        read = {from_root(file): values for file, values in (entry.get("params") or {}).items()}
        return {**entry, "deps": deps, "outs": [*outs, *new], "params": read}

    def _lock(self, path: str) -> Stages:
        content = self.revision.read(path)
        return {} if content is None else parse_lock(content, f"{path} ({self.revision.name})")

    def _renamed(self, name: str, stage: Stage) -> Iterator[str]:
        """Yield where the entry and dvc.yaml do not name the same things."""
        entry = self.locked[name]
        if stage.cmd_changed:
            yield f"its command is not the one in dvc.lock{_frozen(stage)}"
        recorded = dependencies(entry)
        named = self._named(stage)
        for path in named:
            if path not in recorded:
                yield f"{path}: a new dependency, which dvc.lock does not have{_frozen(stage)}"
        remedy = f"name it again, or `dvc repro --force {name}`"
        for path in recorded:
            if path not in named:
                yield f"{path}: dvc.lock has this dependency, and dvc.yaml no longer names it; {remedy}"
        read, locked = self._read(stage), entry.get("params") or {}
        for file, keys in read.items():
            for key in keys:
                if key not in locked.get(file, {}):
                    yield f"{file}: {key} is a new parameter, which dvc.lock does not have{_frozen(stage)}"
        for file, values in locked.items():
            for key in values if read.get(file) != [] else ():  # an empty list names the whole file
                if key not in read.get(file, ()):
                    yield f"{file}: dvc.lock has the parameter {key}, and dvc.yaml no longer names it; {remedy}"

    def _named(self, stage: Stage) -> list[str]:
        """Return the files and folders that dvc.yaml names as dependencies."""
        from dvc.dependency import ParamsDependency

        named = []
        for dep in stage.deps:
            if isinstance(dep, ParamsDependency):
                continue
            if dep.is_in_repo:
                named.append(self._name(dep.fs_path))
            else:
                self.found.notices.append(f"{dep.def_path} is outside of the repository; it was not checked")
                named.append(posixpath.normpath(posixpath.join(self._name(stage.wdir), dep.def_path)))
        return named

    def _read(self, stage: Stage) -> dict[str, list[str]]:
        """Return the parameters that dvc.yaml names, by file."""
        from dvc.dependency import ParamsDependency

        return {self._name(dep.fs_path): dep.params for dep in stage.deps if isinstance(dep, ParamsDependency)}

    def _changed(self, name: str, stage: Stage) -> Iterator[str]:
        """Yield what has changed since the run, and note what cannot be decided or what only this clone has."""
        named = set(self._named(stage))
        for change in changes(self.revision, self.locked, name):
            if change.certain:
                yield change.reason + _frozen(stage)
            else:
                self.found.unknown.append(change.reason)
        for path in named - self.writers.keys():
            self._note_untracked(path)

    def _note_untracked(self, path: str) -> None:
        """Note files of a dependency that git does not track: a stage reads them, and nobody else has them."""
        if any(str(place) in self.writers for place in PurePosixPath(path).parents):
            return
        files = [path] if (self.revision.root / path).is_file() else self.revision.files_below(path)
        self._note_not_in_git([file for file in files if file not in self.in_git])

    def _note_not_in_git(self, files: list[str]) -> None:
        self.found.notices += [f"{file} is not in git, so others do not have it; `git add` it" for file in files]

    def _written(self, name: str, stage: Stage) -> Iterator[str]:
        """Yield which outputs that git keeps are not those of the run."""
        recorded = outputs(self.locked[name])
        for out in stage.outs:
            path = self._name(out.fs_path)
            if recorded[path] is None:
                yield f"{path}: a new output, which dvc.lock does not have"
            elif out.use_cache:
                for file in self._kept(path):
                    remedy = "set `cache: false` in dvc.yaml, or `git rm --cached` it"
                    yield f"{file}: in git, while DVC caches it; {remedy}"
            elif (now := self.revision.digest(path)) is None:
                yield f"{path}: missing; the run wrote it"
            elif now != recorded[path]:
                hint = line_endings(self.revision, path, recorded[path])
                yield f"{path}: not what the run wrote (edited, or from another run){hint}"
            elif not self._kept(path):
                self._note_not_in_git([path])

    def _kept(self, path: str) -> list[str]:
        """Return what git tracks of an output: itself, or files below it."""
        return [path] if path in self.in_git else sorted(file for file in self.in_git if file.startswith(f"{path}/"))

    def _leftovers(self) -> None:
        """Find what the lock or git still have of stages and outputs that dvc.yaml no longer has."""
        found = set()
        for name, entry in self._lock(LOCK).items():
            if name not in self.stages:
                self.found.notices.append(f"dvc.lock has {name}, which dvc.yaml no longer has; remove the entry")
            for path in outputs(entry):
                if path not in self.writers and path in self.in_git:
                    found.add(path)
                    self._stale(name, f"{path}: in git, but no stage writes it any more; `git rm` it")
        for path in sorted(self.in_git - found - self.writers.keys()):
            if PurePosixPath(path).is_relative_to(METRICS) and path.endswith(".json") and not self._is_below_out(path):
                self._stale(f"{METRICS}/", f"{path}: no stage writes it; `git rm` it")

    def _is_below_out(self, path: str) -> bool:
        return any(str(place) in self.writers for place in PurePosixPath(path).parents)

    def _downstream(self, stale: set[str]) -> list[str]:
        reached = set(stale)
        while True:
            more = {
                name
                for name, stage in self.stages.items()
                if any(self._address(one) in reached for one in self._above(stage))
            } - reached
            if not more:
                return sorted(reached - stale)
            reached |= more

    def _stale(self, stage: str, reason: str) -> None:
        self.found.stale.append(StaleStage(stage, reason))

    def _address(self, stage: Stage) -> str:
        """Name a stage of the root's dvc.yaml by its name, any other by file and name."""
        file, name = self._name(stage.path), getattr(stage, "name", None)
        return name if name and file == "dvc.yaml" else f"{file}:{name}" if name else file

    def _name(self, path: str) -> str:
        """Return a path of DVC as a path from the root of the project."""
        return posixpath.relpath(path, self.root) if posixpath.isabs(path) else path


def _frozen(stage: Stage) -> str:
    return " (the stage is frozen: `dvc unfreeze` it first)" if stage.frozen else ""


def describe(found: Freshness) -> str:
    """Return the answer in words, stage by stage."""
    lines = [f"note: {notice}" for notice in dict.fromkeys(found.notices)]
    for stage in dict.fromkeys(one.stage for one in found.stale):
        lines += [f"stale: {stage}", *(f"  {one.reason}" for one in found.stale if one.stage == stage)]
    if found.downstream:
        lines.append(f"and what depends on them: {', '.join(found.downstream)}")
    lines += [f"unknown: {reason}" for reason in dict.fromkeys(found.unknown)]
    if not found.stale and not found.unknown:
        lines.append(f"fresh: the metrics are those of this code, params.yaml and data ({found.stages} stages)")
    return "\n".join(lines)
