"""The stage `cluster`: features and a training table to clusters, from two to hundreds."""

import hashlib
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from builders import params, picture
from PIL import Image

from slsr.errors import InputError
from slsr.files import write_npy
from slsr.images.tables import TRAINING, table_writer
from slsr.params.file import run_with_blocks
from slsr.stages import cluster
from slsr.stages.paths import CLUSTERS, TRAIN_FEATURES, TRAIN_TABLE


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """An empty project."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_inputs(images=600, people=30, groups=3, width=16, seed=0):
    """People in groups far apart, each person seen by two cameras: the person and group of each image."""
    generator = np.random.default_rng(seed)
    person = np.arange(images) % people
    group = person % groups
    centers = 30 * generator.normal(size=(groups, width)) + 5
    people_at = centers[np.arange(people) % groups] + 3 * generator.normal(size=(people, width))
    write_npy(TRAIN_FEATURES, (people_at[person] + generator.normal(size=(images, width))).astype(np.float32))
    pictures = [picture(number, 8, 16) for number in range(12)]
    with table_writer(TRAIN_TABLE, TRAINING) as table:
        for number in range(images):
            table.append(
                {
                    "image": pictures[number % 12],
                    "name": f"{number:05d}.jpg",
                    "identity": int(person[number]) + 100,
                    "camera": 1 + number // people % 2,
                    "label": int(person[number]),
                }
            )
    return person, group


def run(**choice):
    run_with_blocks(cluster.run, params({}, cluster=choice))
    return json.loads((CLUSTERS / "silhouette.json").read_text())


def test_clusters_and_what_they_are_made_of():
    person, group = write_inputs()
    found = run(k=3, sweep=[2, 3, 4])
    rows = pq.read_table(CLUSTERS / "assignments.parquet").to_pylist()
    assert [row["name"] for row in rows] == [f"{number:05d}.jpg" for number in range(600)]
    assert [row["label"] for row in rows] == person.tolist()
    assigned = np.array([row["cluster"] for row in rows])
    assert len({(one, other) for one, other in zip(assigned.tolist(), group.tolist(), strict=True)}) == 3
    assert found["chosen_k"] == 3
    assert found["rule"] == "fixed"
    assert found["silhouette_images"] == 600
    best = max(found["sweep"], key=lambda row: row["silhouette_full_dimension"])
    assert best["k"] == 3
    assert found["make_up"] == {
        "images": [200, 200, 200],
        "identities": [10, 10, 10],
        "cameras": [{"1": 100, "2": 100}] * 3,
        "straddling_identities": 0,
        "training_identities": 30,
        "purity": 1.0,
    }
    identities = json.loads((CLUSTERS / "identities.json").read_text())
    assert identities["classes"] == 30
    for one in identities["clusters"]:
        members = person[assigned == one["cluster"]]
        assert one["labels"] == sorted(set(members.tolist()))
        assert one["counts"] == np.bincount(members)[one["labels"]].tolist()


def test_auto_takes_the_best_of_the_sweep():
    write_inputs()
    assert run(k="auto", sweep=[4, 3, 2])["chosen_k"] == 3


def test_hundreds_of_clusters():
    """Identities, make-up and pictures stand it, and all outputs are the same bytes again."""
    write_inputs(images=1500, people=300, groups=60)
    outputs = []
    for _ in range(2):
        found = run(k=200, sweep=[2, 200], restarts=2)
        outputs.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in CLUSTERS.iterdir()})
    assert outputs[0] == outputs[1]
    assert sorted(outputs[0]) == sorted(
        ["assignments.parquet", "clusters.png", "identities.json", "members.png", "silhouette.json"]
    )
    assert len(found["make_up"]["images"]) == len(found["make_up"]["cameras"]) == 200
    assert sum(found["make_up"]["images"]) == 1500
    assert found["make_up"]["straddling_identities"] > 0
    identities = json.loads((CLUSTERS / "identities.json").read_text())["clusters"]
    assert [one["cluster"] for one in identities] == list(range(200))
    assert sum(sum(one["counts"]) for one in identities) == 1500
    for name in ("clusters.png", "members.png"):
        assert max(Image.open(CLUSTERS / name).size) < 4000


def test_above_a_size_silhouettes_are_of_a_sample_and_the_metrics_say_so():
    write_inputs()
    whole = run(k=3, sweep=[3])
    sampled = run(k=3, sweep=[3], minibatch_above=150)
    assert sampled["silhouette_images"] == 150
    assert sampled["make_up"] == whole["make_up"]
    one, other = (found["sweep"][0]["silhouette_full_dimension"] for found in (whole, sampled))
    assert one != other
    assert one == pytest.approx(other, abs=0.05)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"k": 41, "sweep": [2, 41]}, r"cluster\.k: 41 is more than the 40 training images; lower it"),
        ({"k": "auto", "sweep": [2, 90]}, r"cluster\.sweep: 90 is more than the 40 training images; lower it"),
    ],
)
def test_more_clusters_than_images(choice, message):
    write_inputs(images=40)
    with pytest.raises(InputError, match=message):
        run(**choice)


def test_features_of_other_images_are_refused():
    write_inputs(images=40)
    write_npy(TRAIN_FEATURES, np.zeros((41, 16), np.float32))
    with pytest.raises(InputError, match=r"41 features for the 40 images of .*train\.parquet; run `dvc repro`"):
        run(k=2, sweep=[2])


def test_features_that_are_no_numbers_are_refused():
    write_inputs(images=40)
    features = np.zeros((40, 16), np.float32)
    features[3, 2] = np.nan
    write_npy(TRAIN_FEATURES, features)
    with pytest.raises(InputError, match=r"features: rows \[3\] are not finite"):
        run(k=2, sweep=[2])
