"""The stages of the pipeline, one command each."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Annotated

import typer

from slsr.cli.options import PARAMS, STAGES

app = typer.Typer()

STAGES_IN_PROCESSES = {"train_encoder", "train", "train_gan", "extract_features", "evaluate"}


RegularizerArgument = Annotated[
    str,
    typer.Argument(metavar="REGULARIZER", help="none, lsr, lsro, slsr, ...: see docs/regularizers.md"),
]


def run_stage(name: str, *arguments: str) -> None:
    """Validate params.yaml, then run a stage in the current folder."""
    from slsr.params.file import load_params, run_with_blocks

    params = load_params(PARAMS)
    if name in STAGES_IN_PROCESSES:
        _in_processes()
    run_with_blocks(importlib.import_module(f"slsr.stages.{name}").run, params, *arguments)
    if name in STAGES_IN_PROCESSES:
        from slsr.runtime.launch import leave_processes

        leave_processes()


class AllEnded(SystemExit):
    """The processes that this one started have ended, and have said what there is to say."""


def _in_processes() -> None:
    """Hand over to one process a device, unless this is one of them or one is enough."""
    from slsr.runtime.launch import join_processes, launched, processes_wanted, start_processes

    if launched(os.environ):
        join_processes(os.environ)
    elif (count := processes_wanted(os.environ)) > 1:
        raise AllEnded(start_processes(count, sys.argv[1:]))


def _known(regularizer: str) -> str:
    from slsr.labels.regularizers import regularizer_named

    return regularizer_named(regularizer).name


@app.command(rich_help_panel=STAGES)
def prepare() -> None:
    """An archive in data/ to image tables, checked and counted."""
    run_stage("prepare")


@app.command(rich_help_panel=STAGES)
def train_encoder() -> None:
    """The network whose features are clustered."""
    run_stage("train_encoder")


@app.command(rich_help_panel=STAGES)
def extract_features() -> None:
    """Features of all training images."""
    run_stage("extract_features")


@app.command(rich_help_panel=STAGES)
def cluster() -> None:
    """K-means over the features, and the identities of each cluster."""
    run_stage("cluster")


@app.command(rich_help_panel=STAGES)
def train_gan() -> None:
    """One DCGAN a cluster."""
    run_stage("train_gan")


@app.command(rich_help_panel=STAGES)
def generate() -> None:
    """Images with a sparse label from every cluster, and how good they are."""
    run_stage("generate")


@app.command(rich_help_panel=STAGES)
def floors() -> None:
    """What an untrained network and a color histogram reach."""
    run_stage("floors")


@app.command(rich_help_panel=STAGES)
def train(regularizer: RegularizerArgument) -> None:
    """The re-ID network, on real and generated images."""
    run_stage("train", _known(regularizer))


@app.command(rich_help_panel=STAGES)
def evaluate(regularizer: RegularizerArgument) -> None:
    """CMC, average precision and re-ranking of one trained network."""
    run_stage("evaluate", _known(regularizer))


@app.command(rich_help_panel=STAGES)
def report() -> None:
    """The metrics and the table that git keeps."""
    run_stage("report")
