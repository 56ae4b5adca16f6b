"""Features in batches against one image at a time."""

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from tiny import encode, make_image, noise
from torchvision.transforms import functional

from slsr.embedding.engine import extract_features
from slsr.errors import InputError
from slsr.models.encoder import Encoder, EncoderDescription

CPU = torch.device("cpu")
PIXELS = [noise(1, 20 + 3 * number, 15 + 2 * number, seed=number)[0] for number in range(11)]
ENCODED = [encode(pixels) for pixels in PIXELS]
NAMES = [f"{number}.png" for number in range(11)]

pytestmark = pytest.mark.usefixtures("tiny_backbone")


def encoder(head="bottleneck", image=None, classes=5):
    torch.manual_seed(0)
    network = Encoder(EncoderDescription("resnet18", head, classes, image or make_image()))
    network.train()
    with torch.no_grad():
        network(torch.randn(8, 3, 32, 32))  # so that the batch statistics are not those of a fresh network
    return network


def extract(network, encoded=ENCODED, flip=False, batch_size=128):
    return extract_features(network, encoded, NAMES[: len(encoded)], CPU, flip=flip, batch_size=batch_size)


def naive(network, image, flip):
    """One image at a time, resized by Pillow, normalized by torchvision."""
    network.eval()
    rows = []
    for pixels in PIXELS:
        resized = PillowImage.fromarray(pixels).resize((image.resize_width, image.resize_height), PillowImage.BICUBIC)
        scaled = torch.from_numpy(np.array(resized)).permute(2, 0, 1) / 255
        inputs = functional.normalize(scaled, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        if image.test == "center-crop":
            inputs = functional.center_crop(inputs, [image.height, image.width])
        with torch.no_grad():
            row = network.backbone(inputs[None]).mean(dim=(2, 3))[0]
            if flip:
                row = row + network.backbone(functional.hflip(inputs)[None]).mean(dim=(2, 3))[0]
        rows.append(row.numpy())
    return np.array(rows)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("test", ["whole", "center-crop"])
def test_features_equal_a_loop_over_images(test, flip):
    image = make_image(test=test)
    network = encoder(image=image)
    found = extract(network, flip=flip, batch_size=4)
    assert found.dtype == np.float32
    assert found.shape == (11, 16)
    np.testing.assert_allclose(found, naive(network, image, flip), rtol=1e-4, atol=1e-5)


def test_mirrored_images_count():
    network = encoder()
    plain, summed = (extract(network, flip=flip) for flip in (False, True))
    mirrored = extract(network, [encode(p[:, ::-1].copy()) for p in PIXELS])
    np.testing.assert_allclose(summed, plain + mirrored, rtol=1e-3, atol=0.02)
    assert not np.allclose(plain, mirrored, atol=1e-3)


@pytest.mark.parametrize("batch_size", [1, 3, 5])
def test_batches_change_nothing_but_rounding(batch_size):
    network = encoder()
    found = extract(network, flip=True, batch_size=batch_size)
    np.testing.assert_allclose(found, extract(network, flip=True), rtol=1e-5, atol=1e-6)


def test_rows_follow_the_images():
    network = encoder()
    order = [7, 0, 10, 3, 3]
    whole = extract(network)
    found = extract(network, [ENCODED[row] for row in order], batch_size=2)
    np.testing.assert_allclose(found, whole[order], rtol=1e-5, atol=1e-6)
    assert np.abs(whole[7] - whole[0]).max() > 0.01


def test_the_same_features_twice_and_no_trace_in_the_network():
    network = encoder()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    first = extract(network, flip=True)
    np.testing.assert_array_equal(first, extract(network, flip=True))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_no_images_are_no_features():
    assert extract(encoder(), []).shape == (0, 16)


def test_an_image_that_does_not_decode_is_named():
    with pytest.raises(InputError, match=r"^9\.png: "):
        extract(encoder(), [*ENCODED[:9], ENCODED[9][:60], ENCODED[10]], batch_size=4)
