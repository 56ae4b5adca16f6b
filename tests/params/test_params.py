"""params.yaml: whatever is wrong with it, one message names the key, the value and what is allowed."""

import copy
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny import DEFAULTS, ROOT

from slsr.errors import InputError
from slsr.params.file import Params, load_params, run_with_blocks, validate_params, with_overrides
from slsr.params.presets import preset_names, render_preset

PRESETS = ROOT / "presets"


def leaves(block, prefix=()):
    for key, value in block.items():
        if isinstance(value, dict):
            yield from leaves(value, (*prefix, key))
        else:
            yield (*prefix, key)


LEAVES = sorted(leaves(DEFAULTS))


def changed(path, value):
    """The defaults with the leaf at `a.b.c` set."""
    values = copy.deepcopy(DEFAULTS)
    block = values
    *above, last = path.split(".")
    for key in above:
        block = block[key]
    block[last] = value
    return values


def message(values):
    with pytest.raises(InputError) as caught:
        validate_params(values, "params.yaml")
    return str(caught.value)


# key, value, what the message must say beside key and value
MISTAKES = [
    ("share.generated", "../elsewhere", ["match pattern"]),
    ("dataset.name", "market", ["market1501", "dukemtmc", "cuhk03", "viper", "table", "folder"]),
    ("dataset.archive", "", ["at least 1 character"]),
    ("dataset.archive", "/data/x.zip", ["below data/"]),
    ("dataset.archive", "../x.zip", ["below data/", ".."]),
    ("dataset.archive", "a/../../x.zip", ["below data/"]),
    ("dataset.archive", 3, ["string"]),
    ("dataset.identities", 1, ["2"]),
    ("dataset.identities", 2.5, ["integer"]),
    ("dataset.validation", "half", ["one-per-identity", "identities", "none"]),
    ("dataset.validation_share", 0.0, ["greater than 0"]),
    ("dataset.validation_share", 1.0, ["less than 1"]),
    ("train.validate_every", 0, ["1"]),
    ("train.keep", "worst", ["last", "best"]),
    ("dataset.unreadable_images", "ignore", ["fail", "skip"]),
    ("dataset.seed", -1, ["0"]),
    ("dataset.seed", 2**31, ["2147483648"]),
    ("dataset.seed", True, ["integer"]),
    ("image.height", 31, ["32"]),
    ("image.width", "128", ["integer"]),
    ("image.interpolation", "nearest", ["bilinear", "bicubic"]),
    ("image.normalization", "none", ["imagenet", "symmetric", "unit"]),
    ("image.test", "crop", ["whole", "center-crop"]),
    ("encoder.backbone", "", ["at least 1 character"]),
    ("train.backbone", 50, ["string"]),
    ("train.last_stride", 3, ["1 or 2"]),
    ("train.pooling", "max", ["average", "gem", "class-token"]),
    ("train.ema", 1.0, ["less than 1"]),
    ("train.sampler", "pk", ["shuffle", "identities"]),
    ("train.images_per_identity", 0, ["1"]),
    ("train.padding", -1, ["0"]),
    ("train.color_jitter", 1.0, ["less than 1"]),
    ("train.triplet.weight", -0.5, ["0"]),
    ("train.triplet.margin", 0.0, ["greater than 0"]),
    ("train.center.weight", "off", ["number"]),
    ("train.center.learning_rate", 0.0, ["greater than 0"]),
    ("train.schedule.step_epochs", [], ["at least 1 item"]),
    ("train.schedule.step_epochs", [70, 40], ["ascending"]),
    ("train.schedule.warmup_start", 0.0, ["greater than 0"]),
    ("train.weights", "", ["at least 1 character"]),
    ("train.weights", None, ["string"]),
    ("train.head", "mlp", ["plain", "linear", "bottleneck"]),
    ("train.epochs", 0, ["1"]),
    ("train.epochs", 10.0, ["integer"]),
    ("train.epochs", "ten", ["integer"]),
    ("train.batch_size", 1, ["2"]),
    ("encoder.batch_size", 1, ["2"]),
    ("gan.batch_size", 1, ["2"]),
    ("train.random_crop", "yes", ["boolean"]),
    ("train.horizontal_flip", 1, ["boolean"]),
    ("train.random_erasing", 1.5, ["1"]),
    ("train.random_erasing", -0.1, ["0"]),
    ("train.random_erasing", math.nan, ["finite"]),
    ("train.precision", "fp16", ["fp32", "tf32", "bf16"]),
    ("train.label_smoothing", 1.0, ["less than 1"]),
    ("train.optimizer.name", "lamb", ["sgd", "sgd-nesterov", "adamw"]),
    ("train.optimizer.learning_rate", 0, ["greater than 0"]),
    ("train.optimizer.learning_rate", math.inf, ["finite"]),
    ("train.optimizer.learning_rate", "0.1", ["number"]),
    ("train.optimizer.momentum", 1.0, ["less than 1"]),
    ("train.optimizer.weight_decay", -1e-4, ["0"]),
    ("train.schedule.name", "linear", ["constant", "step", "inverse-iteration", "inverse-epoch", "one-cycle"]),
    ("train.schedule.step_factor", 1.0, ["less than 1"]),
    ("train.schedule.inverse_gamma", 0, ["greater than 0"]),
    ("train.schedule.one_cycle_warmup", 1.0, ["less than 1"]),
    ("cluster.k", 0, ["1", "auto"]),
    ("cluster.k", "best", ["integer", "auto"]),
    ("cluster.sweep", [], ["at least 1"]),
    ("cluster.sweep", 3, ["list"]),
    ("cluster.initialization", "kmeans++", ["k-means++", "random"]),
    ("cluster.restarts", 0, ["1"]),
    ("cluster.minibatch_above", 99, ["100"]),
    ("gan.channels", 3, ["4"]),
    ("gan.beta1", 1.0, ["less than 1"]),
    ("gan.ema", 1.0, ["less than 1"]),
    ("gan.kind", "both", ["per-cluster", "conditional"]),
    ("gan.generator", "stylegan", ["dcgan", "light"]),
    ("gan.discriminator", "features", ["pixels", "projected", "both"]),
    ("gan.balance", "identities", ["clusters", "images"]),
    ("gan.reconstruction", -1, []),
    ("gan.projected_enlargement", 0, []),
    ("gan.on_collapse", "retry", ["warn", "stop", "restart"]),
    ("gan.collapse.coverage", 1.2, ["1"]),
    ("gan.collapse.restarts", 0, ["1"]),
    ("generate.alarms.precision", -0.1, ["0"]),
    ("generate.alarms.kernel_deviations", 0.0, ["greater than 0"]),
    ("generate.alarms.density", -1.0, ["greater than 0"]),
    ("gan.discriminator_activation", "elu", ["leaky-relu", "relu"]),
    ("generate.images", 0, ["1"]),
    ("generate.images", -5, ["1"]),
    ("generate.allocation", "even", ["equal", "proportional"]),
    ("generate.jpeg_quality", 101, ["100"]),
    ("generated.weight", -1.0, ["0"]),
    ("generated.weight", math.inf, ["finite"]),
    ("generated.noise_learning_rate", -0.1, ["0"]),
    ("lsr.epsilon", 0.0, ["greater than 0"]),
    ("lsr.epsilon", 1.0, ["less than 1"]),
    ("pseudo_labels.start", 1.0, ["less than 1"]),
    ("studies.regularizers", "mprl", ["list"]),
    ("pseudo_labels.start", -0.1, ["0"]),
    ("evaluate.multi_query", "median", ["mean", "max"]),
    ("evaluate.rerank.lambda_value", 1.01, ["1"]),
    ("evaluate.rerank.junk", "remove", ["keep", "drop"]),
    ("evaluate.bootstrap.resamples", 99, ["100"]),
    ("evaluate.ranked_list.depth", 0, ["1"]),
]


