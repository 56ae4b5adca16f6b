"""Whether a remote holds every object that the outs of a commit consist of, asked of the remote itself.

DVC 3.67 asks less. A push and `dvc status --cloud` take a folder's files for sent as soon as the list of them, the
`.dir` object, lies in the remote; and a push takes the objects that an earlier one noted for all there are. One that is
killed while it notes them leaves notes that may end after a `.dir` and before the files of that folder: the next push
sends the `.dir` without them, and from then on every command takes them for sent.
"""

from __future__ import annotations

import logging
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from slsr.errors import InputError, one_line
from slsr.project.repository import opened

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc_data.hashfile.db import HashFileDB
    from dvc_data.hashfile.hash_info import HashInfo

LEGACY_HASH = "md5-dos2unix"
SECONDS_FOR_HTTP = 10


@dataclass(frozen=True)
class Lacking:
    """A file that a remote lacks.

    Attributes
    ----------
    remote
        Its name.
    path
        Of the file, from the root of the project; of the folder, for the list of its files.
    oid
        The name of the object: the md5 of its content.
    taken_for_sent
        The list of the folder's files is there: no `dvc push` sends this one, no `dvc status --cloud` names it.
    at_hand
        It lies in this clone's cache.
    """

    remote: str
    path: str
    oid: str
    taken_for_sent: bool
    at_hand: bool


@dataclass(frozen=True)
class Holdings:
    """Which remotes were asked, for how many objects, and what they lack."""

    remotes: list[str]
    asked: int
    lacking: list[Lacking]


class _Out(NamedTuple):
    """What an out of a commit consists of, and the remote that it names for itself."""

    path: str
    info: HashInfo
    hash_name: str
    remote: str | None


@dataclass
class _Store:
    """A remote, this clone's cache, and what should be in both.

    `paths`: where each object lies in the project. `folders`: the `.dir` objects that list it.
    """

    name: str
    remote: HashFileDB
    cache: HashFileDB
    paths: dict[HashInfo, str] = field(default_factory=dict)
    folders: dict[HashInfo, set[str]] = field(default_factory=dict)


def holdings(root: Path, remote: str | None = None, rev: str | None = None) -> Holdings:
    """Compare the outs that dvc.lock and the .dvc files name with what lies in the remotes that they go to.

    Which remotes there are, and where, is what the working tree says, whatever the commit. What `dvc push` would not
    send is not asked for: outs with `push: false`, imports, and outs whose remote is this clone's own cache.

    Parameters
    ----------
    remote
        In place of the default one; an out with a remote of its own is then asked for only where it is this one, as in
        `dvc push --remote`.
    rev
        A commit, branch, tag or experiment; None: the working tree.

    Raises
    ------
    InputError
        No DVC repository, no such remote or commit, or a remote that does not answer.
    """
    with opened(root) as repo:
        return _compare(_stores(repo, remote, rev))


def send_lacking(root: Path, remote: str | None = None, rev: str | None = None) -> Holdings:
    """Send the objects that the remotes lack and this clone's cache has; return what they lack then.

    The `.dir` object of a folder goes last, and not without its files.

    Raises
    ------
    InputError
        As `holdings`; an object could not be sent; or another DVC command is at work in this clone.
    """
    with opened(root) as repo, repo.lock:
        stores = _stores(repo, remote, rev)
        for store in stores:
            if lacking := _lacking(store):
                _send(store, {one.oid for one in lacking if not one.oid.endswith(".dir")})
                lacking = _lacking(store)
                _send(store, {one.oid for one in lacking} - _folders_of(store, lacking))
        return _compare(stores)


def forget_notes(root: Path) -> None:
    """Have DVC forget what it noted about remotes: what a push or pull is about, and which folders are there.

    It finds them anew. The notes of a push or pull that was killed may be taken for complete.

    Raises
    ------
    InputError
        No DVC repository, or another DVC command is at work in this clone.
    """
    with opened(root) as repo, repo.lock, suppress(FileNotFoundError):
        shutil.rmtree(Path(repo.site_cache_dir) / "index")


def describe(found: Holdings) -> str:
    """The result as lines of text, a line an object that is lacking."""
    if not found.asked:
        return "nothing to ask for: no out goes to a remote other than this clone's cache"
    names = ", ".join(found.remotes)
    if not found.lacking:
        return f"{names}: all {found.asked} objects are there"
    lines = [f"{names}: {len(found.lacking)} of {found.asked} objects are not there"]
    for one in sorted(found.lacking, key=lambda one: (one.remote, one.path)):
        notes = [one.remote, one.oid]
        notes += ["DVC takes it for sent"] if one.taken_for_sent else []
        notes += [] if one.at_hand else ["nor in this clone's cache"]
        lines.append(f"  {one.path}  ({', '.join(notes)})")
    return "\n".join(lines)


