"""Cluster the training features and list the identities of each cluster."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from slsr.clustering.identities import ClusterIdentities, identities_of_clusters, make_up
from slsr.clustering.kmeans import Features
from slsr.clustering.sweep import Assignments, Clustering, choose_k, project, sweep_clusters
from slsr.errors import InputError
from slsr.files import read_npy, replaced_folder, write_json
from slsr.images.decoding import decode_resized
from slsr.images.tables import column_numpy, read_table, table_writer
from slsr.params.cluster import Cluster
from slsr.reporting.figures import draw_clusters
from slsr.reporting.sheets import Panel, draw_panels
from slsr.stages.paths import CLUSTERS, TRAIN_FEATURES, TRAIN_TABLE

log = logging.getLogger(__name__)

ASSIGNMENT = pa.schema(
    [("name", pa.string()), ("identity", pa.int32()), ("label", pa.int32()), ("cluster", pa.int32())]
)
MEMBERS_SHOWN, CLUSTERS_SHOWN = 14, 20
PICTURE_SIZE = (128, 64)


def run(cluster: Cluster) -> None:
    """Read features and the train table, write `artifacts/clusters/`.

    assignments.parquet (row i = row i of train.parquet), identities.json, silhouette.json (every k of the sweep, in
    the full dimension and on the first two principal components, and what the chosen clusters are made of),
    clusters.png, members.png.
    """
    features: Features = read_npy(TRAIN_FEATURES)
    train = read_table(TRAIN_TABLE, ["image", "name", "identity", "label", "camera"])
    if len(features) != len(train):
        raise InputError(
            f"{TRAIN_FEATURES}: {len(features)} features for the {len(train)} images of {TRAIN_TABLE}; run `dvc repro`"
        )
    require_enough_images(cluster, len(train))
    full = _sweep(features, cluster)
    points = project(features)
    plane = _sweep(points, cluster)
    k = choose_k({k: found.silhouette for k, found in full.items()}) if cluster.k == "auto" else cluster.k
    assignments, labels = full[k].assignments, column_numpy(train, "label")
    identities = identities_of_clusters(assignments, labels, k, cluster.minimum_images)
    silhouettes = {
        "chosen_k": k,
        "rule": "best silhouette" if cluster.k == "auto" else "fixed",
        "silhouette_images": min(len(features), cluster.minibatch_above),
        "sweep": [_sweep_row(k, full[k], plane[k]) for k in sorted(cluster.sweep)],
        "make_up": make_up(identities, assignments, labels, column_numpy(train, "camera")),
    }
    with replaced_folder(CLUSTERS) as folder:
        _write_assignments(folder / "assignments.parquet", train, assignments)
        write_json(folder / "identities.json", _identities(identities, labels))
        write_json(folder / "silhouette.json", silhouettes)
        draw_clusters(folder / "clusters.png", points, {k: found.assignments for k, found in full.items()})
        _draw_members(folder / "members.png", train, features, full[k])
    log.info("wrote %s: k = %d, images %s", CLUSTERS, k, [cluster.images for cluster in identities])


def require_enough_images(choice: Cluster, images: int) -> None:
    """Raise InputError if a k to try is larger than the number of training images."""
    if choice.k != "auto" and choice.k > images:
        raise InputError(f"cluster.k: {choice.k} is more than the {images} training images; lower it")
    if max(choice.sweep) > images:
        raise InputError(f"cluster.sweep: {max(choice.sweep)} is more than the {images} training images; lower it")


def _write_assignments(path: Path, train: pa.Table, assignments: Assignments) -> None:
    with table_writer(path, ASSIGNMENT) as table:
        for row, number in zip(train.select(["name", "identity", "label"]).to_pylist(), assignments, strict=True):
            table.append(row | {"cluster": int(number)})


def _sweep(features: Features, choice: Cluster) -> dict[int, Clustering]:
    return sweep_clusters(
        features,
        choice.sweep,
        seed=choice.seed,
        initialization=choice.initialization,
        restarts=choice.restarts,
        max_iterations=choice.max_iterations,
        minibatch_above=choice.minibatch_above,
    )


def _identities(identities: list[ClusterIdentities], labels: NDArray[np.int32]) -> dict[str, object]:
    return {"classes": int(labels.max()) + 1, "clusters": [asdict(cluster) for cluster in identities]}


def _sweep_row(k: int, full: Clustering, plane: Clustering) -> dict[str, object]:
    return {
        "k": k,
        "silhouette_full_dimension": full.silhouette,
        "silhouette_two_components": plane.silhouette,
        "inertia": full.inertia,
    }


def _draw_members(path: Path, train: pa.Table, features: Features, chosen: Clustering) -> None:
    """Draw the paper's Figure 3: members of each cluster, evenly from the nearest to the centroid to the farthest."""
    panels = []
    for cluster, centroid in enumerate(chosen.centroids[:CLUSTERS_SHOWN]):
        members = np.flatnonzero(chosen.assignments == cluster)
        distances = np.linalg.norm(features[members] - centroid, axis=1)
        ordered = members[np.argsort(distances, kind="stable")]
        shown = ordered[np.unique(np.linspace(0, len(ordered) - 1, MEMBERS_SHOWN).astype(int))]
        pixels = decode_resized([train.column("image")[int(row)].as_py() for row in shown], *PICTURE_SIZE)
        caption = f"cluster {cluster}: {len(members):,} images, from its centroid outwards"
        if cluster == 0 and len(chosen.centroids) > CLUSTERS_SHOWN:
            caption += f" (the {CLUSTERS_SHOWN} largest of {len(chosen.centroids)} clusters are shown)"
        panels.append(Panel(caption, pixels))
    draw_panels(path, panels, MEMBERS_SHOWN)
