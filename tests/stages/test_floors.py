"""The stage `floors`: an untrained network is the one that training starts from, and what it depends on is listed."""

import io

import numpy as np
import pytest
import torch
import yaml
from explored import GALLERY_LABELS, QUERY_LABELS, person, write_table
from naive import naive_measures, naive_ranks, squared_distances
from PIL import Image as PillowImage
from pipeline.run_recorded import recording
from tiny import ROOT

from slsr.files import read_json, write_json
from slsr.images.augmentation import to_input
from slsr.models.weights import initial_encoder
from slsr.params.file import run_with_blocks, validate_params
from slsr.retrieval import Labels
from slsr.stages import floors
from slsr.stages.paths import FACTS, FLOORS, GALLERY_TABLE, QUERY_TABLE

pytestmark = pytest.mark.usefixtures("tiny_backbone")
LISTED = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["floors"]["params"]


@pytest.fixture
def project(tmp_path, monkeypatch, values):
    """A folder with tiny tables, and its parameters."""
    monkeypatch.chdir(tmp_path)
    deterministic = torch.are_deterministic_algorithms_enabled()
    write_table(QUERY_TABLE, QUERY_LABELS)
    write_table(GALLERY_TABLE, GALLERY_LABELS)
    write_json(FACTS, {"evaluation": {"protocol": "cross-camera", "cameras": "known", "multi_query": False}})
    size = {"height": 32, "width": 32, "resize_height": 36, "resize_width": 36, "test": "center-crop"}
    values["image"] |= size
    values["train"] |= {"backbone": "resnet18", "weights": "none"}
    values["evaluate"]["bootstrap"]["resamples"] = 100
    yield values
    torch.use_deterministic_algorithms(deterministic)


def untrained(values):
    """What the stage writes of the untrained network, and the parameters that it read."""
    params = validate_params(values, "params.yaml")
    with recording(params) as read:
        run_with_blocks(floors.run, params)
    return read_json(FLOORS / "metrics.json")["untrained"]["single_query"], read


@torch.no_grad()
def features_of(labels, encoder):
    """Of each image and its mirror image, one image at a time."""
    found = []
    for row, (identity, _) in enumerate(labels):
        picture = PillowImage.open(io.BytesIO(person(max(identity, 0), row))).convert("RGB")
        pixels = np.asarray(picture.resize((36, 36), PillowImage.Resampling.BICUBIC))
        batch = to_input(torch.from_numpy(pixels.copy())[None], encoder.image)
        found.append((encoder.pooled(batch) + encoder.pooled(batch.flip(3)))[0].numpy())
    return np.array(found)


@pytest.mark.parametrize("pooling", ["average", "gem"])
def test_the_untrained_network_is_the_one_that_training_starts_from(project, pooling):
    project["train"]["pooling"] = pooling
    project["train"]["head"] = "bnneck"
    found, _ = untrained(project)
    params = validate_params(project, "params.yaml")
    encoder = initial_encoder(params.train, 5, params.image).eval()
    both = np.concatenate([features_of(labels, encoder) for labels in (QUERY_LABELS, GALLERY_LABELS)])
    distances = squared_distances(both)[: len(QUERY_LABELS), len(QUERY_LABELS) :]
    columns = [np.array([label[at] for label in side]) for at in (0, 1) for side in (QUERY_LABELS, GALLERY_LABELS)]
    ranks = naive_ranks(distances, Labels(*columns))
    rank1, precision = np.mean([naive_measures(one) for one in ranks], axis=0)[:2]
    assert (found["rank1"], found["map_trapezoid"]) == pytest.approx((rank1, precision), abs=1e-6)


@pytest.mark.parametrize(
    "train",
    [
        {},
        {"pooling": "gem", "last_stride": 1, "head": "bnneck", "sampler": "identities", "ema": 0.9},
        {"triplet": {"weight": 1.0, "margin": 0.3}, "sampler": "identities", "label_smoothing": 0.1},
    ],
)
def test_it_reads_the_parameters_that_dvc_yaml_lists(project, train):
    project["train"] |= train
    _, read = untrained(project)
    assert {"train.last_stride", "train.pooling", "train.weights", "image.normalization"} <= read
    assert [key for key in read if not any(key == one or key.startswith(f"{one}.") for one in LISTED)] == []
    assert [one for one in LISTED if not any(key == one or key.startswith(f"{one}.") for key in read)] == []
