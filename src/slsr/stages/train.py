"""Train the re-ID network on real images and, as the regulariser says, on generated ones."""

from __future__ import annotations

import torch

from slsr.errors import InputError
from slsr.images.loading import load_pixels, read_labels
from slsr.labels import Sparse, lsr, lsro, make_targets
from slsr.params import Params, Regularizer
from slsr.records import read_table
from slsr.stages.paths import GENERATED_IMAGES, TRAIN_TABLE, TRAINED, VALIDATION_TABLE
from slsr.stages.scratch import scratch_folder
from slsr.stages.training_run import train_and_save
from slsr.training.classifier import TrainingSet


def run(params: Params, regularizer: Regularizer) -> None:
    """Read train and validation tables and generated images, write `artifacts/train/<regularizer>/`."""
    labels = read_labels(TRAIN_TABLE)
    classes = int(labels.max()) + 1
    distributions = [lsr(int(label), classes, params.train.label_smoothing) for label in labels]
    weights = [torch.ones(len(labels))]
    tables, blocks = [TRAIN_TABLE], [params.image, params.train]
    if regularizer != "none":
        generated = generated_distributions(regularizer, classes)
        distributions += generated
        weights.append(torch.full((len(generated),), params.generated.weight))
        tables.append(GENERATED_IMAGES)
        blocks.append(params.generated)
    pixels = load_pixels(tables, params.image)
    training = TrainingSet(pixels, make_targets(distributions, classes), torch.cat(weights))
    scratch = scratch_folder(f"train-{regularizer}", blocks, [*tables, VALIDATION_TABLE])
    train_and_save(TRAINED / regularizer, training, params.train, params.image, scratch)


def generated_distributions(regularizer: Regularizer, classes: int) -> list[Sparse]:
    """The target of each generated image: the sparse label stored with it (slsr), or uniform (lsro)."""
    table = read_table(GENERATED_IMAGES, ["label_index", "label_weight"])
    if len(table) == 0:
        raise InputError(f"{GENERATED_IMAGES}: holds no image; raise generate.images")
    if regularizer == "lsro":
        return [lsro(classes)] * len(table)
    columns = (table.column(name).to_pylist() for name in ("label_index", "label_weight"))
    return [
        (torch.tensor(index, dtype=torch.int32).numpy(), torch.tensor(weight, dtype=torch.float32).numpy())
        for index, weight in zip(*columns, strict=True)
    ]
