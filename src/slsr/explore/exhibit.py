"""What the page can show: models with their features, image tables, clusters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image as PillowImage

from slsr.embedding.checkpoint_file import checkpoint_file
from slsr.embedding.encoder import LoadedEncoder, load_encoder
from slsr.embedding.pictures import open_picture
from slsr.errors import InputError
from slsr.evaluation.judging import can_be_judged
from slsr.explore.activation import MAP_KINDS, map_size
from slsr.explore.cache import cached_features, cached_measures, cached_neighbors, problem_of, unreadable_rows
from slsr.explore.checks import check_shown
from slsr.explore.image_table import ImageTable, Rows
from slsr.explore.nearest import NearestImages, distances_to_centroids, open_nearest, read_train_features
from slsr.explore.run_results import Accuracy, read_accuracy, read_quality
from slsr.explore.uploads import Uploads
from slsr.files import read_json
from slsr.images.tables import column_numpy, read_table
from slsr.reporting.titles import short_title_of
from slsr.retrieval import Labels
from slsr.retrieval.distances import Features
from slsr.retrieval.one_query import OneQueryReranker

Say = Callable[[str], None]
BASELINE = short_title_of("none")


@dataclass(frozen=True)
class Sources:
    """The files to show; None for what is missing. `clusters` is a folder and needs `train`.

    `encoder` is the network whose features of the training images, `train_features`, were clustered.

    Raises
    ------
    InputError
        There is nothing to show, or there are models and no gallery.
    """

    models: Sequence[Path] = ()
    gallery: Path | None = None
    query: Path | None = None
    train: Path | None = None
    clusters: Path | None = None
    generated: Path | None = None
    encoder: Path | None = None
    train_features: Path | None = None

    def __post_init__(self) -> None:
        check_shown(self.models, self.gallery, self.train, self.clusters, self.generated)


@dataclass(frozen=True, eq=False)
class Shelf:
    """An image table, and the letter that stands for it in addresses."""

    letter: str
    title: str
    table: ImageTable

    @property
    def version(self) -> str:
        """A text that is different for every table, so that a browser never shows pictures of another table."""
        return self.table.fingerprint[:16]


@dataclass(frozen=True, eq=False)
class Model:
    """An encoder, and its features of the query and gallery tables.

    `measures` [Q, 2] holds the rank of the first right match and the average precision of every query, or is None.
    """

    name: str
    encoder: LoadedEncoder
    query_features: Features
    gallery_features: Features
    reranker: OneQueryReranker
    measures: NDArray[np.float64] | None
    accuracy: Accuracy | None = None

    @property
    def headline(self) -> tuple[float, float] | None:
        """Rank-1 and mAP (trapezoid) over the queries that have a right match, as fractions."""
        if self.measures is None:
            return None
        valid = self.measures[~np.isnan(self.measures[:, 1])]
        return float((valid[:, 0] == 1).mean()), float(valid[:, 1].mean())

    @cached_property
    def map_cells(self) -> dict[str, tuple[int, int]]:
        """(rows, columns) of each kind of activation map."""
        return {kind: map_size(self.encoder, kind) for kind in MAP_KINDS}


@dataclass(frozen=True, eq=False)
class Clusters:
    """The cluster of every training image, and what the stage `cluster` wrote about the clusters.

    `rule` says how k was chosen; `distances` are those of the images to the centroid of their cluster, if known.
    """

    assignments: Rows
    silhouettes: Sequence[dict[str, Any]]
    figure: Path | None
    rule: str | None = None
    distances: Features | None = None

    @cached_property
    def numbers(self) -> list[int]:
        """The clusters, ascending."""
        return [int(number) for number in np.unique(self.assignments)]

    def members(self, cluster: int) -> Rows:
        """Return the training images of a cluster, the nearest to its centroid first if the distances are known."""
        rows = np.flatnonzero(self.assignments == cluster)
        return rows if self.distances is None else rows[np.argsort(self.distances[rows], kind="stable")]


@dataclass(frozen=True, eq=False)
class Exhibit:
    """Everything that can be shown. `device` is locked while a network computes: one picture at a time.

    `identities` are those of the training labels; `quality` is the content of quality.json.
    """

    models: Sequence[Model]
    shelves: dict[str, Shelf]
    clusters: Clusters | None
    identities: Mapping[int, int] = field(default_factory=dict)
    quality: Mapping[str, Any] | None = None
    nearest: NearestImages | None = None
    uploads: Uploads = field(default_factory=Uploads)
    device: Lock = field(default_factory=Lock)

    def table(self, letter: str) -> ImageTable | None:
        """Return the table of a letter: q(uery), g(allery), t(rain) or x (generated); None if there is none."""
        return self.shelves[letter].table if letter in self.shelves else None

    @property
    def searchable(self) -> bool:
        """Whether there is a model, and so a gallery to search in."""
        return bool(self.models)

    @property
    def baseline(self) -> Model | None:
        """The model that the others are compared with: the baseline, or else the last one; None without others."""
        if len(self.models) < 2:
            return None
        return next((model for model in self.models if model.name == BASELINE), self.models[-1])

    def embed(self, image: PillowImage.Image) -> list[Features]:
        """Compute the feature of an image by each model."""
        with self.device:
            return [model.encoder.embed([image])[0] for model in self.models]


@dataclass(frozen=True, eq=False)
class Query:
    """An image to search with: a row of a table, or an upload.

    Identity and camera are the labels of a query; None if it has none that a ranking can be judged by.
    """

    key: str
    name: str
    identity: int | None
    camera: int | None
    shelf: Shelf | None
    row: int | None
    image: Callable[[], PillowImage.Image]
    features: Callable[[Model], Features]


def open_exhibit(sources: Sources, cache: Path, device: str, say: Say, *, strict: bool = False) -> Exhibit:
    """Open the tables, load the models, and compute their features or read them from the cache.

    Images of the gallery and query tables that do not decode are left out and counted; with `strict` they are an error.

    Raises
    ------
    InputError
        A file has the wrong content, or no image of a table decodes.
    """
    shelves = {
        letter: Shelf(letter, title, ImageTable(path))
        for letter, title, path in (
            ("q", "queries", sources.query),
            ("g", "gallery", sources.gallery),
            ("t", "training images", sources.train),
            ("x", "generated images", sources.generated),
        )
        if path is not None
    }
    files = [checkpoint_file(path) for path in sources.models]
    encoders = [(name, load_encoder(file, device)) for name, file in zip(model_names(files), files, strict=True)]
    features = {}
    for letter in ("g", "q"):
        if encoders and letter in shelves:
            shelf = shelves[letter]
            found = [cached_features(cache, encoder, shelf.table, name, strict=strict) for name, encoder in encoders]
            table, features[letter] = _readable(shelf.table, found, say)
            shelves[letter] = replace(shelf, table=table)
    models = [
        _open_model(name, encoder, {letter: found[place] for letter, found in features.items()}, shelves, cache, say)
        for place, (name, encoder) in enumerate(encoders)
    ]
    models = [
        replace(model, accuracy=read_accuracy(file, model.headline)) for model, file in zip(models, files, strict=True)
    ]
    return _with_training(Exhibit(models, shelves, None), sources, device, say)


def _with_training(exhibit: Exhibit, sources: Sources, device: str, say: Say) -> Exhibit:
    """Add what is known of the training and the generated images."""
    train, generated = exhibit.shelves.get("t"), exhibit.shelves.get("x")
    clusters = nearest = features = None
    if train is not None and sources.train_features is not None:
        features = read_train_features(sources.train_features, train.table, say)
    if train is not None and sources.clusters is not None:
        clusters = _read_clusters(sources.clusters, train, features)
    if train is not None and generated is not None and features is not None and sources.encoder is not None:
        nearest = open_nearest(sources.encoder, features, train.table, generated.table, device, exhibit.device, say)
    return replace(
        exhibit,
        clusters=clusters,
        identities={} if train is None else _identities_by_label(train.table.path),
        quality=None if generated is None else read_quality(generated.table.path, say),
        nearest=nearest,
    )


def _identities_by_label(train: Path) -> dict[int, int]:
    """Return the identity of each training label; nothing if the table does not have both."""
    if not {"label", "identity"} <= set(pq.read_schema(train).names):
        return {}
    labels = read_table(train, ["label", "identity"])
    pairs = zip(labels.column("label").to_pylist(), labels.column("identity").to_pylist(), strict=True)
    return {label: identity for label, identity in pairs if label is not None and identity is not None}


def _readable(table: ImageTable, features: list[Features], say: Say) -> tuple[ImageTable, list[Features]]:
    """Leave the images that do not decode out of a table, and out of each model's features of it."""
    rows = reduce(np.union1d, [unreadable_rows(of_model) for of_model in features])
    if not len(rows):
        return table, features
    first = problem_of(table, int(rows[0]))
    if len(rows) == len(table):
        raise InputError(f"{table.path}: none of its {len(table):,} images can be read; the first: {first}")
    say(f"{table.path}: left out {len(rows):,} of {len(table):,} images, which cannot be read; the first: {first}")
    return table.without(rows), [np.delete(of_model, rows, axis=0) for of_model in features]


