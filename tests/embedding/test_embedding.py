"""The library face: images in any form become the features that `evaluate` compares."""

import hashlib
import io
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import enormous_png
from PIL import Image as PillowImage
from safetensors.torch import save_file
from tiny import encode, make_image, noise
from trained import write_model

import slsr
from slsr.embedding.checkpoint_file import check_encoder, fingerprint
from slsr.embedding.encoder import load_encoder
from slsr.embedding.engine import extract_features
from slsr.embedding.pictures import MAXIMUM_BYTES, open_picture
from slsr.errors import InputError
from slsr.images import decoding
from slsr.images.decoding import TURNS, open_image, to_rgb
from slsr.models.checkpoint import save_checkpoint

PIXELS = [noise(1, 20 + 3 * number, 15 + 2 * number, seed=number)[0] for number in range(11)]

pytestmark = pytest.mark.usefixtures("tiny_backbone")


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model" / "model.safetensors")


@pytest.fixture
def encoder(model):
    return load_encoder(model)


def by_the_stage(encoder, encoded):
    names = [f"{number}.png" for number in range(len(encoded))]
    features = extract_features(encoder.network, encoded, names, encoder.device, flip=encoder.flip, batch_size=128)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("test", ["whole", "center-crop"])
def test_features_are_those_of_the_evaluate_stage(tmp_path, test, flip):
    encoder = load_encoder(write_model(tmp_path / "m.safetensors", test=test), flip=flip)
    encoded = [encode(pixels) for pixels in PIXELS]
    of_stage = by_the_stage(encoder, encoded)
    np.testing.assert_allclose(encoder.embed(encoded, batch_size=4), of_stage, atol=1e-5)


def test_every_form_of_an_image_gives_the_same_feature(encoder, tmp_path):
    encoded = encode(PIXELS[3])
    path = tmp_path / "one.png"
    path.write_bytes(encoded)
    forms = [path, str(path), encoded, PillowImage.open(io.BytesIO(encoded)), PIXELS[3]]
    features = encoder.embed(forms)
    assert features.dtype == np.float32
    assert features.shape == (5, encoder.dimension) == (5, 16)
    np.testing.assert_allclose(features, features[[0] * 5], atol=1e-7)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)


def test_what_lies_under_transparent_pixels_reaches_no_network(encoder, tmp_path):
    """In any form of an image, and in the stages."""
    alpha = np.where(np.arange(PIXELS[3].shape[1]) < 9, 0, 255)[None].repeat(PIXELS[3].shape[0], axis=0)
    behind = np.array([124, 116, 104], np.uint8)
    visible = np.where(alpha[..., None] == 0, behind, PIXELS[3])
    forms = [encode(visible)]
    for number, hidden in enumerate((PIXELS[3][::-1], np.zeros_like(PIXELS[3]))):
        colors = np.where(alpha[..., None] == 0, hidden, PIXELS[3])
        content = encode(np.dstack([colors, alpha]).astype(np.uint8))
        (tmp_path / f"{number}.png").write_bytes(content)
        forms += [content, tmp_path / f"{number}.png", PillowImage.open(io.BytesIO(content))]
    features = encoder.embed(forms)
    np.testing.assert_allclose(features, features[[0] * len(forms)], atol=1e-7)
    np.testing.assert_allclose(by_the_stage(encoder, [forms[1]]), features[:1], atol=1e-5)


