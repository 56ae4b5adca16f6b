"""The nearest training images, beside a loop, and what is refused."""

import shutil
from threading import Lock

import numpy as np
import pytest
from explored import use_tiny_backbone

from slsr.embedding.encoder import load_encoder
from slsr.explore.exhibit import Sources, open_exhibit
from slsr.explore.image_table import ImageTable
from slsr.explore.nearest import distances_to_centroids, open_nearest, read_train_features


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    use_tiny_backbone(monkeypatch)


@pytest.fixture
def tables(place):
    return ImageTable(place.sources.train), ImageTable(place.sources.generated)


def test_the_nearest_are_those_of_a_loop_and_are_computed_once(place, tables):
    train, generated = tables
    features = read_train_features(place.sources.train_features, train)
    found = open_nearest(place.sources.encoder, features, train, generated, "cpu", Lock())
    encoder = load_encoder(place.sources.encoder, "cpu", flip=False)
    rows = [0, 7, 55]
    for row, (nearest, similarity) in zip(rows, found.of(rows), strict=True):
        feature = encoder.embed([generated.encoded(row)])[0]
        distances = [np.linalg.norm(feature - one / np.linalg.norm(one)) for one in features]
        assert distances[nearest] == pytest.approx(min(distances), abs=1e-4)
        assert similarity == pytest.approx(1 - min(distances) ** 2 / 2, abs=1e-5)
    found._encoder = None  # what was found is not computed again
    assert found.of([55, 0]) == [found.of(rows)[2], found.of(rows)[0]]


def test_features_of_another_encoder_or_table_are_refused(place, tables, tmp_path):
    train, generated = tables
    features = read_train_features(place.sources.train_features, train)
    other = place.sources.models[0]
    assert open_nearest(other, features, train, generated, "cpu", Lock()) is None
    assert open_nearest(place.sources.encoder, features[:, :-1], train, generated, "cpu", Lock()) is None
    np.save(tmp_path / "train.npy", features[:-1])
    assert read_train_features(tmp_path / "train.npy", train) is None


def test_the_page_says_that_nearest_images_are_not_shown(place, tmp_path):
    said = []
    sources = place.sources
    encoder = shutil.copy(sources.models[0], tmp_path / "encoder.safetensors")
    changed = Sources(**vars(sources) | {"encoder": encoder, "models": ()})
    exhibit = open_exhibit(changed, tmp_path, "cpu", said.append)
    assert exhibit.nearest is None
    assert said == [f"{sources.train_features}: not the features of {encoder}; nearest images are not shown"]


def test_distances_to_centroids():
    features = np.array([[0, 0], [2, 0], [0, 2], [2, 2], [9, 9]], np.float32)
    clusters = np.array([0, 0, 0, 0, 7])
    np.testing.assert_allclose(distances_to_centroids(features, clusters), [2**0.5] * 4 + [0], atol=1e-6)
