"""The page of parameters: presets/defaults.yaml as one entry per parameter, with an anchor such as `#gan.r1`."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml

ROOT = Path(__file__).parents[1]
LINE = re.compile(r"(?P<indent> *)(?P<key>\w+):(?P<value>(?: [^#]*?)?)(?: *# (?P<comment>.*))?")
CONTINUED = re.compile(r" +# (.*)")
DOTTED = re.compile(r"[a-z_]+(?:\.[a-z_0-9]+)+")
PAGE_OF_DOCS = re.compile(r"docs/(\w+)\.md")
INTRODUCTION = """# Parameters

`params.yaml` has every parameter. Each stage checks all of them before it starts, and names a key that is unknown,
missing or out of range. The values on this page are the defaults, `presets/defaults.yaml`, made for the paper's scale.
`slsr preset NAME` writes `params.yaml` with the changes of a preset; an entry lists the presets that change it.

To change a value, edit `params.yaml`, or run an experiment with another one: `dvc exp run --temp -S train.seed=2`
([Experiments](experiments.md)). Each entry has a link of its own, such as [`#train.seed`](#train.seed).
"""


@dataclass(frozen=True)
class Entry:
    """One key of presets/defaults.yaml: its dotted name, its value as written (empty for a block), its comment."""

    name: str
    value: str
    comment: str

    @property
    def is_block(self) -> bool:
        """Whether other keys are below this one."""
        return not self.value


def parameters() -> str:
    """Return the page, in Markdown."""
    sys.path.insert(0, str(ROOT / "src"))
    from slsr.params.file import Params

    found = entries((ROOT / "presets/defaults.yaml").read_text(encoding="utf-8"))
    comments = {entry.name: entry.comment for entry in found}
    changes = presets()
    parts = [INTRODUCTION]
    for entry in found:
        if entry.is_block:
            parts.append(_block(entry))
        else:
            parts.append(_parameter(entry, kind_of(Params, entry.name), comments, changes))
    return "\n".join(parts)


def entries(text: str) -> list[Entry]:
    """Read the keys of a commented YAML file of nested blocks, in its order.

    Raises
    ------
    ValueError
        A line is neither a key, nor a comment that continues the one of the line above, nor empty.
    """
    found: list[Entry] = []
    path: list[str] = []
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        if continued := CONTINUED.fullmatch(line):
            last = found.pop()
            found.append(Entry(last.name, last.value, f"{last.comment} {continued[1]}".strip()))
        elif key := LINE.fullmatch(line):
            path = [*path[: len(key["indent"]) // 2], key["key"]]
            found.append(Entry(".".join(path), key["value"].strip(), key["comment"] or ""))
        else:
            raise ValueError(f"presets/defaults.yaml: {line!r}: not a key with a comment; the page cannot show it")
    return found


def presets() -> dict[str, dict[str, Any]]:
    """Return what each preset changes: name of a parameter -> name of a preset -> value."""
    changes: dict[str, dict[str, Any]] = {}
    for path in sorted((ROOT / "presets").glob("*.yaml")):
        if path.stem != "defaults":
            for name, value in _flat(yaml.safe_load(path.read_text(encoding="utf-8"))):
                changes.setdefault(name, {})[path.stem] = value
    return changes


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def kind_of(model: Any, name: str) -> str:
    """Say in words what the model of a block accepts for a parameter, such as `number from 0 to 1`."""
    first, _, rest = name.partition(".")
    field = model.model_fields[first]
    return kind_of(field.annotation, rest) if rest else _kind(field.annotation, field.metadata)


def _kind(kind: Any, limits: Any = ()) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        inner, *more = arguments
        return _kind(inner, [one for limit in more for one in getattr(limit, "metadata", [limit])])
    if origin in (Union, UnionType):
        return ", or ".join(_kind(one, limits) for one in arguments)
    if origin is Literal:
        return ", ".join(f"`{one}`" for one in arguments)
    if origin is list:
        return f"list of: {_kind(*arguments)}"
    names = {bool: "`true`, `false`", int: "whole number", float: "number", str: "text", NoneType: "`null`"}
    return names[kind] + (_range(limits) if kind in (int, float) else "")


def _range(limits: Any) -> str:
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    said = [f"{word} {getattr(one, key):,}" for one in limits for key, word in words.items() if hasattr(one, key)]
    return " " + ", ".join(said) if said else ""


def _block(entry: Entry) -> str:
    heading = f"##{'#' * entry.name.count('.')} {entry.name} {{#{entry.name}}}\n"
    text = _prose(entry.comment)
    return f"{heading}\n{text[0].upper()}{text[1:]}.\n" if text else heading


def _parameter(entry: Entry, kind: str, comments: Mapping[str, str], changes: Mapping[str, Mapping[str, Any]]) -> str:
    twin = f"encoder.{entry.name.removeprefix('train.')}"
    parts = [f"#### {entry.name} {{#{entry.name}}}", f"default `{entry.value}` · {kind}\n{{: .kind }}"]
    if entry.comment and entry.comment.replace(" | ", ", ") != kind.replace("`", ""):
        parts.append(_prose(entry.comment, comments))
    elif entry.name.startswith("train.") and comments.get(twin):
        parts.append(f"As [{twin}](#{twin}).")
    if changed := _changes(changes.get(entry.name, {}), entry.value):
        parts.append(f"presets: {changed}\n{{: .kind }}")
    return "\n\n".join(parts) + "\n"


def _changes(changed: Mapping[str, Any], default: str) -> str:
    """List the values other than the default that presets set, each with these presets."""
    named: dict[str, list[str]] = {}
    for name, value in changed.items():
        text = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()
        named.setdefault(text, []).append(name)
    return "; ".join(f"`{value}` in {', '.join(names)}" for value, names in named.items() if value != default)


def _prose(comment: str, names: Collection[str] = ()) -> str:
    """Turn a comment into Markdown: escaped, with links to the pages and the parameters that it names."""
    text = re.sub(r"([\\*<>]|(?<!\w)_)", r"\\\1", comment)
    text = PAGE_OF_DOCS.sub(lambda found: f"[{found[1].title()}]({found[1]}.md)", text)
    return DOTTED.sub(lambda found: f"[{found[0]}](#{found[0]})" if found[0] in names else found[0], text)
