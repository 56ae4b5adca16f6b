"""Train the network whose features are clustered: cross-entropy on the labelled images."""

from __future__ import annotations

from slsr.images.loading import load_labelled
from slsr.params import Params
from slsr.stages.paths import ENCODER, TRAIN_TABLE, VALIDATION_TABLE
from slsr.stages.scratch import scratch_folder
from slsr.stages.training_run import train_and_save
from slsr.training.classifier import TrainingSet


def run(params: Params) -> None:
    """Read the train and validation tables, write `artifacts/encoder/`: model.safetensors and curves/."""
    real = load_labelled(TRAIN_TABLE, params.image)
    scratch = scratch_folder("train_encoder", [params.image, params.encoder], [TRAIN_TABLE, VALIDATION_TABLE])
    train_and_save(ENCODER, TrainingSet.of_labelled(real), params.encoder, params.image, scratch)