def model_names(files: Sequence[Path]) -> list[str]:
    """Give models short names, with a number if two have the same name.

    A `model.safetensors` is named after its folder, or by the title of the regularizer that the folder is named after;
    any other file is named after itself. Links are not followed: DVC may link a checkpoint to its cache, where files
    are named by hashes.
    """
    short = [
        short_title_of(file.absolute().parent.name) if file.name == "model.safetensors" else file.stem for file in files
    ]
    short = [name or "model" for name in short]
    return [
        name if short.count(name) == 1 else f"{name} ({short[: place + 1].count(name)})"
        for place, name in enumerate(short)
    ]


def _open_model(
    name: str, encoder: LoadedEncoder, features: dict[str, Features], shelves: dict[str, Shelf], cache: Path, say: Say
) -> Model:
    gallery_features = features["g"]
    query_features = features.get("q", gallery_features[:0])
    table = cached_neighbors(cache, query_features, gallery_features, lambda text: say(f"{name}: {text}"))
    labels = labels_between(shelves["q"].table if "q" in shelves else None, shelves["g"].table)
    measures = None
    if labels is not None:
        measures = cached_measures(cache, query_features, gallery_features, labels, lambda text: say(f"{name}: {text}"))
    reranker = OneQueryReranker(query_features, gallery_features, table)
    return Model(name, encoder, query_features, gallery_features, reranker, measures)


