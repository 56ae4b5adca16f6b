"""The nearest training images, beside a loop, and what is refused."""

import shutil
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from explored import use_tiny_backbone

from slsr.embedding.encoder import load_encoder
from slsr.explore.app import create_app
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
    features = read_train_features(place.sources.train_features, train, print)
    found = open_nearest(place.sources.encoder, features, train, generated, "cpu", Lock(), print)
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
    features = read_train_features(place.sources.train_features, train, print)
    other, said = place.sources.models[0], []
    assert open_nearest(other, features, train, generated, "cpu", Lock(), said.append) is None
    short = features[:, :-1]
    assert open_nearest(place.sources.encoder, short, train, generated, "cpu", Lock(), said.append) is None
    np.save(tmp_path / "train.npy", features[:-1])
    assert read_train_features(tmp_path / "train.npy", train, said.append) is None
    assert len(said) == 3
    assert said[2].startswith(f"{tmp_path / 'train.npy'}: not the features of the 72 images of {train.path}")


def test_the_log_says_that_nearest_images_are_not_shown(place, tmp_path):
    said = []
    sources = place.sources
    encoder = shutil.copy(sources.models[0], tmp_path / "encoder.safetensors")
    changed = Sources(**vars(sources) | {"encoder": encoder, "models": ()})
    exhibit = open_exhibit(changed, tmp_path, "cpu", said.append)
    assert exhibit.nearest is None
    assert said == [f"the features of the training images are not those of {encoder}; nearest images are not shown"]


def with_damaged_image(table, row, folder):
    """Copy an image table; one of its images does not decode."""
    columns = pq.read_table(table)
    images = columns.column("image").to_pylist()
    images[row] = b"no image"
    place = columns.schema.get_field_index("image")
    damaged = columns.set_column(place, columns.schema.field(place), pa.array(images, columns.schema.field(place).type))
    pq.write_table(damaged, folder / table.name)
    return folder / table.name


def test_a_training_image_that_does_not_decode_takes_only_the_nearest_images_away(place, tmp_path):
    said = []
    train = with_damaged_image(place.sources.train, 1, tmp_path)
    changed = Sources(**vars(place.sources) | {"train": train, "models": ()})
    exhibit = open_exhibit(changed, tmp_path, "cpu", said.append)
    assert exhibit.nearest is None and exhibit.clusters is not None
    (line,) = said
    assert line.startswith(f"{train}: 0011_c1_1.png: ") and line.endswith("; nearest images are not shown")


def test_a_generated_image_that_does_not_decode_is_shown_without_a_nearest_one(place, tmp_path):
    generated = with_damaged_image(place.sources.generated, 2, tmp_path)
    changed = Sources(**vars(place.sources) | {"generated": generated, "models": ()})
    whole = open_exhibit(Sources(**vars(place.sources) | {"models": ()}), tmp_path, "cpu", print)
    exhibit = open_exhibit(changed, tmp_path, "cpu", print)
    found, others = exhibit.nearest.of([0, 1, 2, 3]), whole.nearest.of([0, 1, 2, 3])
    assert found[2] is None
    assert [found[row][0] for row in (0, 1, 3)] == [others[row][0] for row in (0, 1, 3)]
    answer = create_app(exhibit).test_client().get("/generated")
    assert answer.status_code == 200
    assert answer.text.count("nearest real image: ") == 59, "all 60 of the page but one"


def test_distances_to_centroids():
    features = np.array([[0, 0], [2, 0], [0, 2], [2, 2], [9, 9]], np.float32)
    clusters = np.array([0, 0, 0, 0, 7])
    np.testing.assert_allclose(distances_to_centroids(features, clusters), [2**0.5] * 4 + [0], atol=1e-6)
