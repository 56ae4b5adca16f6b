"""tools/montage.py: the picture of the README shows right and wrong matches, and never real people."""

import hashlib
import io
import sys

import numpy as np
import pytest
import yaml
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


def hash_of(content):
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function: write the tables of a run of an archive, and its dvc.lock; params.yaml always names the sample."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(render_preset(ROOT / "presets", "sample"))

    def write(archive, generated_from="train.parquet"):
        for table in montage.TABLES:
            table.parent.mkdir(parents=True, exist_ok=True)
            table.write_bytes(table.name.encode())
        outs = [{"path": table.as_posix(), "md5": hash_of(table.name.encode())} for table in montage.TABLES]
        read = {"path": "artifacts/prepared/train.parquet", "md5": hash_of(generated_from.encode())}
        stages = {
            "prepare": {"deps": [{"path": "src/slsr/datasets"}, {"path": f"data/{archive}"}], "outs": outs[:-1]},
            "generate": {"deps": [read], "outs": outs[-1:]},
        }
        (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))

    return write


def test_artifacts_of_another_archive_are_refused_whatever_params_yaml_says(run, tmp_path):
    run("Market-1501-v15.09.15.zip")
    with pytest.raises(InputError, match=r"prepare read data/Market.* may show people"):
        montage.main()
    assert not (tmp_path / "docs").exists()


def test_artifacts_of_the_sample_are_taken_and_exchanged_ones_refused(run):
    run("slsr-sample.zip")
    montage.require_sample()
    for table in montage.TABLES:
        kept = table.read_bytes()
        table.write_bytes(b"real people")
        with pytest.raises(InputError, match=rf"{table}: not the file that dvc.lock records"):
            montage.require_sample()
        table.write_bytes(kept)
    run("slsr-sample.zip", generated_from="a table of real people")
    with pytest.raises(InputError, match=r"images.parquet: made of another artifacts/prepared/train.parquet"):
        montage.require_sample()


def test_without_a_record_or_a_table_nothing_is_drawn(run, tmp_path):
    with pytest.raises(InputError, match=r"dvc\.lock: no such file"):
        montage.main()
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\n")
    with pytest.raises(InputError, match="no archive"):
        montage.main()
    run("slsr-sample.zip")
    montage.TABLES[0].unlink()
    with pytest.raises(InputError, match="not the file"):
        montage.main()