@pytest.mark.parametrize(("key", "value", "allowed"), MISTAKES, ids=[f"{key}={value!r}" for key, value, _ in MISTAKES])
def test_a_wrong_value_is_named_with_its_key_and_what_is_allowed(key, value, allowed):
    text = message(changed(key, value))
    assert text.startswith("params.yaml: ")
    last = key.rsplit(".", 1)[1]
    assert key in text or (f"{key.rsplit('.', 1)[0]}: " in text and last in text)
    assert repr(value) in text
    for word in allowed:
        assert word in text.split(repr(value), 1)[1], f"{word!r} is not among what is allowed in: {text}"


# several changes that contradict each other; the block named; every part the message must have
CONTRADICTIONS = [
    ({"image.height": 300}, "image", ["300x128", "288x144", "height", "resize_height"]),
    ({"image.width": 145}, "image", ["256x145", "288x144"]),
    ({"cluster.k": 7}, "cluster", ["sweep [2, 3, 4, 5]", "k 7"]),
    ({"cluster.k": "auto", "cluster.sweep": [1]}, "cluster", ["auto", "[1]", "at least 2"]),
    ({"cluster.sweep": [2, 3, 3]}, "cluster", ["[2, 3, 3]", "twice"]),
    ({"cluster.sweep": [3, 200], "cluster.minibatch_above": 150}, "cluster", ["[3, 200]", "minibatch_above 150"]),
    ({"gan.height": 100}, "gan", ["100x128", "multiples of 16"]),
    ({"gan.width": 40}, "gan", ["128x40", "multiples of 16"]),
    ({"gan.kind": "conditional", "gan.parent_epochs": 3}, "gan", ["parent_epochs 3", "conditional", "0"]),
    ({"gan.discriminator": "both", "gan.r1": 0.5}, "gan", ["r1 0.5", "both", "make it 0"]),
    ({"gan.reconstruction": 0.0, "gan.reconstruction_epochs": 4}, "gan", ["reconstruction_epochs 4", "make it 0"]),
    ({"train.optimizer.name": "sgd-nesterov", "train.optimizer.momentum": 0}, "train.optimizer", ["momentum 0", "sgd"]),
    (
        {"train.schedule.name": "one-cycle", "train.schedule.warmup_epochs": 3},
        "train.schedule",
        ["warmup_epochs 3", "one-cycle", "one_cycle_warmup", "set warmup_epochs to 0"],
    ),
    ({"train.schedule.warmup_epochs": 130}, "train", ["schedule.warmup_epochs 130", "less than epochs 130"]),
    ({"encoder.schedule.warmup_epochs": 41}, "encoder", ["schedule.warmup_epochs 41", "less than epochs 40"]),
    ({"train.schedule.step_epochs": [40, 40]}, "train.schedule", ["step_epochs [40, 40]", "ascending"]),
    (
        {"train.sampler": "identities", "train.images_per_identity": 5},
        "train",
        ["batch_size 32", "no multiple of images_per_identity 5", "change one"],
    ),
    (
        {"train.sampler": "identities", "train.images_per_identity": 32},
        "train",
        ["batch_size 32 holds one identity", "images_per_identity 32", "twice as large"],
    ),
    (
        {"encoder.triplet.weight": 1.0},
        "encoder",
        ["triplet.weight 1.0", "sampler is shuffle", "set sampler: identities", "triplet.weight to 0"],
    ),
    (
        {"train.triplet.weight": 0.5, "train.sampler": "identities", "train.images_per_identity": 1},
        "train",
        ["triplet.weight 0.5", "images_per_identity 1", "to 2 or more"],
    ),
    (
        {"generated.noise_learning_rate": 0.01, "generated.weight": 0},
        "generated",
        ["noise_learning_rate 0.01", "weight 0", "nothing to learn from"],
    ),
    ({"studies.regularizers": ["mprl", "lsr", "mprl"]}, "studies", ["['mprl', 'lsr', 'mprl']", "twice"]),
    ({"dataset.name": "cuhk03"}, "dataset", ["protocol null", "classic or np"]),
    ({"dataset.name": "cuhk03", "dataset.protocol": "np"}, "dataset", ["boxes null", "detected or labeled"]),
    (
        {"dataset.name": "cuhk03", "dataset.protocol": "classic", "dataset.boxes": "labeled"},
        "dataset",
        ["split null", "1 to 20"],
    ),
    (
        {
            "dataset.name": "cuhk03",
            "dataset.protocol": "classic",
            "dataset.boxes": "labeled",
            "dataset.split": 21,
        },
        "dataset",
        ["split 21", "1 to 20"],
    ),
    (
        {"dataset.name": "cuhk03", "dataset.protocol": "np", "dataset.boxes": "labeled", "dataset.split": 1},
        "dataset",
        ["split 1", "null"],
    ),
    ({"dataset.name": "viper"}, "dataset", ["split null", "1 to 10"]),
    ({"dataset.name": "viper", "dataset.split": 11}, "dataset", ["split 11", "1 to 10"]),
    ({"dataset.split": 1}, "dataset", ["split 1", "null"]),
    ({"dataset.protocol": "np"}, "dataset", ["protocol np", "market1501", "null"]),
    ({"dataset.boxes": "labeled"}, "dataset", ["boxes labeled", "market1501", "null"]),
    ({"share.pictures": None}, "share", ["pictures null", "generated go to private alone", "name a remote"]),
    ({"share.prepared": None}, "share", ["prepared null", "pictures go to private alone"]),
]


