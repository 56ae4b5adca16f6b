"""Paths, headings and options that several groups of commands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from slsr.errors import InputError

PARAMS = Path("params.yaml")
PRESETS = Path("presets")
STAGES = "Stages of the pipeline (run them with `dvc repro`)"
TOOLS = "Tools"
USE = "Using a trained model"

CamerasOption = Annotated[
    str | None, typer.Option(help="unknown: accept test images of unknown cameras, which marks every number")
]


def accepted_cameras(option: str | None) -> Literal["unknown"] | None:
    """Check the option --cameras."""
    if option is None:
        return None
    if option != "unknown":
        raise InputError(f"--cameras {option}: the only value is unknown; leave it out if cameras are known")
    return "unknown"
