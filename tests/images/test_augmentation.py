"""Augmentation of a batch against a loop over images, and its draws against torchvision's transforms."""

from typing import get_args

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from timm.data import constants
from tiny import make_image, noise
from torchvision import transforms
from torchvision.transforms import functional

from slsr.images.augmentation import (
    NORMALIZATION,
    augment,
    augment_by_gathers,
    augment_by_slices,
    draw_augmentation,
    to_input,
)
from slsr.params.recipe import Normalization

MEAN_AND_DEVIATION = {
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "symmetric": ([0.5] * 3, [0.5] * 3),
    "unit": ([0.0] * 3, [1.0] * 3),
    "clip": (constants.OPENAI_CLIP_MEAN, constants.OPENAI_CLIP_STD),
    "dpn": (constants.IMAGENET_DPN_MEAN, constants.IMAGENET_DPN_STD),
}
# the color of the mean, normalized
ERASED = dict.fromkeys(["imagenet", "symmetric", "clip", "dpn"], [0.0] * 3) | {"unit": [0.485, 0.456, 0.406]}
LEVEL = 0.001  # each statistical test fails by chance so rarely, and never twice: the seeds are fixed


def draw(count, image_size, crop_size, seed=0, **options):
    return draw_augmentation(count, image_size, crop_size, torch.Generator().manual_seed(seed), **options)


def normalized(image, normalization):
    mean, deviation = (np.array(part) for part in MEAN_AND_DEVIATION[normalization])
    return (image / 255.0 - mean) / deviation


def jittered(image, factors):
    """An image in 0..255 with other colors, by torchvision in float64."""
    picture = torch.from_numpy(image.transpose(2, 0, 1).copy()) / 255
    changes = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)
    for change, factor in zip(changes, factors.tolist(), strict=True):
        picture = change(picture, factor)
    return 255 * picture.numpy().transpose(1, 2, 0)


def naive(pixels, images, choice, crop_size, normalization, padding=0):
    """The same crop, mirroring, colors and erasing, one image after another: float64 [B, 3, h, w]."""
    height, width = crop_size
    result = []
    for place, number in enumerate(images.tolist()):
        top, left = int(choice.top[place]) + padding, int(choice.left[place]) + padding
        padded = np.pad(pixels[number], [(padding, padding), (padding, padding), (0, 0)])
        image = padded[top : top + height, left : left + width].astype(float)
        assert image.shape == (height, width, 3), "the crop leaves the padded image"
        if choice.flip[place]:
            image = image[:, ::-1]
        if choice.color_factors is not None:
            image = jittered(image, choice.color_factors[place])
        image = normalized(image, normalization)
        for row in range(int(choice.erase_top[place]), int(choice.erase_top[place] + choice.erase_height[place])):
            for column in range(
                int(choice.erase_left[place]), int(choice.erase_left[place] + choice.erase_width[place])
            ):
                image[row, column] = ERASED[normalization]
        result.append(image.transpose(2, 0, 1))
    return np.array(result)


def test_the_tests_use_every_normalization():
    assert set(get_args(Normalization)) - {"backbone"} == set(MEAN_AND_DEVIATION) == set(NORMALIZATION)


@pytest.mark.parametrize(
    ("normalization", "name"),
    [
        ("imagenet", "convnext_base.fb_in22k"),
        ("imagenet", "densenet121.tv_in1k"),
        ("imagenet", "efficientnet_b0.ra_in1k"),
        ("imagenet", "mobilenetv3_large_100.ra_in1k"),
        ("imagenet", "resnet50.a1_in1k"),
        ("imagenet", "swin_base_patch4_window7_224.ms_in22k"),
        ("imagenet", "vit_base_patch14_dinov2.lvd142m"),
        ("symmetric", "beit_base_patch16_224.in22k_ft_in22k"),
        ("symmetric", "tf_efficientnet_lite0.in1k"),
        ("symmetric", "vit_base_patch16_224.augreg_in21k_ft_in1k"),
        ("symmetric", "vit_base_patch16_siglip_256.webli"),
        ("unit", "mobilevit_s.cvnets_in1k"),
        ("unit", "tresnet_m.miil_in1k"),
        ("clip", "eva02_base_patch14_448.mim_in22k_ft_in22k_in1k"),
        ("clip", "resnet50_clip.openai"),
        ("clip", "vit_base_patch16_clip_224.openai"),
        ("dpn", "dpn68.mx_in1k"),
        ("dpn", "dpn92.mx_in1k"),
    ],
)
def test_the_normalizations_are_those_of_pretrained_networks(normalization, name):
    published = timm.get_pretrained_cfg(name)
    assert NORMALIZATION[normalization] == (published.mean, published.std)