def turned(orientation, form, **options):
    """PIXELS[3] as a camera that was held so stores it."""
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    picture = PillowImage.fromarray(PIXELS[3])
    back = {6: 8, 8: 6}.get(orientation, orientation)
    stored = picture if orientation == 1 else picture.transpose(TURNS[back])
    buffer = io.BytesIO()
    stored.save(buffer, form, exif=exif, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright_in_every_form(encoder, tmp_path, orientation, form):
    content = turned(orientation, form)
    (tmp_path / "one").write_bytes(content)
    forms = [PIXELS[3], content, tmp_path / "one", PillowImage.open(io.BytesIO(content))]
    for item in forms:
        opened = open_picture(item, "x")
        assert np.array_equal(np.asarray(opened), PIXELS[3])
        assert np.array_equal(np.asarray(open_picture(opened, "x")), PIXELS[3]), "not turned twice"
    features = [encoder.embed([item]).tobytes() for item in forms]
    assert features == features[:1] * 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_stages_turn_pictures_upright_as_the_commands_do(encoder, orientation):
    """Or a model would be trained on sideways pictures, and asked with upright ones."""
    content = turned(orientation, "PNG")
    np.testing.assert_allclose(encoder.embed([PIXELS[3]]), by_the_stage(encoder, [content]), atol=1e-5)


def test_a_jpeg_of_a_phone_held_upright_is_nearly_the_upright_picture(encoder):
    upright, phone = encoder.embed([encode(PIXELS[3]), turned(6, "JPEG", quality=95, subsampling=0)])
    assert upright @ phone > 0.999


def test_a_picture_of_the_caller_stays_as_it_is():
    picture = PillowImage.open(io.BytesIO(turned(6, "PNG")))
    before = picture.size
    assert open_picture(picture, "x").size == before[::-1]
    assert (picture.size, picture.getexif()[0x0112]) == (before, 6)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_metadata_turn_nothing():
    buffer = io.BytesIO()
    PillowImage.fromarray(PIXELS[3]).save(buffer, "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert np.array_equal(np.asarray(open_picture(buffer.getvalue(), "x")), PIXELS[3])


@pytest.mark.parametrize(
    ("form", "dtype"), [("PNG", "uint16"), ("PNG", ">u2"), ("TIFF", "uint16"), ("TIFF", ">u2"), ("TIFF", "int32")]
)
def test_16_bit_gray_is_that_of_the_pipeline_tile_by_tile(monkeypatch, form, dtype):
    monkeypatch.setattr(decoding, "TILE", 7)
    values = np.random.default_rng(1).integers(0, 65536, (33, 20)).astype(dtype)
    buffer = io.BytesIO()
    PillowImage.fromarray(values).save(buffer, form)
    expected = to_rgb(open_image(buffer.getvalue(), "x"), "x")
    assert np.array_equal(np.asarray(open_picture(buffer.getvalue(), "x")), np.asarray(expected))


def test_16_bit_gray_takes_no_24_bytes_a_pixel():
    buffer = io.BytesIO()
    PillowImage.new("I;16", (3000, 2000), 40000).save(buffer, "PNG")
    tracemalloc.start()
    picture = open_picture(buffer.getvalue(), "x")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert picture.size == (3000, 2000)
    assert peak < 40 * 2**20, "8-byte numbers of the whole picture are 46 MiB"


def test_a_generator_in_uneven_batches_keeps_the_order(encoder):
    together = encoder.embed(PIXELS, batch_size=100)
    np.testing.assert_allclose(encoder.embed((pixels for pixels in PIXELS), batch_size=3), together, atol=1e-6)
    assert not np.allclose(together[0], together[1], atol=1e-3)


def test_no_images_are_no_features(encoder):
    assert encoder.embed([]).shape == (0, 16)


def test_a_stream_is_read_two_batches_ahead_at_most(encoder):
    taken = []

    def endless():
        for number in range(10**9):
            taken.append(number)
            yield f"{number}", PIXELS[number % len(PIXELS)]

    stream = encoder.stream(endless(), batch_size=5)
    for number in range(4):
        rows, features = next(stream)
        assert rows == list(range(5 * number, 5 * number + 5))
        assert features.shape == (5, 16)
        assert len(taken) == 5 * (number + 2)
    stream.close()


def test_memory_does_not_grow_with_the_stream(encoder):
    def images(count):
        return ((f"{number}", np.full((200, 200, 3), number % 256, np.uint8)) for number in range(count))

    def peak(count):
        tracemalloc.start()
        for _ in encoder.stream(images(count), batch_size=4):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak(8)
    assert peak(160) < 12 * 200 * 200 * 3, "two batches of four images, the one that is being made, and some room"


def test_unreadable_images_are_told_or_fatal(encoder):
    images = [("good", PIXELS[0]), ("bad", b"no image"), ("cut", encode(PIXELS[1])[:100]), ("fine", PIXELS[2])]
    told = []
    found = list(encoder.stream(images, batch_size=2, unreadable=told.append))
    assert [rows for rows, _ in found] == [[0], [3]]
    np.testing.assert_allclose(np.concatenate([f for _, f in found]), encoder.embed([PIXELS[0], PIXELS[2]]), atol=1e-6)
    assert [str(error).split(":")[0] for error in told] == ["bad", "cut"]
    with pytest.raises(InputError, match=r"^bad: not an image"):
        list(encoder.stream(images, batch_size=2))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "image 0: an empty file"),
        (enormous_png(), "image 0: more than"),
        (PillowImage.new("1", (8000, 8000)), "image 0: 8000x8000 pixels"),
        ("missing.jpg", "missing.jpg: no such file"),
        (Path("/"), "/: not a file"),
        (np.zeros((4, 4, 3), np.float32), "image 0: an array float32"),
        (np.zeros((4, 4, 4), np.uint8), "image 0: an array uint8"),
        (np.zeros((0, 4, 3), np.uint8), "image 0: an array uint8"),
        (7, "image 0: a int"),
    ],
)
def test_what_is_no_image_is_refused_by_name(encoder, image, message):
    with pytest.raises(InputError, match=f"^{message}"):
        encoder.embed([image])


