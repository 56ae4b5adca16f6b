"""What `train_encoder` and `train` share: a recipe and a training set in, a model and curves out."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict
from pathlib import Path

from slsr.files import replaced_folder
from slsr.images.loading import LabeledImages
from slsr.labels.generated import AS_LABELED, GeneratedImages
from slsr.models.encoder import save_encoder
from slsr.models.weights import initial_encoder
from slsr.params.recipe import Image, Recipe
from slsr.runtime.devices import prepare_device
from slsr.runtime.processes import is_first
from slsr.runtime.resume import kept, save_interval
from slsr.training.classifier import Epoch, TrainingSet, train_classifier
from slsr.training.curves import curves

log = logging.getLogger(__name__)


def train_and_save(
    folder: Path,
    training: TrainingSet,
    held_out: LabeledImages,
    recipe: Recipe,
    image: Image,
    weights: Path,
    scratch: Path,
    generated: GeneratedImages = AS_LABELED,
) -> None:
    """Train from the recipe's initial weights; write model.safetensors and curves/ into `folder`.

    An unfinished run's state lies in `scratch`; the same call goes on from there. How often it is saved stands in
    SLSR_SAVE_EVERY.
    """
    validation = held_out if len(held_out.labels) else None
    device = prepare_device(recipe.precision, recipe.deterministic)
    encoder = initial_encoder(recipe, training.targets.table.shape[1], image, weights)
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
