"""Train the network whose features are clustered: cross-entropy on the labeled images."""

from __future__ import annotations

import os

from slsr.images.loading import load_labeled
from slsr.models.weights import weights_files
from slsr.params.recipe import Image, Recipe
from slsr.runtime.resume import kept, save_interval
from slsr.runtime.scratch import scratch_folder
from slsr.stages.paths import ENCODER, TRAIN_TABLE, VALIDATION_TABLE, WEIGHTS, scratch_root
from slsr.training.classifier import TrainingSet
from slsr.training.run import train_and_save
from slsr.training.validation import read_validation


def run(image: Image, encoder: Recipe) -> None:
    """Read the train and validation tables; write `artifacts/encoder/`: model.safetensors and curves/."""
    training = TrainingSet.of_labeled(load_labeled(TRAIN_TABLE, image), encoder.label_smoothing)
    held_out = read_validation(VALIDATION_TABLE, image)
    inputs = [TRAIN_TABLE, VALIDATION_TABLE, *weights_files(encoder.weights, WEIGHTS)]
    scratch = scratch_folder(scratch_root(), "train_encoder", [image, encoder], inputs)
    with kept(scratch, save_interval(os.environ)) as keeper:
        train_and_save(ENCODER, training, held_out, encoder, image, WEIGHTS, keeper)
