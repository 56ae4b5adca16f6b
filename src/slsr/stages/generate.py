"""Draw images from the generator of every cluster, label them, and measure their quality."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from slsr.embedding.engine import extract_features
from slsr.errors import InputError
from slsr.files import read_json, read_npy, replaced_folder, write_json
from slsr.gan.images import ClusteredImages, load_clustered
from slsr.gan.networks import Generator, draw_noise, iterate_images, load_generator
from slsr.images.decoding import Pixels, decode_resized, encode_jpeg
from slsr.images.tables import GENERATED as SCHEMA
from slsr.images.tables import table_writer
from slsr.labels.distributions import Sparse, slsr
from slsr.models.encoder import load_encoder
from slsr.params.gan import Gan, GanKind
from slsr.params.generate import Generate
from slsr.quality.assessment import Alarm, Measured, assess, find_alarms
from slsr.quality.features import Features, handcrafted
from slsr.quality.imagenet import imagenet
from slsr.quality.measures import cluster_consistency
from slsr.quality.spaces import IMAGENET_NETWORKS, MEASURES, limits_in
from slsr.quality.verdict import judge, worst
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


def run(gan: Gan, generate: Generate) -> None:
    """Read the generators, the clusters, the train table and its features; write `artifacts/generated/`.

    It has images.parquet (image, name, cluster, sparse label), quality.json and sheet.png.
    """
    clusters = read_json(CLUSTER_IDENTITIES)["clusters"]
    counts = allocate(generate.images, [cluster["images"] for cluster in clusters], generate.allocation)
    device = prepare_device("fp32", deterministic=True)
    real = load_clustered(TRAIN_TABLE, ASSIGNMENTS, gan.height, gan.width)
    with replaced_folder(GENERATED) as folder:
        encoded = _write_images(folder / "images.parquet", clusters, counts, generate, gan.kind, device)
        _draw_sheet(folder / "sheet.png", encoded, real)
        quality = measure_quality(encoded, real, generate, device, uses_imagenet(gan))
        write_json(folder / "quality.json", quality)
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


def _write_images(
    path: Path,
    clusters: Sequence[Mapping[str, Any]],
    counts: Sequence[int],
    choice: Generate,
    kind: GanKind,
    device: torch.device,
) -> list[list[bytes]]:
    """Draw, encode, label and store the images; return the encoded images of each cluster."""
    encoded: list[list[bytes]] = []
    conditional = load_generator(GAN / "conditional.safetensors").to(device) if kind == "conditional" else None
    if conditional is not None and conditional.description.clusters != len(clusters):
        raise InputError(
            f"{GAN / 'conditional.safetensors'}: knows {conditional.description.clusters} clusters, but "
            f"{CLUSTER_IDENTITIES} has {len(clusters)}; run `dvc repro`"
        )
    with (
        table_writer(path, SCHEMA) as table,
        tqdm(total=sum(counts), desc="generate", unit="image", leave=False, disable=None) as bar,
    ):
        for cluster, count in zip(clusters, counts, strict=True):
            number = int(cluster["cluster"])
            label = _sparse_label(cluster)
            encoded.append([])
            for image in _images_of(number, count, choice, conditional, device):
                row = {"image": image, "name": f"g{number}_{len(encoded[-1]):05d}.jpg", "cluster": number}
                table.append(row | {"label_index": label[0], "label_weight": label[1]})
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


def _sparse_label(cluster: Mapping[str, Any]) -> Sparse:
    if not cluster["labels"]:
        raise InputError(
            f"{CLUSTER_IDENTITIES}: cluster {cluster['cluster']} holds no identity; lower cluster.minimum_images"
        )
    return slsr(cluster["labels"])


@dataclass(frozen=True)
class Space:
    """Features of real and of generated images, those of each cluster, in one space."""

    name: str
    real: Features
    generated: list[Features]


def measure_quality(
    encoded: Sequence[Sequence[bytes]],
    real: ClusteredImages,
    choice: Generate,
    device: torch.device,
    seen: bool = False,
) -> dict[str, Any]:
    """Measure generated images, given for each cluster; return the content of quality.json.

    It has the measures over all clusters and of each cluster in each feature space, a verdict on each, cluster
    consistency, and alarms.

    Parameters
    ----------
    seen : the discriminator saw features of the network of the ImageNet space, so a second network judges, too
    """
    pixels = [decode_resized(images, *real.pixels.shape[1:3]) for images in encoded]
    spaces = [_imagenet_space(name, pixels, real, device) for name in list(IMAGENET_NETWORKS)[: 1 + seen]]
    spaces += [_handcrafted_space(pixels, real), _encoder_space(encoded, real, device)]
    limits = choice.alarms.model_dump()
    sets, alarms = [], []
    for cluster in tqdm([None, *range(len(encoded))], "quality", unit="set", leave=False, disable=None):
        measured = _measure_set(spaces, cluster, real.clusters, choice.seed)
        found = {name: find_alarms(measured[name], limits_in(name, limits)) for name in measured}
        sets.append(_as_json(spaces, cluster, real.clusters, measured, found))
        alarms += [
            {"cluster": cluster, "space": name} | asdict(alarm) for name, each in found.items() for alarm in each
        ]
    return {
        "limits": limits,
        "discriminator_saw": "imagenet" if seen else None,
        "overall": sets[0],
        "clusters": sets[1:],
        "cluster_consistency": _consistency(spaces[-1], real.clusters),
        "alarms": alarms,
    }


def _imagenet_space(name: str, pixels: Sequence[Pixels], real: ClusteredImages, device: torch.device) -> Space:
    network = IMAGENET_NETWORKS[name]
    found = imagenet(np.concatenate(pixels), device, network)
    return Space(name, imagenet(real.pixels, device, network), _split(found, pixels))


def _handcrafted_space(pixels: Sequence[Pixels], real: ClusteredImages) -> Space:
    return Space("handcrafted", handcrafted(real.pixels), [handcrafted(images) for images in pixels])


def _encoder_space(encoded: Sequence[Sequence[bytes]], real: ClusteredImages, device: torch.device) -> Space:
    """Return the space that was clustered: the encoder's features, not scaled."""
    features: Features = read_npy(TRAIN_FEATURES)
    if len(features) != len(real.clusters):
        raise InputError(f"{TRAIN_FEATURES}: {len(features)} features for {len(real.clusters)} images; run `dvc repro`")
    encoder = load_encoder(ENCODER_MODEL)
    together = [image for images in encoded for image in images]
    names = [f"generated image {number}" for number in range(len(together))]
    found = extract_features(
        encoder, together, names, device, flip=False, batch_size=BATCH_SIZE, title="features of generated"
    )
    return Space("encoder", features, _split(found, encoded))


