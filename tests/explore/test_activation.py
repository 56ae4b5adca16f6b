"""Activation maps beside what they must add up to."""

import numpy as np
import pytest
import timm
import torch
from explored import person
from PIL import Image as PillowImage
from tiny import make_image

from slsr.embedding.encoder import LoadedEncoder
from slsr.explore.activation import ActivationMap, draw_map, energy_map, map_size, similarity_map
from slsr.images.augmentation import to_input
from slsr.images.decoding import open_rgb
from slsr.models.encoder import Encoder, EncoderDescription


def picture(identity, seed=0):
    return open_rgb(person(identity, seed), "x")


@pytest.fixture(params=[True, False], ids=["flip", "no flip"])
def encoder(tiny_backbone, request):
    return loaded("plain", "average", request.param)


def loaded(head, pooling, flip):
    """With a neck that has seen images, if it has one."""
    torch.manual_seed(3)
    network = Encoder(EncoderDescription("resnet18", head, 3, make_image(), pooling=pooling)).eval()
    if head == "bnneck":
        network.neck.running_mean.normal_()
        network.neck.running_var.uniform_(0.5, 2.0)
    return LoadedEncoder(network, "0" * 64, flip)


def test_a_similarity_map_sums_to_the_cosine_similarity_of_the_features(encoder):
    query, other = picture(1), picture(2)
    one, two = encoder.embed([query, other])
    found = similarity_map(encoder, other, one)
    assert found.values.shape == (8, 8)
    assert float(found.values.sum()) == pytest.approx(float(one @ two), abs=1e-5)
    assert float(similarity_map(encoder, query, one).values.sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize(("head", "pooling"), [("bnneck", "average"), ("plain", "gem"), ("bnneck", "gem")])
def test_so_it_does_behind_a_neck_and_with_a_generalized_mean(tiny_backbone, head, pooling, flip):
    encoder = loaded(head, pooling, flip)
    images = [picture(1), picture(2), picture(2, 5)]
    features = encoder.embed(images)
    for image, own in zip(images, features, strict=True):
        for query in features:
            found = similarity_map(encoder, image, query)
            assert found.values.shape == (8, 8)
            assert float(found.values.sum()) == pytest.approx(float(query @ own), abs=1e-5)
    spread = similarity_map(encoder, images[0], features[0]).values
    assert spread.std() > 0.01 * abs(spread.mean()), "some places add more than others"


def test_an_activation_map_beside_a_loop(encoder):
    image = picture(1)
    view = encoder.image
    pixels = np.array(image.resize((view.resize_width, view.resize_height), PillowImage.Resampling.BICUBIC))[None]
    expected = np.zeros((8, 8))
    for mirrored in (False, True) if encoder.flip else (False,):
        batch = to_input(torch.from_numpy(pixels), view)
        batch = batch.flip(3) if mirrored else batch
        with torch.no_grad():
            maps = encoder.network.backbone(batch)[0].numpy()
        for row in range(8):
            for column in range(8):
                length = float(np.sqrt(sum(channel[row, column] ** 2 for channel in maps)))
                expected[row, 7 - column if mirrored else column] += length
    np.testing.assert_allclose(energy_map(encoder, image).values, expected, atol=1e-4)


def test_a_mirrored_image_has_the_mirrored_map(encoder):
    image = picture(2, 5)
    mirrored = image.transpose(PillowImage.Transpose.FLIP_LEFT_RIGHT)
    if encoder.flip:
        np.testing.assert_allclose(
            energy_map(encoder, mirrored).values, energy_map(encoder, image).values[:, ::-1], atol=1e-4
        )


@pytest.mark.parametrize(
    ("backbone", "height", "cells"), [("densenet121", 64, (8, 4)), ("resnet18", 64, (8, 4)), ("resnet18", 256, (8, 4))]
)
def test_the_deepest_map_with_eight_rows_is_drawn(backbone, height, cells):
    size = {"height": height, "width": height // 2, "resize_height": height, "resize_width": height // 2}
    network = Encoder(EncoderDescription(backbone, "plain", 3, make_image(**size))).eval()
    encoder = LoadedEncoder(network, "0" * 64)
    assert map_size(encoder, "activation") == cells
    assert map_size(encoder, "similarity") == (height // 32, height // 64)


LITE0 = "tf_efficientnet_lite0"


@pytest.mark.parametrize(
    ("backbone", "height", "last_stride", "cells"),
    [
        (LITE0, 64, 2, (8, 4)),
        (LITE0, 128, 2, (8, 4)),
        (LITE0, 128, 1, (8, 4)),
        (LITE0, 256, 2, (8, 4)),
        (LITE0, 32, 2, (8, 8)),
        ("vit_tiny_patch16_224", 64, 2, (4, 2)),
        ("vit_tiny_patch16_224", 128, 2, (8, 4)),
    ],
)
def test_so_it_is_of_a_network_of_timm(backbone, height, last_stride, cells):
    """Or the last map where none has eight rows, as the patches of a transformer in small images."""
    encoder = of_timm(backbone, height, last_stride)
    assert map_size(encoder, "activation") == cells


def of_timm(backbone, height, last_stride=2):
    size = {"height": height, "width": max(32, height // 2), "resize_height": height}
    image = make_image(**size, resize_width=size["width"])
    torch.manual_seed(3)
    network = Encoder(EncoderDescription(backbone, "plain", 3, image, last_stride=last_stride)).eval()
    return LoadedEncoder(network, "0" * 64, flip=False)


@pytest.mark.parametrize(("height", "stage"), [(64, 2), (128, 3)])
def test_a_stage_of_a_network_of_timm_is_the_one_that_timm_itself_gives(height, stage):
    """The same weights in timm's own feature extractor of one stage."""
    encoder = of_timm(LITE0, height)
    theirs = timm.create_model(LITE0, features_only=True, out_indices=(stage,)).eval()
    theirs.load_state_dict({key: encoder.network.backbone.state_dict()[key] for key in theirs.state_dict()})
    pixels = np.array(picture(1).resize((height // 2, height), PillowImage.Resampling.BICUBIC))[None]
    with torch.no_grad():
        (maps,) = theirs(to_input(torch.from_numpy(pixels), encoder.image))
    expected = np.sqrt((maps[0].numpy() ** 2).sum(axis=0))
    np.testing.assert_allclose(energy_map(encoder, picture(1)).values, expected, rtol=1e-4, atol=1e-5)


def test_a_map_with_enough_rows_is_the_one_that_is_pooled():
    """Of EfficientNet, whose last convolution comes after its stages."""
    encoder = of_timm(LITE0, 256)
    pixels = np.array(picture(1).resize((128, 256), PillowImage.Resampling.BICUBIC))[None]
    with torch.no_grad():
        maps = encoder.network.backbone(to_input(torch.from_numpy(pixels), encoder.image))
    assert maps.shape[1:] == (1280, 8, 4)
    expected = maps[0].norm(dim=0).numpy()
    np.testing.assert_allclose(energy_map(encoder, picture(1)).values, expected, rtol=1e-4, atol=1e-5)


def test_a_drawn_map_is_bright_where_the_map_is_high():
    values = np.array([[0, 0], [0, 1]], np.float32)
    gray = PillowImage.new("RGB", (40, 80), (128, 128, 128))
    drawn = np.asarray(draw_map(gray, ActivationMap(values, 0.0), (40, 80), make_image(test="whole")), int)
    assert drawn.shape == (80, 40, 3)
    assert drawn[75, 36].sum() > 2 * drawn[5, 4].sum()


def test_a_flat_map_and_a_center_crop():
    image = PillowImage.new("RGB", (36, 72), "white")
    view = make_image(height=64, width=32, resize_height=72, resize_width=36)
    flat = ActivationMap(np.ones((2, 1), np.float32), 1.0)
    assert draw_map(image, flat, (192, 256), view).size == (32, 64)