def test_a_picture_that_pillow_has_not_read_yet_may_be_damaged(encoder):
    with pytest.raises(InputError, match=r"^image 0: does not decode"):
        encoder.embed([PillowImage.open(io.BytesIO(encode(PIXELS[5])[:200]))])


def test_one_image_alone_is_a_mistake(encoder):
    with pytest.raises(InputError, match="list"):
        encoder.embed("one.jpg")


def test_a_file_too_large_to_be_an_image_is_not_read(encoder, tmp_path):
    with (tmp_path / "video.jpg").open("wb") as file:
        file.truncate(MAXIMUM_BYTES + 1)
    with pytest.raises(InputError, match=r"video.jpg: more than 512 MiB"):
        encoder.embed([tmp_path / "video.jpg"])


def test_batches_have_at_least_one_image(encoder):
    with pytest.raises(InputError, match="batch size 0"):
        encoder.embed(PIXELS, batch_size=0)


def test_what_is_known_of_an_encoder(model, encoder):
    assert encoder.fingerprint == hashlib.sha256(model.read_bytes()).hexdigest() == fingerprint(model)
    assert load_encoder(model.parent).fingerprint == encoder.fingerprint
    assert encoder.size == (32, 32)
    assert not encoder.network.training
    whole = load_encoder(write_model(model.with_name("whole.safetensors"), test="whole"))
    assert whole.size == (36, 36)
    assert make_image().resize_height == 36


def test_its_text_is_one_line(encoder):
    text = repr(encoder)
    assert len(text) < 200 and "\n" not in text
    for part in ("resnet18", "16 dimensions", "on cpu", encoder.fingerprint[:12]):
        assert part in text


def test_other_files_are_refused(tmp_path, model):
    torch.save({"weights": torch.zeros(1)}, tmp_path / "model.pth")
    save_file({"weights": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    save_checkpoint(tmp_path / "generator.safetensors", {"weights": torch.zeros(1)}, {"kind": "generator"})
    (tmp_path / "cut.safetensors").write_bytes(model.read_bytes()[:-100])
    (tmp_path / "empty").mkdir()
    for name, message in {
        "model.pth": "not a .safetensors file",
        "foreign.safetensors": "not a model of this project",
        "generator.safetensors": "no encoder",
        "cut.safetensors": "not a readable safetensors",
        "empty": "a folder without model.safetensors",
        "missing.safetensors": "no such model",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            load_encoder(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
        with pytest.raises(InputError, match=message):  # the check of the commands, which loads no torch
            check_encoder(tmp_path / name)
    check_encoder(model)
    check_encoder(model.parent)


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path, model):
    from slsr.models.checkpoint import load_checkpoint

    tensors, description = load_checkpoint(model)
    save_checkpoint(tmp_path / "other.safetensors", tensors, description | {"backbone": "resnet50"})
    with pytest.raises(InputError, match="other version"):
        load_encoder(tmp_path / "other.safetensors")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta:x"])
def test_a_device_that_is_not_there(model, device):
    with pytest.raises(InputError, match=device):
        load_encoder(model, device)


def test_the_package_offers_it_without_loading_torch_first():
    assert slsr.load_encoder is load_encoder
    with pytest.raises(AttributeError, match="other"):
        slsr.other  # noqa: B018
    source = "import sys, slsr; assert 'torch' not in sys.modules; slsr.load_encoder; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", source], check=True, env=os.environ)
