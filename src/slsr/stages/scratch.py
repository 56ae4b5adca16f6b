"""Where a stage keeps the state of an unfinished run: under a key of code, parameters and inputs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import torch

import slsr
from slsr.errors import InputError
from slsr.params import NO_WEIGHTS_FILE, Block, Recipe
from slsr.stages.paths import WEIGHTS

CHUNK = 2**20


def scratch_folder(stage: str, blocks: Sequence[Block], inputs: Sequence[Path]) -> Path:
    """`.scratch/<stage>/<key>` below the main checkout, also for a queued experiment's temporary one.

    The key changes with any file of the package, the version of torch, the parameters, the inputs or the weights that
    the run starts from, so that state from another run is never picked up.
    """
    digest = hashlib.sha256(torch.__version__.encode())
    package = Path(slsr.__file__).parent
    named = [block.weights for block in blocks if isinstance(block, Recipe) and block.weights not in NO_WEIGHTS_FILE]
    for path in [*sorted(package.rglob("*.py")), *inputs, *(WEIGHTS / name for name in named)]:
        _add_file(digest, path)
    for block in blocks:
        digest.update(block.model_dump_json().encode())
    root = Path(os.environ.get("DVC_ROOT", "."))
    return root / ".scratch" / stage / digest.hexdigest()[:32]


def _add_file(digest: hashlib._Hash, path: Path) -> None:
    digest.update(path.name.encode())
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; run `dvc repro` to make it, or `dvc pull` to fetch it") from error
