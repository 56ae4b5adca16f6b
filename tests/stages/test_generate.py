import csv
import io
import json
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from clustered_project import CLUSTERS, LABELS, MEMBERS, make_params, write_identities
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.neighbors import NearestCentroid
from tiny import encode, make_image

from slsr.embedding.engine import extract_features
from slsr.embedding.pictures import resized
from slsr.errors import InputError
from slsr.files import write_npy
from slsr.gan.images import load_clustered
from slsr.images.augmentation import to_input
from slsr.images.decoding import decode_resized, encode_jpeg
from slsr.images.tables import TRAINING, table_writer
from slsr.labels.distributions import slsr
from slsr.models.encoder import Encoder, EncoderDescription, load_encoder, save_encoder
from slsr.params.file import run_with_blocks
from slsr.quality.generated import measure_quality
from slsr.stages import generate, train_gan
from slsr.stages.cluster import ASSIGNMENT
from slsr.stages.generate import allocate, encoder_space
from slsr.stages.paths import ASSIGNMENTS, ENCODER_MODEL, GAN, GENERATED, TRAIN_FEATURES, TRAIN_TABLE

MEASURES_WITH_A_LIMIT = {"coverage", "duplicates", "copies", "precision", "recall", "density"}


@cache
def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_images_from_every_cluster_with_its_sparse_label(project):
    params = make_params()
    run_with_blocks(train_gan.run, params)
    run_with_blocks(generate.run, params)
    table = pq.read_table(GENERATED / "images.parquet").to_pylist()
    assert [row["cluster"] for row in table] == [0] * 16 + [1] * 15
    assert [row["name"] for row in table][:2] == ["g0_00000.jpg", "g0_00001.jpg"]
    assert len({row["name"] for row in table}) == 31
    for row in table:
        index, weight = slsr(MEMBERS[row["cluster"]])
        assert row["label_index"] == index.tolist()
        assert row["label_weight"] == pytest.approx(weight.tolist())
        assert sum(row["label_weight"]) == pytest.approx(1)
    images = [Image.open(io.BytesIO(row["image"])) for row in table]
    assert {(image.format, image.size) for image in images} == {("JPEG", (32, 32))}
    quality = json.loads((GENERATED / "quality.json").read_text())
    assert [(each["cluster"], each["real"], each["generated"]) for each in quality["clusters"]] == [
        (0, 18, 16),
        (1, 24, 15),
    ]
    assert set(quality["overall"]["handcrafted"]) - set(quality["overall"]["encoder"]) == {"precision", "density"}
    assert set(quality["overall"]["imagenet"]) == set(quality["overall"]["handcrafted"])
    assert "collapse" in {alarm["alarm"] for alarm in quality["alarms"]}
    assert quality["limits"] == params.generate.alarms.model_dump()
    assert set(quality["limits"]) == {*MEASURES_WITH_A_LIMIT, "kernel_deviations"}


