"""The stage `train`: what each regularizer says of a generated image, from the tables to the weights."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from pipeline.run_recorded import recording
from tiny import ROOT, colored, encode, noise

from slsr.errors import InputError
from slsr.files import read_json, write_json
from slsr.images.tables import GENERATED, RANKED, TRAINING, table_writer
from slsr.labels.distributions import likeliest, multi_pseudo_label, one_hot
from slsr.labels.regularizers import REGULARIZERS, Regularizer, committed_names, studied_names
from slsr.models.checkpoint import load_checkpoint
from slsr.models.encoder import load_encoder
from slsr.params.file import run_with_blocks, validate_params
from slsr.stages import train, train_encoder
from slsr.stages.paths import (
    CLUSTER_IDENTITIES,
    ENCODER,
    GENERATED_IMAGES,
    TRAIN_TABLE,
    TRAINED,
    VALIDATION_TABLE,
)

CLASSES = 4
LABELS = [number % CLASSES for number in range(12)]
CLUSTERS = [([1, 3], [0.5, 0.5]), ([2], [1.0]), ([0, 2, 3], [1 / 3] * 3)]
COUNTS = [[3, 1], [4], [1, 2, 5]]
GENERATED_CLUSTERS = [0, 1, 2, 2, 1, 0, 0]
NEAREST = [
    ([1], [1.0]),
    ([0, 2], [0.25, 0.75]),
    ([2, 3], [0.5, 0.5]),
    ([0, 2], [0.25, 0.75]),
    ([0, 1, 3], [0.5, 0.25, 0.25]),
    ([0, 2], [0.75, 0.25]),
    ([1], [1.0]),
]


@pytest.fixture
def project(tmp_path, monkeypatch, values):
    """A folder with tiny tables, and its parameters."""
    monkeypatch.chdir(tmp_path)
    deterministic = torch.are_deterministic_algorithms_enabled()
    write_real(TRAIN_TABLE, colored(LABELS).pixels.numpy(), LABELS)
    write_real(VALIDATION_TABLE, colored([0, 1, 2, 3], seed=1).pixels.numpy(), [0, 1, 2, 3])
    write_generated(CLUSTERS, GENERATED_CLUSTERS)
    write_identities([index for index, _ in CLUSTERS], COUNTS)
    size = {"height": 32, "width": 32, "resize_height": 36, "resize_width": 36, "test": "center-crop"}
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


def write_generated(clusters, of_images, nearest=NEAREST):
    with table_writer(GENERATED_IMAGES, GENERATED) as table:
        for number, (image, cluster) in enumerate(zip(noise(len(of_images), seed=8), of_images, strict=True)):
            table.append(generated_row(image, cluster, clusters[cluster], nearest[number % len(nearest)]))


def generated_row(image, cluster, label, nearest):
    row = {"image": encode(image), "name": "g.png", "cluster": cluster, "label_index": label[0]}
    return row | {"label_weight": label[1], "nearest_index": nearest[0], "nearest_weight": nearest[1]}


def write_identities(labels, counts):
    clusters = [
        {"cluster": number, "images": sum(count), "labels": label, "counts": count}
        for number, (label, count) in enumerate(zip(labels, counts, strict=True))
    ]
    write_json(CLUSTER_IDENTITIES, {"classes": CLASSES, "clusters": clusters})


def dense(index, weight):
    vector = np.zeros(CLASSES)
    vector[index] = weight
    return vector


SLSR = [dense(*CLUSTERS[cluster]) for cluster in GENERATED_CLUSTERS]
SHARES = [np.array(count) / sum(count) for count in COUNTS]
WEIGHTED = [dense(CLUSTERS[cluster][0], SHARES[cluster]) for cluster in GENERATED_CLUSTERS]
OWN = [dense(*label) for label in NEAREST]
LSRO = [np.full(CLASSES, 1 / CLASSES)] * len(GENERATED_CLUSTERS)
REAL = [dense([label], [1.0]) for label in LABELS]


def test_slsr_keeps_the_sparse_labels_and_lsro_forgets_them(project):
    for name, expected in (("slsr", SLSR), ("lsro", LSRO), ("slsr-weighted", WEIGHTED)):
        clusters, labels = train.generated_labels(REGULARIZERS[name], CLASSES)
        assert clusters.tolist() == GENERATED_CLUSTERS
        np.testing.assert_allclose([dense(*labels[cluster]) for cluster in clusters.tolist()], expected, rtol=1e-6)
        for index, weight in labels.values():
            assert (index.dtype, weight.dtype) == (np.int32, np.float32)


def test_a_regularizer_is_added_in_one_place(project, monkeypatch, tiny_backbone):
    """A toy: every generated image shows the first identity of its cluster."""
    toy = Regularizer("toy", "Toy", "the first identity", target=lambda cluster: one_hot(int(cluster.stored[0][0])))
    monkeypatch.setitem(REGULARIZERS, "toy", toy)
    project["studies"]["regularizers"] = ["toy"]
    training = captured(monkeypatch, project, "toy")
    first = [dense([CLUSTERS[cluster][0][0]], [1.0]) for cluster in GENERATED_CLUSTERS]
    np.testing.assert_allclose(training.targets.batch(torch.arange(len(LABELS), len(LABELS) + 7)), first)
    monkeypatch.undo()
    with pytest.raises(InputError, match="toy"):
        validate_params(project, "params.yaml")


def test_each_image_has_its_own_nearest_label_and_equal_ones_share_a_row(project, monkeypatch):
    chosen, labels = train.generated_labels(REGULARIZERS["slsr-nearest"], CLASSES)
    assert len(labels) == 5, "of seven images, two pairs share a label"
    for number, expected in zip(chosen.tolist(), OWN, strict=True):
        np.testing.assert_allclose(dense(*labels[number]), expected, rtol=1e-6)
    assert captured(monkeypatch, project, "slsr-nearest").targets.table.shape == (CLASSES + 5, CLASSES)


def test_a_table_of_an_earlier_version_has_no_nearest_labels(project, monkeypatch):
    columns = pq.read_table(GENERATED_IMAGES).drop_columns(["nearest_index", "nearest_weight"])
    pq.write_table(columns, GENERATED_IMAGES)
    with pytest.raises(InputError, match=r"no column nearest_index, nearest_weight; make it again with `dvc repro`"):
        captured(monkeypatch, project, "slsr-nearest")
    captured(monkeypatch, project, "slsr")


@pytest.mark.parametrize("label", [([0, CLASSES], [0.5, 0.5]), ([0, 1], [0.5, 0.6]), ([1, 1], [0.5, 0.5])])
def test_a_nearest_label_that_is_none_is_refused(project, monkeypatch, label):
    write_generated(CLUSTERS, GENERATED_CLUSTERS, [*NEAREST[:3], label, *NEAREST[4:]])
    with pytest.raises(InputError, match="a label distribution has the"):
        captured(monkeypatch, project, "slsr-nearest")


def test_images_of_a_cluster_with_different_labels_are_refused(project, monkeypatch):
    index, weight = CLUSTERS[0]
    with table_writer(GENERATED_IMAGES, GENERATED) as table:
        for labels, weights in ((index, weight), (index[:1], [1.0])):
            table.append(generated_row(noise(1, seed=8)[0], 0, (labels, weights), NEAREST[0]))
    with pytest.raises(InputError, match=r"images of cluster 0 have different labels; run `dvc repro`"):
        captured(monkeypatch, project, "slsr")


def handed_over(monkeypatch, values, regularizer):
    """The training set that the stage hands to training, and what it says of the generated images."""
    seen = []
    monkeypatch.setattr(train, "train_and_save", lambda *arguments: seen.append(arguments))
    run_with_blocks(train.run, validate_params(values, "params.yaml"), regularizer)
    ((folder, training, *_, role),) = seen
    assert folder == TRAINED / regularizer
    return training, role


def captured(monkeypatch, values, regularizer):
    return handed_over(monkeypatch, values, regularizer)[0]


@pytest.mark.parametrize(
    ("regularizer", "generated"),
    [("none", []), ("lsro", LSRO), ("slsr", SLSR), ("slsr-weighted", WEIGHTED), ("slsr-nearest", OWN),
     ("one-hot", LSRO), ("mprl", LSRO)],
)  # fmt: skip
def test_regularizers_differ_in_targets_alone(project, monkeypatch, regularizer, generated):
    project["generated"]["weight"] = 0.25
    training = captured(monkeypatch, project, regularizer)
    count = len(LABELS) + len(generated)
    expected = np.concatenate([colored(LABELS).pixels.numpy(), noise(7, seed=8)])[:count]
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


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_encoder_has_its_own_label_smoothing(project, monkeypatch, smoothing):
    project["encoder"]["label_smoothing"], project["train"]["label_smoothing"] = smoothing, 0.7
    seen = []
    monkeypatch.setattr(train_encoder, "train_and_save", lambda *arguments: seen.append(arguments))
    run_with_blocks(train_encoder.run, validate_params(project, "params.yaml"))
    ((folder, training, *_),) = seen
    assert folder == ENCODER
    expected = [(1 - smoothing) * target + smoothing / CLASSES for target in REAL]
    np.testing.assert_allclose(training.targets.batch(torch.arange(len(LABELS))), expected, rtol=1e-5, atol=1e-8)
    assert training.labels.tolist() == LABELS


def test_lsr_smooths_real_images_by_its_own_epsilon(project, monkeypatch):
    project["lsr"]["epsilon"] = 0.4
    training = captured(monkeypatch, project, "lsr")
    assert len(training.pixels) == len(LABELS)
    expected = [0.6 * target + 0.1 for target in REAL]
    np.testing.assert_allclose(training.targets.batch(torch.arange(len(LABELS))), expected, rtol=1e-5)
    for other in ("none", "slsr"):
        found = captured(monkeypatch, project, other).targets.batch(torch.arange(len(LABELS)))
        np.testing.assert_array_equal(found, REAL)


def test_lsr_beside_smoothing_for_everybody_is_refused(project, monkeypatch):
    project["train"]["label_smoothing"] = 0.1
    with pytest.raises(InputError, match=r"train\.label_smoothing 0\.1 .*set it to 0 to run lsr"):
        captured(monkeypatch, project, "lsr")


@pytest.mark.parametrize(
    ("regularizer", "pseudo_label"),
    [("none", None), ("lsr", None), ("lsro", None), ("slsr", None), ("slsr-weighted", None),
     ("slsr-nearest", None), ("one-hot", likeliest), ("mprl", multi_pseudo_label)],
)  # fmt: skip
def test_labels_that_follow_the_network_are_those_of_their_regularizers(
    project, monkeypatch, regularizer, pseudo_label
):
    project["pseudo_labels"]["start"] = 0.3
    _, generated = handed_over(monkeypatch, project, regularizer)
    assert generated.pseudo_label is pseudo_label
    assert generated.first == (None if regularizer in ("none", "lsr") else len(LABELS))
    assert generated.start == (0.3 if pseudo_label else 0.0)
    assert generated.noise is None


def test_a_rate_brings_the_noise_layer(project, monkeypatch):
    project["generated"]["noise_learning_rate"] = 0.02
    for regularizer in ("lsro", "slsr", "slsr-weighted", "slsr-nearest", "one-hot", "mprl"):
        _, generated = handed_over(monkeypatch, project, regularizer)
        assert torch.equal(generated.noise.transition, torch.eye(CLASSES, dtype=torch.float64))
        assert (generated.first, generated.noise_learning_rate) == (len(LABELS), 0.02)
    for regularizer in ("none", "lsr"):
        assert handed_over(monkeypatch, project, regularizer)[1].noise is None


@pytest.mark.parametrize(
    ("labels", "counts"),
    [([[1, 3], [2], [0, 3]], [[1, 1], [1], [1, 1]]), ([[1, 3], [2]], [[1, 1], [1]]), ([[1, 3], [], [0, 2, 3]], COUNTS)],
)
def test_weights_of_another_clustering_are_refused(project, monkeypatch, labels, counts):
    write_identities(labels, counts)
    with pytest.raises(InputError, match=r"cluster \d is labeled with other identities than .*dvc repro"):
        captured(monkeypatch, project, "slsr-weighted")
    captured(monkeypatch, project, "slsr")


def test_identities_that_straddle_hundreds_of_clusters(project, monkeypatch):
    """More clusters than identities, each with one or two of them."""
    labels = [sorted({number % CLASSES, (number * 7) % CLASSES}) for number in range(300)]
    counts = [[1 + number % 5 for _ in label] for number, label in enumerate(labels)]
    counts = [[*count[:-1], count[-1] + 2] for count in counts]
    of_images = [(number * 13) % 300 for number in range(40)]
    write_generated([(label, [1 / len(label)] * len(label)) for label in labels], of_images)
    write_identities(labels, counts)
    for regularizer, shares in (("slsr", [[1] * len(label) for label in labels]), ("slsr-weighted", counts)):
        training = captured(monkeypatch, project, regularizer)
        expected = [dense(labels[c], np.array(shares[c]) / sum(shares[c])) for c in of_images]
        found = training.targets.batch(torch.arange(len(LABELS), len(LABELS) + 40))
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_baselines_need_no_generated_images(project, monkeypatch):
    GENERATED_IMAGES.unlink()
    CLUSTER_IDENTITIES.unlink()
    for regularizer in ("none", "lsr"):
        assert len(captured(monkeypatch, project, regularizer).pixels) == len(LABELS)
    with pytest.raises(InputError, match=r"images\.parquet: no such"):
        captured(monkeypatch, project, "slsr-weighted")
    with pytest.raises(InputError, match=r"images\.parquet: no such"):
        captured(monkeypatch, project, "slsr")


@pytest.mark.parametrize("regularizer", ["lsro", "slsr", "slsr-weighted", "slsr-nearest", "one-hot", "mprl"])
def test_generated_images_must_be_there(project, monkeypatch, regularizer):
    write_generated(CLUSTERS, [])
    with pytest.raises(InputError, match=r"images\.parquet: contains no image"):
        captured(monkeypatch, project, regularizer)


@pytest.mark.parametrize(
    ("label", "part"),
    [(([1, 9], [0.5, 0.5]), "another training set"), (([1, 2], [0.5, 0.6]), "sum 1.1"), (([1, 1], [0.5, 0.5]), "once")],
)
def test_labels_of_another_training_set_are_refused(project, monkeypatch, label, part):
    write_generated([label], [0, 0])
    with pytest.raises(InputError, match=part):
        captured(monkeypatch, project, "slsr")


def test_the_whole_stage_writes_the_same_bytes_twice_and_another_network_for_each_regularizer(project, tiny_backbone):
    params = validate_params(project, "params.yaml")

    def outputs(regularizer):
        run_with_blocks(train.run, params, regularizer)
        folder = TRAINED / regularizer
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    found = {name: outputs(name) for name in [*REGULARIZERS]}
    assert "model.safetensors" in found["slsr"]
    assert any(name.endswith("validation/accuracy.tsv") for name in found["slsr"])
    models = [files["model.safetensors"] for files in found.values()]
    assert len(set(models)) == 8
    for name in ("slsr", "slsr-nearest", "mprl"):
        assert outputs(name) == found[name]
    assert load_encoder(TRAINED / "slsr" / "model.safetensors").description.classes == CLASSES


def write_held_out():
    """Two people by two cameras, one query of each in each."""
    with table_writer(VALIDATION_TABLE, RANKED) as table:
        for number, pixels in enumerate(colored([4, 4, 4, 4, 5, 5, 5, 5], seed=3).pixels.numpy()):
            row = {"image": encode(pixels), "name": f"{number}.png", "identity": 100 + number // 4}
            table.append(row | {"camera": 1 + number // 2 % 2, "role": "query" if number % 2 else "gallery"})


@pytest.mark.parametrize("regularizer", ["encoder", *REGULARIZERS])
def test_the_best_epoch_on_held_out_people_is_in_the_curves_and_the_model(project, tiny_backbone, regularizer):
    write_held_out()
    project["dataset"]["validation"] = "identities"
    project["encoder"] |= project["train"]
    for block in ("encoder", "train"):
        project[block] |= {"keep": "best", "epochs": 3}
    params = validate_params(project, "params.yaml")
    if regularizer == "encoder":
        run_with_blocks(train_encoder.run, params)
    else:
        run_with_blocks(train.run, params, regularizer)
    folder = ENCODER if regularizer == "encoder" else TRAINED / regularizer
    curve = folder / "curves/plots/metrics/validation/map_trapezoid.tsv"
    values = np.loadtxt(curve, delimiter="\t", skiprows=1)[:, 1]
    found = read_json(folder / "curves/metrics.json")["validation"]
    assert set(found) == {"rank1", "map_trapezoid", "best_epoch"}
    assert found["best_epoch"] == 1 + int(values.argmax())
    assert load_checkpoint(folder / "model.safetensors")[1]["best_epoch"] == found["best_epoch"]
    assert load_encoder(folder / "model.safetensors").description.classes == CLASSES


def model_bytes(params, regularizer):
    run_with_blocks(train.run, params, regularizer)
    return (TRAINED / regularizer / "model.safetensors").read_bytes()


def test_one_cluster_of_everybody_trains_the_network_of_lsro(project, tiny_backbone):
    write_generated([(list(range(CLASSES)), [1 / CLASSES] * CLASSES)], [0] * 7)
    write_identities([list(range(CLASSES))], [[5] * CLASSES])
    params = validate_params(project, "params.yaml")
    lsro = model_bytes(params, "lsro")
    assert model_bytes(params, "slsr") == lsro
    assert model_bytes(params, "slsr-weighted") == lsro, "everybody has as many images in it"
    assert model_bytes(params, "none") != lsro


def test_clusters_of_one_train_as_if_their_images_showed_that_identity(project, tiny_backbone):
    """The same images, once generated with each identity its own cluster, once real ones of these identities."""
    write_generated([([label], [1.0]) for label in range(CLASSES)], GENERATED_CLUSTERS)
    params = validate_params(project, "params.yaml")
    of_clusters = model_bytes(params, "slsr")
    pixels = np.concatenate([colored(LABELS).pixels.numpy(), noise(len(GENERATED_CLUSTERS), seed=8)])
    write_real(TRAIN_TABLE, pixels, LABELS + GENERATED_CLUSTERS)
    assert model_bytes(params, "none") == of_clusters


def test_nearest_labels_that_are_those_of_the_clusters_train_the_network_of_slsr(project, tiny_backbone):
    write_generated(CLUSTERS, GENERATED_CLUSTERS, [CLUSTERS[cluster] for cluster in GENERATED_CLUSTERS])
    params = validate_params(project, "params.yaml")
    assert model_bytes(params, "slsr-nearest") == model_bytes(params, "slsr")


def test_the_noise_layer_ends_in_the_log_and_not_in_the_model(project, tiny_backbone, caplog):
    with caplog.at_level("INFO", logger="slsr"):
        plain = model_bytes(validate_params(project, "params.yaml"), "slsr")
        assert "noise layer" not in caplog.text
        project["generated"]["noise_learning_rate"] = 0.1
        noisy = model_bytes(validate_params(project, "params.yaml"), "slsr")
    assert noisy != plain
    assert len(noisy) == len(plain)
    assert "noise layer: 0." in caplog.text


def leg(regularizer):
    """The stage train@<regularizer> of the dvc.yaml that has it, its templates filled in."""
    file = "dvc.yaml" if regularizer in committed_names() else "studies/dvc.yaml"
    stage = yaml.safe_load((ROOT / file).read_text())["stages"]["train"]
    values = stage["foreach"][regularizer] if file == "dvc.yaml" else {}
    fill = {f"${{item.{key}}}": value for key, value in values.items()}
    return {part: [fill.get(line, line) for line in stage["do"][part]] for part in ("deps", "params")}


def test_every_regularizer_is_in_one_dvc_yaml():
    main, studies = (yaml.safe_load((ROOT / file).read_text())["stages"] for file in ("dvc.yaml", "studies/dvc.yaml"))
    assert [*main["train"]["foreach"]] == committed_names()
    assert main["evaluate"]["matrix"]["regularizer"] == committed_names()
    assert studies["train"]["foreach"] == studies["evaluate"]["matrix"]["regularizer"] == "${studies.regularizers}"
    assert {*committed_names(), *studied_names()} == {*REGULARIZERS}
    for part in ("deps", "params", "outs", "desc", "cmd"):
        assert studies["evaluate"][part] == main["evaluate"][part]


@pytest.mark.parametrize("noise_rate", [0.0, 0.05])
@pytest.mark.parametrize("regularizer", [*REGULARIZERS])
def test_a_leg_lists_the_parameters_and_files_that_it_reads(
    project, tiny_backbone, monkeypatch, regularizer, noise_rate
):
    project["generated"]["noise_learning_rate"] = noise_rate
    params = validate_params(project, "params.yaml")
    opened, listed = [], leg(regularizer)
    for module, name in ((train, "read_table"), (train, "read_json"), (train, "read_labels")):
        original = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda path, *rest, original=original: opened.append(path) or original(path, *rest)
        )
    with recording(params) as read:
        run_with_blocks(train.run, params, regularizer)
    unlisted = [key for key in read if not any(key == one or key.startswith(f"{one}.") for one in listed["params"])]
    assert unlisted == []
    artifacts = {path for path in listed["deps"] if path.startswith("artifacts/")} - {"artifacts/prepared/facts.json"}
    needed = {str(path) for path in opened} | {"artifacts/prepared/validation.parquet"}
    if regularizer in studied_names():  # one list of files and blocks for all of them
        assert needed <= artifacts
        return
    assert needed == artifacts
    for block in {*listed["params"]} - {"image", "train"}:
        assert any(key.startswith(f"{block}.") for key in read), f"{block} is listed and not read"


def test_with_steps_every_regularizer_records_the_same_length(project, tiny_backbone):
    """A pass has three batches of real images, and four with the generated ones."""
    project["train"] |= {"epochs": 3, "schedule": project["train"]["schedule"] | {"name": "step", "step_epochs": 1}}
    rate = project["train"]["optimizer"]["learning_rate"]

    def lengths(steps):
        project["train"]["steps"] = steps
        found = {}
        for name in ("none", "slsr"):
            run_with_blocks(train.run, validate_params(project, "params.yaml"), name)
            last = read_json(TRAINED / name / "curves/metrics.json")
            found[name] = (last["train"]["steps"], last["train"]["rate_sum"] / rate, last["step"])
        return found

    of_real, of_both = (-(-count // 5) for count in (len(LABELS), len(LABELS) + len(GENERATED_CLUSTERS)))
    assert (of_real, of_both) == (3, 4)
    as_given = lengths(None)
    assert as_given == {
        "none": (3 * of_real, pytest.approx(of_real * 1.11), 3),
        "slsr": (3 * of_both, pytest.approx(of_both * 1.11), 3),
    }
    equal = lengths(6 * of_both)
    assert equal["none"][:2] == equal["slsr"][:2] == (6 * of_both, pytest.approx(2 * of_both * 1.11))
    assert equal["slsr"][2] == 6
    assert equal["none"][2] == -(-6 * of_both // of_real)
