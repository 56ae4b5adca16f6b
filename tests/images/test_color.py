"""HSV stripes against a loop over pixels with the standard library's colorsys."""

import colorsys

import numpy as np
import pytest

from slsr.images.color import hsv_stripes


def away_from_edges(pixels, bins, margin=1e-4):
    """Replace pixels whose color lies on the edge of a bin, where rounding decides."""
    result = pixels.copy()
    for place in np.ndindex(pixels.shape[:-1]):
        channels = colorsys.rgb_to_hsv(*(int(part) / 255 for part in pixels[place]))
        scaled = [value * size for value, size in zip(channels, bins, strict=True)]
        if any(0 < abs(value - round(value)) < margin or (value == round(value) != 0) for value in scaled):
            result[place] = (200, 31, 77)
    return result


def naive(pixels, stripes, bins):
    features = []
    for image in pixels:
        height, width = image.shape[:2]
        histogram = np.zeros((stripes, *bins))
        for row in range(height):
            for column in range(width):
                hsv = colorsys.rgb_to_hsv(*(int(part) / 255 for part in image[row, column]))
                cell = tuple(min(int(value * size), size - 1) for value, size in zip(hsv, bins, strict=True))
                histogram[(int(row * stripes / height), *cell)] += 1
        shares = histogram.reshape(stripes, -1)
        shares = shares / shares.sum(axis=1, keepdims=True)
        features.append(np.sqrt(shares / stripes).ravel())
    return np.array(features)


@pytest.mark.parametrize(
    ("height", "width", "stripes", "bins"), [(16, 6, 8, (8, 4, 4)), (13, 5, 4, (6, 3, 2)), (9, 4, 1, (5, 5, 5))]
)
def test_histograms_equal_a_loop_over_pixels(height, width, stripes, bins):
    generator = np.random.default_rng(height)
    pixels = generator.integers(0, 256, (3, height, width, 3), dtype=np.uint8)
    pixels[1] //= 16
    pixels[2, ..., 1] = pixels[2, ..., 0]
    pixels = away_from_edges(pixels, bins)
    np.testing.assert_allclose(hsv_stripes(pixels, stripes, bins), naive(pixels, stripes, bins), atol=1e-6)


def test_black_white_gray_and_pure_colors():
    colors = np.array(
        [[0, 0, 0], [255, 255, 255], [100, 100, 100], [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 0, 250]], np.uint8
    )
    pixels = np.repeat(colors[:, None, None], 8, axis=1).repeat(3, axis=2)
    found = hsv_stripes(pixels)
    np.testing.assert_allclose(found, naive(pixels, 8, (8, 4, 4)), atol=1e-6)
    assert len({row.tobytes() for row in found}) == len(colors)


def test_rows_have_unit_length_and_say_where_a_color_is():
    pixels = np.random.default_rng(1).integers(0, 256, (4, 21, 7, 3), dtype=np.uint8)
    found = hsv_stripes(pixels)
    assert found.dtype == np.float32
    assert found.shape == (4, 8 * 8 * 4 * 4)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(hsv_stripes(pixels[:, :, ::-1]), found), "mirroring changes nothing"
    assert not np.allclose(hsv_stripes(pixels[:, ::-1]), found), "turning upside down does"


def test_no_images_are_no_features():
    assert hsv_stripes(np.empty((0, 16, 8, 3), np.uint8)).shape == (0, 1024)
