"""Draw images from the generator of every cluster, label them, and measure their quality."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from slsr.embedding.engine import extract_features
from slsr.errors import InputError
from slsr.files import read_json, read_npy, replaced_folder, write_json
from slsr.gan.generator import Generator
from slsr.gan.images import ClusteredImages, load_clustered
from slsr.gan.networks import draw_noise, iterate_images, load_generator
from slsr.images.decoding import decode_resized, encode_jpeg
from slsr.images.tables import GENERATED as SCHEMA
from slsr.images.tables import column_numpy, read_table, table_writer
from slsr.labels.distributions import Sparse, slsr, slsr_nearest
from slsr.models.encoder import Encoder, load_encoder
from slsr.params.gan import Gan, GanKind
from slsr.params.generate import Generate
from slsr.quality.features import Features, unit_rows
from slsr.quality.generated import Space, describe_alarm, measure_quality, split, summarize
from slsr.quality.label_support import LabeledPredictions, measure_label_support
from slsr.quality.measures import nearest_rows
from slsr.reporting.sheets import Panel, draw_panels
from slsr.runtime.devices import prepare_device
from slsr.stages.paths import (
    ASSIGNMENTS,
    CLUSTER_IDENTITIES,
    ENCODER_MODEL,
    GAN,
    GENERATED,
    TRAIN_FEATURES,
    TRAIN_TABLE,
)

log = logging.getLogger(__name__)

COLUMNS, CLUSTERS_SHOWN = 16, 8
BATCH_SIZE = 128  # of the encoder, when it compares generated images with real ones
BY_CLUSTER, BY_NEAREST = "slsr", "slsr-nearest"  # the stored labels, by the regularizers that use them


def run(gan: Gan, generate: Generate) -> None:
    """Read the generators, the clusters, the train table and its features; write `artifacts/generated/`.

    It has images.parquet (image, name, cluster, and two sparse labels: that of the cluster and that of the nearest
    training images), sheet.png, quality.json (`measure_quality` and the support of both labels) and summary.json (the
    numbers of it that `dvc exp show` lists). The features of the generated images are extracted once, from the stored
    JPEG images that training decodes.
    """
    identities = read_json(CLUSTER_IDENTITIES)
    clusters = identities["clusters"]
    sizes = [cluster["images"] for cluster in clusters]
    _require_nearest_images(generate.nearest_images, sum(sizes))
    counts = allocate(generate.images, sizes, generate.allocation)
    of_clusters = [_label_of_cluster(cluster) for cluster in clusters]
    device = prepare_device("fp32", deterministic=True)
    encoder = _load_encoder(identities["classes"])
    real = load_clustered(TRAIN_TABLE, ASSIGNMENTS, gan.height, gan.width)
    with replaced_folder(GENERATED) as folder:
        encoded = _draw_images(counts, generate, gan.kind, device)
        space = encoder_space(encoded, real, encoder, device)
        labels = _label_images(of_clusters, space, real.clusters, generate.nearest_images)
        _write_images(folder / "images.parquet", encoded, labels.generated)
        _draw_sheet(folder / "sheet.png", encoded, real)
        pixels = [decode_resized(images, gan.height, gan.width) for images in encoded]
        seen = uses_imagenet(gan)
        quality = measure_quality(pixels, real.pixels, real.clusters, space, generate, device, seen)
        quality["label_support"] = _label_support(space, real.clusters, labels, encoder, device)
        write_json(folder / "quality.json", quality)
        write_json(folder / "summary.json", summarize(quality))
    log.info("wrote %s: %s images from %d clusters", GENERATED, f"{sum(counts):,}", len(counts))
    log.info("verdict: %s", quality["overall"]["verdict"] or "none, too few images")
    for alarm in quality["alarms"]:
        log.warning("alarm: %s", describe_alarm(alarm))


def uses_imagenet(gan: Gan) -> bool:
    """Tell whether the discriminator saw features of the network of the ImageNet space."""
    return gan.discriminator != "pixels"


def allocate(total: int, sizes: Sequence[int], allocation: Literal["equal", "proportional"]) -> list[int]:
    """Return how many of `total` images each cluster gives.

    What is left after division goes to the largest remainders, and among equal ones to the first.

    >>> allocate(10, [30, 30, 40], "equal")
    [4, 3, 3]
    >>> allocate(10, [25, 35, 40], "proportional")
    [3, 3, 4]
    """
    weights = np.ones(len(sizes), np.int64) if allocation == "equal" else np.asarray(sizes, np.int64)
    counts, remainders = np.divmod(total * weights, weights.sum())
    order = np.argsort(-remainders, kind="stable")
    counts[order[: total - counts.sum()]] += 1
    result: list[int] = counts.tolist()
    return result


def _require_nearest_images(nearest: int, images: int) -> None:
    """Raise InputError if an image has fewer other training images than the label needs."""
    if nearest >= images:
        raise InputError(
            f"generate.nearest_images: {nearest} must be below the number of training images, {images}; lower it"
        )


def _load_encoder(classes: int) -> Encoder:
    encoder = load_encoder(ENCODER_MODEL)
    if encoder.description.classes != classes:
        raise InputError(
            f"{ENCODER_MODEL}: knows {encoder.description.classes} identities, but {CLUSTER_IDENTITIES} has {classes}; "
            "run `dvc repro`"
        )
    return encoder


def _draw_images(counts: Sequence[int], choice: Generate, kind: GanKind, device: torch.device) -> list[list[bytes]]:
    """Draw and encode the images of each cluster."""
    conditional = load_generator(GAN / "conditional.safetensors").to(device) if kind == "conditional" else None
    if conditional is not None and conditional.description.clusters != len(counts):
        raise InputError(
            f"{GAN / 'conditional.safetensors'}: knows {conditional.description.clusters} clusters, but "
            f"{CLUSTER_IDENTITIES} has {len(counts)}; run `dvc repro`"
        )
    encoded: list[list[bytes]] = []
    with tqdm(total=sum(counts), desc="generate", unit="image", leave=False, disable=None) as bar:
        for cluster, count in enumerate(counts):
            encoded.append([])
            for image in _images_of(cluster, count, choice, conditional, device):
                encoded[-1].append(image)
                bar.update(1)
    return encoded


def _images_of(
    cluster: int, count: int, choice: Generate, conditional: Generator | None, device: torch.device
) -> Iterator[bytes]:
    """Yield JPEG images of one cluster, from its own generator or the conditional one.

    Image i is the same for any count.
    """
    generator = conditional or load_generator(GAN / f"cluster_{cluster}.safetensors").to(device)
    noise = draw_noise((choice.seed, cluster), count, generator.description.latent)
    for batch in iterate_images(generator, noise, cluster if conditional is not None else None):
        for pixels in batch:
            yield encode_jpeg(pixels, choice.jpeg_quality)


def _label_of_cluster(cluster: Mapping[str, Any]) -> Sparse:
    if not cluster["labels"]:
        raise InputError(
            f"{CLUSTER_IDENTITIES}: cluster {cluster['cluster']} holds no identity; lower cluster.minimum_images"
        )
    return slsr(cluster["labels"])


@dataclass(frozen=True)
class ImageLabels:
    """The labels of the generated images, cluster by cluster, and of the real ones, by the name of the regularizer.

    Real images have the label that a generated image in their place would have.
    """

    generated: Mapping[str, Sequence[Sparse]]
    real: Mapping[str, Sequence[Sparse]]


def _label_images(
    of_clusters: Sequence[Sparse], space: Space, clusters: NDArray[np.int32], nearest: int
) -> ImageLabels:
    """Label images by their cluster, and by the identities of their nearest training images.

    Features are compared as in retrieval, by the Euclidean distance at unit length, which orders images by the cosine.
    A real image is not among its own nearest.
    """
    identities: NDArray[np.int32] = column_numpy(read_table(TRAIN_TABLE, ["label"]), "label")
    real = unit_rows(space.real)
    of_real = nearest_rows(real, None, nearest)
    of_generated = nearest_rows(unit_rows(np.concatenate(space.generated)), real, nearest)
    drawn = [of_clusters[cluster] for cluster, features in enumerate(space.generated) for _ in features]
    return ImageLabels(
        {BY_CLUSTER: drawn, BY_NEAREST: [slsr_nearest(identities[rows]) for rows in of_generated]},
        {
            BY_CLUSTER: [of_clusters[cluster] for cluster in clusters],
            BY_NEAREST: [slsr_nearest(identities[rows]) for rows in of_real],
        },
    )


def _write_images(path: Path, encoded: Sequence[Sequence[bytes]], labels: Mapping[str, Sequence[Sparse]]) -> None:
    """Store the images with their labels."""
    pairs = zip(labels[BY_CLUSTER], labels[BY_NEAREST], strict=True)
    with table_writer(path, SCHEMA) as table:
        for cluster, images in enumerate(encoded):
            for number, image in enumerate(images):
                label, nearest = next(pairs)
                row = {"image": image, "name": f"g{cluster}_{number:05d}.jpg", "cluster": cluster}
                row |= {"label_index": label[0], "label_weight": label[1]}
                table.append(row | {"nearest_index": nearest[0], "nearest_weight": nearest[1]})


def _label_support(
    space: Space, clusters: NDArray[np.int32], labels: ImageLabels, encoder: Encoder, device: torch.device
) -> dict[str, Any]:
    """Measure how much of the encoder's prediction is on the support of the labels, for all images and each cluster."""
    together = np.repeat(np.arange(len(space.generated)), [len(features) for features in space.generated])
    predicted = _predict(encoder, np.concatenate(space.generated), device)
    generated = LabeledPredictions(predicted, together, labels.generated)
    real = LabeledPredictions(_predict(encoder, space.real, device), clusters, labels.real)
    return {
        "overall": measure_label_support(generated, real),
        "clusters": [measure_label_support(generated, real, cluster) for cluster in range(len(space.generated))],
    }


