"""Train the re-ID network on real images and, if the regularizer uses them, on generated ones."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from slsr.errors import InputError
from slsr.files import read_json
from slsr.images.loading import load_pixels, read_labels
from slsr.images.tables import column_numpy, read_table
from slsr.labels.distributions import Sparse
from slsr.labels.noise import NoiseLayer
from slsr.labels.regularizers import ClusterLabel, Regularizer, regularizer_named
from slsr.labels.supervision import FIXED_LABELS, Supervision
from slsr.labels.targets import real_targets, with_generated
from slsr.models.weights import weights_files
from slsr.params.base import Block
from slsr.params.labels import Generated, Lsr, PseudoLabels
from slsr.params.recipe import Image, Recipe
from slsr.runtime.processes import is_first
from slsr.runtime.resume import kept, save_interval
from slsr.runtime.scratch import scratch_folder
from slsr.stages.paths import (
    CLUSTER_IDENTITIES,
    GENERATED_IMAGES,
    TRAIN_TABLE,
    TRAINED,
    VALIDATION_TABLE,
    WEIGHTS,
    scratch_root,
)
from slsr.training.classifier import TrainingSet
from slsr.training.run import train_and_save
from slsr.training.validation import read_validation

log = logging.getLogger(__name__)


def run(
    image: Image, train: Recipe, generated: Generated, lsr: Lsr, pseudo_labels: PseudoLabels, regularizer: str
) -> None:
    """Read train and validation tables and generated images; write `artifacts/train/<regularizer>/`."""
    choice = regularizer_named(regularizer)
    labels = read_labels(TRAIN_TABLE)
    targets = real_targets(labels, _smoothing(choice, train, lsr))
    count, classes = len(targets.row), targets.table.shape[1]
    weights = torch.ones(count)
    tables, supervision = [TRAIN_TABLE], FIXED_LABELS
    inputs = [TRAIN_TABLE, VALIDATION_TABLE, *weights_files(train.weights, WEIGHTS)]
    blocks: list[Block] = [image, train, *([lsr] if choice.smooths_real else [])]
    if choice.sees_generated:
        targets = with_generated(targets, *generated_labels(choice, classes))
        weights = torch.cat([weights, torch.full((len(targets.row) - count,), generated.weight)])
        supervision = supervision_of(choice, generated, pseudo_labels, count, classes)
        tables.append(GENERATED_IMAGES)
        inputs += [GENERATED_IMAGES, *([CLUSTER_IDENTITIES] if choice.counts_images else [])]
        blocks += [generated, *([pseudo_labels] if choice.pseudo_label else [])]
    training = TrainingSet(load_pixels(tables, image), targets, weights, labels)
    scratch = scratch_folder(scratch_root(), f"train-{regularizer}", blocks, inputs)
    held_out = read_validation(VALIDATION_TABLE, image)
    with kept(scratch, save_interval(os.environ)) as keeper:
        train_and_save(TRAINED / regularizer, training, held_out, train, image, WEIGHTS, keeper, supervision)
    if supervision.noise is not None and is_first():
        share = float(supervision.noise.transition.detach().diagonal().mean())
        log.info("noise layer: %.4f of the probability stayed in place; the layer is dropped", share)


def _smoothing(choice: Regularizer, train: Recipe, lsr: Lsr) -> float:
    """Return the epsilon by which the labels of real images are smoothed.

    Raises
    ------
    InputError
        Both the recipe and the regularizer smooth them.
    """
    if choice.smooths_real and train.label_smoothing > 0:
        raise InputError(
            f"train.label_smoothing {train.label_smoothing} smooths the real images of every regularizer, the baseline "
            f"included; set it to 0 to run {choice.name}, which smooths by lsr.epsilon"
        )
    return lsr.epsilon if choice.smooths_real else train.label_smoothing


def supervision_of(
    choice: Regularizer, generated: Generated, pseudo_labels: PseudoLabels, first: int, classes: int
) -> Supervision:
    """Return what changes during training: pseudo-labels that start late, and a noise layer if it has a rate."""
    return Supervision(
        first=first,
        pseudo_label=choice.pseudo_label,
        start=pseudo_labels.start if choice.pseudo_label else 0.0,
        noise=NoiseLayer(classes) if generated.noise_learning_rate > 0 else None,
        noise_learning_rate=generated.noise_learning_rate,
    )


def generated_labels(choice: Regularizer, classes: int) -> tuple[NDArray[np.int32], dict[int, Sparse]]:
    """Return the number of each generated image's label, and the labels by number.

    The number is that of the image's cluster, unless the regularizer gives each image its own label
    (`Regularizer.image_label`); then equal labels have one number.

    Raises
    ------
    InputError
        There is no generated image, the table lacks a column, images of one cluster have different labels, or a label
        does not fit its cluster.
    """
    table = read_table(GENERATED_IMAGES, choice.image_label or ["cluster", "label_index", "label_weight"])
    if len(table) == 0:
        raise InputError(f"{GENERATED_IMAGES}: contains no image; raise generate.images")
    if choice.image_label is not None:
        return _distinct_labels(*(table.column(name).to_pylist() for name in choice.image_label))
    return _labels_of_clusters(choice, classes, table)


def _distinct_labels(
    indices: Sequence[Sequence[int]], weights: Sequence[Sequence[float]]
) -> tuple[NDArray[np.int32], dict[int, Sparse]]:
    """Number the different labels of images in the order in which they come first; return also each image's number."""
    found: dict[tuple[tuple[int, ...], tuple[float, ...]], int] = {}
    labels = [(tuple(index), tuple(weight)) for index, weight in zip(indices, weights, strict=True)]
    chosen = np.array([found.setdefault(label, len(found)) for label in labels], np.int32)
    distinct = {number: (np.array(one[0], np.int32), np.array(one[1], np.float32)) for one, number in found.items()}
    return chosen, distinct


