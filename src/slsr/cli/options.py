"""Paths, headings and options that several groups of commands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from slsr.errors import InputError

PARAMS = Path("params.yaml")
PRESETS = Path("presets")
# The headings of `slsr --help`.
SET_UP = "Set up"
USE = "Look at a trained model and use it"
EXPERIMENTS = "Run and compare experiments"
RESULTS = "Check and share results"
STAGES = "Stages of the pipeline (run them with `dvc repro`)"

DEVICES = ("cpu", "cuda", "mps", "xpu")  # kinds that a network can compute on; torch says which of them are here


def known_device(name: str | None) -> str | None:
    """Refuse a device that no machine has, before torch is loaded to ask for it."""
    kind, _, number = (name or "auto").partition(":")
    if kind not in ("auto", *DEVICES) or (number and not number.isdecimal()):
        raise InputError(f"device {name!r} is not available here; give auto, cpu, cuda, or cuda:1 for the second GPU")
    return name


DeviceOption = Annotated[
    str, typer.Option(metavar="DEVICE", callback=known_device, help="Device to compute on: auto, cpu, cuda, cuda:1.")
]
CamerasOption = Annotated[
    str | None,
    typer.Option(metavar="unknown", help="Accept test images of unknown cameras. Every number is then marked as such."),
]
ProtocolOption = Annotated[str | None, typer.Option(metavar="NAME", help="Protocol of CUHK03: classic or np.")]
BoxesOption = Annotated[str | None, typer.Option(metavar="NAME", help="Boxes of CUHK03: detected or labeled.")]
SplitOption = Annotated[
    int | None, typer.Option(metavar="N", help="Split of CUHK03 classic, 1 to 20, or of VIPeR, 1 to 10.")
]


def accepted_cameras(option: str | None) -> Literal["unknown"] | None:
    """Check the option --cameras."""
    if option is None:
        return None
    if option != "unknown":
        raise InputError(f"--cameras {option}: the only value is unknown; leave it out if cameras are known")
    return "unknown"
