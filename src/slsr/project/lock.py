"""The one reader of dvc.lock, in which DVC records what each stage read and wrote: parameters, and files by hash.

Nothing here reads a file. A lock is the mapping of its stages, from the name of each to its entry.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, ClassVar

import yaml

from slsr.errors import InputError

LOCK = "dvc.lock"

Entry = Mapping[str, Any]
Stages = Mapping[str, Entry]


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Read YAML 1.2, as DVC writes it: 1e-05 is a number, `yes` is text. Ten times as fast as ruamel.yaml."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


_SCALARS = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
}
for _kind, (_pattern, _first) in _SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), list(_first))


@cache
def parse_lock(content: bytes, source: str) -> Stages:
    """Read a dvc.lock.

    Raises
    ------
    InputError
        The content is not a lock file; the message names `source`.
    """
    try:
        stages: Stages = (yaml.load(content, _Loader) or {}).get("stages") or {}
        for entry in stages.values():
            _ = [one["path"] for one in (*_listed(entry, "deps"), *_listed(entry, "outs"))], locked_parameters(entry)
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{source}: not a lock file of DVC ({reason}); `git checkout {LOCK}` brings back the committed one"
        ) from error
    return stages


def _listed(entry: Entry, key: str) -> list[Mapping[str, Any]]:
    return entry.get(key) or []


def dependencies(entry: Entry) -> dict[str, str | None]:
    """Map each file that a stage read to its hash."""
    return {one["path"]: one.get("md5") for one in _listed(entry, "deps")}


def outputs(entry: Entry) -> dict[str, str | None]:
    """Map each file that a stage wrote to its hash."""
    return {one["path"]: one.get("md5") for one in _listed(entry, "outs")}


def all_outputs(stages: Stages) -> dict[str, tuple[str, str | None]]:
    """Map each file that the stages wrote to the name of its stage and its hash."""
    return {path: (name, md5) for name, entry in stages.items() for path, md5 in outputs(entry).items()}


def locked_parameters(entry: Entry) -> dict[str, Any]:
    """Return what a stage read of params.yaml, as `block.key` -> value."""
    return flat({key: value for one in (entry.get("params") or {}).values() for key, value in one.items()})


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Turn nested blocks into `block.key` -> value."""
    if not isinstance(values, Mapping):
        return {prefix[:-1]: values}
    return {key: leaf for name, value in values.items() for key, leaf in flat(value, f"{prefix}{name}.").items()}


def chain(stages: Stages, start: str) -> Iterator[str]:
    """Yield the name of a stage and of all stages whose outputs it rests on."""
    written = all_outputs(stages)
    waiting, seen = [start], set()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            yield name
            waiting += [written[path][0] for path in dependencies(stages[name]) if path in written]


def other_inputs(stages: Stages, name: str) -> Iterator[tuple[str, str]]:
    """Yield each file that a stage read in another version than its writer recorded, and the writer."""
    written = all_outputs(stages)
    for path, md5 in dependencies(stages[name]).items():
        writer, latest = written.get(path, (name, None))
        if latest not in (None, md5):
            yield path, writer


def load_yaml(content: bytes, source: str) -> Any:
    """Read a small file that DVC wrote, such as data.dvc.

    Raises
    ------
    InputError
        The content is not valid YAML; the message names `source`.
    """
    try:
        return yaml.load(content, _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: not valid YAML ({' '.join(str(error).split())})") from error