@pytest.mark.parametrize(("changes", "block", "parts"), CONTRADICTIONS, ids=[str(c[0]) for c in CONTRADICTIONS])
def test_a_contradiction_is_explained(changes, block, parts):
    values = copy.deepcopy(DEFAULTS)
    for key, value in changes.items():
        part = changed(key, value)
        above, target = part, values
        *path, last = key.split(".")
        for name in path:
            above, target = above[name], target[name]
        target[last] = above[last]
    text = message(values)
    assert f"  {block}: " in text
    assert len(text.splitlines()) == 2, f"one problem, said once: {text}"
    for part in parts:
        assert part in text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cluster.k", "auto"),
        ("cluster.sweep", [3]),
        ("dataset.identities", 2),
        ("train.batch_size", 2),
        ("train.schedule.warmup_epochs", 129),
        ("train.schedule.warmup_start", 1),
        ("train.schedule.step_epochs", [40, 70]),
        ("train.images_per_identity", 5),
        ("train.triplet.margin", None),
        ("train.center.weight", 0.0005),
        ("train.ema", 0.999),
        ("train.random_erasing", 0),
        ("train.random_erasing", 1),
        ("train.weights", "weights/mine.safetensors"),
        ("generated.weight", 0),
        ("generated.noise_learning_rate", 0.5),
        ("pseudo_labels.start", 0),
        ("studies.regularizers", ["mprl", "lsr"]),
        ("image.height", 288),
        ("generate.jpeg_quality", 100),
        ("evaluate.rerank.lambda_value", 0),
        ("dataset.archive", "mine/a..b.zip"),
    ],
)
def test_the_edge_of_what_is_allowed_is_allowed(key, value):
    params = validate_params(changed(key, value), "params.yaml").model_dump()
    for part in key.split("."):
        params = params[part]
    assert params == value


