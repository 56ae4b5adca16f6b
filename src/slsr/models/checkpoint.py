"""Networks as safetensors files: tensors and a description, the same bytes for the same network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from slsr.errors import InputError
from slsr.files import write_bytes

# safetensors writes several metadata keys in random order, so there is one key, with sorted JSON.
KEY = "slsr"


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write tensors and the description from which their network is rebuilt; the file appears only when complete."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_bytes(path, save(plain, metadata={KEY: json.dumps(description, sort_keys=True)}))


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors, on the CPU, and the description.

    Raises
    ------
    InputError
        The file is missing, is not safetensors, or was not written by `save_checkpoint`.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such model; run `dvc repro` to train it, or `dvc pull` to fetch it")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(KEY)
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        description = json.loads(text) if text is not None else None
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}); fetch or train it again") from error
    if description is None:
        raise InputError(f"{path}: not a model of this project (its metadata has no `{KEY}`); give another file")
    return tensors, description
