"""Whether a remote has every object of the outputs of a commit; the remote itself is asked.

DVC 3.67 asks less. `dvc push` and `dvc status --cloud` believe that the files of a folder were sent as soon as the
remote has the list of them, the `.dir` object. And a push trusts the list of objects that an earlier push cached. If a
push is killed while it writes this list, the list may have a `.dir` without the files of that folder: the next push
sends the `.dir` alone, and from then on every command believes that the files were sent.
"""

from __future__ import annotations

import itertools
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
from slsr.project.git import find_commit, require_pipeline_files
from slsr.project.repository import opened
from slsr.project.revisions import experiments

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc_data.hashfile.db import HashFileDB
    from dvc_data.hashfile.hash_info import HashInfo

LEGACY_HASH = "md5-dos2unix"
SECONDS_FOR_HTTP = 10
NAMED = 5  # missing files of a folder; the others are counted


@dataclass(frozen=True)
class Lacking:
    """A file that a remote lacks.

    Attributes
    ----------
    remote
        Its name.
    path
        The path of the file, from the root of the project; for the list of a folder's files, the path of the folder.
    out
        The output that it belongs to: a folder, or the file itself.
    oid
        The name of the object: the md5 of its content.
    taken_for_sent
        The remote has the list of the folder's files, so no `dvc push` sends this file, and no `dvc status --cloud`
        names it.
    at_hand
        The cache of this clone has it.
    """

    remote: str
    path: str
    out: str
    oid: str
    taken_for_sent: bool
    at_hand: bool


@dataclass(frozen=True)
class Holdings:
    """The remotes that were asked, for how many objects, and what they lack."""

    remotes: list[str]
    asked: int
    lacking: list[Lacking]


class _Out(NamedTuple):
    """An output of a commit, and the remote that it names for itself."""

    path: str
    info: HashInfo
    hash_name: str
    remote: str | None


@dataclass
class _Store:
    """A remote, this clone's cache, and what should be in both.

    `paths` maps each object to its path in the project, `outs` to its output, `folders` to the `.dir` objects that list
    it.
    """

    name: str
    remote: HashFileDB
    cache: HashFileDB
    paths: dict[HashInfo, str] = field(default_factory=dict)
    outs: dict[HashInfo, str] = field(default_factory=dict)
    folders: dict[HashInfo, set[str]] = field(default_factory=dict)


def holdings(root: Path, remote: str | None = None, rev: str | None = None) -> Holdings:
    """Compare the outputs that dvc.lock and the .dvc files name with what their remotes have.

    The working tree says which remotes there are, also for another commit. What `dvc push` would not send is not asked
    for: outputs with `push: false`, imports, and outputs whose remote is this clone's own cache.

    Parameters
    ----------
    remote
        The remote to use instead of the default one; an output with a remote of its own is then asked for only if it is
        this one, as in `dvc push --remote`.
    rev
        A commit, branch, tag or experiment; None for the working tree.

    Raises
    ------
    InputError
        There is no DVC repository, no such remote or commit, or a remote does not answer.
    """
    with opened(root) as repo:
        return _compare(_stores(repo, remote, rev))


def send_lacking(root: Path, remote: str | None = None, rev: str | None = None) -> Holdings:
    """Send the objects that the remotes lack and this clone's cache has; return what they lack then.

    The `.dir` object of a folder is sent last, and never without its files.

    Raises
    ------
    InputError
        As `holdings`, or an object could not be sent, or another DVC command is running in this clone.
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
    """Clear the transfer notes that DVC cached: what to push or pull, and which folders a remote has.

    DVC makes them again. It would take the notes of a push or pull that was killed for complete.

    Raises
    ------
    InputError
        There is no DVC repository, or another DVC command is running in this clone.
    """
    with opened(root) as repo, repo.lock, suppress(FileNotFoundError):
        shutil.rmtree(Path(repo.site_cache_dir) / "index")


def describe(found: Holdings) -> str:
    """Return the result as text: what is missing, by output, with the first files of a folder."""
    if not found.asked:
        return "nothing to check: no output goes to a remote other than this clone's cache"
    names = ", ".join(found.remotes)
    if not found.lacking:
        return f"{names}: all {found.asked} objects are there"
    lines = [f"{names}: {len(found.lacking)} of {found.asked} objects are not there"]
    ordered = sorted(found.lacking, key=lambda one: (one.remote, one.out, one.path))
    for (remote, out), group in itertools.groupby(ordered, lambda one: (one.remote, one.out)):
        lines += _described(out, list(group), f" ({remote})" if len(found.remotes) > 1 else "")
    return "\n".join(lines)


def _described(out: str, lacking: Sequence[Lacking], remote: str) -> Iterator[str]:
    """Describe what is missing of one output; the list of a folder's files has the path of the folder."""
    if len(lacking) == 1 and lacking[0].path == out and not lacking[0].oid.endswith(".dir"):
        yield f"  {out}{remote}{_notes(lacking[0])}"
        return
    files = [one for one in lacking if one.path != out]
    lists = [one for one in lacking if one.path == out]
    counts = [f"{len(files)} file{'s' * (len(files) != 1)}"] * bool(files) + ["the list of its files"] * bool(lists)
    yield f"  {out}/{remote}: {' and '.join(counts)}{_notes(lists[0]) if lists else ''}"
    yield from (f"    {one.path.removeprefix(f'{out}/')}{_notes(one)}" for one in files[:NAMED])
    if len(files) > NAMED:
        yield f"    and {len(files) - NAMED} more"