@pytest.mark.parametrize("path", LEAVES, ids=".".join)
def test_every_knob_is_required_and_a_misspelled_one_is_named(path):
    values = copy.deepcopy(DEFAULTS)
    block = values
    for key in path[:-1]:
        block = block[key]
    value = block.pop(path[-1])
    assert f"  {'.'.join(path)}: missing; presets/defaults.yaml" in message(values)
    block[path[-1] + "x"] = value
    assert f"  {'.'.join(path)}x: unknown key (value {value!r})" in message(values)


JUNK = st.sampled_from(
    [None, True, -1, 0, 2**40, -0.5, math.nan, math.inf, "", "junk", "int", [], [None], ["a", 2], {}, {"k": 1}]
)


@settings(max_examples=300)
@given(path=st.sampled_from(LEAVES), value=JUNK)
def test_no_value_passes_unread_or_ends_in_another_error(path, value):
    values = changed(".".join(path), value)
    try:
        params = validate_params(values, "params.yaml")
    except InputError as error:
        text = str(error)
        assert all(part in text for part in path)
    else:
        kept = params.model_dump()
        for key in path:
            kept = kept[key]
        assert kept == value, "a value was accepted but changed"
        assert type(kept) is type(value) or not isinstance(value, bool)


def test_all_mistakes_come_in_one_message():
    values = changed("train.epochs", 0)
    values["cluster"]["k"] = 9
    values["generate"]["imagse"] = values["generate"].pop("images")
    text = message(values)
    for part in ("train.epochs: 0", "k 9", "generate.imagse: unknown key", "generate.images: missing"):
        assert part in text


@pytest.mark.parametrize("name", ["none", "int", "float", "weird[0]", "nothing"])
@pytest.mark.parametrize("block", [None, "train"])
def test_an_unknown_key_is_named_whatever_its_name(values, name, block):
    (values if block is None else values[block])[name] = 3
    key = name if block is None else f"{block}.{name}"
    assert f"  {key}: unknown key (value 3)" in message(values)


@pytest.mark.parametrize("value", [None, 3, "text", [1]])
@pytest.mark.parametrize("block", sorted(DEFAULTS))
def test_a_block_must_be_a_block(values, block, value):
    values[block] = value
    text = message(values)
    assert f"  {block}: {value!r} is not allowed" in text
    del values[block]
    assert f"  {block}: missing" in message(values)


@pytest.mark.parametrize("values", [None, [], "text", 3])
def test_parameters_that_are_no_blocks_are_refused(values):
    assert f"holds {type(values).__name__}" in message(values)


