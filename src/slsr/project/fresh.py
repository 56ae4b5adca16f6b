"""Whether the metrics that git keeps are those of the code, parameters and data beside them.

A stage is fresh when its entry in dvc.lock says what dvc.yaml, the files of git and params.yaml say: the same command,
the same bytes of every dependency that git tracks, the same parameters. What git does not keep is compared entry to
entry: a dependency that another stage writes must have the hash that the lock gives that stage's output, and one below
a folder of data the hash that the folder's .dvc file stands for. The outputs that git keeps must have the bytes that
the run wrote. By induction the metrics then come from this code, these parameters and this data, and nothing has to be
pulled, run or imported to know it.

DVC itself resolves dvc.yaml and hashes, so that `dvc status` after a full pull says the same.
"""

from __future__ import annotations

import hashlib
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from slsr.errors import InputError
from slsr.project.git import commit_of, listed_files

if TYPE_CHECKING:
    from dvc.dependency import Dependency
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc.stage import Stage

METRICS = "metrics"


@dataclass(frozen=True)
class Finding:
    """A reason why a stage must run again."""

    stage: str
    reason: str


@dataclass
class Freshness:
    """What was found.

    `stale`: reasons, stage by stage. `unknown`: what cannot be told from here, with the remedy. `downstream`: stages
    that are stale only because of those above them. `notices`: what does not change the answer.
    """

    stages: int = 0
    stale: list[Finding] = field(default_factory=list)
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
        A commit; None: the working tree, uncommitted edits included.

    Raises
    ------
    InputError
        No DVC repository, no such commit, or a file that DVC cannot read.
    """
    if rev is None:
        folder = _root(folder)
        found = _freshness(folder, listed_files(folder), {})
        if edited := _edited(folder):
            shown = ", ".join(edited[:3]) + (", ..." if len(edited) > 3 else "")
            found.notices.append(
                f"{len(edited)} of the project's files are not as in HEAD ({shown}): this is about the working tree; "
                "--rev HEAD is about the commit"
            )
        return found
    commit = commit_of(folder, rev)
    folder = _root(folder)
    with tempfile.TemporaryDirectory() as scratch:
        extracted = Path(scratch) / "tree"
        _extract(folder, commit, extracted)
        config = {"core": {"no_scm": True, "site_cache_dir": str(Path(scratch) / "site")}} | _cache_of(folder)
        return _freshness(_root(extracted), listed_files(folder, commit), config)


def _root(folder: Path) -> Path:
    """The folder as DVC writes it."""
    from dvc.repo import Repo

    if not (folder / ".dvc").is_dir():
        raise InputError(f"{folder.resolve()}: no DVC repository; run this in the root of the project")
    return Path(Repo.find_root(str(folder)))


def _cache_of(folder: Path) -> dict[str, Any]:
    """The cache of a checkout, as configuration for one in another folder."""
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        return {"cache": {"dir": repo.cache.local_cache_dir}}


def _freshness(folder: Path, in_git: set[str], config: dict[str, Any]) -> Freshness:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        repo = Repo(str(folder), config=config or None)
        try:
            return _Check(repo, folder, in_git).run()
        finally:
            repo.close()
    except DvcException as error:
        cause = f": {error.__cause__}" if error.__cause__ else ""
        raise InputError(f"{folder}: DVC cannot read the pipeline ({error}{cause}); `dvc status` says more") from error


class _Check:
    """One look at a repository; the graph and the lock are read once."""

    def __init__(self, repo: Repo, folder: Path, in_git: set[str]) -> None:
        self.repo = repo
        self.folder = folder
        self.in_git = in_git
        self.found = Freshness()
        self.locks: dict[Path, dict[str, Any]] = {}
        every = list(repo.index.stages)
        self.writers = {out.fs_path: out for stage in every for out in stage.outs}
        self.stages = self._relevant([stage for stage in every if stage.cmd])

    def run(self) -> Freshness:
        if not self.stages:
            raise InputError(f"{self.folder}: dvc.yaml has no stage; run this in the root of the project")
        self.found.stages = len(self.stages)
        for stage in self.stages:
            self._stage(stage)
        self._leftovers()
        self.found.downstream = self._downstream({finding.stage for finding in self.found.stale})
        return self.found

    def _relevant(self, stages: list[Stage]) -> list[Stage]:
        """The stages of the root's dvc.yaml, and those of other files that outputs kept by git come from."""
        root = self.folder / "dvc.yaml"
        waiting = [
            stage
            for stage in stages
            if Path(stage.path) == root or any(not out.use_cache or self._in_git(out) for out in stage.outs)
        ]
        chosen = set()
        while waiting:
            stage = waiting.pop()
            if (name := self._address(stage)) not in chosen and stage.cmd:
                chosen.add(name)
                waiting += [out.stage for dep in stage.deps if (out := self._writer(dep.fs_path)) is not None]
        return [stage for stage in stages if self._address(stage) in chosen]

    def _writer(self, path: str) -> Output | None:
        """The output that a path is, or lies below."""
        for candidate in (path, *map(str, Path(path).parents)):
            if candidate in self.writers:
                return self.writers[candidate]
        return None

    def _in_git(self, out: Output) -> list[str]:
        """What git tracks of an output: itself, or files below it."""
        name = self._name(out.fs_path)
        return [name] if name in self.in_git else sorted(file for file in self.in_git if file.startswith(f"{name}/"))

    def _stage(self, stage: Stage) -> None:
        if not any(entry.hash_info for entry in (*stage.deps, *stage.outs)):
            self._stale(stage, "is not in dvc.lock: never run, or its entry was lost")
            return
        frozen = " (the stage is frozen: `dvc unfreeze` it first)" if stage.frozen else ""
        if stage.cmd_changed:
            self._stale(stage, f"its command is not the one in dvc.lock{frozen}")
        for dep in stage.deps:
            for reason in self._dependency(dep):
                self._stale(stage, reason + frozen)
        for reason in self._no_longer_named(stage):
            self._stale(stage, reason)
        for out in stage.outs:
            for reason in self._output(out):
                self._stale(stage, reason)

    def _dependency(self, dep: Dependency) -> Iterator[str]:
        from dvc.dependency import ParamsDependency

        name = self._name(dep.fs_path)
        if isinstance(dep, ParamsDependency):
            yield from _parameters(dep, name)
        elif not dep.is_in_repo:
            self.found.notices.append(f"{dep.def_path} lies outside of the repository; it was not looked at")
        elif (out := self._writer(dep.fs_path)) is not None:
            yield from self._written_elsewhere(dep, out, name)
        elif not dep.exists:
            yield f"{name}: no such file, and no stage writes it; commit it, or `dvc add` it"
        elif not dep.hash_info:
            yield f"{name}: a new dependency, which dvc.lock does not have"
        elif dep.changed_checksum():
            yield f"{name}: changed since the run{_line_endings(dep)}"
        elif name not in self.in_git and Path(dep.fs_path).is_file():
            self.found.notices.append(f"{name} is not in git, so others do not have it; `git add` it")

    def _written_elsewhere(self, dep: Dependency, out: Output, name: str) -> Iterator[str]:
        """Entry against entry: neither file needs to be here."""
        if not dep.hash_info:
            yield f"{name}: a new dependency, which dvc.lock does not have"
        elif not out.hash_info:
            return  # the stage that writes it is stale itself
        elif dep.fs_path == out.fs_path:
            if dep.hash_info != out.hash_info:
                yield f"{name}: not the one that {self._source(out)} records"
        else:
            yield from self._below_folder(dep, out, name)

    def _below_folder(self, dep: Dependency, out: Output, name: str) -> Iterator[str]:
        relative = Path(dep.fs_path).relative_to(out.fs_path).as_posix()
        listing = _listing(self.repo, out, {relative: dep.hash_info.value})
        if listing is None:
            self.found.unknown.append(
                f"{name}: {self._source(out)} records the hash of {out.meta.nfiles} files together, and the list of "
                "them is not here; keep one file in that folder, or run this where `dvc pull` or `dvc add` has been run"
            )
        elif relative not in listing:
            yield f"{name}: no longer in {self._name(out.fs_path)}, by {self._source(out)}"
        elif listing[relative] != dep.hash_info.value:
            yield f"{name}: changed since the run, by {self._source(out)}"

    def _output(self, out: Output) -> Iterator[str]:
        name = self._name(out.fs_path)
        if not out.hash_info:
            yield f"{name}: a new output, which dvc.lock does not have"
        elif out.use_cache:
            # Where git keeps no copy, nothing could differ.
            for file in self._in_git(out):
                yield f"{file}: in git, while DVC caches it; set `cache: false` in dvc.yaml, or `git rm --cached` it"
        elif not out.exists:
            yield f"{name}: missing; the run wrote it"
        elif out.changed_checksum():
            yield f"{name}: not what the run wrote (edited, or from another run){_line_endings(out)}"
        elif not self._in_git(out):
            self.found.notices.append(f"{name} is not in git, so others do not have it; `git add` it")

    def _no_longer_named(self, stage: Stage) -> Iterator[str]:
        """What the run depended on by dvc.lock and dvc.yaml leaves out, so that a change of it would go unseen."""
        from dvc.dependency import ParamsDependency

        entry = self._locked(Path(stage.path).parent).get(getattr(stage, "name", None) or "", {})
        named = {dep.def_path for dep in stage.deps if not isinstance(dep, ParamsDependency)}
        remedy = f"name it again, or `dvc repro --force {self._address(stage)}`"
        for dep in entry.get("deps") or []:
            if dep["path"] not in named:
                yield f"{dep['path']}: dvc.lock has this dependency, and dvc.yaml no longer names it; {remedy}"
        read = {dep.def_path: dep.params for dep in stage.deps if isinstance(dep, ParamsDependency)}
        for file, locked in (entry.get("params") or {}).items():
            for key in locked if read.get(file) != [] else ():
                if key not in read.get(file, ()):
                    yield f"{file}: dvc.lock has the parameter {key}, and dvc.yaml no longer names it; {remedy}"

    def _locked(self, folder: Path) -> dict[str, Any]:
        if folder not in self.locks:
            self.locks[folder] = _lock_entries(folder)
        return self.locks[folder]

    def _leftovers(self) -> None:
        """What the lock or git still have of stages and outputs that dvc.yaml no longer has."""
        names = {self._address(stage) for stage in self.stages}
        said = set()
        for stage, entry in self._locked(self.folder).items():
            if stage not in names:
                self.found.notices.append(f"dvc.lock has {stage}, which dvc.yaml no longer has; remove the entry")
            for out in entry.get("outs") or []:
                if self._writer(str(self.folder / out["path"])) is None and out["path"] in self.in_git:
                    said.add(out["path"])
                    self.found.stale.append(
                        Finding(stage, f"{out['path']}: in git, but no stage writes it any more; `git rm` it")
                    )
        for name in sorted(self.in_git - said):
            path = Path(name)
            if path.parts[0] == METRICS and path.suffix == ".json" and self._writer(str(self.folder / name)) is None:
                self.found.stale.append(
                    Finding(f"{METRICS}/", f"{name}: no stage writes it, so nothing vouches for it; `git rm` it")
                )

    def _downstream(self, stale: set[str]) -> list[str]:
        reached = set(stale)
        while True:
            more = {
                self._address(stage)
                for stage in self.stages
                for dep in stage.deps
                if (out := self._writer(dep.fs_path)) is not None and self._address(out.stage) in reached
            } - reached
            if not more:
                return sorted(reached - stale)
            reached |= more

    def _stale(self, stage: Stage, reason: str) -> None:
        self.found.stale.append(Finding(self._address(stage), reason))

    def _source(self, out: Output) -> str:
        return self._address(out.stage) if out.stage.cmd else self._name(out.stage.path)

    def _address(self, stage: Stage) -> str:
        """A stage of the root's dvc.yaml by its name, any other by file and name."""
        file, name = self._name(stage.path), getattr(stage, "name", None)
        return name if name and file == "dvc.yaml" else f"{file}:{name}" if name else file

    def _name(self, path: str) -> str:
        absolute = Path(path)
        return absolute.relative_to(self.repo.root_dir).as_posix() if absolute.is_absolute() else path


