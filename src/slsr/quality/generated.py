"""The content of quality.json: generated images, cluster by cluster, measured in every feature space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from slsr.images.decoding import Pixels
from slsr.params.generate import Generate
from slsr.quality.assessment import Alarm, Measured, assess, find_alarms
from slsr.quality.features import Features, handcrafted
from slsr.quality.imagenet import imagenet
from slsr.quality.measures import cluster_consistency
from slsr.quality.spaces import IMAGENET_NETWORKS, MEASURES, limits_in
from slsr.quality.verdict import judge, worst


@dataclass(frozen=True)
class Space:
    """Features of real and of generated images, those of each cluster, in one space."""

    name: str
    real: Features
    generated: list[Features]


def measure_quality(
    generated: Sequence[Pixels],
    real: Pixels,
    clusters: NDArray[np.int32],
    encoder: Space,
    choice: Generate,
    device: torch.device,
    seen: bool = False,
) -> dict[str, Any]:
    """Measure generated images, given for each cluster; return the content of quality.json.

    It has the measures over all clusters and of each cluster in each feature space, a verdict on each, cluster
    consistency, and alarms.

    Parameters
    ----------
    real, clusters : the real images, and the cluster of each
    encoder : the space of the encoder's features
    seen : the discriminator saw features of the network of the ImageNet space, so a second network judges, too
    """
    spaces = [_imagenet_space(name, generated, real, device) for name in list(IMAGENET_NETWORKS)[: 1 + seen]]
    spaces += [Space("handcrafted", handcrafted(real), [handcrafted(images) for images in generated]), encoder]
    limits = choice.alarms.model_dump()
    sets, alarms = [], []
    for cluster in tqdm([None, *range(len(generated))], "quality", unit="set", leave=False, disable=None):
        measured = _measure_set(spaces, cluster, clusters, choice.seed)
        found = {name: find_alarms(measured[name], limits_in(name, limits)) for name in measured}
        sets.append(_as_json(spaces, cluster, clusters, measured, found))
        alarms += [
            {"cluster": cluster, "space": name} | asdict(alarm) for name, each in found.items() for alarm in each
        ]
    return {
        "limits": limits,
        "discriminator_saw": "imagenet" if seen else None,
        "overall": sets[0],
        "clusters": sets[1:],
        "cluster_consistency": _consistency(encoder, clusters),
        "alarms": alarms,
    }


def summarize(quality: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of quality.json by which experiments are compared: those that the verdict reads first."""
    space = quality["overall"][next(iter(IMAGENET_NETWORKS))]
    found = {name: space[measure]["value"] for name, measure in (("kid", "kernel"), ("coverage", "coverage"))}
    return {"quality": {name: value for name, value in found.items() if value is not None}}


def _imagenet_space(name: str, generated: Sequence[Pixels], real: Pixels, device: torch.device) -> Space:
    network = IMAGENET_NETWORKS[name]
    found = imagenet(np.concatenate(generated), device, network)
    return Space(name, imagenet(real, device, network), split(found, generated))


def split(features: Features, clusters: Sequence[Sequence[Any] | Pixels]) -> list[Features]:
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
