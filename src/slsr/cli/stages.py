"""The stages of the pipeline, one command each."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from slsr.cli.commands import Commands
from slsr.cli.options import PARAMS, STAGES

app = Commands()


# Each stage with its help, and the parameter that decides how much memory it needs.
COMMANDS = {
    "prepare": ("Read the data set into image tables, and check it.", None),
    "train_encoder": ("Train the network whose features are clustered.", "encoder.batch_size"),
    "extract_features": ("Compute the features of all training images.", "evaluate.batch_size"),
    "cluster": ("Cluster the training images by their features.", "cluster.minibatch_above"),
    "train_gan": ("Train one generator per cluster, or one for all clusters.", "gan.batch_size"),
    "generate": ("Generate images with the label of their cluster, and measure their quality.", "generate.images"),
    "floors": (
        "Score two trivial baselines: an untrained network and a color histogram.",
        "evaluate.batch_size",
    ),
    "train": ("Train the re-ID network on real and generated images.", "train.batch_size"),
    "evaluate": ("Evaluate a trained re-ID network: CMC, mAP, re-ranking.", "evaluate.batch_size"),
    "report": ("Write the report and the metrics that git keeps.", None),
}
ON_SEVERAL_GPUS = {"train_encoder", "extract_features", "train_gan", "train", "evaluate"}
OF_REGULARIZER = {"train", "evaluate"}


def memory_remedy(command: str) -> str:
    """Say how a command can need less memory."""
    _, parameter = COMMANDS.get(command.replace("-", "_"), ("", None))
    match parameter:
        case None:
            return "give a smaller --batch-size if the command has one, or use a machine with more memory"
        case "cluster.minibatch_above":
            return "lower cluster.minibatch_above below the number of training images, or try fewer k in cluster.sweep"
        case _:
            return f"lower {parameter} or the image size in params.yaml, or use precision: bf16"


class ProcessesEnded(SystemExit):
    """The processes that this one started have ended and have printed their messages."""


def run_stage(name: str, *arguments: str) -> None:
    """Validate params.yaml, then run a stage in the current folder."""
    from slsr.models.checks import check_networks
    from slsr.params.file import load_params, run_with_blocks

    params = load_params(PARAMS)
    check_networks(params)
    if name in ON_SEVERAL_GPUS:
        _join_or_start_processes()
    run_with_blocks(importlib.import_module(f"slsr.stages.{name}").run, params, *arguments)
    if name in ON_SEVERAL_GPUS:
        from slsr.runtime.launch import leave_processes

        leave_processes()


def _join_or_start_processes() -> None:
    """Start one process per GPU and wait for them, unless this is one of them or one process is enough."""
    from slsr.runtime.launch import join_processes, launched, processes_wanted, start_processes

    if launched(os.environ):
        join_processes(os.environ)
    elif (count := processes_wanted(os.environ)) > 1:
        raise ProcessesEnded(start_processes(count, sys.argv[1:]))


def _known_regularizer(name: str) -> str:
    """Check a name against the table of regularizers, which is loaded only when a command needs it."""
    from slsr.labels.regularizers import regularizer_named

    return regularizer_named(name).name


RegularizerArgument = Annotated[
    str,
    typer.Argument(
        metavar="REGULARIZER",
        callback=_known_regularizer,
        help="Regularizer: none, lsr, lsro, slsr, ... (docs/regularizers.md).",
    ),
]


def _command_of(stage: str) -> Callable[..., None]:
    def run() -> None:
        run_stage(stage)

    def run_regularizer(regularizer: RegularizerArgument) -> None:
        run_stage(stage, regularizer)

    return run_regularizer if stage in OF_REGULARIZER else run


for _stage, (_help, _) in COMMANDS.items():
    app.command(_stage.replace("_", "-"), help=_help, rich_help_panel=STAGES)(_command_of(_stage))
