"""What the clone has: cache, links, remotes, secrets, locks, unfinished runs."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from slsr.project.doctor.report import Finding, Level, ask, some

DAYS_OF_A_FORGOTTEN_RUN = 14


SEED = "seed"  # the remote inside git that holds the sample


SCRATCH = ".scratch"


STATE = re.compile(r"[0-9a-f]{32}")  # as slsr.runtime.scratch names them; other things may lie beside them


FICLONE = 0x40049409  # Linux: let a file share another's blocks


DEFAULT_LINKS = ["reflink", "copy"]


# Options of a DVC remote that are secrets, wherever they stand; and a user with a password in an address.
SECRET_OPTIONS = frozenset(
    {
        *("password", "passphrase", "keyfile", "key_path", "token", "custom_auth_header"),
        *("access_key_id", "secret_access_key", "session_token", "credentialpath"),
        *("connection_string", "sas_token", "account_key", "client_secret"),
        *("oss_key_id", "oss_key_secret", "gdrive_client_secret", "gdrive_service_account_json_file_path"),
    }
)


PASSWORD_IN_URL = re.compile(r"://[^/@\s:]+:[^/@\s]+@")


def dvc_config(root: Path) -> tuple[dict[str, Any], Finding | None]:
    """DVC's configuration, of all levels together, or what is wrong with it."""
    from dvc.config import Config, ConfigError

    try:
        return dict(Config(str(root / ".dvc"))), None
    except ConfigError as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        remedy = "mend .dvc/config or .dvc/config.local; cache, remotes and secrets are looked at after that"
        return {}, Finding("dvc", "problem", f"the configuration cannot be read: {reason}", remedy)


def cache_folder(root: Path, config: Mapping[str, Any]) -> Path:
    return Path(config.get("cache", {}).get("dir") or root / ".dvc" / "cache")


LINKS = ("reflink", "hardlink", "symlink", "copy")


def check_cache(root: Path, cache: Path, config: Mapping[str, Any]) -> Iterator[Finding]:
    """Where the cache lies, how files come out of it into the workspace, and what that costs."""
    settings = config.get("cache", {})
    try:
        cache.mkdir(parents=True, exist_ok=True)
        working = working_links(cache, root)
    except OSError as error:
        yield Finding("cache", "problem", f"{cache} is not writable: {error}", "see `A shared cache` in docs/scale.md")
        return
    wanted = settings.get("type") or DEFAULT_LINKS
    used = next((link for link in wanted if link in working), "copy")
    costs = {
        "reflink": "shares the disk blocks, costs nothing and is safe to edit",
        "hardlink": "costs nothing; files are read-only, `dvc unprotect` before editing one",
        "symlink": "costs nothing; files are read-only, `dvc unprotect` before editing one",
        "copy": f"every file lies on the disk twice, now {_size(root / 'artifacts') / 1e6:,.0f} MB more",
    }
    better = [link for link in ("reflink", "hardlink", "symlink") if link in working]
    text = f"{used} links from {cache}: {costs[used]}"
    if used == "copy" and better:
        yield Finding("cache", "note", text, f"dvc config --local cache.type {','.join([*better, 'copy'])}")
    else:
        yield Finding("cache", "ok", text)
    group = settings.get("shared") == "group"
    if _is_outside(cache, root) and not group:
        remedy = "dvc config cache.shared group, if others use it too"
        yield Finding("cache", "note", "outside of the clone, and what you add is not writable for your group", remedy)


def _is_outside(path: Path, root: Path) -> bool:
    return not path.resolve().is_relative_to(root.resolve())


def working_links(cache: Path, workspace: Path) -> list[str]:
    """Which ways of linking a file of the cache into the workspace work, tried with a file of one byte."""
    with (
        tempfile.TemporaryDirectory(dir=cache, prefix=".slsr-") as one,
        tempfile.TemporaryDirectory(dir=workspace, prefix=".slsr-", suffix=".partial") as two,
    ):
        source = Path(one) / "file"
        source.write_bytes(b"1")
        return [link for link in LINKS if _links(link, source, Path(two) / link)]


def _links(link: str, source: Path, target: Path) -> bool:
    try:
        if link == "hardlink":
            target.hardlink_to(source)
        elif link == "symlink":
            target.symlink_to(source)
        elif link == "copy":
            shutil.copyfile(source, target)
        else:
            _reflink(source, target)
    except OSError:
        return False
    return True


def _reflink(source: Path, target: Path) -> None:
    if sys.platform != "linux":
        raise OSError(errno.ENOTSUP, "not tried on this system")
    with source.open("rb") as old, target.open("wb") as new:
        fcntl.ioctl(new.fileno(), FICLONE, old.fileno())