def test_parameters_cannot_be_changed_afterwards():
    params = validate_params(copy.deepcopy(DEFAULTS), "params.yaml")
    with pytest.raises(ValidationError, match="frozen"):
        params.train.epochs = 3


@pytest.fixture(scope="module")
def text():
    return (PRESETS / "defaults.yaml").read_text(encoding="utf-8")


def edited(text, line, replacement):
    assert line in text
    return text.replace(line, replacement)


def read(tmp_path, content):
    path = tmp_path / "params.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_params(path)


def refused(tmp_path, content):
    with pytest.raises(InputError) as caught:
        read(tmp_path, content)
    assert str(tmp_path / "params.yaml") in str(caught.value)
    return str(caught.value)


def test_a_file_is_read(tmp_path, text):
    params = read(tmp_path, text)
    assert isinstance(params, Params)
    assert params.model_dump() == DEFAULTS


def test_a_missing_file_says_how_to_write_one(tmp_path):
    with pytest.raises(InputError, match="no such file; run `slsr preset"):
        load_params(tmp_path / "params.yaml")
    with pytest.raises(InputError, match="no such file"):
        load_params(tmp_path)


@pytest.mark.parametrize("content", ["a: [1", "a: b: c", "\tx: 1", b"\xff\xfe\x00", b"name: caf\xe9", "a: &b [*b, *c]"])
def test_a_file_that_is_no_yaml_is_refused(tmp_path, content):
    assert "not valid YAML" in refused(tmp_path, content)


def test_an_empty_file_is_refused(tmp_path):
    assert "NoneType" in refused(tmp_path, "")


def test_python_objects_in_yaml_are_not_made(tmp_path):
    marker = tmp_path / "made"
    refused(tmp_path, f"dataset: !!python/object/apply:os.mkdir ['{marker}']")
    assert not marker.exists()


def test_a_key_given_twice_is_refused(tmp_path, text):
    twice = edited(text, "  jpeg_quality: 95", "  jpeg_quality: 95\n  jpeg_quality: 60")
    assert "jpeg_quality" in refused(tmp_path, twice)


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "1.0e-3", "0.001", ".001"])
def test_numbers_are_read_as_dvc_reads_them(tmp_path, text, number):
    """YAML 1.2: DVC writes 0.00001 as 1e-05, and people write 1e-3."""
    other = edited(text, "  learning_rate: 0.0002", f"  learning_rate: {number}")
    assert read(tmp_path, other).gan.learning_rate == 0.001


@pytest.mark.parametrize("word", ["yes", "on", "'true'"])
def test_words_are_no_booleans(tmp_path, text, word):
    found = refused(tmp_path, edited(text, "  flip: true", f"  flip: {word}"))
    assert "evaluate.flip" in found
    assert "boolean" in found


@pytest.mark.parametrize("name", preset_names(PRESETS))
def test_every_preset_is_valid(tmp_path, name):
    text = render_preset(PRESETS, name)
    assert read(tmp_path, text).model_dump() == validate_params(load_yaml(text), name).model_dump()


def load_yaml(text):
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True).load(text)


def test_the_defaults_are_the_published_method():
    """method.md's column "default", so that no default drifts unseen."""
    params = validate_params(copy.deepcopy(DEFAULTS), "defaults.yaml")
    encoder, train, gan = params.encoder, params.train, params.gan
    assert (encoder.backbone, encoder.weights, encoder.epochs) == ("resnet50", "imagenet", 40)
    assert (encoder.optimizer.name, encoder.optimizer.learning_rate, encoder.optimizer.momentum) == ("sgd", 0.001, 0.9)
    assert (params.cluster.k, params.cluster.sweep) == (3, [2, 3, 4, 5])
    assert (params.cluster.initialization, params.cluster.restarts) == ("k-means++", 10)
    assert (gan.height, gan.width, gan.latent, gan.channels, gan.epochs, gan.batch_size) == (128, 128, 100, 64, 30, 64)
    assert (gan.learning_rate, gan.beta1, gan.generator_steps) == (2e-4, 0.5, 2)
    assert (gan.discriminator_activation, gan.discriminator_batch_norm) == ("leaky-relu", "all-but-first")
    assert (params.generate.images, params.generate.allocation, params.generated.weight) == (12000, "equal", 1.0)
    assert (train.backbone, train.weights, train.head, train.epochs) == ("resnet50", "imagenet", "bottleneck", 130)
    assert (train.batch_size, train.random_erasing, train.label_smoothing) == (32, 0.5, 0.0)
    optimizer = train.optimizer
    assert (optimizer.name, optimizer.learning_rate, optimizer.head_learning_rate) == ("sgd-nesterov", 0.01, 0.05)
    assert (optimizer.momentum, optimizer.weight_decay) == (0.9, 5e-4)
    assert (train.schedule.name, train.schedule.step_epochs, train.schedule.step_factor) == ("step", 40, 0.1)
    assert (train.schedule.inverse_gamma, train.schedule.inverse_power) == (0.1, 0.025)
    image = params.image
    assert (image.resize_height, image.resize_width, image.height, image.width) == (288, 144, 256, 128)
    assert (image.normalization, image.test) == ("imagenet", "whole")
    rerank = params.evaluate.rerank
    assert (params.evaluate.flip, rerank.k1, rerank.k2, rerank.lambda_value) == (True, 20, 6, 0.3)
    assert params.evaluate.multi_query == "mean"


