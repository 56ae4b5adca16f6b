"""The folder where a stage keeps the state of an unfinished run, named by a key of code, parameters and inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch

import slsr
from slsr.errors import InputError
from slsr.params.base import Block

CHUNK = 2**20


def scratch_folder(root: Path, stage: str, blocks: Sequence[Block], inputs: Sequence[Path]) -> Path:
    """Return `<root>/<stage>/<key>`.

    The key changes with any file of the package, the version of torch, the parameters and the inputs (including initial
    weights), so that a run never takes over the state of another run.
    """
    digest = hashlib.sha256(torch.__version__.encode())
    package = Path(slsr.__file__).parent
    for path in [*sorted(package.rglob("*.py")), *inputs]:
        _add_file(digest, path)
    for block in blocks:
        digest.update(block.model_dump_json().encode())
    return root / stage / digest.hexdigest()[:32]


def _add_file(digest: hashlib._Hash, path: Path) -> None:
    digest.update(path.name.encode())
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; run `dvc repro` to make it, or `dvc pull` to fetch it") from error