@pytest.mark.parametrize("normalization", MEAN_AND_DEVIATION)
@pytest.mark.parametrize(("size", "crop"), [((18, 9), (16, 8)), ((16, 8), (16, 8)), ((11, 23), (7, 13))])
@pytest.mark.parametrize("options", [{}, {"padding": 3}, {"padding": 3, "color_jitter": 0.6}], ids=str)
def test_a_batch_equals_a_loop_over_its_images(normalization, size, crop, options):
    pixels = noise(12, *size)
    images = torch.tensor([3, 0, 11, 3, 7, 5, 5, 1, 2, 10])
    choice = draw(len(images), size, crop, random_erasing=0.7, **options)
    assert choice.flip.any()
    assert not choice.flip.all()
    assert 0 < (choice.erase_height > 0).sum() < len(images)
    found = augment(torch.from_numpy(pixels), images, choice, crop, normalization)
    expected = naive(pixels, images, choice, crop, normalization, options.get("padding", 0))
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(found, expected, atol=1e-5 if "color_jitter" in options else 2e-6)
    mean, deviation = (np.array(part)[:, None, None] for part in MEAN_AND_DEVIATION[normalization])
    color = np.array(ERASED[normalization])[:, None, None]
    erased = np.abs(found.numpy() - color).max(axis=1) < 1e-6
    np.testing.assert_array_equal(erased, np.abs(expected - color).max(axis=1) < 1e-6)
    assert erased.any()
    natural = np.array(MEAN_AND_DEVIATION["imagenet" if normalization == "unit" else normalization][0])
    np.testing.assert_allclose((color * deviation + mean)[:, 0, 0], natural, err_msg="black is no mean")


@given(
    crop=st.tuples(st.integers(1, 17), st.integers(1, 9)),
    seed=st.integers(0, 2**20),
    normalization=st.sampled_from(sorted(MEAN_AND_DEVIATION)),
    padding=st.sampled_from([0, 1, 10, 40]),
    random_crop=st.booleans(),
)
def test_the_cpus_way_gives_the_same_bits_as_every_other_devices(crop, seed, normalization, padding, random_crop):
    pixels = torch.from_numpy(noise(7, 17, 9, seed=seed))
    images = torch.from_numpy(np.random.default_rng(seed).integers(0, 7, 12))
    choice = draw(12, (17, 9), crop, seed, random_erasing=0.6, padding=padding, random_crop=random_crop)
    one, other = (cut(pixels, images, choice, crop, normalization) for cut in (augment_by_slices, augment_by_gathers))
    assert one.dtype == other.dtype == torch.float32
    assert one.is_contiguous()
    assert other.is_contiguous()
    assert one.numpy().tobytes() == other.numpy().tobytes()
    assert torch.equal(augment(pixels, images, choice, crop, normalization), one.permute(0, 3, 1, 2))


@pytest.mark.parametrize("strength", [0.2, 0.9])
def test_color_jitter_on_a_cpu_is_that_on_every_other_device(strength):
    pixels, images = torch.from_numpy(noise(7, 17, 9)), torch.tensor([3, 0, 6, 6, 1])
    choice = draw(5, (17, 9), (16, 8), random_erasing=0.5, padding=2, color_jitter=strength)
    one, other = (cut(pixels, images, choice, (16, 8), "clip") for cut in (augment_by_slices, augment_by_gathers))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"padding": 2, "color_jitter": 0.2}], ids=str)
def test_no_images_are_an_empty_batch(options):
    pixels, none = torch.from_numpy(noise(2, 17, 9)), torch.empty(0, dtype=torch.int64)
    for cut in (augment_by_slices, augment_by_gathers):
        assert cut(pixels, none, draw(0, (17, 9), (16, 8), **options), (16, 8), "unit").shape == (0, 16, 8, 3)


