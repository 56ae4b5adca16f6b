"""The training images that are nearest to generated ones, in the feature space that was clustered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock

import numpy as np

from slsr.embedding.encoder import LoadedEncoder, load_encoder
from slsr.errors import InputError
from slsr.explore.image_table import ImageTable, Rows
from slsr.files import read_npy
from slsr.quality.features import unit_rows
from slsr.quality.measures import nearest_rows
from slsr.retrieval.distances import Features

PROBED = 4
SAME = 0.999


class NearestImages:
    """Finds the nearest training image of generated images; each is embedded once, when it is asked for.

    Features are compared as for the labels of `slsr-nearest`: the encoder's, without the mirrored image, by the
    Euclidean distance at length 1.

    Parameters
    ----------
    encoder : the one that was clustered, with `flip=False`
    features : of the training images, [N, D]
    generated : the table of generated images
    device : is locked while the network computes
    """

    def __init__(self, encoder: LoadedEncoder, features: Features, generated: ImageTable, device: Lock) -> None:
        self._encoder = encoder
        self._features = unit_rows(features)
        self._generated = generated
        self._device = device
        self._found: dict[int, tuple[int, float] | None] = {}

    def of(self, rows: Sequence[int]) -> list[tuple[int, float] | None]:
        """Return the row of the nearest training image, and the cosine similarity with it, of each generated image.

        It is None for a generated image that does not decode.
        """
        with self._device:
            missing = [row for row in rows if row not in self._found]
            if missing:
                self._found |= self._computed(missing)
            return [self._found[row] for row in rows]

    def _computed(self, rows: Sequence[int]) -> dict[int, tuple[int, float] | None]:
        found: dict[int, tuple[int, float] | None] = dict.fromkeys(rows)
        images = ((self._generated.names[row], self._generated.encoded(row)) for row in rows)
        for numbers, features in self._encoder.stream(images, unreadable=lambda error: None):
            nearest = nearest_rows(features, self._features, 1)[:, 0]
            similarity = np.sum(features * self._features[nearest], axis=1)
            for number, row, cosine in zip(numbers, nearest.tolist(), similarity.tolist(), strict=True):
                found[rows[number]] = row, cosine
        return found


def open_nearest(
    model: Path,
    features: Features,
    train: ImageTable,
    generated: ImageTable,
    device_name: str,
    device: Lock,
    say: Callable[[str], None],
) -> NearestImages | None:
    """Load the encoder that was clustered.

    The result is None, and `say` is told why, if the features are not the encoder's features of the training images, or
    if the first training images, by which this is seen, do not decode.

    Raises
    ------
    InputError
        There is no encoder at `model`.
    """
    encoder = load_encoder(model, device_name, flip=False)
    probed = [(train.names[row], train.encoded(row)) for row in range(min(PROBED, len(train)))]
    try:
        first = np.concatenate([block for _, block in encoder.stream(probed)])
    except InputError as error:
        say(f"{train.path}: {error}; nearest images are not shown")
        return None
    same = features.shape[1] == encoder.dimension
    if not same or np.any(np.sum(first * unit_rows(features[:PROBED]), axis=1) < SAME):
        say(f"the features of the training images are not those of {model}; nearest images are not shown")
        return None
    return NearestImages(encoder, features, generated, device)


def read_train_features(path: Path, train: ImageTable, say: Callable[[str], None]) -> Features | None:
    """Read the encoder's features of the training images.

    The result is None, and `say` is told, if they are those of another number of images.

    Raises
    ------
    InputError
        The file is damaged.
    """
    features: Features = read_npy(path)
    if features.ndim == 2 and len(features) == len(train):
        return features
    say(
        f"{path}: not the features of the {len(train):,} images of {train.path} (its shape is {features.shape}); "
        "nearest images are not shown, and images of a cluster are not sorted"
    )
    return None


def distances_to_centroids(features: Features, clusters: Rows) -> Features:
    """Compute the Euclidean distance of each image's feature to the mean feature of its cluster, [N]."""
    found = np.zeros(len(features), np.float32)
    for cluster in np.unique(clusters):
        own = clusters == cluster
        found[own] = np.linalg.norm(features[own] - features[own].mean(axis=0), axis=1)
    return found
