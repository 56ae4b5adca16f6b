"""Revisions - experiments, commits and the workspace - read from git and DVC's cache without checking them out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from slsr.errors import InputError
from slsr.files import require_readable
from slsr.project.git import UNSHALLOW, blobs_of, file_at, find_commit, git, git_text, is_shallow, listed_files
from slsr.project.lock import LOCK, Entry, flat, load_yaml, outputs, parse_lock
from slsr.project.repository import stored_object

WORKSPACE = "workspace"
LOCKS = (LOCK, f"studies/{LOCK}")
PARAMS = "params.yaml"
EXPERIMENT = re.compile(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/([^/]+)")


@dataclass(frozen=True)
class Tracked:
    """A file or folder that DVC tracks, as a .dvc file or dvc.lock records it.

    Attributes
    ----------
    source
        The .dvc file, or the stage that wrote it.
    files
        For a folder, the number of files in it.
    remote
        The remote that it goes to, if it names one.
    """

    source: str
    path: str
    md5: str | None
    files: int | None = None
    remote: str | None = None


@cache
def _parameters(content: bytes, source: str) -> Any:
    """Parse parameters as DVC does: as YAML 1.2, in which no key may be given twice."""
    try:
        return YAML(typ="safe", pure=True).load(content.decode())
    except (YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: not valid YAML ({error})") from error


@dataclass(frozen=True)
class Revision:
    """A commit of the project in `root`, under the name that a user gave; without a commit, the workspace."""

    root: Path
    name: str
    commit: str | None

    def read(self, path: str) -> bytes | None:
        """Return the content of a file, None if there is no such file."""
        if self.commit is not None:
            return file_at(self.root, self.commit, path)
        file = self.root / path
        return file.read_bytes() if file.is_file() else None

    def parameters(self, path: str = PARAMS) -> Any:
        """Return the parameters, in blocks.

        Raises
        ------
        InputError
            The revision has no such file, or it is not valid YAML.
        """
        content = self.read(path)
        if content is None:
            raise InputError(f"{self.name}: has no {path}; name a revision of this project")
        return _parameters(content, f"{path} ({self.name})")

    def files_below(self, folder: str) -> list[str]:
        """Return the files below a folder that DVC does not ignore, sorted; of a commit, those that git tracks."""
        if self.commit is not None:
            return sorted(name for name in blobs_of(self.root, self.commit) if name.startswith(f"{folder}/"))
        if not (self.root / folder).is_dir():
            return []
        root = self.root.resolve()
        require_readable(root / folder)  # DVC passes over folders that it cannot read
        ignoring = _ignoring(root)
        found = ignoring.find(ignoring.fs, str(root / folder))
        return sorted(Path(name).relative_to(root).as_posix() for name in found)

    def digest(self, path: str) -> str | None:
        """Return the hash that DVC has for a file or folder of this revision, None if there is no such path."""
        content = self.read(path)
        return md5_of(content) if content is not None else self._folder_digest(path)

    def _folder_digest(self, folder: str) -> str | None:
        contents = {name: self.read(name) for name in self.files_below(folder)}
        start = len(folder) + 1
        return folder_digest({name[start:]: md5_of(one) for name, one in contents.items() if one is not None})

    def tracked(self, path: str) -> Tracked | None:
        """Return what a .dvc file says about a path or about a folder above it; None if no .dvc file does."""
        for candidate in (PurePosixPath(path), *PurePosixPath(path).parents[:-1]):
            if (content := self.read(f"{candidate}.dvc")) is not None:
                return self._recorded(content, str(candidate))
        return None

    def _recorded(self, content: bytes, path: str) -> Tracked:
        source = f"{path}.dvc"
        try:
            out = load_yaml(content, f"{source} ({self.name})")["outs"][0]
            return Tracked(source, path, out["md5"], out.get("nfiles"), out.get("remote"))
        except (LookupError, TypeError, AttributeError) as error:
            remedy = f"`git checkout {source}` brings back the committed one"
            raise InputError(f"{source} ({self.name}): has no output with an md5; {remedy}") from error

    def is_ignored(self, path: str) -> bool:
        """Return whether git ignores a path, so that a commit cannot say whether it was there."""
        return git(self.root, "check-ignore", "--no-index", "--", path) is not None

    def in_git(self) -> set[str]:
        """Return the files that git tracks."""
        return listed_files(self.root, self.commit)


def _ignoring(root: Path) -> Any:
    """Return DVC's filter of the files that .dvcignore names."""
    from dvc.fs import LocalFileSystem
    from dvc.ignore import DvcIgnoreFilter

    return DvcIgnoreFilter(LocalFileSystem(url=str(root)), str(root))


