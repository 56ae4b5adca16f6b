"""What git says: commits, the files in them, and which commit a change is to be compared with."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from slsr.errors import InputError

MAIN_BRANCHES = ("origin/HEAD", "origin/main", "main", "origin/master", "master")
UNSHALLOW = "this clone is shallow; `git fetch --unshallow` (in a CI: fetch-depth: 0, GIT_DEPTH: 0) brings the rest"


@dataclass(frozen=True)
class Base:
    """The commit to compare with, and why it."""

    commit: str
    why: str


def git(folder: Path, *arguments: str) -> str | None:
    """The output of a git command without the last line break; None where it fails.

    Raises
    ------
    InputError
        Git is not installed.
    """
    output = git_bytes(folder, *arguments)
    return None if output is None else output.decode("utf-8", "surrogateescape").rstrip("\n")


def git_bytes(folder: Path, *arguments: str) -> bytes | None:
    """The output of a git command; None where it fails.

    Raises
    ------
    InputError
        Git is not installed.
    """
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True)
    except FileNotFoundError as error:
        raise InputError("git: no such command; install git, and run this in a clone of the project") from error
    return None if done.returncode else done.stdout


def commit_of(folder: Path, rev: str) -> str:
    """The full hash of a commit.

    Raises
    ------
    InputError
        Not a git repository, or no such commit here.
    """
    if git(folder, "rev-parse", "--git-dir") is None:
        raise InputError(f"{folder.resolve()}: not a git repository; run this in a clone of the project")
    found = None if rev.startswith("-") else git(folder, "rev-parse", "--verify", "--quiet", f"{rev}^{{commit}}")
    if found is None:
        remedy = UNSHALLOW if is_shallow(folder) else "`git fetch` it, or name another"
        raise InputError(f"{rev}: no such commit in this clone; {remedy}")
    return found


def is_shallow(folder: Path) -> bool:
    """Whether history was cut off when cloning."""
    return git(folder, "rev-parse", "--is-shallow-repository") == "true"


def short(folder: Path, commit: str) -> str:
    """The commit as people write it."""
    return git(folder, "rev-parse", "--short", commit) or commit


def listed_files(folder: Path, commit: str | None = None) -> set[str]:
    """Files that git tracks below a folder, relative to it; None: in the index. Empty outside of git."""
    command = ("ls-files", "-z") if commit is None else ("ls-tree", "-r", "-z", "--name-only", commit)
    return set(filter(None, (git(folder, *command) or "").split("\0")))


def file_at(folder: Path, commit: str | None, name: str) -> bytes | None:
    """The content of a file in a commit, or in the working tree (None); None where it is not there.

    Of a symbolic link, where it leads: that is what git keeps of one.
    """
    if commit is None:
        path = folder / name
        if path.is_symlink():
            return os.fsencode(path.readlink())
        return path.read_bytes() if path.is_file() else None
    return git_bytes(folder, "show", f"{commit}:./{name}")


def default_base(folder: Path, edits: bool = True) -> Base:
    """The commit that a change starts from: the merge base with main, or on main itself the commit before.

    On main with edits of metrics/ that are not committed, HEAD, unless `edits` is false.

    Raises
    ------
    InputError
        No branch main, no common history, no earlier commit, or a clone too shallow to tell.
    """
    head = commit_of(folder, "HEAD")
    main = next((name for name in MAIN_BRANCHES if git(folder, "rev-parse", "--verify", "--quiet", name)), None)
    if main is None:
        raise InputError(
            "main: no branch main or origin/main here to compare with; "
            "`git fetch origin main:refs/remotes/origin/main`, or name a commit with --against"
        )
    base = git(folder, "merge-base", "HEAD", main)
    if base is None:
        remedy = UNSHALLOW if is_shallow(folder) else "name a commit with --against"
        raise InputError(f"HEAD and {main} have no commit in common here; {remedy}")
    if base != head:
        return Base(base, f"where HEAD leaves {main}")
    if edits and git(folder, "status", "--porcelain", "metrics"):
        return Base(head, f"HEAD, which is on {main}; metrics/ has edits that are not committed")
    before = git(folder, "rev-parse", "--verify", "--quiet", "HEAD^1")
    if before is None:
        remedy = UNSHALLOW if is_shallow(folder) else "name a commit with --against"
        raise InputError(f"HEAD is on {main} and has no commit before it here to compare with; {remedy}")
    return Base(before, f"the commit before HEAD, which is on {main}")