# The same calls as `dvc push` makes first. That a bucket's root exists is said of any name and key: it is listed.
REMOTE_PROBE = """
import json, sys
from dvc.repo import Repo
with Repo() as repo:
    remote = repo.cloud.get_remote(sys.argv[1])
    exists = remote.fs.exists(remote.path)
    if remote.fs.protocol == "s3" and "/" not in remote.path.strip("/"):
        exists = bool(list(remote.fs.ls(remote.path, detail=False)))
    print(json.dumps({"exists": exists}))
"""


HOLDINGS_PROBE = """
import json
from pathlib import Path
from slsr.project.remotes import holdings
print(json.dumps({"taken_for_sent": [one.path for one in holdings(Path()).lacking if one.taken_for_sent]}))
"""


def check_remotes(root: Path, config: Mapping[str, Any], seconds: float) -> Iterator[Finding]:
    """Whether the remotes answer, with the credentials at hand."""
    default = config.get("core", {}).get("remote")
    remotes = config.get("remote", {})
    if not default:
        yield Finding("remote", "note", "no default remote: nothing is shared", "docs/sharing.md sets one up")
    for name, settings in sorted(remotes.items()):
        if name == SEED:
            continue
        title = f"remote {name}" + (" (default)" if name == default else "")
        url = _without_password(str(settings.get("url", "")))
        if _is_own_cache(root, name, settings):
            yield Finding(title, "ok", "this clone's cache: images that only this remote may have go nowhere")
            continue
        answer = ask(REMOTE_PROBE, [name], root, os.environ, seconds)
        if isinstance(answer, str):
            level: Level = "problem" if name == default else "note"
            damaged = answer.startswith("sqlite3.")
            remedy = "slsr remote: DVC's notes are damaged" if damaged else "docs/sharing.md: address, key, credentials"
            yield Finding(title, level, f"{url}: {answer}", remedy)
        elif not answer["exists"]:
            text = f"{url} answers, and holds nothing yet"
            remedy = "is its disk mounted? `dvc push` makes the folder" if "://" not in url else ""
            yield Finding(title, "note", text, remedy)
        else:
            yield Finding(title, "ok", f"{url} answers")
            if name == default:
                yield from _holdings(root, title, seconds)
        if not settings.get("verify"):
            text = "verify is off: damaged objects would be taken for good ones"
            yield Finding(title, "note", text, f"dvc remote modify {name} verify true")


def _holdings(root: Path, title: str, seconds: float) -> Iterator[Finding]:
    """Whether DVC takes for sent what the remotes lack; what was never pushed is nobody's fault."""
    answer = ask(HOLDINGS_PROBE, [], root, os.environ, seconds)
    if isinstance(answer, str):
        yield Finding(title, "note", f"what it holds was not looked at: {answer}", "slsr remote")
    elif lacking := answer["taken_for_sent"]:
        text = f"{some(lacking)} never arrived, after a push that was killed, and DVC takes them for sent"
        yield Finding(title, "problem", text, "slsr remote --send")


def _is_own_cache(root: Path, name: str, settings: Mapping[str, Any]) -> bool:
    url = str(settings.get("url", ""))
    return "://" not in url and (root / ".dvc" / url).resolve() == (root / ".dvc" / "cache").resolve()


def _without_password(url: str) -> str:
    return PASSWORD_IN_URL.sub("://***@", url)


def check_secrets(root: Path) -> Iterator[Finding]:
    path = root / ".dvc" / "config"
    found = committed_secrets(path.read_text(encoding="utf-8")) if path.is_file() else []
    if found:
        remedy = "change it where it was issued, `dvc remote modify --local` the new one, remove it here"
        yield Finding("secrets", "problem", f".dvc/config, which git keeps, has {some(found)}", remedy)
    else:
        yield Finding("secrets", "ok", "none in .dvc/config")


def committed_secrets(config: str) -> list[str]:
    """What of a DVC configuration must not be committed: `section: option`, without the value."""
    found, section = [], ""
    for line in config.splitlines():
        if line.strip().startswith("["):
            section = line.strip().strip("[]'")
        option, equals, value = (part.strip() for part in line.partition("="))
        if equals and (option in SECRET_OPTIONS or PASSWORD_IN_URL.search(value)):
            found.append(f"{section}: {option}")
    return found


