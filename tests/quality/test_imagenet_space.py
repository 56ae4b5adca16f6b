"""The ImageNet space: its features, what it says of degraded real images, and the verdict."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageFilter
from scipy.ndimage import gaussian_filter

from slsr.images.decoding import decode_resized, encode_jpeg
from slsr.models.efficientnet_lite import packaged_state
from slsr.quality.assessment import Alarm, Measured, assess, find_alarms
from slsr.quality.features import handcrafted
from slsr.quality.imagenet import imagenet
from slsr.quality.spaces import HEARD, IMAGENET_NETWORKS, MEASURES, limits_in
from slsr.quality.verdict import judge, worst

CPU = torch.device("cpu")
# Those of presets/defaults.yaml.
LIMITS = {"coverage": 0.2, "duplicates": 0.2, "copies": 0.05, "precision": 0.5, "recall": 0.1}
LIMITS |= {"kernel_deviations": 50.0, "density": 2.0}
CLOSE, POORER, NOT_USABLE = "close to real images", "recognizable, but poorer", "not usable"


def noise(count, height=64, width=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("network", IMAGENET_NETWORKS.values())
@torch.no_grad()
def test_features_are_those_of_timms_network_before_its_classifier(network):
    whole = timm.create_model(network, num_classes=0).eval()
    whole.load_state_dict({key: one for key, one in packaged_state(network).items() if "classifier" not in key})
    pixels = noise(3, 128, 64)
    expected = whole(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1)
    np.testing.assert_allclose(imagenet(pixels, CPU, network), expected, rtol=1e-3, atol=1e-4)


def test_smaller_images_are_resized_first():
    pixels = noise(2)
    larger = [np.asarray(Image.fromarray(one).resize((64, 128), Image.Resampling.BILINEAR)) for one in pixels]
    expected = imagenet(np.stack(larger), CPU)
    np.testing.assert_allclose(imagenet(pixels, CPU), expected, atol=0.02 * expected.max())


def test_features_have_the_same_bytes_beside_any_number_of_others():
    pixels = noise(35)
    together = imagenet(pixels, CPU)
    assert together.shape == (35, 1280)
    assert np.array_equal(imagenet(pixels[:3], CPU), together[:3])
    assert np.array_equal(imagenet(pixels[33:], CPU), together[33:])
    assert imagenet(pixels[:0], CPU).shape == (0, 1280)


@pytest.fixture(scope="module")
def halves(drawn_people):
    order = np.random.default_rng(1).permutation(len(drawn_people))
    return [drawn_people[half] for half in np.array_split(order, 2)]


def blurred(pixels, radius):
    return np.stack([np.asarray(Image.fromarray(one).filter(ImageFilter.GaussianBlur(radius))) for one in pixels])


def gray(pixels):
    return np.stack([np.asarray(Image.fromarray(one).convert("L").convert("RGB")) for one in pixels])


def grainy(pixels, levels):
    grain = np.random.default_rng(1).normal(0, levels, pixels.shape)
    return np.clip(pixels + grain, 0, 255).round().astype(np.uint8)


def blots(pixels, amplitude):
    """Smooth colored noise around the mean image."""
    smooth = gaussian_filter(np.random.default_rng(1).normal(size=pixels.shape), (0, 2, 2, 0))
    drawn = pixels.mean(axis=0) + smooth / smooth.std() * amplitude * pixels.std(axis=0).mean()
    return np.clip(drawn, 0, 255).round().astype(np.uint8)


DEGRADED = {
    "as they are": (CLOSE, lambda pixels: pixels),
    "mirrored": (CLOSE, lambda pixels: pixels[:, :, ::-1]),
    "JPEG": (CLOSE, lambda pixels: decode_resized([encode_jpeg(one, 75) for one in pixels], 64, 32)),
    "grain of 2 levels": (CLOSE, lambda pixels: grainy(pixels, 2)),
    "grain of 12 levels": (POORER, lambda pixels: grainy(pixels, 12)),
    "blur": (POORER, lambda pixels: blurred(pixels, 1.5)),
    "gray": (POORER, gray),
    "upside-down": (POORER, lambda pixels: pixels[:, ::-1]),
    "blots": (NOT_USABLE, lambda pixels: blots(pixels, 0.3)),
    "mean image": (NOT_USABLE, lambda pixels: blots(pixels, 0.0)),
    "noise": (NOT_USABLE, lambda pixels: noise(len(pixels))),
    "one image": (NOT_USABLE, lambda pixels: pixels[:1].repeat(len(pixels), axis=0)),
}


def assessed(known, taken):
    measured = assess(imagenet(known, CPU), imagenet(np.ascontiguousarray(taken), CPU), MEASURES["imagenet"], seed=1)
    return measured, find_alarms(measured, limits_in("imagenet", LIMITS))


@pytest.mark.parametrize(("expected", "degrade"), DEGRADED.values(), ids=DEGRADED)
def test_the_verdict_on_degraded_real_images(halves, expected, degrade):
    known, taken = halves
    measured, alarms = assessed(known, degrade(taken))
    assert judge(measured, alarms) == expected
    assert bool(alarms) == (expected == NOT_USABLE) or expected == POORER


def test_the_imagenet_space_prefers_blurred_people_to_blots_and_colors_and_edges_do_not(halves):
    """Blots that have the mean, the deviation and the smoothness of real images."""
    known, taken = halves
    images = {"blurred": blurred(taken, 1.5), "grainy": grainy(taken, 12), "blots": blots(taken, 0.3)}
    kernels = {
        space: {
            name: assess(describe(known), describe(pixels), ["kernel"], seed=1)["kernel"].value
            for name, pixels in images.items()
        }
        for space, describe in {"imagenet": lambda pixels: imagenet(pixels, CPU), "handcrafted": handcrafted}.items()
    }
    seen, measured = kernels["imagenet"], kernels["handcrafted"]
    assert max(seen["blurred"], seen["grainy"]) < seen["blots"] / 2
    assert measured["grainy"] > measured["blots"] / 2


def test_copies_are_heard_by_colors_and_edges_and_are_not_close(halves):
    known, _ = halves
    copies = grainy(known, 3)
    measured, alarms = assessed(known, copies)
    found = assess(handcrafted(known), handcrafted(copies), MEASURES["handcrafted"], seed=1)
    alarms = [*alarms, *find_alarms(found, limits_in("handcrafted", LIMITS))]
    assert "memorization" in {alarm.alarm for alarm in alarms}
    assert judge(measured, alarms) == POORER


def fixed(kernel, coverage=0.9, duplicates=0.0):
    return {
        "kernel": Measured(kernel, 0.1, 0.1, 0.1),
        "coverage": Measured(coverage, 0.1, 1.0, 0.1),
        "duplicates": Measured(duplicates, 0.1, 0.0, 0.1),
    }


ALARM = Alarm("memorization", "copies", 0.5, 0.05)


@pytest.mark.parametrize(
    ("measured", "alarms", "expected"),
    [
        (fixed(0.39), [], CLOSE),
        (fixed(0.41), [], POORER),
        (fixed(0.39, coverage=0.81), [], CLOSE),
        (fixed(0.39, coverage=0.79), [], POORER),
        (fixed(0.39), [ALARM], POORER),
        (fixed(1.89), [], POORER),
        (fixed(1.91), [], NOT_USABLE),
        (fixed(0.1, duplicates=0.5), [], CLOSE),
        (fixed(0.1, duplicates=0.51), [], NOT_USABLE),
        (fixed(None), [], None),
    ],
)
def test_the_verdict_follows_its_rules(measured, alarms, expected):
    assert judge(measured, alarms) == expected


def test_the_worst_verdict_is_that_of_several_networks():
    assert worst([CLOSE, POORER]) == POORER
    assert worst([NOT_USABLE, CLOSE]) == NOT_USABLE
    assert worst([None, CLOSE]) == CLOSE
    assert worst([None]) is None


def test_every_limit_is_heard_in_some_space_and_copies_in_two():
    assert set(HEARD) == set(MEASURES)
    assert {name for heard in HEARD.values() for name in heard} == set(LIMITS)
    assert limits_in("encoder", LIMITS) == {}
    assert [space for space in ("imagenet", "handcrafted", "encoder") if "copies" in HEARD[space]] == [
        "imagenet",
        "handcrafted",
    ]
