"""The stages of the pipeline, one command each."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Annotated

import typer

from slsr.cli.options import PARAMS, STAGES

app = typer.Typer()

IN_SEVERAL_PROCESSES = {"train_encoder", "extract_features", "train_gan", "train", "evaluate"}
# The parameter that decides how much memory a stage needs.
MEMORY_PARAMETERS = {
    "train-encoder": "encoder.batch_size",
    "extract-features": "evaluate.batch_size",
    "cluster": "cluster.minibatch_above",
    "train-gan": "gan.batch_size",
    "generate": "generate.images",
    "floors": "evaluate.batch_size",
    "train": "train.batch_size",
    "evaluate": "evaluate.batch_size",
}


class ProcessesEnded(SystemExit):
    """The processes that this one started have ended and have printed their messages."""


def memory_remedy(command: str) -> str:
    """Say how a command can need less memory."""
    match MEMORY_PARAMETERS.get(command):
        case None:
            return "give a smaller --batch-size if the command has one, or use a machine with more memory"
        case "cluster.minibatch_above":
            return "lower cluster.minibatch_above below the number of training images, or try fewer k in cluster.sweep"
        case parameter:
            return f"lower {parameter} or the image size in params.yaml, or use precision: bf16"


def run_stage(name: str, *arguments: str) -> None:
    """Validate params.yaml, then run a stage in the current folder."""
    from slsr.params.file import load_params, run_with_blocks

    params = load_params(PARAMS)
    if name in IN_SEVERAL_PROCESSES:
        _join_or_start_processes()
    run_with_blocks(importlib.import_module(f"slsr.stages.{name}").run, params, *arguments)
    if name in IN_SEVERAL_PROCESSES:
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
        metavar="REGULARIZER", callback=_known_regularizer, help="none, lsr, lsro, slsr, ...: see docs/regularizers.md"
    ),
]


@app.command(rich_help_panel=STAGES)
def prepare() -> None:
    """Read an archive in data/ into image tables, check and count it."""
    run_stage("prepare")


@app.command(rich_help_panel=STAGES)
def train_encoder() -> None:
    """Train the network whose features are clustered."""
    run_stage("train_encoder")


@app.command(rich_help_panel=STAGES)
def extract_features() -> None:
    """Extract the features of all training images."""
    run_stage("extract_features")


@app.command(rich_help_panel=STAGES)
def cluster() -> None:
    """Cluster the features with k-means, and list the identities of each cluster."""
    run_stage("cluster")


@app.command(rich_help_panel=STAGES)
def train_gan() -> None:
    """Train one DCGAN per cluster, or one for all clusters."""
    run_stage("train_gan")


@app.command(rich_help_panel=STAGES)
def generate() -> None:
    """Generate images with the sparse label of their cluster, and measure their quality."""
    run_stage("generate")


@app.command(rich_help_panel=STAGES)
def floors() -> None:
    """Score two trivial baselines: an untrained network and a color histogram."""
    run_stage("floors")


@app.command(rich_help_panel=STAGES)
def train(regularizer: RegularizerArgument) -> None:
    """Train the re-ID network on real and generated images."""
    run_stage("train", regularizer)


@app.command(rich_help_panel=STAGES)
def evaluate(regularizer: RegularizerArgument) -> None:
    """Measure one trained network: CMC, average precision, re-ranking."""
    run_stage("evaluate", regularizer)


@app.command(rich_help_panel=STAGES)
def report() -> None:
    """Write the report and the metrics that git keeps."""
    run_stage("report")
