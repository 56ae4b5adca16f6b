"""Write params.yaml from the defaults and a preset; comments are kept."""

from __future__ import annotations

import io
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from slsr.errors import InputError
from slsr.files import write_bytes
from slsr.params.file import validate_params
from slsr.params.reading import parse_yaml

DEFAULTS = "defaults"


def preset_names(folder: Path) -> list[str]:
    """List the presets of a folder by name, without the defaults."""
    return sorted(path.stem for path in folder.glob("*.yaml") if path.stem != DEFAULTS)


def render_preset(folder: Path, name: str) -> str:
    """Return the text of params.yaml: `folder`/defaults.yaml, changed where `folder`/NAME.yaml says so.

    Raises
    ------
    InputError
        There is no such preset, or it sets a key that the defaults do not have, or the result is not valid.
    """
    if name not in preset_names(folder):
        raise InputError(f"preset {name!r}: no such file in {folder}/; choose one of {', '.join(preset_names(folder))}")
    yaml = YAML()
    yaml.width = 200
    yaml.representer.add_representer(
        type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    values = _load(yaml, folder / f"{DEFAULTS}.yaml")
    _override(values, _load(yaml, folder / f"{name}.yaml"), f"{folder / name}.yaml")
    values.yaml_set_start_comment(
        f"The preset {name}: presets/{DEFAULTS}.yaml with the differences of presets/{name}.yaml.\n"
        f"You can edit it; `slsr preset` lists the other presets. The number of GPUs, threads and workers is not a\n"
        "parameter and is never set here.\n"
    )
    buffer = io.StringIO()
    yaml.dump(values, buffer)
    text = buffer.getvalue()
    validate_params(parse_yaml(text), f"{folder / name}.yaml")
    return text


def preset_archive(folder: Path, name: str) -> str | None:
    """Return `dataset.archive` of a preset, or None if there is no such preset."""
    if name not in preset_names(folder):
        return None
    return validate_params(parse_yaml(render_preset(folder, name)), f"{folder / name}.yaml").dataset.archive


def _load(yaml: YAML, path: Path) -> Any:
    try:
        values = yaml.load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; run this in the root of the project") from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML ({error})") from error
    if not isinstance(values, MutableMapping):
        raise InputError(f"{path}: holds {type(values).__name__}, not blocks of keys and values; see {DEFAULTS}.yaml")
    return values


def _override(values: MutableMapping[str, Any], differences: Any, source: str, prefix: str = "") -> None:
    for key, value in differences.items():
        if key not in values:
            raise InputError(
                f"{source}: {prefix}{key}: no such key in {DEFAULTS}.yaml; remove it or correct its spelling"
            )
        if isinstance(value, MutableMapping) and isinstance(values[key], MutableMapping):
            _override(values[key], value, source, f"{prefix}{key}.")
        elif isinstance(value, list) and isinstance(values[key], list):
            values[key][:] = value
            values[key].fa.set_flow_style()  # in one line, which an empty list does not remember
        else:
            values[key] = value


def write_preset(folder: Path, name: str, target: Path, force: bool = False) -> None:
    """Write a preset to `target`.

    Raises
    ------
    InputError
        `target` has edits (it is not exactly what a preset writes), and `force` is not set.
    """
    text = render_preset(folder, name)
    if target.exists() and not force and not _is_rendering(folder, target.read_bytes()):
        raise InputError(f"{target}: has edits of yours; keep a copy of it, then give --force to replace it")
    write_bytes(target, text.encode())


def _is_rendering(folder: Path, content: bytes) -> bool:
    """Tell whether a preset writes exactly this content."""
    return any(render_preset(folder, name).encode() == content for name in preset_names(folder))
