"""Train the re-ID network on real images and, as the regulariser says, on generated ones."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from slsr.errors import InputError
from slsr.files import read_json
from slsr.images.loading import load_pixels, read_labels
from slsr.labels import Sparse, lsr, lsro, make_targets, slsr_weighted
from slsr.models.noise import NoiseLayer
from slsr.params import Block, Params, Regularizer, check_regularizer
from slsr.records import column_numpy, read_table
from slsr.stages.paths import CLUSTER_IDENTITIES, GENERATED_IMAGES, TRAIN_TABLE, TRAINED, VALIDATION_TABLE
from slsr.stages.scratch import scratch_folder
from slsr.stages.training_run import train_and_save
from slsr.training.classifier import TrainingSet
from slsr.training.generated import AS_LABELLED, PSEUDO_LABELS, GeneratedImages
from slsr.training.processes import is_first

log = logging.getLogger(__name__)

WITHOUT_GENERATED: tuple[Regularizer, ...] = ("none", "lsr")


def run(params: Params, regularizer: Regularizer) -> None:
    """Read train and validation tables and generated images, write `artifacts/train/<regularizer>/`."""
    check_regularizer(params, regularizer)
    labels = read_labels(TRAIN_TABLE).tolist()
    classes = max(labels) + 1
    epsilon = params.lsr.epsilon if regularizer == "lsr" else params.train.label_smoothing
    of_label = [lsr(label, classes, epsilon) for label in range(classes)]
    distributions = [of_label[label] for label in labels]
    weights = torch.ones(len(labels))
    tables, generated = [TRAIN_TABLE], AS_LABELLED
    if regularizer not in WITHOUT_GENERATED:
        drawn = generated_distributions(regularizer, classes)
        distributions += drawn
        weights = torch.cat([weights, torch.full((len(drawn),), params.generated.weight)])
        tables.append(GENERATED_IMAGES)
        generated = _generated_images(params, regularizer, len(labels), classes)
    training = TrainingSet(load_pixels(tables, params.image), make_targets(distributions, classes), weights)
    blocks, inputs = _what_is_read(params, regularizer)
    scratch = scratch_folder(f"train-{regularizer}", blocks, inputs)
    train_and_save(TRAINED / regularizer, training, params.train, params.image, scratch, generated)
    if generated.noise is not None and is_first():
        share = float(generated.noise.transition.detach().diagonal().mean())
        log.info("noise layer: %.4f of the probability stayed in place; the layer is dropped", share)


def _generated_images(params: Params, regularizer: Regularizer, first: int, classes: int) -> GeneratedImages:
    """What moves as training goes: pseudo-labels from a point on, and the noise layer where it has a rate."""
    pseudo_label = PSEUDO_LABELS.get(regularizer)
    epochs = params.train.epochs
    rate = params.generated.noise_learning_rate
    return GeneratedImages(
        first=first,
        pseudo_label=pseudo_label,
        first_epoch=min(round(params.pseudo_labels.start * epochs), epochs - 1) if pseudo_label else 0,
        noise=NoiseLayer(classes) if rate > 0 else None,
        noise_learning_rate=rate,
    )


def _what_is_read(params: Params, regularizer: Regularizer) -> tuple[list[Block], list[Path]]:
    """Parameters and files that a run follows from, beside the code."""
    blocks: list[Block] = [params.image, params.train]
    inputs = [TRAIN_TABLE, VALIDATION_TABLE]
    if regularizer == "lsr":
        blocks.append(params.lsr)
    if regularizer not in WITHOUT_GENERATED:
        blocks.append(params.generated)
        inputs.append(GENERATED_IMAGES)
    if regularizer in PSEUDO_LABELS:
        blocks.append(params.pseudo_labels)
    if regularizer == "slsr-weighted":
        inputs.append(CLUSTER_IDENTITIES)
    return blocks, inputs


def generated_distributions(regularizer: Regularizer, classes: int) -> list[Sparse]:
    """The fixed target of each generated image.

    `slsr`: the sparse label stored with it. `slsr-weighted`: over the same identities, by the images that each has in
    the cluster. Else uniform: that is `lsro`, and holds the place of a pseudo-label.

    Raises
    ------
    InputError
        There is no generated image, or one is labelled with other identities than its cluster has.
    """
    table = read_table(GENERATED_IMAGES, ["cluster", "label_index", "label_weight"])
    if len(table) == 0:
        raise InputError(f"{GENERATED_IMAGES}: holds no image; raise generate.images")
    if regularizer not in ("slsr", "slsr-weighted"):
        return [lsro(classes)] * len(table)
    stored = list(zip(_lists(table, "label_index"), _lists(table, "label_weight"), strict=True))
    if regularizer == "slsr":
        return stored
    weighted = _weighted_labels()
    clusters = column_numpy(table, "cluster").tolist()
    for (index, _), cluster in zip(stored, clusters, strict=True):
        if cluster not in weighted or not np.array_equal(index, weighted[cluster][0]):
            raise InputError(
                f"{GENERATED_IMAGES}: an image of cluster {cluster} is labelled with other identities than "
                f"{CLUSTER_IDENTITIES} has in it; run `dvc repro` to make the images anew"
            )
    return [weighted[cluster] for cluster in clusters]


def _weighted_labels() -> dict[int, Sparse]:
    """The label of each cluster by the images that its identities have in it."""
    clusters = read_json(CLUSTER_IDENTITIES)["clusters"]
    return {one["cluster"]: slsr_weighted(one["labels"], one["counts"]) for one in clusters if one["labels"]}


def _lists(table: pa.Table, name: str) -> Iterator[NDArray[Any]]:
    """The lists of a list column, as views of one array."""
    column = table.column(name).combine_chunks()
    values, ends = column.flatten().to_numpy(), np.cumsum(column.value_lengths().to_numpy())
    return iter(np.split(values, ends[:-1]))
