"""Contact sheets: every image stands where it should, pixel for pixel."""

import numpy as np
import pytest
from PIL import Image
from tiny import noise

from slsr.reporting.sheets import CAPTION_HEIGHT, Panel, animate_panels, draw_panels


def sheet(path, panels, columns):
    draw_panels(path, panels, columns)
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.parametrize(("width", "factor"), [(128, 1), (64, 1), (32, 2), (20, 3), (8, 8)])
def test_images_stand_in_rows_enlarged_by_a_whole_factor(tmp_path, width, factor):
    first, second = noise(5, 12, width, seed=1), noise(2, 12, width, seed=2)
    found = sheet(tmp_path / "s.png", [Panel("one", first), Panel("two", second)], columns=3)
    height = 12 * factor
    assert found.shape == (3 * height + 2 * CAPTION_HEIGHT, 3 * width * factor, 3)
    tops = [CAPTION_HEIGHT, CAPTION_HEIGHT + height, 2 * CAPTION_HEIGHT + 2 * height]
    places = [(tops[0], c) for c in range(3)] + [(tops[1], c) for c in range(2)] + [(tops[2], c) for c in range(2)]
    for (top, column), image in zip(places, [*first, *second], strict=True):
        cell = found[top : top + height, column * width * factor : (column + 1) * width * factor]
        np.testing.assert_array_equal(cell[::factor, ::factor], image)
        np.testing.assert_array_equal(cell[factor - 1 :: factor, factor - 1 :: factor], image)
    for top in tops[1:]:
        assert (found[top : top + height, 2 * width * factor :] == 255).all(), "what is left of a row is white"


def test_captions_are_drawn(tmp_path):
    images = noise(3, 12, 64)
    texts = [
        sheet(tmp_path / "s.png", [Panel(text, images)], 3)[:CAPTION_HEIGHT] for text in ("", "cluster 1", "cluster 2")
    ]
    assert (texts[0] == 255).all()
    assert (texts[1] == 0).any()
    assert not np.array_equal(texts[1], texts[2])


def test_the_same_sheet_is_the_same_bytes(tmp_path):
    for name in ("one.png", "two.png"):
        draw_panels(tmp_path / name, [Panel("caption", noise(4, 12, 8))], 2)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert not Image.open(tmp_path / "one.png").info


def test_an_animation_shows_the_sheets_one_after_the_other(tmp_path):
    flat = [np.full((4, 12, 64, 3), level, np.uint8) for level in (30, 120, 220)]
    frames = [[Panel(f"epoch {number}", pixels)] for number, pixels in enumerate(flat)]
    for name in ("one.webp", "two.webp"):
        animate_panels(tmp_path / name, frames, 2)
    assert (tmp_path / "one.webp").read_bytes() == (tmp_path / "two.webp").read_bytes()
    moving = Image.open(tmp_path / "one.webp")
    assert (moving.n_frames, moving.size, moving.info["loop"]) == (3, (128, CAPTION_HEIGHT + 24), 0)
    for number, level in enumerate((30, 120, 220)):
        moving.seek(number)
        grid = np.asarray(moving.convert("RGB"))[CAPTION_HEIGHT + 4 :]
        assert abs(grid.mean() - level) < 6
    animate_panels(tmp_path / "still.webp", frames[:1], 2)
    assert Image.open(tmp_path / "still.webp").size == (128, CAPTION_HEIGHT + 24)