@torch.inference_mode()
def _predict(encoder: Encoder, features: Features, device: torch.device) -> NDArray[np.float32]:
    """Compute the probabilities of the identities from extracted features: float32 [N, D] to [N, C]."""
    encoder.to(device)
    parts = [
        encoder.head(torch.from_numpy(features[start : start + BATCH_SIZE]).to(device)).softmax(dim=1).cpu().numpy()
        for start in range(0, len(features), BATCH_SIZE)
    ]
    return np.concatenate(parts)


def encoder_space(
    encoded: Sequence[Sequence[bytes]], real: ClusteredImages, encoder: Encoder, device: torch.device
) -> Space:
    """Return the space that was clustered: the encoder's features, not scaled."""
    features: Features = read_npy(TRAIN_FEATURES)
    if len(features) != len(real.clusters):
        raise InputError(f"{TRAIN_FEATURES}: {len(features)} features for {len(real.clusters)} images; run `dvc repro`")
    together = [image for images in encoded for image in images]
    names = [f"generated image {number}" for number in range(len(together))]
    found = extract_features(
        encoder, together, names, device, flip=False, batch_size=BATCH_SIZE, title="features of generated"
    )
    return Space("encoder", features, split(found, encoded))


def _draw_sheet(path: Path, encoded: Sequence[Sequence[bytes]], real: ClusteredImages) -> None:
    """Draw the paper's Figure 2: generated images of each cluster above real ones."""
    panels: list[Panel] = []
    for cluster, images in list(enumerate(encoded))[:CLUSTERS_SHOWN]:
        own = real.of(cluster)
        shown = np.unique(np.linspace(0, len(own) - 1, COLUMNS).astype(int))
        if images:  # with few images to generate, a cluster may get none
            generated = decode_resized(images[: 2 * COLUMNS], *own.shape[1:3])
            panels.append(Panel(f"cluster {cluster}: {len(images):,} generated", generated))
        panels.append(Panel(f"cluster {cluster}: {len(own):,} real", own[shown]))
    draw_panels(path, panels, COLUMNS)