def _split(features: Features, clusters: Sequence[Sequence[Any] | Pixels]) -> list[Features]:
    """Divide features of all images among their clusters."""
    return np.split(features, np.cumsum([len(images) for images in clusters])[:-1])


def _measure_set(
    spaces: Sequence[Space], cluster: int | None, clusters: NDArray[np.int32], seed: int
) -> dict[str, dict[str, Measured]]:
    """Measure the images of one cluster, or of all clusters together if `cluster` is None, by space."""
    found = {}
    for space in spaces:
        real = space.real if cluster is None else space.real[clusters == cluster]
        generated = np.concatenate(space.generated) if cluster is None else space.generated[cluster]
        frechet = ["frechet"] if cluster is None and space.name == "encoder" else []
        measured = assess(real, generated, [*MEASURES[space.name], *frechet], seed)
        if frechet:
            measured["frechet_of_encoder_features"] = measured.pop("frechet")
        found[space.name] = {name: Measured.from_json(one.as_json()) for name, one in measured.items()}
    return found


def _as_json(
    spaces: Sequence[Space],
    cluster: int | None,
    clusters: NDArray[np.int32],
    measured: Mapping[str, Mapping[str, Measured]],
    alarms: Mapping[str, Sequence[Alarm]],
) -> dict[str, Any]:
    """Write what is known of one cluster, or of all clusters, as in quality.json."""
    generated = [len(features) for features in spaces[0].generated]
    heard = [alarm for each in alarms.values() for alarm in each]
    return {
        "cluster": cluster,
        "real": len(clusters) if cluster is None else int(np.sum(clusters == cluster)),
        "generated": sum(generated) if cluster is None else generated[cluster],
        "verdict": worst(judge(measured[name], heard) for name in IMAGENET_NETWORKS if name in measured),
        **{space: {name: one.as_json() for name, one in each.items()} for space, each in measured.items()},
    }


def _consistency(space: Space, clusters: NDArray[np.int32]) -> dict[str, Any]:
    """Return the share of generated images whose nearest centroid is their own cluster's, beside that of real ones."""
    count = len(space.generated)
    centroids = np.stack([space.real[clusters == cluster].mean(axis=0) for cluster in range(count)])
    own = [
        cluster_consistency(features, np.full(len(features), cluster), centroids) if len(features) else None
        for cluster, features in enumerate(space.generated)
    ]
    together = np.repeat(np.arange(count), [len(features) for features in space.generated])
    return {
        "value": round(cluster_consistency(np.concatenate(space.generated), together, centroids), 6),
        "reference": round(cluster_consistency(space.real, clusters, centroids), 6),
        "clusters": [None if value is None else round(value, 6) for value in own],
    }


def describe_alarm(alarm: Mapping[str, Any]) -> str:
    """Describe an alarm of quality.json in one line."""
    where = "all clusters" if alarm["cluster"] is None else f"cluster {alarm['cluster']}"
    side = "below" if alarm["value"] < alarm["limit"] else "above"
    return (
        f"{where}: {alarm['alarm']}: {alarm['measure']} {alarm['value']:.3f} is {side} {alarm['limit']:g} "
        f"in the {alarm['space']} space"
    )


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