def _labels_of_clusters(
    choice: Regularizer, classes: int, table: pa.Table
) -> tuple[NDArray[np.int32], dict[int, Sparse]]:
    """Return the cluster of each generated image, and the label that the regularizer gives each cluster."""
    clusters = column_numpy(table, "cluster")
    counts = _counts() if choice.counts_images else {}
    labels = {}
    for cluster, stored in _stored_labels(table, clusters).items():
        try:
            labels[cluster] = choice.target(ClusterLabel(classes, stored, *counts.get(cluster, ())))
        except InputError as error:
            raise InputError(
                f"{GENERATED_IMAGES}: an image of cluster {cluster} {error}; run `dvc repro` to generate them again"
            ) from error
    return clusters, labels


def _stored_labels(table: pa.Table, clusters: NDArray[np.int32]) -> dict[int, Sparse]:
    """Return the label that `generate` stored with the images of each cluster."""
    index, weight = table.column("label_index").combine_chunks(), table.column("label_weight").combine_chunks()
    found: dict[int, Sparse] = {}
    for cluster in np.unique(clusters).tolist():
        rows = np.flatnonzero(clusters == cluster)
        first = (index[rows[0]].values.to_numpy(), weight[rows[0]].values.to_numpy())
        for column, values in zip((index, weight), first, strict=True):
            own = column.take(pa.array(rows))
            same = np.array_equal(own.flatten().to_numpy(), np.tile(values, len(rows)))
            if not same or (own.value_lengths().to_numpy() != len(values)).any():
                raise InputError(
                    f"{GENERATED_IMAGES}: images of cluster {cluster} have different labels; run `dvc repro` to "
                    "generate them again"
                )
        found[cluster] = first
    return found


def _counts() -> dict[int, tuple[NDArray[np.int32], NDArray[np.int64]]]:
    """Return the identities of each cluster, and how many of its images show each."""
    clusters: list[dict[str, Any]] = read_json(CLUSTER_IDENTITIES)["clusters"]
    return {one["cluster"]: (np.array(one["labels"], np.int32), np.array(one["counts"], np.int64)) for one in clusters}
