"""The one wrapper of git: commits, the files in them, and the commit that a change is compared with."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from slsr.errors import InputError
from slsr.files import METRICS

MAIN_BRANCHES = ("origin/HEAD", "origin/main", "main", "origin/master", "master")
FAILURES = ("fatal:", "error:", "warning: ignoring broken ref")  # how git begins a reason, in English
UNSHALLOW = "this clone is shallow; `git fetch --unshallow` (in a CI: fetch-depth: 0, GIT_DEPTH: 0) brings the rest"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Base:
    """The commit to compare with, and why it was chosen."""

    commit: str
    why: str


def git(folder: Path, *arguments: str) -> bytes | None:
    """Run git in a folder and return what it prints; None if it says that there is no such thing.

    Git ends with 1 and without a reason if there is no such thing (`rev-parse --verify --quiet`, `merge-base`). Every
    other failure has a reason, such as a clone that belongs to another user. What git warns of is logged.

    Raises
    ------
    InputError
        Git is not installed, or it fails for another reason; the message has git's words.
    """
    english = {"LC_ALL": "C", "LANGUAGE": ""}
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, env=os.environ | english)
    except OSError as error:
        raise InputError(_cannot_start(folder, error)) from error
    lines = done.stderr.decode(errors="replace").splitlines()
    said = " ".join(" ".join(lines).split())
    failed = any(line.startswith(FAILURES) for line in lines)
    if done.returncode == 1 and not failed:
        return None
    if done.returncode or failed:
        reason = said or f"exit {done.returncode}"
        raise InputError(f"{folder.resolve()}: git {arguments[0]} failed: {reason}{_remedy(said)}")
    for line in lines:
        if line.startswith("warning:"):
            _warn(line)
    return done.stdout


def _cannot_start(folder: Path, error: OSError) -> str:
    if not folder.is_dir():
        return f"{folder.resolve()}: no such folder; run this in a clone of the project"
    if isinstance(error, FileNotFoundError):
        return "git: no such command; install git, and run this in a clone of the project"
    return f"git: cannot be started ({error.strerror}); install git again, or correct PATH"


def _remedy(said: str) -> str:
    """Return what to do about a failure, where git does not say it itself."""
    if "safe.directory" in said:
        return ""
    if "not a git repository" in said:
        return "; run this in a clone of the project"
    return "; if that is damage, `git fsck` lists all of it, and a new clone has none"


@cache
def _warn(line: str) -> None:
    """Log a warning of git, once."""
    log.warning("git: %s", line)


def git_text(folder: Path, *arguments: str) -> str:
    """Run git in a folder and return what it prints as text without the last line break; empty for no such thing."""
    return (git(folder, *arguments) or b"").decode("utf-8", "surrogateescape").rstrip("\n")


def find_commit(folder: Path, rev: str) -> str | None:
    """Return the full hash of a commit, or None if this clone has no such commit.

    Raises
    ------
    InputError
        The folder is not in a git repository, git cannot read the repository, or the name leads to a commit that this
        clone does not have.
    """
    ask = ("rev-parse", "--verify", "--quiet", "--end-of-options")
    if found := git_text(folder, *ask, f"{rev}^{{commit}}"):
        return found
    named = git_text(folder, *ask, rev)
    if named and named != rev.lower():
        raise InputError(f"{rev}: names {named}, which is no commit or is missing here; `git fetch`, or `git fsck`")
    return None


def commit_of(folder: Path, rev: str) -> str:
    """Return the full hash of a commit.

    Raises
    ------
    InputError
        As `find_commit`, or this clone has no such commit.
    """
    found = find_commit(folder, rev)
    if found is None and rev == "HEAD":
        raise InputError("HEAD: no such commit; commit first, or run `git fsck` if there was one")
    if found is None:
        remedy = UNSHALLOW if is_shallow(folder) else "`git fetch` it, or name another"
        raise InputError(f"{rev}: no such commit in this clone; {remedy}")
    return found


def is_shallow(folder: Path) -> bool:
    """Return whether history was cut off when cloning."""
    return git_text(folder, "rev-parse", "--is-shallow-repository") == "true"


def short(folder: Path, commit: str) -> str:
    """Abbreviate the hash of a commit."""
    return git_text(folder, "rev-parse", "--short", commit)


@cache
def blobs_of(folder: Path, commit: str) -> Mapping[str, str]:
    """Map each file of a commit below a folder, relative to it, to the name that git has for its content."""
    entries = (line.split("\t", 1) for line in git_text(folder, "ls-tree", "-r", "-z", commit).split("\0") if line)
    described = ((name, *about.split(" ")) for about, name in entries)
    return {name: blob for name, _, kind, blob in described if kind == "blob"}


@cache
def blob(folder: Path, name: str) -> bytes:
    """Return a content by the name that git has for it."""
    return git(folder, "cat-file", "blob", name) or b""


def require_pipeline_files(folder: Path, commit: str) -> None:
    """Read what DVC reads of a commit: its YAML, lock and .dvc files.

    Git fetches what a partial clone (`--filter=blob:none`) lacks. DVC does not: it never ends.

    Raises
    ------
    InputError
        A content is missing or damaged, and git cannot fetch it.
    """
    for name, content in blobs_of(folder, commit).items():
        if name.endswith((".yaml", ".lock", ".dvc", ".dvcignore")):
            blob(folder, content)


def listed_files(folder: Path, commit: str | None = None) -> set[str]:
    """Return the files that git tracks below a folder, relative to it; for None those of the index."""
    if commit is not None:
        return set(blobs_of(folder, commit))
    return set(filter(None, git_text(folder, "ls-files", "-z").split("\0")))


def file_at(folder: Path, commit: str | None, name: str) -> bytes | None:
    """Return the content of a file in a commit or, for None, in the working tree; None if the file is not there.

    For a symbolic link, return where it leads: that is what git keeps of one.
    """
    if commit is not None:
        found = blobs_of(folder, commit).get(name)
        return None if found is None else blob(folder, found)
    path = folder / name
    if path.is_symlink():
        return os.fsencode(path.readlink())
    return path.read_bytes() if path.is_file() else None


def edited_files(folder: Path, below: str = ".", untracked: bool = False) -> list[str]:
    """Return the files below a folder that differ from HEAD; with `untracked`, also those that git does not track."""
    shown = f"--untracked-files={'normal' if untracked else 'no'}"
    listed = git_text(folder, "status", "--porcelain", shown, "-z", "--no-renames", "--", below)
    start = len("XY ") + len(git_text(folder, "rev-parse", "--show-prefix"))  # git lists paths from its own root
    return sorted(line[start:] for line in listed.split("\0") if line)


def default_base(folder: Path, edits: bool = True) -> Base:
    """Return the commit that a change starts from: the merge base with main, or on main itself the commit before.

    On main with edits of metrics/ that are not committed, it is HEAD, unless `edits` is false.

    Raises
    ------
    InputError
        There is no branch main, no common history or no earlier commit, or the clone is too shallow to tell.
    """
    head = commit_of(folder, "HEAD")
    git(folder, "for-each-ref", "refs/heads", "refs/remotes")  # raises if a branch is damaged
    main = next((name for name in MAIN_BRANCHES if find_commit(folder, name)), None)
    if main is None:
        raise InputError(
            "main: no branch main or origin/main here to compare with; "
            "`git fetch origin main:refs/remotes/origin/main`, or name a commit with --against"
        )
    remedy = UNSHALLOW if is_shallow(folder) else "name a commit with --against"
    base = git_text(folder, "merge-base", "HEAD", main)
    if not base:
        raise InputError(f"HEAD and {main} have no commit in common here; {remedy}")
    if base != head:
        return Base(base, f"where HEAD leaves {main}")
    if edits and edited_files(folder, str(METRICS), untracked=True):
        return Base(head, f"HEAD, which is on {main}; metrics/ has edits that are not committed")
    before = find_commit(folder, "HEAD^1")
    if before is None:
        raise InputError(f"HEAD is on {main} and has no commit before it here to compare with; {remedy}")
    return Base(before, f"the commit before HEAD, which is on {main}")
