"""The stage `train`: what each regulariser says of a generated image, from the tables to the weights."""

import numpy as np
import pytest
import torch
from tiny import coloured, encode, noise

from slsr.errors import InputError
from slsr.models.encoder import load_encoder
from slsr.params import validate_params
from slsr.records import GENERATED, TRAINING, table_writer
from slsr.stages import train
from slsr.stages.paths import GENERATED_IMAGES, TRAIN_TABLE, TRAINED, VALIDATION_TABLE

CLASSES = 4
LABELS = [number % CLASSES for number in range(12)]
CLUSTERS = [([1, 3], [0.5, 0.5]), ([2], [1.0]), ([0, 2, 3], [1 / 3] * 3)]
GENERATED_CLUSTERS = [0, 1, 2, 2, 1, 0, 0]


@pytest.fixture
def project(tmp_path, monkeypatch, values):
    """A folder with tiny tables, and its parameters."""
    monkeypatch.chdir(tmp_path)
    deterministic = torch.are_deterministic_algorithms_enabled()
    write_real(TRAIN_TABLE, coloured(LABELS).pixels.numpy(), LABELS)
    write_real(VALIDATION_TABLE, coloured([0, 1, 2, 3], seed=1).pixels.numpy(), [0, 1, 2, 3])
    write_generated(CLUSTERS, GENERATED_CLUSTERS)
    size = {"height": 32, "width": 32, "resize_height": 36, "resize_width": 36, "test": "centre-crop"}
    values["image"] |= size
    values["train"] |= {"backbone": "resnet18", "weights": "none", "head": "plain", "epochs": 1, "batch_size": 5}
    values["train"]["optimizer"]["head_learning_rate"] = 0.5
    yield values
    torch.use_deterministic_algorithms(deterministic)


def write_real(path, pixels, labels):
    with table_writer(path, TRAINING) as table:
        for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            row = {"image": encode(image), "name": f"{number}.png", "identity": label, "camera": 1, "label": label}
            table.append(row)


def write_generated(clusters, of_images):
    with table_writer(GENERATED_IMAGES, GENERATED) as table:
        for image, cluster in zip(noise(len(of_images), seed=8), of_images, strict=True):
            index, weight = clusters[cluster]
            row = {"image": encode(image), "name": "g.png", "cluster": cluster}
            table.append(row | {"label_index": index, "label_weight": weight})


def dense(index, weight):
    vector = np.zeros(CLASSES)
    vector[index] = weight
    return vector


SLSR = [dense(*CLUSTERS[cluster]) for cluster in GENERATED_CLUSTERS]
LSRO = [np.full(CLASSES, 1 / CLASSES)] * len(GENERATED_CLUSTERS)
REAL = [dense([label], [1.0]) for label in LABELS]


def test_slsr_keeps_the_sparse_labels_and_lsro_forgets_them(project):
    for regularizer, expected in (("slsr", SLSR), ("lsro", LSRO)):
        found = train.generated_distributions(regularizer, CLASSES)
        np.testing.assert_allclose([dense(*distribution) for distribution in found], expected, rtol=1e-6)
        for index, weight in found:
            assert (index.dtype, weight.dtype) == (np.int32, np.float32)


def captured(monkeypatch, values, regularizer):
    """The training set that the stage hands to training."""
    seen = []
    monkeypatch.setattr(train, "train_and_save", lambda folder, training, *rest: seen.append((folder, training)))
    train.run(validate_params(values, "params.yaml"), regularizer)
    ((folder, training),) = seen
    assert folder == TRAINED / regularizer
    return training


@pytest.mark.parametrize(("regularizer", "generated"), [("none", []), ("lsro", LSRO), ("slsr", SLSR)])
def test_regularisers_differ_in_targets_alone(project, monkeypatch, regularizer, generated):
    project["generated"]["weight"] = 0.25
    training = captured(monkeypatch, project, regularizer)
    count = len(LABELS) + len(generated)
    expected = np.concatenate([coloured(LABELS).pixels.numpy(), noise(7, seed=8)])[:count]
    np.testing.assert_array_equal(training.pixels, expected)
    np.testing.assert_allclose(training.targets.batch(torch.arange(count)), REAL + generated, rtol=1e-6)
    assert training.weights.tolist() == [1.0] * len(LABELS) + [0.25] * len(generated)


@pytest.mark.parametrize("regularizer", ["none", "slsr"])
def test_label_smoothing_is_for_real_images(project, monkeypatch, regularizer):
    project["train"]["label_smoothing"] = 0.2
    training = captured(monkeypatch, project, regularizer)
    smoothed = [0.8 * target + 0.05 for target in REAL]
    expected = smoothed + (SLSR if regularizer == "slsr" else [])
    np.testing.assert_allclose(training.targets.batch(torch.arange(len(expected))), expected, rtol=1e-5, atol=1e-8)


def test_the_baseline_needs_no_generated_images(project, monkeypatch):
    GENERATED_IMAGES.unlink()
    assert len(captured(monkeypatch, project, "none").pixels) == len(LABELS)
    with pytest.raises(InputError, match=r"images\.parquet: no such"):
        captured(monkeypatch, project, "slsr")


@pytest.mark.parametrize("regularizer", ["lsro", "slsr"])
def test_generated_images_must_be_there(project, monkeypatch, regularizer):
    write_generated(CLUSTERS, [])
    with pytest.raises(InputError, match=r"images\.parquet: holds no image"):
        captured(monkeypatch, project, regularizer)


@pytest.mark.parametrize(
    ("label", "part"),
    [(([1, 9], [0.5, 0.5]), "another training set"), (([1, 2], [0.5, 0.6]), "sum 1.1"), (([1, 1], [0.5, 0.5]), "once")],
)
def test_labels_of_another_training_set_are_refused(project, monkeypatch, label, part):
    write_generated([label], [0, 0])
    with pytest.raises(InputError, match=part):
        captured(monkeypatch, project, "slsr")


def test_the_whole_stage_writes_the_same_bytes_twice_and_another_network_for_each_regulariser(project, tiny_backbone):
    params = validate_params(project, "params.yaml")

    def outputs(regularizer):
        train.run(params, regularizer)
        folder = TRAINED / regularizer
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    found = {name: outputs(name) for name in ("none", "lsro", "slsr")}
    assert "model.safetensors" in found["slsr"]
    assert any(name.endswith("validation/accuracy.tsv") for name in found["slsr"])
    models = [files["model.safetensors"] for files in found.values()]
    assert len(set(models)) == 3
    assert outputs("slsr") == found["slsr"]
    assert load_encoder(TRAINED / "slsr" / "model.safetensors").description.classes == CLASSES
