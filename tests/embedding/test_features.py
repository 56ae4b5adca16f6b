"""Features in batches against one image at a time."""

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from tiny import encode, make_image, noise
from torchvision.transforms import functional

from slsr.embedding import tables as room
from slsr.embedding.tables import extract_features
from slsr.errors import InputError
from slsr.models.encoder import Encoder, EncoderDescription

CPU = torch.device("cpu")
PIXELS = [noise(1, 20 + 3 * number, 15 + 2 * number, seed=number)[0] for number in range(11)]
ENCODED = [encode(pixels) for pixels in PIXELS]

pytestmark = pytest.mark.usefixtures("tiny_backbone")


def encoder(head="bottleneck", image=None, classes=5):
    torch.manual_seed(0)
    network = Encoder(EncoderDescription("resnet18", head, classes, image or make_image()))
    network.train()
    with torch.no_grad():
        network(torch.randn(8, 3, 32, 32))  # so that the batch statistics are not those of a fresh network
    return network


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
    found = extract_features(network, ENCODED, image, CPU, flip=flip, batch_size=4)
    assert found.dtype == np.float32
    assert found.shape == (11, 16)
    np.testing.assert_allclose(found, naive(network, image, flip), rtol=1e-4, atol=1e-5)


def test_mirrored_images_count():
    image = make_image()
    network = encoder()
    plain, summed = (extract_features(network, ENCODED, image, CPU, flip=flip) for flip in (False, True))
    mirrored = extract_features(network, [encode(p[:, ::-1].copy()) for p in PIXELS], image, CPU)
    np.testing.assert_allclose(summed, plain + mirrored, rtol=1e-3, atol=0.02)
    assert not np.allclose(plain, mirrored, atol=1e-3)


@pytest.mark.parametrize("at_once", [1024, 5, 1])
@pytest.mark.parametrize("batch_size", [1, 3, 128])
def test_batches_and_blocks_change_nothing_but_rounding(monkeypatch, batch_size, at_once):
    network, image = encoder(), make_image()
    whole = extract_features(network, ENCODED, image, CPU, flip=True)
    monkeypatch.setattr(room, "DECODED_AT_ONCE", at_once)
    found = extract_features(network, ENCODED, image, CPU, flip=True, batch_size=batch_size)
    np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-6)


def test_rows_follow_the_images():
    network, image = encoder(), make_image()
    order = [7, 0, 10, 3, 3]
    whole = extract_features(network, ENCODED, image, CPU)
    found = extract_features(network, [ENCODED[row] for row in order], image, CPU, batch_size=2)
    np.testing.assert_allclose(found, whole[order], rtol=1e-5, atol=1e-6)
    assert np.abs(whole[7] - whole[0]).max() > 0.01


def test_the_same_features_twice_and_no_trace_in_the_network():
    network, image = encoder(), make_image()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    first = extract_features(network, ENCODED, image, CPU, flip=True)
    np.testing.assert_array_equal(first, extract_features(network, ENCODED, image, CPU, flip=True))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_no_images_are_no_features():
    assert len(extract_features(encoder(), [], make_image(), CPU)) == 0


def test_an_image_that_does_not_decode_is_named(monkeypatch):
    monkeypatch.setattr(room, "DECODED_AT_ONCE", 4)
    broken = [*ENCODED[:9], ENCODED[9][:60], ENCODED[10]]
    names = [f"{number}.png" for number in range(11)]
    with pytest.raises(InputError, match=r"^9\.png: "):
        extract_features(encoder(), broken, make_image(), CPU, names=names)