def labels_between(query: ImageTable | None, gallery: ImageTable) -> Labels | None:
    """Return the identities and cameras of queries and gallery; None unless both have them."""
    if query is None or query.identities is None or query.cameras is None:
        return None
    if gallery.identities is None or gallery.cameras is None:
        return None
    return Labels(query.identities, gallery.identities, query.cameras, gallery.cameras)


def _read_clusters(folder: Path, train: Shelf, features: Features | None) -> Clusters:
    path = folder / "assignments.parquet"
    assignments = read_table(path, ["name", "cluster"])
    if assignments.column("name").to_pylist() != train.table.names:
        raise InputError(
            f"{path}: its {len(assignments)} images are not the {len(train.table)} images of {train.table.path}; run "
            "`dvc repro`, or name the right table with --train"
        )
    silhouette = folder / "silhouette.json"
    found = read_json(silhouette) if silhouette.is_file() else {}
    figure = folder / "clusters.png"
    clusters = np.asarray(column_numpy(assignments, "cluster"), np.int64)
    return Clusters(
        clusters,
        found.get("sweep", []),
        figure if figure.is_file() else None,
        found.get("rule"),
        None if features is None else distances_to_centroids(features, clusters),
    )


def find_query(exhibit: Exhibit, key: str) -> Query | None:
    """Find the image of a key such as q12 (row 12 of the queries) or u0123abcd... (an upload); None if there is none.

    A training or generated image has no labels: the gallery shows other people.
    """
    if key.startswith("u"):
        return _uploaded(exhibit, key)
    shelf = exhibit.shelves.get(key[:1])
    if shelf is None or not key[1:].isdecimal() or len(key) > 12 or int(key[1:]) >= len(shelf.table):
        return None
    row, table = int(key[1:]), shelf.table
    identity, camera = _labels_of(exhibit, shelf.letter, row)

    def image() -> PillowImage.Image:
        return open_picture(table.encoded(row), table.names[row])

    def features(model: Model) -> Features:
        if shelf.letter == "q":
            return np.asarray(model.query_features[row])
        if shelf.letter == "g":
            return np.asarray(model.gallery_features[row])
        with exhibit.device:
            embedded: Features = model.encoder.embed([table.encoded(row)])[0]
        return embedded

    return Query(f"{shelf.letter}{row}", table.names[row], identity, camera, shelf, row, image, features)


def _uploaded(exhibit: Exhibit, key: str) -> Query | None:
    upload = exhibit.uploads.get(key[1:])
    if upload is None:
        return None

    def features(model: Model) -> Features:
        return upload.features[list(exhibit.models).index(model)]

    return Query(key, upload.name, None, None, None, None, lambda: upload.image, features)


def _labels_of(exhibit: Exhibit, letter: str, row: int) -> tuple[int | None, int | None]:
    """Return identity and camera of a query; None if its ranking cannot be judged."""
    table, gallery, query = exhibit.table(letter), exhibit.table("g"), exhibit.table("q")
    if letter not in "qg" or table is None or table.identities is None or table.cameras is None:
        return None, None
    if gallery is None or gallery.identities is None:
        return None, None
    identity = int(table.identities[row])
    if letter == "g" and not can_be_judged(identity, query.identities if query is not None else None):
        return None, None
    return identity, int(table.cameras[row])