@pytest.mark.parametrize(("options", "tolerance"), [({"padding": 3}, 0), ({"color_jitter": 0.4}, 1e-5)], ids=str)
def test_a_batch_may_be_split(options, tolerance):
    """On two devices, each takes its part of the draw."""
    pixels, images = torch.from_numpy(noise(9, 20, 12)), torch.tensor([4, 8, 0, 0, 2, 6, 7])
    choice = draw(7, (20, 12), (16, 8), random_erasing=0.5, **options)
    whole = augment(pixels, images, choice, (16, 8), "imagenet")
    parts = [
        augment(pixels, images[rows], choice.rows(rows), (16, 8), "imagenet")
        for rows in (slice(0, 1), slice(1, 5), slice(5, 7))
    ]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("strength", "copies"), [(0.0, 1), (0.3, 2)])
def test_a_draw_reaches_a_device_whole_in_few_copies(strength, copies, monkeypatch):
    choice, copied = draw(6, (20, 12), (16, 8), random_erasing=0.5, padding=3, color_jitter=strength), []

    def copy(tensor, device):
        copied.append(device)
        return tensor.clone()

    monkeypatch.setattr("slsr.images.augmentation.to_device", copy)
    device = torch.device("meta")
    there = choice.to(device)
    assert copied == [device] * copies
    for name, value in vars(choice).items():
        found = vars(there)[name]
        assert (value is None) == (found is None)
        if value is not None:
            torch.testing.assert_close(found, value, rtol=0, atol=0)


def test_the_pixels_stay_as_they_are():
    pixels = torch.from_numpy(noise(2, 18, 9))
    before = pixels.clone()
    augment(pixels, torch.tensor([0, 1, 1]), draw(3, (18, 9), (16, 8), random_erasing=1), (16, 8), "unit")
    assert torch.equal(pixels, before)


def test_a_seed_gives_the_same_draw_and_another_one_another():
    options = {"random_erasing": 0.5, "padding": 4, "color_jitter": 0.2}
    one, two, three = (draw(50, (72, 36), (64, 32), seed, **options) for seed in (1, 1, 2))
    for name, value in vars(one).items():
        assert torch.equal(value, vars(two)[name])
        assert not torch.equal(value, vars(three)[name])


def test_a_seed_draws_what_it_drew_before_there_was_padding_and_color_jitter():
    """Else the results of every run that git keeps would change."""
    choice = draw(6, (288, 144), (256, 128), seed=1, random_erasing=0.5)
    assert choice.color_factors is None
    assert choice.top.tolist() == [2, 18, 19, 23, 21, 30]
    assert choice.left.tolist() == [3, 1, 8, 6, 3, 16]
    assert choice.flip.tolist() == [True, True, False, True, False, False]
    assert choice.erase_top.tolist() == [66, 116, 57, 54, 39, 248]
    assert choice.erase_left.tolist() == [7, 63, 23, 7, 79, 109]
    assert choice.erase_height.tolist() == [96, 0, 113, 40, 0, 0]
    assert choice.erase_width.tolist() == [112, 0, 81, 93, 0, 0]


def test_padding_and_color_jitter_leave_the_other_choices_as_they_are():
    plain, padded, jittered = (
        draw(50, (72, 36), (64, 32), seed=3, random_erasing=0.5, **options)
        for options in ({}, {"padding": 5}, {"color_jitter": 0.3})
    )
    for name in ("flip", "erase_top", "erase_left", "erase_height", "erase_width"):
        assert torch.equal(vars(padded)[name], vars(plain)[name])
    for name in set(vars(plain)) - {"color_factors"}:
        assert torch.equal(vars(jittered)[name], vars(plain)[name])


@pytest.mark.parametrize("padding", [0, 1, 10])
def test_the_center_is_cut_where_nothing_is_drawn(padding):
    choice = draw(5, (72, 36), (64, 32), random_crop=False, horizontal_flip=False, padding=padding)
    assert choice.top.tolist() == [4] * 5
    assert choice.left.tolist() == [2] * 5
    assert not choice.flip.any()
    assert (choice.erase_height == 0).all()
    assert (choice.erase_width == 0).all()
    pixels = torch.from_numpy(noise(5, 72, 36))
    found = augment(pixels, torch.arange(5), choice, (64, 32), "unit")
    expected = transforms.CenterCrop((64, 32))(pixels.permute(0, 3, 1, 2)) / 255
    torch.testing.assert_close(found, expected)


