"""The checkpoint file that a path means, what it is, and its fingerprint; nothing here loads torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from slsr.errors import InputError

MODEL_FILE = "model.safetensors"
KEY = "slsr"  # that of slsr.models.checkpoint, which loads torch


def checkpoint_file(path: Path) -> Path:
    """Find the checkpoint that a path means: the file itself, or `model.safetensors` in the folder.

    Raises
    ------
    InputError
        There is none.
    """
    if path.is_dir():
        if not (path / MODEL_FILE).is_file():
            raise InputError(f"{path}: a folder without {MODEL_FILE}; give a checkpoint, or the folder that holds one")
        return path / MODEL_FILE
    if not path.is_file():
        raise InputError(f"{path}: no such model; train one with `dvc repro`, or fetch one with `dvc artifacts get`")
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: not a .safetensors file; give a checkpoint that this project wrote")
    return path


def check_encoder(path: Path) -> None:
    """Refuse a path that leads to no encoder of this project, without reading its weights.

    Raises
    ------
    InputError
        There is no checkpoint, its header cannot be read, or it is of another kind.
    """
    file = checkpoint_file(path)
    try:
        with safe_open(file, framework="numpy") as opened:
            text = (opened.metadata() or {}).get(KEY)
        description = json.loads(text) if text is not None else None
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{file}: not a readable safetensors file ({error}); fetch or train it again") from error
    if description is None:
        raise InputError(f"{file}: not a model of this project (its metadata has no `{KEY}`); give another file")
    if not isinstance(description, dict) or description.get("kind") != "encoder":
        raise InputError(f"{file}: a model, but no encoder; give the model.safetensors of a trained encoder")


def fingerprint(path: Path) -> str:
    """Compute the sha256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