def check_locks(root: Path) -> Iterator[Finding]:
    """Whether another DVC command is at work, or one was killed."""
    folder = root / ".dvc" / "tmp"
    if _is_locked(folder / "lock"):
        yield Finding("lock", "note", "another DVC command is at work in this clone", "wait for it")
        return
    rwlock = folder / "rwlock"
    if not rwlock.is_file():
        yield Finding("lock", "ok", "no DVC command is at work, none left anything behind")
        return
    try:
        held = json.loads(rwlock.read_text(encoding="utf-8") or "{}")
        owners = [one for mode in ("read", "write") for infos in held.get(mode, {}).values() for one in _listed(infos)]
        pids = {int(owner["pid"]) for owner in owners}
    except (ValueError, AttributeError, KeyError, TypeError):
        yield Finding("lock", "problem", f"{rwlock} was cut short, by a crash or a full disk", f"rm {rwlock}")
        return
    if alive := sorted(pid for pid in pids if _is_alive(pid)):
        text = f"{rwlock} names the running process {some([str(pid) for pid in alive])}"
        yield Finding("lock", "note", text, f"wait for it; if it is no DVC command: rm {rwlock}")
    elif pids:
        yield Finding("lock", "note", "a DVC command was killed; the next one clears its lock")
    else:
        yield Finding("lock", "ok", "no DVC command is at work, none left anything behind")


def lock_file(root: Path) -> Iterator[Finding]:
    """Whether dvc.lock is whole: DVC writes it where it lies, after every stage, and ends it with a line break."""
    from dvc.dvcfile import Lockfile
    from dvc.exceptions import DvcException
    from dvc.utils import strictyaml

    path = root / "dvc.lock"
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    if re.search(r"^<{7} ", text, re.MULTILINE):
        remedy = "git checkout --ours dvc.lock, or --theirs, then dvc repro"
        yield Finding("lock file", "problem", "dvc.lock holds both sides of a merge", remedy)
        return
    reason = "" if text.endswith("\n") else "its last line does not end"
    try:
        strictyaml.load(str(path), Lockfile.SCHEMA)
    except DvcException as error:
        reason = " ".join(str(error.__cause__ or error).split())
    if reason:
        remedy = "git checkout dvc.lock, then dvc repro: what has run since comes from the cache"
        yield Finding("lock file", "problem", f"dvc.lock was cut short, by a kill or a full disk: {reason}", remedy)


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


def check_unfinished_runs(root: Path) -> Iterator[Finding]:
    """States of runs that did not end, and temporary files of runs that were killed."""
    states = sorted(path for path in (root / SCRATCH).glob("*/*") if path.is_dir() and STATE.fullmatch(path.name))
    old = [path for path in states if time.time() - _changed(path) > DAYS_OF_A_FORGOTTEN_RUN * 86400]
    if old:
        text = f"{len(old)} states of runs untouched for {DAYS_OF_A_FORGOTTEN_RUN} days, {_total(old):,.0f} MB"
        yield Finding("unfinished", "note", text, f"rm -r {' '.join(str(path) for path in old[:3])}")
    if recent := [path for path in states if path not in old]:
        names = sorted({path.parent.name for path in recent})
        text = f"{len(recent)} unfinished runs ({some(names)}), {_total(recent):,.0f} MB; the same command goes on"
        yield Finding("unfinished", "note", text)
    if halves := sorted((root / "artifacts").rglob(".*.partial")):
        text = f"{len(halves)} half-written files of runs that were killed, {_total(halves):,.0f} MB"
        yield Finding("unfinished", "note", text, "the next run of their stage replaces them")
    if fetched := sorted((root / "artifacts").rglob(".*.tmp")):
        text = f"{len(fetched)} files of a pull that was killed, {_total(fetched):,.0f} MB"
        remedy = "when no DVC command is at work: find artifacts -name '.*.tmp' -delete, then the pull again"
        yield Finding("unfinished", "note", text, remedy)
    if checkouts := sorted((root / ".dvc" / "tmp" / "exps").glob("tmp*")):
        text = f"{len(checkouts)} temporary checkouts of experiments, {_total(checkouts):,.0f} MB"
        remedy = "dvc queue status; when none is at work: rm -r .dvc/tmp/exps/tmp*"
        yield Finding("unfinished", "note", text, remedy)
    if not (states or halves or fetched or checkouts):
        yield Finding("unfinished", "ok", "no run was left in the middle")


def _changed(folder: Path) -> float:
    return max((path.stat().st_mtime for path in [folder, *folder.rglob("*")]), default=0.0)


def _total(paths: Sequence[Path]) -> float:
    """In megabytes."""
    return sum(_size(path) for path in paths) / 1e6


def _size(path: Path) -> int:
    """In bytes, of a file or of all below a folder; links are not followed."""
    files = path.rglob("*") if path.is_dir() else [path]
    total = 0
    for file in files:
        with suppress(OSError):
            total += file.lstat().st_size if file.is_file() else 0
    return total