@given(
    height=st.integers(2, 40),
    width=st.integers(2, 40),
    slack=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    padding=st.integers(0, 12),
    seed=st.integers(0, 2**20),
)
def test_crops_and_erased_boxes_stay_inside(height, width, slack, padding, seed):
    size = (height + slack[0], width + slack[1])
    choice = draw(40, size, (height, width), seed, random_erasing=1.0, padding=padding)
    for start, length, room in (
        (choice.top + padding, height, size[0] + 2 * padding),
        (choice.left + padding, width, size[1] + 2 * padding),
        (choice.erase_top, choice.erase_height, height),
        (choice.erase_left, choice.erase_width, width),
    ):
        assert (start >= 0).all()
        assert (start + length <= room).all()
    # a box that spans the image is never taken (torchvision's rule)
    assert (choice.erase_height < height).all()
    assert (choice.erase_width < width).all()


COUNT, SIZE, CROP = 6000, (72, 36), (64, 32)


@pytest.fixture(scope="module")
def ours():
    return draw(COUNT, SIZE, CROP, seed=5, random_erasing=0.5)


@pytest.fixture(scope="module")
def theirs():
    """Offsets of RandomCrop and boxes of RandomErasing, as torchvision draws them."""
    torch.manual_seed(6)
    picture = torch.zeros(3, *SIZE)
    crops = [transforms.RandomCrop.get_params(picture, CROP)[:2] for _ in range(COUNT)]
    cut = torch.zeros(3, *CROP)
    boxes = [transforms.RandomErasing.get_params(cut, (0.02, 0.4), (0.3, 3.3), [0.0])[:4] for _ in range(COUNT // 2)]
    return np.array(crops), np.array(boxes)


def assert_uniform(offsets, choices):
    counts = np.bincount(offsets, minlength=choices)
    assert len(counts) == choices
    assert stats.chisquare(counts).pvalue > LEVEL


def test_crop_offsets_are_uniform_as_torchvisions(ours, theirs):
    for axis, offsets in enumerate((ours.top.numpy(), ours.left.numpy())):
        choices = SIZE[axis] - CROP[axis] + 1
        assert_uniform(offsets, choices)
        table = [np.bincount(one, minlength=choices) for one in (offsets, theirs[0][:, axis])]
        assert stats.chi2_contingency(table).pvalue > LEVEL


def test_crop_offsets_in_a_padded_image_are_uniform_as_torchvisions():
    padding = 5
    ours = draw(COUNT, SIZE, CROP, seed=11, padding=padding)
    torch.manual_seed(12)
    padded = transforms.Pad(padding)(torch.zeros(3, *SIZE))
    theirs = np.array([transforms.RandomCrop.get_params(padded, CROP)[:2] for _ in range(COUNT)])
    for axis, offsets in enumerate((ours.top.numpy() + padding, ours.left.numpy() + padding)):
        choices = SIZE[axis] + 2 * padding - CROP[axis] + 1
        assert_uniform(offsets, choices)
        table = [np.bincount(one, minlength=choices) for one in (offsets, theirs[:, axis])]
        assert stats.chi2_contingency(table).pvalue > LEVEL


def test_half_of_the_images_are_mirrored_as_by_torchvision(ours):
    assert stats.binomtest(int(ours.flip.sum()), COUNT, 0.5).pvalue > LEVEL
    torch.manual_seed(7)
    ramp = torch.arange(2.0).reshape(1, 1, 2)
    flip = transforms.RandomHorizontalFlip()
    theirs = sum(float(flip(ramp)[0, 0, 0]) for _ in range(COUNT))
    table = [[int(ours.flip.sum()), COUNT - int(ours.flip.sum())], [theirs, COUNT - theirs]]
    assert stats.chi2_contingency(table).pvalue > LEVEL


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.8])
def test_the_share_of_erased_images_is_the_probability(probability):
    erased = draw(COUNT, SIZE, CROP, seed=8, random_erasing=probability).erase_height > 0
    assert stats.binomtest(int(erased.sum()), COUNT, probability).pvalue > LEVEL


