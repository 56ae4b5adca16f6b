"""The state of a clone: data, git, cache and its links, locks, dvc.lock, unfinished runs."""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from slsr.errors import InputError, one_line
from slsr.files import require_readable
from slsr.params.file import Params
from slsr.project.doctor.report import Finding, counted, some
from slsr.project.git import edited_files, find_commit, git, is_shallow, listed_files
from slsr.project.lock import LOCK, parse_lock

DAYS_OF_A_FORGOTTEN_RUN = 14
SCRATCH = ".scratch"
STATE = re.compile(r"[0-9a-f]{32}")  # the names that slsr.runtime.scratch gives; other things may be beside them
DEFAULT_LINKS = ["reflink", "copy"]  # DVC's own
LINKS = ["reflink", "hardlink", "symlink", "copy"]


def data(root: Path, params: Params) -> Iterator[Finding]:
    """Check whether the archive that params.yaml names can be read, and whether a file of halves is in splits/."""
    folder, name = root / "data", params.dataset.archive
    archive = folder / name
    if folder.is_symlink():
        text = f"data/ is a symbolic link to {folder.readlink()}, which DVC reads, and into which it adds nothing"
        remedy = (
            "before `slsr data add`: rm data && mkdir data; a larger disk can hold the cache: dvc cache dir --local DIR"
        )
        yield Finding("data", "note", text, remedy)
    remedy = "dvc pull data.dvc (the sample), or `slsr data add FILE` (your own archive)"
    if archive.is_dir():
        require_readable(archive)
        text = f"data/{name} is a folder: DVC tracks its files one by one"
        yield Finding("data", "note", text, f"slsr data add data/{name} packs it into one file")
    elif archive.is_file():
        with archive.open("rb") as file:
            file.read(1)
        yield Finding("data", "ok", f"{name}, {archive.stat().st_size / 1e6:,.1f} MB")
    elif archive.is_symlink():
        text = f"data/{name}: a symbolic link to {archive.readlink()}, where no file is"
        yield Finding("data", "problem", text, "dvc checkout data.dvc, or dvc pull data.dvc")
    else:
        yield Finding("data", "problem", f"data/{name}: no such file", remedy)
    halves = params.dataset.halves()
    if halves is not None and not (root / halves).is_file():
        yield Finding("data", "problem", f"{halves}: no such file", "put it there, or set dataset.split_file: none")


def git_readable(root: Path) -> Iterator[Finding]:
    """Check whether git reads the clone: its branches, its last commit, its index, and the files beside them."""
    try:
        git(root, "for-each-ref")
        head, tracked, _ = find_commit(root, "HEAD"), listed_files(root), edited_files(root)
        shallow = is_shallow(root)
    except InputError as error:
        yield Finding("git", "problem", str(error), "`slsr fresh`, `gate`, `compare` and DVC need git")
        return
    if head is not None and not tracked:
        remedy = "git reset, if its index was lost; git add, if this is a copy inside another repository"
        yield Finding("git", "problem", "git tracks no file here", remedy)
    if shallow:
        text = "the history was cut off when cloning, so `slsr gate` and `compare` do not find earlier commits"
        yield Finding("git", "note", text, "git fetch --unshallow")


def objects(root: Path, folder: Path) -> Iterator[Finding]:
    """Check whether the cache has files of another size than dvc.lock records: cut off by a kill or a full disk."""
    path = root / LOCK
    try:
        stages = parse_lock(path.read_bytes(), LOCK) if path.is_file() else {}
    except InputError:  # `lock_file` reports it
        return
    listed = [out for entry in stages.values() if isinstance(entry, dict) for out in entry.get("outs") or []]
    damaged = []
    for out in listed:
        if not isinstance(out, dict) or not isinstance(out.get("md5"), str):  # cut off: `lock_file` reports it
            continue
        place = folder / "files" / "md5" / out["md5"][:2] / out["md5"][2:]
        if not out["md5"].endswith(".dir") and place.is_file() and place.stat().st_size != out.get("size"):
            damaged.append(f"{place} ({out.get('path')})")
    if damaged:
        text = f"{counted(len(damaged), 'file')} of the cache with another size than {LOCK} says: {some(damaged)}"
        yield Finding("cache", "problem", text, "remove them, then dvc pull, or dvc repro --force of their stages")


