"""Tables to tensors."""

import numpy as np
import pytest
import torch
from tiny import encode, make_image, noise

from slsr.errors import InputError
from slsr.images.loading import load_labeled, load_pixels
from slsr.images.tables import TRAINING, table_writer


def write(path, images, labels):
    with table_writer(path, TRAINING) as table:
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            table.append({"image": image, "name": f"{number}.png", "identity": label, "camera": 1, "label": label})
    return path


def test_a_training_table_becomes_pixels_and_labels(tmp_path):
    pixels = noise(5)
    path = write(tmp_path / "t.parquet", [encode(one) for one in pixels], [2, 0, 1, 1, 2])
    found = load_labeled(path, make_image())
    np.testing.assert_array_equal(found.pixels, pixels)
    assert found.pixels.dtype == torch.uint8
    assert found.labels.dtype == torch.int64
    assert found.labels.tolist() == [2, 0, 1, 1, 2]
    assert torch.equal(load_pixels([path], make_image()), found.pixels)


def test_images_get_the_size_of_the_parameters(tmp_path):
    path = write(tmp_path / "t.parquet", [encode(one) for one in noise(2)], [0, 1])
    assert load_pixels([path], make_image(resize_height=40, resize_width=34)).shape == (2, 40, 34, 3)
    smooth, sharp = (
        load_pixels([path], make_image(resize_height=40, interpolation=n)) for n in ("bilinear", "bicubic")
    )
    assert not torch.equal(smooth, sharp)


def test_tables_follow_each_other(tmp_path):
    pixels = noise(5)
    paths = [
        write(tmp_path / "b.parquet", [encode(one) for one in pixels[:2]], [0, 1]),
        write(tmp_path / "a.parquet", [encode(one) for one in pixels[2:]], [1, 1, 0]),
    ]
    np.testing.assert_array_equal(load_pixels(paths, make_image()), pixels)
    np.testing.assert_array_equal(load_pixels(paths[::-1], make_image()), pixels[[2, 3, 4, 0, 1]])


def test_an_image_that_does_not_decode_is_named(tmp_path):
    path = write(tmp_path / "t.parquet", [encode(noise(1)[0]), b"junk"], [0, 1])
    with pytest.raises(InputError, match=r"^1\.png: not an image"):
        load_pixels([path], make_image())
