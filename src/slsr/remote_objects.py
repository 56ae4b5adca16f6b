"""Whether a remote holds every object that the outs of a commit consist of, asked of the remote itself.

DVC 3.67 asks less. A push and `dvc status --cloud` take a folder's files for sent as soon as the list of them, the
`.dir` object, lies in the remote; and a push takes the objects that an earlier one wrote down for all there are. One
that is killed while it writes leaves a list that may end after a `.dir` and before the files of that folder: the next
push sends the `.dir` without them, and from then on every command takes them for sent.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from slsr.errors import InputError

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc_data.hashfile.db import HashFileDB
    from dvc_data.hashfile.hash_info import HashInfo


@dataclass(frozen=True)
class Lacking:
    """A file that a remote lacks.

    Attributes
    ----------
    remote
        Its name.
    path
        Of the file, from the root of the project; of the folder where its list of files is nowhere to be had.
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

    Outs with `push: false` go nowhere and are not asked for, nor are those whose remote is this clone's own cache.

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
    with _opened(root) as repo:
        return _compare(_stores(repo, remote, rev))


def send_lacking(root: Path, remote: str | None = None, rev: str | None = None) -> Holdings:
    """Send the objects that the remotes lack and this clone's cache has, and let DVC forget what it noted about them.

    Returns what they lack then. A `.dir` object goes after the files of its folder, and not without them.

    Raises
    ------
    InputError
        As `holdings`; or another DVC command is at work in this clone.
    """
    with _opened(root) as repo, repo.lock:
        stores = _stores(repo, remote, rev)
        for store in stores:
            _send(store, {one.oid for one in _lacking(store)})
        _forget(repo, stores)
        return _compare(stores)


def describe(found: Holdings) -> str:
    """The result as lines of text, a line an object that is lacking."""
    names = ", ".join(found.remotes) or "no remote"
    if not found.lacking:
        return f"{names}: all {found.asked} objects are there"
    lines = [f"{names}: {len(found.lacking)} of {found.asked} objects are not there"]
    for one in sorted(found.lacking, key=lambda one: (one.remote, one.path)):
        notes = [one.remote, one.oid]
        notes += ["DVC takes it for sent"] if one.taken_for_sent else []
        notes += [] if one.at_hand else ["nor in this clone's cache"]
        lines.append(f"  {one.path}  ({', '.join(notes)})")
    return "\n".join(lines)


@contextmanager
def _opened(root: Path) -> Iterator[Repo]:
    """The repository; what goes wrong with it, or with a server, becomes one sentence."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    if not (root / ".dvc").is_dir():
        raise InputError(f"{root.resolve()}: no DVC repository; run this in the root of the project")
    try:
        with Repo(str(root)) as repo:
            yield repo
    except InputError:
        raise
    except DvcException as error:
        cause = f": {error.__cause__}" if error.__cause__ else ""
        raise InputError(f"{' '.join(str(error).split())}{cause}; `slsr doctor` says more") from error


def _stores(repo: Repo, remote: str | None, rev: str | None) -> list[_Store]:
    """The remotes that the outs go to, each with what should be there."""
    found: dict[tuple[str, str], _Store] = {}
    for _ in repo.brancher(revs=[rev] if rev else None, workspace=rev is None):
        for out in repo.index.outs:
            if not (out.use_cache and out.can_push and out.hash_info):
                continue
            if remote and out.remote and out.remote != remote:
                continue
            name = out.remote or remote or repo.config["core"].get("remote") or ""
            odb = repo.cloud.get_remote_odb(name or None, "push", hash_name=out.hash_name)
            if odb.path == out.cache.path:
                continue
            _add(found.setdefault((name, out.hash_name), _Store(name, odb, out.cache)), out)
    return list(found.values())


def _add(store: _Store, out: Output) -> None:
    """An out's objects: its file; or the list of its files and these, as far as the list is to be had."""
    from dvc_data.hashfile.transfer import find_tree_by_obj_id

    path = Path(out.fs_path).relative_to(out.repo.root_dir).as_posix()
    store.paths[out.hash_info] = path
    if out.hash_info.isdir:
        with _asking(store):
            tree = find_tree_by_obj_id([store.cache, store.remote], out.hash_info)
        for key, _, info in tree or ():
            store.paths[info] = "/".join([path, *key])
            store.folders.setdefault(info, set()).add(str(out.hash_info.value))


def _compare(stores: Sequence[_Store]) -> Holdings:
    lacking = [one for store in stores for one in _lacking(store)]
    return Holdings(sorted({store.name for store in stores}), sum(len(store.paths) for store in stores), lacking)


def _lacking(store: _Store) -> list[Lacking]:
    with _asking(store):
        there = set(store.remote.list_oids_exists([str(info.value) for info in store.paths]))
    absent = {info: path for info, path in store.paths.items() if info.value not in there}
    cached = set(store.cache.list_oids_exists([str(info.value) for info in absent]))
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


def _send(store: _Store, oids: set[str]) -> None:
    """Have DVC copy objects from the cache, whatever it noted about the remote."""
    from dvc_data.hashfile import transfer

    reasons: list[str] = []

    def keep_reason(record: logging.LogRecord) -> bool:
        reasons.append(str(record.exc_info[1] if record.exc_info else record.getMessage()))
        return False

    transfer.logger.addFilter(keep_reason)
    try:
        with _asking(store):
            ids = [info for info in store.paths if info.value in oids]
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
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{_title(store)}: {said}; `slsr doctor` and docs/sharing.md say more") from error


def _title(store: _Store) -> str:
    return f"remote {store.name}, {store.remote.fs.unstrip_protocol(store.remote.path)}"


def _forget(repo: Repo, stores: Sequence[_Store]) -> None:
    """Drop DVC's lists of what a push or pull is about, and of the folders that it takes for sent."""
    from dvc_data.hashfile.db import get_index

    repo.drop_data_index()
    for store in stores:
        with closing(get_index(store.remote)) as index:
            index.clear()