def cache(
    root: Path,
    folder: Path,
    config: Mapping[str, Any],
    working: Callable[[Path, Path], list[str]] | None = None,
) -> Iterator[Finding]:
    """Check where the cache is, how its files come into the workspace, and what that costs."""
    settings = config.get("cache", {})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        links = (working or working_links)(folder, root)
    except OSError as error:
        yield Finding("cache", "problem", f"{folder} is not writable: {error}", "see `A shared cache` in docs/scale.md")
        return
    used = next((link for link in settings.get("type") or DEFAULT_LINKS if link in links), "copy")
    costs = {
        "reflink": "a file shares its disk blocks with the cache, needs no space and can be edited",
        "hardlink": "a file needs no space and is read-only; run `dvc unprotect` before you edit one",
        "symlink": "a file needs no space and is read-only; run `dvc unprotect` before you edit one",
        "copy": f"every file is on the disk twice, now {_size(root / 'artifacts') / 1e6:,.0f} MB more",
    }
    better = [link for link in ("reflink", "hardlink", "symlink") if link in links]
    text = f"DVC makes files in the workspace from {folder} by {used}: {costs[used]}"
    if used == "copy" and better:
        yield Finding("cache", "note", text, f"dvc config --local cache.type {','.join([*better, 'copy'])}")
    else:
        yield Finding("cache", "ok", text)
    if not folder.resolve().is_relative_to(root.resolve()) and settings.get("shared") != "group":
        remedy = "dvc config cache.shared group, if others use it too"
        yield Finding("cache", "note", "it is outside of the clone, and your group cannot write what you add", remedy)


def working_links(cache: Path, workspace: Path) -> list[str]:
    """Return which ways of linking a file of the cache into the workspace work, tried by DVC with a small file."""
    from dvc_objects.fs.generic import test_links
    from dvc_objects.fs.local import LocalFileSystem

    local = LocalFileSystem()
    found: list[str] = test_links(LINKS, local, str(cache), local, str(workspace / "file"))
    return found


def locks(root: Path) -> Iterator[Finding]:
    """Check whether another DVC command is running in this clone, or was killed."""
    folder = root / ".dvc" / "tmp"
    if _is_locked(folder / "lock"):
        yield Finding("lock", "note", "another DVC command is running in this clone", "wait for it")
        return
    rwlock = folder / "rwlock"
    if not rwlock.is_file():
        yield Finding("lock", "ok", "no DVC command is running, and none was killed")
        return
    try:
        held = json.loads(rwlock.read_text(encoding="utf-8") or "{}")
        owners = [one for mode in ("read", "write") for infos in held.get(mode, {}).values() for one in _listed(infos)]
        pids = {int(owner["pid"]) for owner in owners}
    except (ValueError, AttributeError, KeyError, TypeError):
        yield Finding(
            "lock", "problem", f"{rwlock} is incomplete, after a crash or because the disk was full", f"rm {rwlock}"
        )
        return
    if alive := sorted(pid for pid in pids if _is_alive(pid)):
        text = f"{rwlock} names the running process {some([str(pid) for pid in alive])}"
        yield Finding("lock", "note", text, f"wait for it; if it is not a DVC command: rm {rwlock}")
    elif pids:
        yield Finding("lock", "note", "a DVC command was killed; the next one clears its lock")
    else:
        yield Finding("lock", "ok", "no DVC command is running, and none was killed")