def _notes(one: Lacking) -> str:
    notes = ["DVC believes that it was sent"] if one.taken_for_sent else []
    notes += [] if one.at_hand else ["not in this clone's cache either"]
    return f"  ({', '.join(notes)})" if notes else ""


def _outs(repo: Repo, rev: str | None) -> list[_Out]:
    """Return the outputs that a push would send, of a commit or the working tree."""
    if rev in ("", "workspace"):
        raise InputError(f"--rev {rev!r}: not a commit; name one, or omit --rev for the working tree")
    root = Path(repo.root_dir)
    if rev is not None and (commit := experiments(root).get(rev) or find_commit(root, rev)):
        require_pipeline_files(root, commit)
    found: list[_Out] | None = None
    for _ in repo.brancher(revs=None if rev is None else [rev], workspace=rev is None):
        found = [
            _Out(Path(out.fs_path).relative_to(repo.root_dir).as_posix(), out.hash_info, out.hash_name, out.remote)
            for out in repo.index.outs
            if out.use_cache and out.can_push and out.hash_info and not out.stage.is_repo_import
        ]
    if found is None:
        raise InputError(f"--rev {rev}: that commit has no DVC repository")
    return found


def _stores(repo: Repo, remote: str | None, rev: str | None) -> list[_Store]:
    """Return the remotes that the outputs go to, each with what should be there."""
    default = remote or repo.config["core"].get("remote")
    if default is not None:
        repo.cloud.get_remote(default, "push")  # raises if there is no such remote
    found: dict[tuple[str, str], _Store] = {}
    for out in _outs(repo, rev):
        if remote and out.remote and out.remote != remote:
            continue
        name = out.remote or default
        if name is None:
            raise InputError(
                f"{out.path}: it goes to the default remote, and none is set; name a remote, or see docs/sharing.md"
            )
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
    """Add the objects of an output: its file, or the list of its files and the files, if the list can be found."""
    from dvc_data.hashfile.transfer import find_tree_by_obj_id

    store.paths[out.info] = store.outs[out.info] = out.path
    if out.info.isdir:
        with _asking(store):
            tree = find_tree_by_obj_id([store.cache, store.remote], out.info)
            stores = [] if tree is not None else [store.cache, store.remote]
            damaged = [one.path for one in stores if one.exists(str(out.info.value))]
        if damaged:
            raise InputError(
                f"{out.path}: the list of its files, {out.info.value}, is damaged in {damaged[0]}; remove it there, "
                "then `slsr remote --send` in a clone that has it, or `dvc repro --force` of its stage"
            )
        for key, _, info in tree or ():
            store.paths[info] = "/".join([out.path, *key])
            store.outs[info] = out.path
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
            out=store.outs[info],
            oid=str(info.value),
            taken_for_sent=not there.isdisjoint(store.folders.get(info, ())),
            at_hand=info.value in cached,
        )
        for info, path in absent.items()
    ]


def _answers(store: _Store) -> None:
    """Raise if a web server is down, which fsspec does not tell from a server that has nothing."""
    if store.remote.fs.protocol in ("http", "https"):
        request = urllib.request.Request(store.remote.fs.unstrip_protocol(store.remote.path), method="HEAD")
        with suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=SECONDS_FOR_HTTP):
            pass


def _folders_of(store: _Store, lacking: Iterable[Lacking]) -> set[str]:
    """Return the `.dir` objects of folders with missing files."""
    oids = {one.oid for one in lacking}
    return {folder for info, folders in store.folders.items() if info.value in oids for folder in folders}


def _send(store: _Store, oids: set[str]) -> None:
    """Copy objects from the cache with DVC, whatever its notes say about the remote."""
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
    """Turn any error of any kind of server into an InputError of one sentence."""
    from dvc.exceptions import DvcException

    try:
        yield
    except (DvcException, InputError):
        raise
    except Exception as error:
        raise InputError(f"{_title(store)}: {one_line(error)}; see `slsr doctor` and docs/sharing.md") from error


def _title(store: _Store) -> str:
    return f"remote {store.name}, {store.remote.fs.unstrip_protocol(store.remote.path)}"
