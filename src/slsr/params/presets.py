"""params.yaml from the defaults and a preset: what differs is set, every comment stays."""

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

DEFAULTS = "defaults"


def preset_names(folder: Path) -> list[str]:
    """The presets in a folder, by file name, without the defaults."""
    return sorted(path.stem for path in folder.glob("*.yaml") if path.stem != DEFAULTS)


def render_preset(folder: Path, name: str) -> str:
    """The text of params.yaml: `folder`/defaults.yaml with the differences of `folder`/NAME.yaml.

    Raises
    ------
    InputError
        No such preset, or it sets a key that the defaults lack, or the result is not valid.
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
        f"Edit at will; `slsr preset` shows the others. A device is not a parameter: the number of GPUs, threads and\n"
        "workers never stands here.\n"
    )
    buffer = io.StringIO()
    yaml.dump(values, buffer)
    text = buffer.getvalue()
    validate_params(YAML(typ="safe", pure=True).load(text), f"{folder / name}.yaml")
    return text


def preset_archive(folder: Path, name: str) -> str | None:
    """`dataset.archive` of a preset; None where there is no such preset."""
    if name not in preset_names(folder):
        return None
    text = render_preset(folder, name)
    return validate_params(YAML(typ="safe", pure=True).load(text), f"{folder / name}.yaml").dataset.archive


def _load(yaml: YAML, path: Path) -> Any:
    try:
        values = yaml.load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; run this in the root of the project") from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML ({error})") from error
    if not isinstance(values, MutableMapping):
        raise InputError(f"{path}: holds {type(values).__name__}, not blocks; see {DEFAULTS}.yaml beside it")
    return values


def _override(values: MutableMapping[str, Any], differences: Any, source: str, prefix: str = "") -> None:
    for key, value in differences.items():
        if key not in values:
            raise InputError(f"{source}: {prefix}{key}: no such key in {DEFAULTS}.yaml; remove it or mend its spelling")
        if isinstance(value, MutableMapping) and isinstance(values[key], MutableMapping):
            _override(values[key], value, source, f"{prefix}{key}.")
        elif isinstance(value, list) and isinstance(values[key], list):
            values[key][:] = value
        else:
            values[key] = value


def write_preset(folder: Path, name: str, target: Path, force: bool = False) -> None:
    """Write a preset to `target`; what the user has edited there is kept unless `force`.

    Raises
    ------
    InputError
        `target` holds something that no preset renders to, and `force` is not given.
    """
    text = render_preset(folder, name)
    if target.exists() and not force and not _is_rendering(folder, target.read_bytes()):
        raise InputError(f"{target}: holds edits that no preset has; keep a copy of it, or say --force to replace it")
    write_bytes(target, text.encode())


def _is_rendering(folder: Path, content: bytes) -> bool:
    return any(render_preset(folder, name).encode() == content for name in preset_names(folder))