def boxes_of(choice):
    erased = (choice.erase_height > 0).numpy()
    columns = (choice.erase_top, choice.erase_left, choice.erase_height, choice.erase_width)
    return np.stack([column.numpy() for column in columns], axis=1)[erased]


@pytest.mark.parametrize(
    "measure",
    [
        lambda top, left, height, width: height * width,
        lambda top, left, height, width: height / width,
        lambda top, left, height, width: height,
        lambda top, left, height, width: width,
        lambda top, left, height, width: top,
        lambda top, left, height, width: left,
        lambda top, left, height, width: top / (CROP[0] - height + 1),
        lambda top, left, height, width: left / (CROP[1] - width + 1),
    ],
    ids=["area", "aspect", "height", "width", "top", "left", "share of the way down", "share of the way across"],
)
def test_erased_boxes_are_distributed_as_torchvisions(ours, theirs, measure):
    one, two = (measure(*boxes.T) for boxes in (boxes_of(ours), theirs[1]))
    assert stats.ks_2samp(one, two).pvalue > LEVEL


def test_erased_boxes_keep_to_the_published_ranges(ours):
    _, _, height, width = boxes_of(ours).T
    area, aspect = height * width / (CROP[0] * CROP[1]), height / width
    assert 0.015 < area.min() < 0.03
    assert 0.35 < area.max() < 0.43
    assert 0.25 < aspect.min() < 0.35
    assert 2.7 < aspect.max() < 4.0


def test_a_box_that_does_not_fit_is_drawn_anew(ours):
    """In a narrow image most wide boxes do not fit, yet nearly every image is erased, as torchvision does."""
    narrow = (64, 8)
    mine = draw(3000, narrow, narrow, seed=9, random_erasing=1.0)
    torch.manual_seed(10)
    picture = torch.ones(3, *narrow)
    found = [transforms.RandomErasing.get_params(picture, (0.02, 0.4), (0.3, 3.3), [0.0])[:4] for _ in range(2000)]
    theirs = np.array([box for box in found if box[2:] != narrow])
    share = (mine.erase_height > 0).float().mean().item()
    assert share > 0.9
    assert abs(share - len(theirs) / 2000) < 0.02
    mine = boxes_of(mine)
    assert stats.ks_2samp(mine[:, 2] * mine[:, 3], theirs[:, 2] * theirs[:, 3]).pvalue > LEVEL
    assert stats.ks_2samp(mine[:, 2] / mine[:, 3], theirs[:, 2] / theirs[:, 3]).pvalue > LEVEL


def test_the_choices_for_an_image_are_independent_of_each_other_and_of_its_neighbors(ours):
    erased = (ours.erase_height > 0).double()
    columns = torch.stack([ours.top.double(), ours.left.double(), ours.flip.double(), erased])
    correlation = torch.corrcoef(torch.cat([columns[:, 1:], columns[:, :-1]]))
    others = correlation[~torch.eye(len(correlation), dtype=torch.bool)]
    assert others.abs().max() < 4.5 / COUNT**0.5


@pytest.mark.parametrize("normalization", MEAN_AND_DEVIATION)
def test_images_without_augmentation_are_torchvisions(normalization):
    pixels = torch.from_numpy(noise(3, 40, 38))
    scaled = pixels.permute(0, 3, 1, 2) / 255
    expected = functional.normalize(scaled, *MEAN_AND_DEVIATION[normalization])
    size = {"height": 36, "width": 32, "resize_height": 40, "resize_width": 38, "normalization": normalization}
    whole = to_input(pixels, make_image(test="whole", **size))
    torch.testing.assert_close(whole, expected, atol=2e-6, rtol=0)
    cut = to_input(pixels, make_image(test="center-crop", **size))
    torch.testing.assert_close(cut, functional.center_crop(expected, [36, 32]), atol=2e-6, rtol=0)
    for found in (whole, cut):
        assert found.dtype == torch.float32
        assert found.is_contiguous(memory_format=torch.channels_last)