@pytest.mark.parametrize("weights", ["/tmp/x.pth", "../x.pth", "a/../../x.pth"])
def test_a_weights_file_lies_where_dvc_sees_it(values, weights):
    values["train"]["weights"] = weights
    with pytest.raises(InputError, match=r"train: weights '.*' must be imagenet, none, or a file below weights/"):
        validate_params(values, "params.yaml")


NOTHING_WITHHELD = {"prepared": None, "pictures": None, "generated": None}


@pytest.mark.parametrize("name", ["market1501", "dukemtmc"])
def test_images_of_people_are_not_shared_by_oversight(name):
    values = changed("share", NOTHING_WITHHELD)
    values["dataset"]["name"] = name
    text = message(values)
    assert "share.prepared, share.pictures, share.generated null" in text
    assert values["dataset"]["archive"] in text
    assert "private" in text


@pytest.mark.parametrize("block", ["encoder", "train"])
def test_the_best_epoch_needs_people_who_are_held_out(block):
    values = changed(f"{block}.keep", "best")
    text = message(values)
    for part in (f"{block}.keep best", "dataset.validation is one-per-identity", "dataset.validation: identities"):
        assert part in text
    values["dataset"]["validation"] = "identities"
    assert getattr(validate_params(values, "params.yaml"), block).keep == "best"


def test_every_kind_of_picture_of_people_names_its_remote():
    text = message(changed("share", NOTHING_WITHHELD | {"prepared": "private"}))
    assert "share.pictures, share.generated null" in text


@pytest.mark.parametrize(
    ("name", "archive"), [("market1501", "slsr-sample.zip"), ("folder", "ours"), ("table", "t.csv")]
)
def test_drawn_images_and_ones_own_may_go_anywhere(name, archive):
    values = changed("share", NOTHING_WITHHELD)
    values["dataset"] |= {"name": name, "archive": archive}
    assert validate_params(values, "params.yaml").share.prepared is None


def test_a_stage_receives_its_blocks_and_its_arguments():
    params = validate_params(copy.deepcopy(DEFAULTS), "params.yaml")
    seen = []
    run_with_blocks(lambda image, regularizer, train: seen.append((image, regularizer, train)), params, "slsr")
    assert seen == [(params.image, "slsr", params.train)]


@pytest.mark.parametrize("arguments", [[], ["slsr", "more"]])
def test_arguments_that_do_not_fit_a_stage_are_an_error(arguments):
    params = validate_params(copy.deepcopy(DEFAULTS), "params.yaml")
    with pytest.raises(TypeError, match=r"takes \['regularizer'\] in addition to its blocks"):
        run_with_blocks(lambda image, regularizer="none": None, params, *arguments)


def test_overrides_replace_values_and_leave_the_rest():
    params = validate_params(copy.deepcopy(DEFAULTS), "params.yaml")
    found = with_overrides(params, {"train.optimizer.learning_rate": 0.5, "cluster.sweep": [3]}, "-S")
    assert (found.train.optimizer.learning_rate, found.cluster.sweep) == (0.5, [3])
    expected = copy.deepcopy(DEFAULTS)
    expected["train"]["optimizer"]["learning_rate"] = 0.5
    expected["cluster"]["sweep"] = [3]
    assert found.model_dump() == expected
    assert params.model_dump() == DEFAULTS


def test_padding_without_a_random_crop_is_refused():
    values = changed("train.padding", 10)
    values["train"]["random_crop"] = False
    assert "padding 10 has no effect with random_crop: false" in message(values)
