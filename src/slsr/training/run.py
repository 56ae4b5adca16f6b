"""The common part of `train_encoder` and `train`: from a recipe and a training set to a model and curves."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

from slsr.files import replaced_folder
from slsr.labels.supervision import FIXED_LABELS, Supervision
from slsr.models.encoder import save_encoder
from slsr.models.weights import initial_encoder
from slsr.params.recipe import Image, Recipe
from slsr.runtime.devices import prepare_device
from slsr.runtime.processes import is_first
from slsr.runtime.resume import Keeper
from slsr.training.classifier import Epoch, TrainingSet, train_classifier
from slsr.training.curves import LogStep, curves
from slsr.training.schedule import images_of_pass, planned_steps
from slsr.training.validation import Validation

log = logging.getLogger(__name__)


def train_and_save(
    folder: Path,
    training: TrainingSet,
    validation: Validation | None,
    recipe: Recipe,
    image: Image,
    weights: Path,
    keeper: Keeper,
    supervision: Supervision = FIXED_LABELS,
) -> None:
    """Train from the recipe's initial weights; write model.safetensors and curves/ into `folder`.

    Parameters
    ----------
    validation : images or people that are held out
    weights : the folder of the files that `recipe.weights` may name
    keeper : keeps the state of the training; the same call goes on from the state of an interrupted one
    """
    device = prepare_device(recipe.precision, recipe.deterministic)
    encoder = initial_encoder(recipe, training.targets.table.shape[1], image, weights)
    train = partial(train_classifier, encoder, training, validation, recipe, encoder.image, device)
    if not is_first():
        train(keeper=keeper, supervision=supervision)
        return
    with replaced_folder(folder) as building, curves(building / "curves") as log_step:
        best = train(partial(_log_epoch, log_step), keeper, supervision)
        save_encoder(building / "model.safetensors", encoder, best)
    steps = planned_steps(recipe, images_of_pass(recipe, len(training.labels), training.generated))
    classes = encoder.description.classes
    log.info("wrote %s: %s, %d identities, %d steps", folder, recipe.backbone, classes, steps)


def _log_epoch(log_step: LogStep, epoch: Epoch) -> None:
    log_step(
        {
            "train/loss": epoch.loss,
            "train/learning_rate": epoch.learning_rate,
            "train/steps": epoch.steps,
            "train/rate_sum": epoch.rate_sum,
            "validation/loss": epoch.validation_loss,
            "validation/accuracy": epoch.validation_accuracy,
            "validation/rank1": epoch.validation_rank1,
            "validation/map_trapezoid": epoch.validation_map,
            "validation/best_epoch": epoch.best,
        }
    )
