"""The checkpoint file that a path means, and its fingerprint; importing this loads no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from slsr.errors import InputError

MODEL_FILE = "model.safetensors"


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


def fingerprint(path: Path) -> str:
    """Compute the sha256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