def test_outputs_of_training_and_the_same_bytes_again(project):
    params = make_params(gan={"parent_epochs": 1})
    run_with_blocks(train_gan.run, params)
    run_with_blocks(generate.run, params)
    first = contents(GAN) | contents(GENERATED)
    contents.cache_clear()
    run_with_blocks(train_gan.run, params)
    run_with_blocks(generate.run, params)
    assert contents(GAN) | contents(GENERATED) == first
    lines = [json.loads(line) for line in (GAN / "statistics.jsonl").read_text().splitlines()]
    assert [(line["cluster"], line["number"]) for line in lines] == [(None, 1), (0, 1), (0, 2), (1, 1), (1, 2)]
    assert [line["images"] for line in lines] == [48, 24, 48, 24, 48]
    losses = [[line["generator_loss"] for line in lines if line["cluster"] == cluster] for cluster in (0, 1)]
    rows = list(csv.DictReader((GAN / "curves.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for row, pair in zip(rows, zip(*losses, strict=True), strict=True):
        found = [float(row[f"generator_loss_{over}"]) for over in ("lowest", "median", "highest")]
        np.testing.assert_allclose(found, [min(pair), np.mean(pair), max(pair)], atol=1e-6)
    for picture in (GAN / "preview_0.png", GAN / "preview_1.png", GENERATED / "sheet.png"):
        assert Image.open(picture).size[0] == 16 * 64


def test_more_images_begin_with_the_same_ones(project):
    params = make_params()
    run_with_blocks(train_gan.run, params)
    found = []
    for count in (6, 80):
        run_with_blocks(generate.run, make_params(generate={"images": count}))
        table = pq.read_table(GENERATED / "images.parquet").to_pylist()
        found.append({row["name"]: row["image"] for row in table})
    assert len(found[1]) == 80
    assert found[0].items() <= found[1].items()


def test_a_cluster_without_an_image_is_shown_by_its_real_ones(project):
    run_with_blocks(train_gan.run, make_params())
    run_with_blocks(generate.run, make_params(generate={"images": 1}))
    assert pq.read_table(GENERATED / "images.parquet")["cluster"].to_pylist() == [0]
    assert Image.open(GENERATED / "sheet.png").size[1] > 32


def test_another_seed_gives_other_images(project):
    run_with_blocks(train_gan.run, make_params())
    run_with_blocks(generate.run, make_params())
    contents.cache_clear()
    first = contents(GENERATED)["images.parquet"]
    run_with_blocks(generate.run, make_params(generate={"seed": 2}))
    contents.cache_clear()
    assert contents(GENERATED)["images.parquet"] != first


def test_a_cluster_trains_the_same_whatever_the_others_are(project):
    run_with_blocks(train_gan.run, make_params())
    before = (GAN / "cluster_0.safetensors").read_bytes()
    rows = pq.read_table(ASSIGNMENTS).to_pylist()
    with table_writer(ASSIGNMENTS, ASSIGNMENT) as table:
        for row in rows:
            table.append(row | {"cluster": 1 + row["label"] % 2 if row["cluster"] else 0})
    run_with_blocks(train_gan.run, make_params())
    assert (GAN / "cluster_2.safetensors").is_file()
    assert (GAN / "cluster_0.safetensors").read_bytes() == before


def test_an_empty_cluster_is_named_and_earlier_outputs_stay(project):
    run_with_blocks(train_gan.run, make_params())
    before = (GAN / "cluster_1.safetensors").read_bytes()
    rows = pq.read_table(ASSIGNMENTS).to_pylist()
    with table_writer(ASSIGNMENTS, ASSIGNMENT) as table:
        for row in rows:
            table.append(row | {"cluster": 2 * row["cluster"]})
    with pytest.raises(InputError, match=r"cluster 1 has no image .* lower cluster\.k"):
        run_with_blocks(train_gan.run, make_params())
    assert (GAN / "cluster_1.safetensors").read_bytes() == before
    assert sorted(path.name for path in GAN.parent.iterdir() if "gan" in path.name) == ["gan"]


def test_tables_that_do_not_belong_together_are_refused(project):
    rows = pq.read_table(ASSIGNMENTS).to_pylist()
    with table_writer(ASSIGNMENTS, ASSIGNMENT) as table:
        for row in rows[1:]:
            table.append(row)
    with pytest.raises(InputError, match=r"assignments\.parquet: its 41 images are not the 42 of .*dvc repro"):
        run_with_blocks(train_gan.run, make_params())


def features_of(encoder, encoded, names):
    return extract_features(encoder, encoded, names, torch.device("cpu"), flip=False, batch_size=128)


def measured(of_cluster, choice=None, seen=False) -> tuple[dict, list[list[bytes]]]:
    """quality.json if the generated images are what a function of the cluster's real images (and their number) gives.

    The real ones are coarse patterns, no two of them alike.
    """
    patterns = np.random.default_rng(1).integers(0, 256, (len(LABELS), 4, 4, 3), np.uint8)
    rows = pq.read_table(TRAIN_TABLE).to_pylist()
    with table_writer(TRAIN_TABLE, TRAINING) as table:
        for row, pattern in zip(rows, patterns, strict=True):
            table.append(row | {"image": encode(pattern.repeat(8, 0).repeat(8, 1))})
    real = load_clustered(TRAIN_TABLE, ASSIGNMENTS, 32, 32)
    encoder = load_encoder(ENCODER_MODEL)
    table = pq.read_table(TRAIN_TABLE)
    train, names = (table.column(name).to_pylist() for name in ("image", "name"))
    write_npy(TRAIN_FEATURES, features_of(encoder, train, names))
    encoded = [[encode_jpeg(image, 95) for image in of_cluster(real.of(cluster), 18)] for cluster in (0, 1)]
    space = encoder_space(encoded, real, encoder, torch.device("cpu"))
    pixels = [decode_resized(images, 32, 32) for images in encoded]
    choice = choice or make_params().generate
    return measure_quality(pixels, real.pixels, real.clusters, space, choice, torch.device("cpu"), seen), encoded


def sounding(quality) -> set[tuple[str, str]]:
    return {(alarm["space"], alarm["alarm"]) for alarm in quality["alarms"] if alarm["cluster"] is None}


def test_memorized_images_sound_the_alarm_in_the_spaces_that_hear_it(project):
    quality, _ = measured(lambda real, count: real[:count])
    assert sounding(quality) == {("handcrafted", "memorization"), ("imagenet", "memorization")}
    assert quality["overall"]["verdict"] == "recognizable, but poorer", "copies are no new images"
    assert quality["overall"]["encoder"]["copies"]["value"] > 0.9


def test_one_image_again_and_again_is_not_usable(project):
    quality, _ = measured(lambda real, count: real[:1].repeat(count, 0))
    assert ("imagenet", "collapse") in sounding(quality)
    assert quality["overall"]["verdict"] == "not usable"
    assert [each["verdict"] for each in quality["clusters"]] == ["not usable", "not usable"]


def test_noise_sounds_unlike(project):
    stream = np.random.default_rng(1)
    quality, _ = measured(lambda real, count: stream.integers(0, 256, (count, 32, 32, 3), np.uint8))
    assert ("imagenet", "unlike") in sounding(quality)
    assert {alarm["space"] for alarm in quality["alarms"]} == {"imagenet"}
    assert "precision" not in quality["overall"]["encoder"], "it saturates there"
    assert not {what for what in sounding(quality) if what[1] == "memorization"}


def test_the_file_has_the_deviation_that_the_limit_is_counted_in(project):
    choice = make_params().generate
    limits = choice.alarms.model_copy(update={"kernel_deviations": 5.0})
    choice = choice.model_copy(update={"alarms": limits})
    quality, _ = measured(lambda real, count: np.full((count, 32, 32, 3), 128, np.uint8), choice)
    far = [alarm for alarm in quality["alarms"] if alarm["measure"] == "kernel" and alarm["cluster"] is None]
    assert far, "gray is far from all of them"
    for alarm in far:
        kernel = quality["overall"][alarm["space"]]["kernel"]
        beyond = kernel["reference"] + limits.kernel_deviations * kernel["reference_deviation"]
        assert alarm["alarm"] == "unlike"
        assert alarm["value"] > alarm["limit"] == pytest.approx(beyond, abs=1e-4)


def test_images_of_a_discriminator_that_saw_the_network_are_measured_in_another_one(project):
    quality, _ = measured(lambda real, count: real[:1].repeat(count, 0), seen=True)
    overall = quality["overall"]
    assert quality["discriminator_saw"] == "imagenet"
    assert set(overall["imagenet_lite1"]) == set(overall["imagenet"])
    assert overall["imagenet_lite1"]["kernel"] != overall["imagenet"]["kernel"]
    assert {space for space, alarm in sounding(quality) if alarm == "collapse"} == {"imagenet", "imagenet_lite1"}
    plain, _ = measured(lambda real, count: real[:1].repeat(count, 0))
    assert plain["discriminator_saw"] is None
    assert "imagenet_lite1" not in plain["overall"]
    assert plain["overall"]["imagenet"] == overall["imagenet"]


def test_consistency_is_that_of_the_nearest_centroid(project):
    quality, encoded = measured(lambda real, count: real[:count])
    features, clusters = np.load(TRAIN_FEATURES), pq.read_table(ASSIGNMENTS)["cluster"].to_numpy()
    expected = NearestCentroid().fit(features, clusters)
    assert quality["cluster_consistency"]["reference"] == pytest.approx(expected.score(features, clusters), abs=1e-6)
    encoder = load_encoder(ENCODER_MODEL)
    images, own = [*chain(*encoded)], np.repeat([0, 1], 18)
    drawn = features_of(encoder, images, [f"{number}.jpg" for number in range(36)])
    assert quality["cluster_consistency"]["value"] == pytest.approx(expected.score(drawn, own), abs=1e-6)
    by_cluster = [expected.score(drawn[own == cluster], own[own == cluster]) for cluster in (0, 1)]
    assert quality["cluster_consistency"]["clusters"] == pytest.approx(by_cluster, abs=1e-6)


def test_missing_inputs_name_the_file(project):
    with pytest.raises(InputError, match=r"cluster_0\.safetensors: no such model"):
        run_with_blocks(generate.run, make_params())
    run_with_blocks(train_gan.run, make_params())
    write_npy(TRAIN_FEATURES, np.zeros((41, 16), np.float32))
    with pytest.raises(InputError, match=r"train\.npy: 41 features for 42 images"):
        run_with_blocks(generate.run, make_params())
    write_identities([[], MEMBERS[1]])
    with pytest.raises(InputError, match=r"identities\.json: cluster 0 holds no identity"):
        run_with_blocks(generate.run, make_params())
    assert not GENERATED.exists()


def cosine_neighbors(feature, features, k, left_out=None):
    """Rows by falling cosine, one pair at a time."""

    def cosine(row):
        return float(feature @ features[row] / np.linalg.norm(feature) / np.linalg.norm(features[row]))

    return sorted((row for row in range(len(features)) if row != left_out), key=cosine, reverse=True)[:k]


def test_each_image_has_the_label_of_its_nearest_training_images(project):
    """Features of the stored JPEG images, by the encoder whose training features were clustered."""
    run_with_blocks(train_gan.run, make_params())
    run_with_blocks(generate.run, make_params(generate={"nearest_images": 5}))
    table = pq.read_table(GENERATED / "images.parquet").to_pylist()
    real = np.load(TRAIN_FEATURES).astype(np.float64)
    images, names = ([row[key] for row in table] for key in ("image", "name"))
    drawn = features_of(load_encoder(ENCODER_MODEL), images, names).astype(np.float64)
    for row, feature in zip(table, drawn, strict=True):
        people = [int(LABELS[near]) for near in cosine_neighbors(feature, real, 5)]
        assert row["nearest_index"] == sorted(set(people))
        assert row["nearest_weight"] == pytest.approx([people.count(label) / 5 for label in row["nearest_index"]])
        assert sum(row["nearest_weight"]) == pytest.approx(1)


def test_the_support_of_both_labels_is_in_the_file(project):
    """By hand: the encoder's own forward pass over the images, and sums over the labels of the table."""
    encoder = load_encoder(ENCODER_MODEL)
    with torch.no_grad():
        encoder.head[0].weight.mul_(200)
    save_encoder(ENCODER_MODEL, encoder)
    train = pq.read_table(TRAIN_TABLE)
    stored, train_names = (train.column(name).to_pylist() for name in ("image", "name"))
    write_npy(TRAIN_FEATURES, features_of(encoder, stored, train_names))
    run_with_blocks(train_gan.run, make_params())
    run_with_blocks(generate.run, make_params(generate={"nearest_images": 3}))
    table = pq.read_table(GENERATED / "images.parquet").to_pylist()
    own, drawn = np.array([row["cluster"] for row in table]), predicted(encoder, [row["image"] for row in table])
    of_real, real = predicted(encoder, stored), np.load(TRAIN_FEATURES)
    nearest = [{int(LABELS[near]) for near in cosine_neighbors(real[row], real, 3, row)} for row in range(len(real))]
    expected = {
        "slsr": (
            [sum(p[MEMBERS[row["cluster"]]]) for p, row in zip(drawn, table, strict=True)],
            [len(MEMBERS[row["cluster"]]) / 6 for row in table],
            [sum(p[MEMBERS[cluster]]) for p, cluster in zip(of_real, CLUSTERS, strict=True)],
        ),
        "slsr-nearest": (
            [sum(p[row["nearest_index"]]) for p, row in zip(drawn, table, strict=True)],
            [len(row["nearest_index"]) / 6 for row in table],
            [sum(p[sorted(people)]) for p, people in zip(of_real, nearest, strict=True)],
        ),
    }
    found = json.loads((GENERATED / "quality.json").read_text())["label_support"]
    for cluster, each in [(None, found["overall"]), *enumerate(found["clusters"])]:
        among, beside = (np.isin(clusters, [0, 1] if cluster is None else [cluster]) for clusters in (own, CLUSTERS))
        for kind, (values, chances, references) in expected.items():
            assert each[kind] == pytest.approx(
                {
                    "value": np.array(values)[among].mean(),
                    "chance": np.array(chances)[among].mean(),
                    "reference": np.array(references)[beside].mean(),
                },
                abs=1e-4,
            )
    assert len({round(each["value"], 3) for each in found["overall"].values()}) == 2


def predicted(encoder, encoded):
    """Probabilities from the whole network at once, on the images as it tests them."""
    pixels = np.stack([resized(image, "image", encoder.image) for image in encoded])
    with torch.inference_mode():
        return encoder(to_input(torch.from_numpy(pixels), encoder.image)).softmax(dim=1).numpy()


def test_as_many_nearest_images_as_there_are_training_images_are_refused_before_any_work(project):
    with pytest.raises(InputError, match=r"generate\.nearest_images: 42 must be below .* 42; lower it"):
        run_with_blocks(generate.run, make_params(generate={"nearest_images": 42}))
    run_with_blocks(train_gan.run, make_params())
    run_with_blocks(generate.run, make_params(generate={"nearest_images": 41}))
    for row in pq.read_table(GENERATED / "images.parquet").to_pylist():
        assert row["nearest_index"] == [0, 1, 2, 3, 4, 5]


def test_an_encoder_of_other_people_is_refused_before_any_work(project):
    save_encoder(ENCODER_MODEL, Encoder(EncoderDescription("resnet18", "plain", 5, make_image())))
    with pytest.raises(InputError, match=r"model\.safetensors: knows 5 identities, but .* has 6; run `dvc repro`"):
        run_with_blocks(generate.run, make_params())


@given(total=st.integers(1, 5000), sizes=st.lists(st.integers(1, 900), min_size=1, max_size=40))
def test_allocation_adds_up_and_is_fair(total, sizes):
    equal, proportional = allocate(total, sizes, "equal"), allocate(total, sizes, "proportional")
    assert sum(equal) == sum(proportional) == total
    assert max(equal) - min(equal) <= 1
    for count, size in zip(proportional, sizes, strict=True):
        assert abs(count - total * size / sum(sizes)) < 1
