"""Networks as safetensors files: tensors and a description, the same bytes for the same network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from slsr.errors import InputError

# The library writes several metadata keys in random order, so there is one, holding JSON with sorted keys.
KEY = "slsr"


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write tensors and what is needed to rebuild their network; the file appears only when complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        save_file(plain, temporary, metadata={KEY: json.dumps(description, sort_keys=True)})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors (on the CPU) and description.

    Raises
    ------
    InputError
        The file is missing, is not safetensors, or was not written by `save_checkpoint`.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such model; run `dvc repro` to train it, or `dvc pull` to fetch it")
    try:
        with safe_open(path, framework="pt") as file:
            description = (file.metadata() or {}).get(KEY)
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}); fetch or train it again") from error
    if description is None:
        raise InputError(f"{path}: safetensors, but not a model of this project (no `{KEY}` metadata)")
    return tensors, json.loads(description)
