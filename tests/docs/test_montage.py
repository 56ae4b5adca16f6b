"""tools/montage.py: the picture of the README shows right and wrong matches, and never real people."""

import io
import sys

import numpy as np
import pytest
from PIL import Image
from tiny import ROOT

from slsr.errors import InputError
from slsr.params.presets import render_preset
from slsr.reporting.figures import RIGHT, WRONG, RankedRow

sys.path.insert(0, str(ROOT / "tools"))

import montage

RED, BLUE, GREEN = (200, 20, 40), (20, 40, 200), (30, 150, 60)


def filled(color, count=None):
    shape = (128, 64, 3) if count is None else (count, 128, 64, 3)
    return np.full(shape, color, np.uint8)


def rgb(name):
    return [int(name[place : place + 2], 16) for place in (1, 3, 5)]


def test_images_and_frames_are_where_they_belong():
    rows = [RankedRow("easy", filled(RED), filled(BLUE, montage.DEPTH), np.arange(montage.DEPTH) % 2 == 0)]
    clusters = [montage.ClusterRow("9 images", filled(GREEN, 4), filled(RED, 4))]
    with Image.open(io.BytesIO(montage.encode(montage.draw(rows, clusters)))) as picture:
        pixels = np.asarray(picture).astype(int)
    assert pixels.shape == (montage.HEIGHT, montage.WIDTH, 3)
    middle = montage.TOP + 64
    first, second = (int(montage.LEFT + (rank + 1.3) * montage.PITCH[0]) for rank in (0, 1))
    for x, color in (
        (montage.LEFT + 32, RED),
        (first + 32, BLUE),
        (first, rgb(RIGHT)),
        (montage.MIDDLE + 32, GREEN),
        (int(montage.MIDDLE + 4.3 * montage.PITCH[0]) + 32, RED),
    ):
        assert abs(pixels[middle, x] - color).max() <= montage.COLOR_STEP
    dashed = pixels[montage.TOP : montage.TOP + 128, second]
    assert 0.3 < (abs(dashed - rgb(WRONG)).max(axis=1) < 40).mean() < 0.95


def test_the_committed_picture_is_small():
    file = ROOT / "docs/montage.png"
    with Image.open(file) as picture:
        assert picture.height <= 600 and picture.size == (montage.WIDTH, montage.HEIGHT)
    assert file.stat().st_size <= 400_000


def test_real_people_are_refused_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(render_preset(ROOT / "presets", "market1501"))
    with pytest.raises(InputError, match="may show people"):
        montage.main()
    assert not (tmp_path / "docs").exists()