def md5_of(content: bytes) -> str:
    """Return the hash that DVC has for a content."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def folder_digest(hashes: dict[str, str]) -> str | None:
    """Return the hash that DVC has for a folder, from the hash of each file below it; None for an empty one."""
    from dvc_data.hashfile.tree import Tree

    if not hashes:
        return None
    tree = Tree.from_list([{"md5": md5, "relpath": name} for name, md5 in hashes.items()], hash_name="md5")
    tree.digest()
    digest: str = tree.hash_info.value
    return digest


def members(root: Path, folder: Tracked, known: dict[str, str]) -> dict[str, str] | None:
    """Map each file of a tracked folder to its hash; None if the list of them is not on this machine.

    A folder of one file needs no list: its hash is that of the list of one, which can be made from `known`.
    """
    if folder.md5 is None:
        return None
    if folder.files == len(known) == 1:
        return known if folder_digest(known) == folder.md5 else dict.fromkeys(known, "another")
    listing = stored_object(root, folder.md5, folder.remote)
    if listing is None:
        return None
    return {one["relpath"]: one["md5"] for one in json.loads(listing.read_bytes())}


def experiments(root: Path) -> dict[str, str]:
    """Map the name of every experiment to its commit; if a name belongs to several, to the newest."""
    listed = git_text(root, "for-each-ref", "--sort=committerdate", "--format=%(objectname) %(refname)", "refs/exps")
    found = {}
    for line in listed.splitlines():
        commit, reference = line.split(" ", 1)
        if named := EXPERIMENT.fullmatch(reference):
            found[named[1]] = commit
    return found


def find_revisions(root: Path, names: Sequence[str]) -> list[Revision]:
    """Find revisions by experiment name, pattern of names (`regularizers-*`), git revision, or `workspace`.

    Raises
    ------
    InputError
        A name is none of these.
    """
    known = experiments(root)
    found: dict[str, Revision] = {}
    for name in names:
        if name == WORKSPACE:
            matches: dict[str, str | None] = {WORKSPACE: None}
        elif any(character in name for character in "*?["):
            matches = {one: commit for one, commit in known.items() if fnmatchcase(one, name)}
            if not matches:
                raise InputError(f"experiment {name!r}: no name fits; `dvc exp list --all-commits` shows them")
        else:
            matches = {name: known.get(name) or _commit(root, name)}
        found |= {one: Revision(root, one, commit) for one, commit in matches.items()}
    return list(found.values())


def _commit(root: Path, name: str) -> str:
    commit = find_commit(root, name)
    if commit is None:
        raise InputError(
            f"experiment {name!r}: neither an experiment (`dvc exp list --all-commits` shows them, `dvc exp pull` "
            "fetches those of others) nor a git revision" + (f"; {UNSHALLOW}" if is_shallow(root) else "")
        )
    return commit


def locked_stages(revision: Revision) -> dict[str, Entry]:
    """Return the stages that have run, as the lock files of a revision record them.

    Raises
    ------
    InputError
        There is no dvc.lock, or it cannot be read.
    """
    stages: dict[str, Entry] = {}
    contents = {path: content for path in LOCKS if (content := revision.read(path)) is not None}
    if not contents:
        raise InputError(f"{revision.name}: has no {LOCK}; name a revision of this project that has run")
    for path, content in contents.items():
        stages |= parse_lock(content, f"{path} ({revision.name})")
    if not stages:
        raise InputError(f"{revision.name}: dvc.lock records no stage; run `dvc repro` there first")
    return stages


def parameters(revision: Revision) -> dict[str, Any]:
    """Return the parameters of a revision as `block.key` -> value."""
    return flat(revision.parameters())


def cached_file(revision: Revision, stage: Entry, path: str, member: str | None = None) -> Path:
    """Return the file in DVC's cache that holds a stage's output of this revision, to be read only.

    Parameters
    ----------
    member : the file to return, if the output is a folder; by its path in the folder

    Raises
    ------
    InputError
        The stage has no such output, or the cache lacks it; the message says how to fetch it.
    """
    digest = outputs(stage).get(path)
    if digest is not None and member is not None:
        listed = json.loads(_in_cache(revision, path, digest).read_bytes())
        path, digest = f"{path}/{member}", {one["relpath"]: one["md5"] for one in listed}.get(member)
    if digest is None:
        raise InputError(f"{revision.name}: dvc.lock records no {path}; run `dvc repro` there")
    return _in_cache(revision, path, digest)


def _in_cache(revision: Revision, path: str, digest: str) -> Path:
    file = stored_object(revision.root, digest)
    if file is None:
        remedy = (
            "`dvc pull`"
            if revision.commit is None
            else f"`dvc exp pull REMOTE {revision.name}`, or `dvc fetch --all-commits` for a commit"
        )
        raise InputError(f"{revision.name}: {path} (md5 {digest}) is not in DVC's cache; fetch it with {remedy}")
    return file
