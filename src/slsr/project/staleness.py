"""The one set of rules that says whether a result is that of the code, parameters and data beside it.

A stage's entry in dvc.lock is such a result if its parameters are those of params.yaml, and if each file it read has
the hash that is recorded for it: by the entry of the stage that writes the file, by the .dvc file that tracks it, or by
the file itself if neither DVC nor a stage owns it. By induction this holds for everything above the stage, and nothing
has to be pulled, run or imported to know it.

`slsr fresh` asks for every stage, `slsr compare` for the stages below an evaluated network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from slsr.project.lock import Stages, all_outputs, chain, dependencies, other_inputs
from slsr.project.revisions import Revision, Tracked, md5_of, members


class Change(NamedTuple):
    """Why a result may not be current: what changed, in words, and whether that is certain or cannot be told here."""

    reason: str
    certain: bool = True


def changes(revision: Revision, stages: Stages, name: str) -> Iterator[Change]:
    """Yield what has changed since a stage ran, by its entry in dvc.lock."""
    for file, locked in (stages[name].get("params") or {}).items():
        values = revision.parameters(file)
        for key, value in locked.items():
            for leaf, before, after in _differences(key, value, _value_at(values, key)):
                yield Change(f"{file}: {leaf} is {after}, and was {before} in the run")
    others = dict(other_inputs(stages, name))
    written = all_outputs(stages)
    for path, md5 in dependencies(stages[name]).items():
        if path in others:
            yield Change(f"{path}: not the one that {others[path]} records")
        elif path not in written and not PurePosixPath(path).is_absolute() and not path.startswith("../"):
            yield from _changed_file(revision, path, md5, _owner(revision, stages, path))


def stale_reason(revision: Revision, stages: Stages, leg: str) -> str | None:
    """Return why a locked stage is not the result of the revision's own code, data and parameters; None if it is.

    An experiment that ran some stages keeps in its dvc.lock what its parent recorded of the others. What cannot be told
    from here is no reason.
    """
    for name in chain(stages, leg):
        for change in changes(revision, stages, name):
            if change.certain:
                return f"{name}: {change.reason}"
    return None


def _owner(revision: Revision, stages: Stages, path: str) -> Tracked | None:
    """Return the folder that a file lies in and that a stage writes, or what a .dvc file says about the file."""
    above = {str(parent) for parent in PurePosixPath(path).parents}
    for name, entry in stages.items():
        for out in entry.get("outs") or []:
            if out["path"] in above:
                return Tracked(name, out["path"], out.get("md5"), out.get("nfiles"))
    return revision.tracked(path)


def _changed_file(revision: Revision, path: str, md5: str | None, owner: Tracked | None) -> Iterator[Change]:
    if owner is None:
        now = revision.digest(path)
        if now is None:
            reason = f"{path}: no such file, and no stage writes it; commit it, or `dvc add` it"
            yield Change(reason, certain=not revision.is_ignored(path))
        elif now != md5:
            yield Change(f"{path}: changed since the run{line_endings(revision, path, md5)}")
    elif owner.path == path:
        if owner.md5 != md5:
            yield Change(f"{path}: changed since the run, by {owner.source}")
    elif owner.md5 is not None:  # otherwise the stage that writes it is stale itself
        yield from _changed_member(revision, path, md5, owner)


def _changed_member(revision: Revision, path: str, md5: str | None, folder: Tracked) -> Iterator[Change]:
    name = PurePosixPath(path).relative_to(folder.path).as_posix()
    hashes = members(revision.root, folder, {name: str(md5)})
    if hashes is None:
        reason = (
            f"{path}: {folder.source} records the hash of {folder.files} files together, and the list of them is not "
            "here; keep one file in that folder, or run this in a clone where `dvc pull` or `dvc add` has been run"
        )
        yield Change(reason, certain=False)
    elif name not in hashes:
        yield Change(f"{path}: no longer in {folder.path}, by {folder.source}")
    elif hashes[name] != md5:
        yield Change(f"{path}: changed since the run, by {folder.source}")


class _Absent:
    def __str__(self) -> str:
        return "absent"


_ABSENT = _Absent()


def _value_at(values: Any, key: str) -> Any:
    """Return the value of `block.key` in nested blocks."""
    for part in key.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return _ABSENT
        values = values[part]
    return values


def _differences(key: str, before: Any, after: Any) -> Iterator[tuple[str, str, str]]:
    """Yield the leaves in which two values of a parameter differ."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in sorted({*before, *after}, key=str):
            yield from _differences(f"{key}.{name}", before.get(name, _ABSENT), after.get(name, _ABSENT))
    elif before != after or type(before) is not type(after):
        yield key, str(before), str(after)


def line_endings(revision: Revision, path: str, md5: str | None) -> str:
    """Return a hint if git has turned LF into CRLF on checkout, which changes every hash."""
    content = revision.read(path) or b""
    if b"\r\n" not in content or md5_of(content.replace(b"\r\n", b"\n")) != md5:
        return ""
    return " in its line endings alone: git turned LF into CRLF; `git config core.autocrlf false`, then check out again"
