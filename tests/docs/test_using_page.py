"""docs/using.md: its programs run, its table of 10^8 images is the one that is computed, its stage is one of DVC's."""

import re
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import ExifTags, Image
from tiny import ROOT, encode, noise
from trained import write_model

from slsr.embedding.encoder import load_encoder
from slsr.embedding.export import export

PAGE = (ROOT / "docs/using.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model below artifacts/ and two images."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "artifacts/train/slsr/model.safetensors", test="whole")
    for name, pixels in zip(("first.jpg", "second.jpg"), noise(2, 60, 40), strict=True):
        (tmp_path / name).write_bytes(encode(pixels, "JPEG"))
    return tmp_path


def test_the_library_snippet(tiny_backbone, folder, capsys):
    exec(compile(PROGRAMS[0], "docs/using.md", "exec"), {})
    shape, best = capsys.readouterr().out.strip().rsplit(" ", 1)
    assert shape == "(2, 16)"
    assert best in {"0", "1"}


@pytest.mark.parametrize("test", ["whole", "center-crop"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_the_short_program_computes_what_embed_does(tiny_backbone, folder, test, interpolation):
    """Without slsr and torch, for a picture of a phone held upright and one with transparent parts, too."""
    assert sum(bool(line) for line in PROGRAMS[1].splitlines()) <= 15
    write_model(folder / "artifacts/train/slsr/model.safetensors", test=test, interpolation=interpolation)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(noise(1, 40, 60)[0]).save("second.jpg", exif=exif)
    Image.fromarray(np.dstack([noise(1, 60, 40)[0], noise(1, 60, 40, seed=3)[0, ..., 0]])).save("first.jpg", "PNG")
    encoder = load_encoder("artifacts/train/slsr", "cpu")
    export(encoder, folder / "encoder.onnx", "onnx")
    alone = "import sys; sys.modules['slsr'] = sys.modules['torch'] = None\n" + PROGRAMS[1]
    ran = subprocess.run([sys.executable, "-c", alone], capture_output=True, text=True, check=True)
    first, second = encoder.embed(["first.jpg", "second.jpg"])
    assert float(ran.stdout.removeprefix("cosine similarity ")) == pytest.approx(np.dot(first, second), abs=2e-4)


def test_the_table_on_paper_is_the_one_of_the_benchmark():
    command = [sys.executable, str(ROOT / "benchmarks/search.py"), "--on-paper"]
    computed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    rows = [line for line in computed if line.startswith("| ")]
    assert len(rows) == 8
    assert "\n".join(rows) in PAGE


@pytest.mark.slow
def test_the_stage_runs_under_dvc(folder):
    from builders import market_files, write_zip

    stage = yaml.safe_load(re.search(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[1])
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stage}))
    params = (ROOT / "presets/defaults.yaml").read_text()
    (folder / "params.yaml").write_text(re.sub(r"k1: 20( *#|$)", r"k1: 5\1", params, flags=re.MULTILINE))
    write_zip(folder / "data/other.zip", market_files())
    for command in (["dvc", "init", "--no-scm", "-q"], ["dvc", "repro", "-q"]):
        subprocess.run(command, check=True)
    written = yaml.safe_load((folder / "artifacts/transfer.json").read_text())
    assert written["dataset"] == "market1501"
    assert written["settings"]["rerank"]["k1"] == 5
    assert "didn't change" in subprocess.run(["dvc", "repro"], check=True, capture_output=True, text=True).stdout