def _parameters(dep: Any, name: str) -> Iterator[str]:
    states = dep.workspace_status().get(str(dep), {})
    if isinstance(states, str):
        yield f"{name}: {'no such file' if states == 'deleted' else 'not in dvc.lock'}"
        return
    locked = dep.hash_info.value or {}
    now = dep.read_params()
    for key, state in states.items():
        if state == "deleted":
            yield f"{name}: {key} is missing"
        elif state == "new":
            yield f"{name}: {key} is a new parameter, which dvc.lock does not have"
        else:
            for leaf, before, after in _differences(key, locked[key], now[key]):
                yield f"{name}: {leaf} is {after}, and was {before} in the run"


def _differences(key: str, before: Any, after: Any) -> Iterator[tuple[str, str, str]]:
    """The leaves in which two values of a parameter differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted({*before, *after}, key=str):
            yield from _differences(f"{key}.{name}", before.get(name, _ABSENT), after.get(name, _ABSENT))
    elif before != after or type(before) is not type(after):
        yield key, str(before), str(after)


class _Absent:
    def __str__(self) -> str:
        return "absent"


_ABSENT = _Absent()


def _listing(repo: Repo, out: Output, known: dict[str, str]) -> dict[str, str] | None:
    """Hash by name of what a folder holds, from what is at hand without a network; None: not at hand.

    A folder of one file needs no list: its hash is that of the list of one, which can be made from `known`.
    """
    from dvc_data.hashfile import load
    from dvc_data.hashfile.tree import Tree

    if out.meta.nfiles == len(known) == 1:
        ((name, value),) = known.items()
        tree = Tree.from_list([{"md5": value, "relpath": name}], hash_name="md5")
        tree.digest()
        return known if tree.hash_info == out.hash_info else {name: "another"}
    for store in _local_stores(repo, out):
        try:
            loaded: Any = load(store, out.hash_info)
        except (OSError, ValueError):
            continue
        return {"/".join(key): hash_info.value for key, _, hash_info in loaded}
    return None


def _local_stores(repo: Repo, out: Output) -> Iterable[Any]:
    from dvc.exceptions import DvcException

    yield out.cache
    if out.remote:
        try:
            store = repo.cloud.get_remote_odb(name=out.remote)
        except DvcException:
            return
        if store.fs.protocol == "local":
            yield store


def _line_endings(entry: Output) -> str:
    """A hint where git has turned LF into CRLF on checkout, which changes every hash."""
    path = Path(entry.fs_path)
    if not path.is_file() or b"\r\n" not in (content := path.read_bytes()):
        return ""
    if hashlib.md5(content.replace(b"\r\n", b"\n"), usedforsecurity=False).hexdigest() != entry.hash_info.value:
        return ""
    return " in its line endings alone: git turned LF into CRLF; `git config core.autocrlf false`, then check out again"


def _lock_entries(folder: Path) -> dict[str, Any]:
    path = folder / "dvc.lock"
    if not path.is_file():
        return {}
    loaded = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    entries: dict[str, Any] = loaded.get("stages") or {}
    return entries


def _edited(folder: Path) -> list[str]:
    listed = ["git", "status", "--porcelain", "--untracked-files=no", "-z", "--no-renames", "."]
    done = subprocess.run(listed, cwd=folder, capture_output=True, text=True)
    return sorted(line[3:] for line in done.stdout.split("\0") if line)


def _extract(folder: Path, commit: str, target: Path) -> None:
    done = subprocess.Popen(["git", "archive", commit], cwd=folder, stdout=subprocess.PIPE)
    with done, tarfile.open(fileobj=done.stdout, mode="r|") as archive:
        archive.extractall(target, filter="data")


def describe(found: Freshness) -> str:
    """The answer in words, stage by stage."""
    lines = [f"note: {notice}" for notice in dict.fromkeys(found.notices)]
    for stage in dict.fromkeys(finding.stage for finding in found.stale):
        lines += [f"stale: {stage}", *(f"  {finding.reason}" for finding in found.stale if finding.stage == stage)]
    if found.downstream:
        lines.append(f"and what depends on them: {', '.join(found.downstream)}")
    lines += [f"unknown: {reason}" for reason in found.unknown]
    if not found.stale and not found.unknown:
        lines.append(f"fresh: the metrics are those of this code, params.yaml and data ({found.stages} stages)")
    return "\n".join(lines)