def lock_file(root: Path) -> Iterator[Finding]:
    """Check whether dvc.lock is complete: DVC rewrites it in place after every stage, and ends it with a line break."""
    from dvc.dvcfile import Lockfile
    from dvc.exceptions import DvcException
    from dvc.utils import strictyaml

    path = root / "dvc.lock"
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    if re.search(r"^<{7} ", text, re.MULTILINE):
        remedy = "git checkout --ours dvc.lock, or --theirs, then dvc repro"
        yield Finding("lock file", "problem", "dvc.lock has both sides of a merge", remedy)
        return
    reason = "" if text.endswith("\n") else "its last line has no end"
    try:
        strictyaml.load(str(path), Lockfile.SCHEMA)
    except DvcException as error:
        reason = one_line(error.__cause__ or error)
    if reason:
        remedy = "git checkout dvc.lock, then dvc repro: results since then come from the cache"
        yield Finding(
            "lock file",
            "problem",
            f"dvc.lock is incomplete, because DVC was killed or the disk was full: {reason}",
            remedy,
        )


def _listed(infos: Any) -> list[Any]:
    return infos if isinstance(infos, list) else [infos]


def _is_locked(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def unfinished_runs(root: Path) -> Iterator[Finding]:
    """Look for states of runs that did not end, and for temporary files of runs that were killed."""
    for folder in (SCRATCH, "artifacts", ".dvc/tmp/exps"):
        require_readable(root / folder)
    states = sorted(path for path in (root / SCRATCH).glob("*/*") if path.is_dir() and STATE.fullmatch(path.name))
    old = [path for path in states if time.time() - _changed(path) > DAYS_OF_A_FORGOTTEN_RUN * 86400]
    if old:
        text = (
            f"{counted(len(old), 'state')} of runs, unchanged for {DAYS_OF_A_FORGOTTEN_RUN} days, {_total(old):,.0f} MB"
        )
        yield Finding("unfinished", "note", text, f"rm -r {' '.join(str(path) for path in old[:3])}")
    if recent := [path for path in states if path not in old]:
        names = sorted({path.parent.name for path in recent})
        text = f"{counted(len(recent), 'unfinished run')} ({some(names)}), {_total(recent):,.0f} MB"
        yield Finding("unfinished", "note", text, "run the same command again: it continues where it stopped")
    if halves := sorted((root / "artifacts").rglob(".*.partial")):
        text = f"{counted(len(halves), 'incomplete file')} of runs that were killed, {_total(halves):,.0f} MB"
        yield Finding("unfinished", "note", text, "run their stages again: the files are replaced")
    if fetched := sorted((root / "artifacts").rglob(".*.tmp")):
        text = f"{counted(len(fetched), 'file')} of a pull that was killed, {_total(fetched):,.0f} MB"
        remedy = "when no DVC command is running: find artifacts -name '.*.tmp' -delete, then the pull again"
        yield Finding("unfinished", "note", text, remedy)
    if checkouts := sorted((root / ".dvc" / "tmp" / "exps").glob("tmp*")):
        text = f"{counted(len(checkouts), 'temporary checkout')} of experiments, {_total(checkouts):,.0f} MB"
        remedy = "dvc queue status; when none is running: rm -r .dvc/tmp/exps/tmp*"
        yield Finding("unfinished", "note", text, remedy)
    if not (states or halves or fetched or checkouts):
        yield Finding("unfinished", "ok", "every run has ended")


def _changed(folder: Path) -> float:
    return max((path.stat().st_mtime for path in [folder, *folder.rglob("*")]), default=0.0)


def _total(paths: Sequence[Path]) -> float:
    """Return the size of files and folders together, in megabytes."""
    return sum(_size(path) for path in paths) / 1e6


def _size(path: Path) -> int:
    """Return the size of a file or of everything below a folder, in bytes, without following links."""
    files = path.rglob("*") if path.is_dir() else [path]
    total = 0
    for file in files:
        with suppress(OSError):
            total += file.lstat().st_size if file.is_file() else 0
    return total
