"""What `train_encoder` and `train` share: a recipe and a training set in, a model and curves out."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict
from pathlib import Path

from slsr.files import replaced_folder
from slsr.images.loading import load_labelled
from slsr.models.encoder import save_encoder
from slsr.models.weights import initial_encoder
from slsr.params import Image, Recipe
from slsr.stages.paths import VALIDATION_TABLE, WEIGHTS
from slsr.training.classifier import Epoch, TrainingSet, train_classifier
from slsr.training.curves import curves
from slsr.training.generated import AS_LABELLED, GeneratedImages
from slsr.training.launch import prepare_device
from slsr.training.processes import is_first
from slsr.training.resume import kept, save_interval

log = logging.getLogger(__name__)


def train_and_save(
    folder: Path,
    training: TrainingSet,
    recipe: Recipe,
    image: Image,
    scratch: Path,
    generated: GeneratedImages = AS_LABELLED,
) -> None:
    """Train from the recipe's initial weights; write model.safetensors and curves/ into `folder`.

    An unfinished run's state lies in `scratch`; the same call goes on from there. How often it is saved stands in
    SLSR_SAVE_EVERY.
    """
    held_out = load_labelled(VALIDATION_TABLE, image)
    validation = held_out if len(held_out.labels) else None
    device = prepare_device(recipe.precision, recipe.deterministic)
    encoder = initial_encoder(recipe, training.targets.table.shape[1], image, WEIGHTS)
    interval = asdict(save_interval(os.environ))
    if not is_first():
        with kept(scratch, **interval) as keeper:
            train_classifier(encoder, training, validation, recipe, image, device, keeper=keeper, generated=generated)
        return
    with (
        kept(scratch, **interval) as keeper,
        replaced_folder(folder) as building,
        curves(building / "curves") as log_step,
    ):

        def on_epoch(epoch: Epoch) -> None:
            log_step(
                {
                    "train/loss": epoch.loss,
                    "train/learning_rate": epoch.learning_rate,
                    "validation/loss": epoch.validation_loss,
                    "validation/accuracy": epoch.validation_accuracy,
                }
            )

        train_classifier(encoder, training, validation, recipe, image, device, on_epoch, keeper, generated)
        save_encoder(building / "model.safetensors", encoder)
    log.info(
        "wrote %s: %s, %d identities, %d epochs", folder, recipe.backbone, encoder.description.classes, recipe.epochs
    )