def _outs(repo: Repo, rev: str | None) -> list[_Out]:
    """The outs that a push would send, of a commit or the working tree."""
    if rev in ("", "workspace"):
        raise InputError(f"--rev {rev!r}: no commit; name one, or leave --rev away for the working tree")
    found: list[_Out] | None = None
    for _ in repo.brancher(revs=None if rev is None else [rev], workspace=rev is None):
        found = [
            _Out(Path(out.fs_path).relative_to(repo.root_dir).as_posix(), out.hash_info, out.hash_name, out.remote)
            for out in repo.index.outs
            if out.use_cache and out.can_push and out.hash_info and not out.stage.is_repo_import
        ]
    if found is None:
        raise InputError(f"--rev {rev}: that commit holds no DVC repository")
    return found


def _stores(repo: Repo, remote: str | None, rev: str | None) -> list[_Store]:
    """The remotes that the outs go to, each with what should be there."""
    repo.cloud.get_remote(remote, "push")  # there is such a one
    found: dict[tuple[str, str], _Store] = {}
    for out in _outs(repo, rev):
        if remote and out.remote and out.remote != remote:
            continue
        name = str(out.remote or remote or repo.config["core"]["remote"])
        key = (name, out.hash_name)
        if key not in found:
            cache = repo.cache.legacy if out.hash_name == LEGACY_HASH else repo.cache.local
            found[key] = _Store(name, repo.cloud.get_remote_odb(name, "push", hash_name=out.hash_name), cache)
        _add(found[key], out)
    return [store for store in found.values() if not _is_cache(store)]


def _is_cache(store: _Store) -> bool:
    one, other = store.remote, store.cache
    return one.fs.protocol == other.fs.protocol and Path(one.path).resolve() == Path(other.path).resolve()


def _add(store: _Store, out: _Out) -> None:
    """An out's objects: its file; or the list of its files and these, as far as the list is to be had."""
    from dvc_data.hashfile.transfer import find_tree_by_obj_id

    store.paths[out.info] = out.path
    if out.info.isdir:
        with _asking(store):
            tree = find_tree_by_obj_id([store.cache, store.remote], out.info)
        for key, _, info in tree or ():
            store.paths[info] = "/".join([out.path, *key])
            store.folders.setdefault(info, set()).add(str(out.info.value))


def _compare(stores: Sequence[_Store]) -> Holdings:
    lacking = [one for store in stores for one in _lacking(store)]
    return Holdings(sorted({store.name for store in stores}), sum(len(store.paths) for store in stores), lacking)


def _lacking(store: _Store) -> list[Lacking]:
    with _asking(store):
        there = set(store.remote.oids_exist([str(info.value) for info in store.paths]))
        if not there:
            _answers(store)
    absent = {info: path for info, path in store.paths.items() if info.value not in there}
    cached = set(store.cache.oids_exist([str(info.value) for info in absent]))
    return [
        Lacking(
            remote=store.name,
            path=path,
            oid=str(info.value),
            taken_for_sent=not there.isdisjoint(store.folders.get(info, ())),
            at_hand=info.value in cached,
        )
        for info, path in absent.items()
    ]


def _answers(store: _Store) -> None:
    """Raise where a web server is down: fsspec takes that for a server that has nothing."""
    if store.remote.fs.protocol in ("http", "https"):
        request = urllib.request.Request(store.remote.fs.unstrip_protocol(store.remote.path), method="HEAD")
        with suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=SECONDS_FOR_HTTP):
            pass


def _folders_of(store: _Store, lacking: Iterable[Lacking]) -> set[str]:
    """The `.dir` objects of folders that files are missing of."""
    oids = {one.oid for one in lacking}
    return {folder for info, folders in store.folders.items() if info.value in oids for folder in folders}


def _send(store: _Store, oids: set[str]) -> None:
    """Have DVC copy objects from the cache, whatever it noted about the remote."""
    from dvc_data.hashfile import transfer

    reasons: list[str] = []

    def keep_reason(record: logging.LogRecord) -> bool:
        reasons.append(str(record.exc_info[1] if record.exc_info else record.getMessage()))
        return False

    ids = [info for info in store.paths if info.value in oids]
    transfer.logger.addFilter(keep_reason)
    try:
        with _asking(store):
            failed = transfer.transfer(store.cache, store.remote, ids, cache_odb=store.cache).failed
            store.remote.fs.fs.invalidate_cache()
    finally:
        transfer.logger.removeFilter(keep_reason)
    if failed:
        raise InputError(f"{_title(store)}: {len(failed)} of {len(ids)} objects could not be sent ({reasons[0]})")


@contextmanager
def _asking(store: _Store) -> Iterator[None]:
    """The many kinds of servers say in as many ways that they cannot answer: each becomes one sentence."""
    from dvc.exceptions import DvcException

    try:
        yield
    except (DvcException, InputError):
        raise
    except Exception as error:
        raise InputError(f"{_title(store)}: {one_line(error)}; `slsr doctor` and docs/sharing.md say more") from error


def _title(store: _Store) -> str:
    return f"remote {store.name}, {store.remote.fs.unstrip_protocol(store.remote.path)}"
