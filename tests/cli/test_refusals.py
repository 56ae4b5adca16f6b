"""Wrong uses are refused before torch, or another large package, is loaded.

They are typed in a process in which these packages cannot be imported at all.
"""

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from builders import picture
from tiny import ROOT

from slsr.embedding.files import NamedFeatures, Origin, write_features
from slsr.images.tables import LABELED, table_writer
from slsr.search.store import build

# What takes seconds to load. FAISS is allowed to read an index, numba to rank features.
WITHOUT = """
import contextlib, io, json, logging, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "timm", "sklearn", "matplotlib", "onnx", "onnxruntime"}:
            raise AssertionError(f"{name} was loaded")

sys.meta_path.insert(0, Blocked())
from slsr.cli.main import main

def answer(arguments):
    logging.root.handlers.clear()
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        sys.argv = ["slsr", *arguments]
        try:
            main()
        except SystemExit as end:
            code = end.code
        except AssertionError as loaded:
            code = str(loaded)
    return code, out.getvalue(), err.getvalue()

print(json.dumps([answer(arguments) for arguments in json.loads(sys.argv[1])]))
"""
DEVICE = "device 'tpu' is not available here"
NOT_THERE = "no such model; train one with `dvc repro`"
NO_ENCODER = "not a readable safetensors file"

REFUSALS = [
    (["embed", "missing", "shots", "-o", "x.npz"], f"missing: {NOT_THERE}"),
    (["embed", "shots", "shots", "-o", "x.npz"], "shots: a folder without model.safetensors"),
    (["embed", "broken", "shots", "-o", "x.npz"], f"broken/model.safetensors: {NO_ENCODER}"),
    (["embed", "other.safetensors", "shots", "-o", "x.npz"], "other.safetensors: a model, but no encoder"),
    (["embed", "foreign.safetensors", "shots", "-o", "x.npz"], "foreign.safetensors: not a model of this project"),
    (["embed", "model", "missing", "-o", "x.npz"], "missing: no such file or folder"),
    (["embed", "model", "model", "-o", "x.npz"], "model: a folder without images"),
    (["embed", "model", "shots", "-o", "x.txt"], "x.txt: the suffix must be .npz"),
    (["embed", "model", "shots", "-o", "mine.npz"], "mine.npz: exists already"),
    (["embed", "model", "shots", "-o", "x.npz", "--device", "tpu"], DEVICE),
    (["index", "missing.npz", "-o", "new"], "missing.npz: no such file"),
    (["index", "mine.npz", "-o", "new"], "mine.npz: not an .npz file"),
    (["index", "features.npz", "-o", "new", "--kind", "lsh"], "--kind lsh: choose auto, flat, hnsw, ivf-pq"),
    (["index", "features.npz", "-o", "shots/a.jpg"], "shots/a.jpg: something else is there"),
    (["search", "missing", "shots"], "missing: no such index"),
    (["search", "shots", "shots"], "shots: is a folder; an index is one file"),
    (["search", "index", "missing.jpg"], "missing.jpg: no such file or folder"),
    (["search", "index", "shots", "--model", "missing"], f"missing: {NOT_THERE}"),
    (["search", "index", "shots"], "index: the model of this index"),
    (["search", "index", "shots", "--model", "model"], "index and query need one model"),
    (["search", "index", "shots", "--json", "x.txt"], "x.txt: the suffix must be .json"),
    (["search", "index", "shots", "--html", "x.txt"], "x.txt: the suffix must be .html or .htm"),
    (["search", "index", "shots", "--html", "mine.html"], "mine.html: exists already"),
    (["search", "index", "shots", "--images", "shots"], "--images: no effect, because no page is written"),
    (["search", "index", "shots", "--rerank", "--candidates", "3"], "--candidates 3: fewer than the 10 images of -k"),
    (["search", "index", "shots", "--device", "tpu"], DEVICE),
    (["export", "missing", "-o", "x.onnx"], f"missing: {NOT_THERE}"),
    (["export", "broken", "-o", "x.onnx"], NO_ENCODER),
    (["export", "model", "-o", "x.txt"], "x.txt: the suffix chooses the format"),
    (["export", "model", "-o", "mine.onnx"], "mine.onnx: exists already"),
    (["transfer", "missing", "mine.zip"], f"missing: {NOT_THERE}"),
    (["transfer", "model", "missing.zip"], "missing.zip: no such file or folder"),
    (["transfer", "model", "mine.zip"], "mine.zip: "),
    (["transfer", "model", "shots"], "shots: none of the data sets that can be read"),
    (["transfer", "model", "shots", "--cameras", "all"], "--cameras all: the only value is unknown"),
    (["transfer", "model", "shots", "--params", "missing.yaml"], "missing.yaml: no such file"),
    (["transfer", "model", "shots", "--json", "x.txt"], "x.txt: the suffix must be .json"),
    (["transfer", "model", "shots", "--device", "tpu"], DEVICE),
    (["score", "missing.npz"], "missing.npz: no such file"),
    (["score", "features.npz", "--json", "x.txt"], "x.txt: the suffix must be .json"),
    (["score", "features.npz", "--per-query", "x.txt"], "x.txt: the suffix must be .parquet"),
    (["score", "features.npz", "--cameras", "all"], "--cameras all: the only value is unknown"),
    (["card", "nobody"], "artifact 'nobody': not in dvc.yaml"),
    (["card", "slsr", "-o", "x.txt"], "x.txt: the suffix must be .md"),
    (["card", "slsr", "-o", "mine.md"], "mine.md: exists already"),
    (["study", "nobody"], "study 'nobody': no file studies/nobody.yaml; give -S or --seeds for a new study"),
    (["study", "new", "--seeds", "a"], "--seeds 'a': give numbers and ranges"),
    (["study", "new", "--seeds", "1", "--regularizers", "mixup"], "regularizer 'mixup': choose one of none"),
    (["study", "new", "--seeds", "1"], "data.dvc: no such file, and dvc.yaml depends on it"),
    (["compare", "--csv", "x.txt"], "x.txt: the suffix must be .csv"),
    (["compare", "--plot", "x.txt"], "x.txt: the suffix must be .png"),
    (["compare", "--markdown", "x.txt"], "x.txt: the suffix must be .md"),
    (["compare"], "no experiment was named, and no `slsr study` has run here"),
    (["compare", "missing"], "git for-each-ref failed"),
    (["gate", "--json", "x.txt"], "x.txt: the suffix must be .json"),
    (["gate"], "git rev-parse failed"),
    (["fresh"], "no DVC repository"),
    (["remote"], "no DVC repository"),
    (["data", "add", "missing"], "missing: no such file or folder"),
    (["data", "check", "missing"], "missing: no such file or folder"),
    (["data", "check", "shots"], "shots: none of the data sets that can be read"),
    (["preset", "nobody"], "preset 'nobody': no such file"),
    (["sample", "x.txt"], "x.txt: the sample is a zip file"),
    (["sample", "mine.zip"], "mine.zip: exists already"),
    (["train", "mixup"], "regularizer 'mixup': choose one of none"),
    (["evaluate", "mixup"], "regularizer 'mixup': choose one of none"),
    (["explore"], "nothing to show: no model, clusters or generated images"),
    (["explore", "model"], "no gallery to search in"),
    (["explore", "missing", "--gallery", "gallery.parquet"], f"missing: {NOT_THERE}"),
    (["explore", "broken", "--gallery", "gallery.parquet"], NO_ENCODER),
    (["explore", "model", "--gallery", "shots/a.jpg"], "shots/a.jpg: not a readable Parquet table"),
    (["explore", "model", "--gallery", "missing.parquet"], "--gallery missing.parquet: no such file"),
    (["explore", "model", "--gallery", "gallery.parquet", "--device", "tpu"], DEVICE),
    (["explore", "model", "--gallery", "gallery.parquet", "--port", "TAKEN"], "is taken; choose another with --port"),
    (["explore", "model", "--gallery", "gallery.parquet", "--host", "0.0.0.0"], "add --expose if you want"),
]


def write_header(path, metadata):
    """A safetensors file without tensors."""
    header = json.dumps({"__metadata__": metadata}).encode()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(header)) + header)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with models, features, an index, images and files of the user, but without a repository."""
    place = tmp_path_factory.mktemp("place")
    write_header(place / "model/model.safetensors", {"slsr": json.dumps({"kind": "encoder"})})
    write_header(place / "other.safetensors", {"slsr": json.dumps({"kind": "generator"})})
    write_header(place / "foreign.safetensors", {"format": "pt"})
    (place / "broken").mkdir()
    (place / "broken/model.safetensors").write_bytes(b"not a model")
    (place / "shots").mkdir()
    (place / "shots/a.jpg").write_bytes(picture(1))
    for name in ("mine.npz", "mine.onnx", "mine.zip", "mine.md", "mine.html"):
        (place / name).write_text("mine")
    features = NamedFeatures(np.eye(4, 8, dtype=np.float32), [f"{number}.jpg" for number in range(4)], None, None)
    origin = Origin("0" * 64, True, "gone")
    write_features(place / "features.npz", origin, {"gallery": [features]})
    build(place / "index", origin, [features])
    with table_writer(place / "gallery.parquet", LABELED) as table:
        table.append({"image": picture(1), "name": "a.jpg", "identity": 1, "camera": 1})
    shutil.copytree(ROOT / "presets", place / "presets")
    shutil.copytree(ROOT / "metrics", place / "metrics")
    for name in ("dvc.yaml", "dvc.lock", "params.yaml"):
        shutil.copy(ROOT / name, place / name)
    return place


def contents(place):
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def answers(place):
    """Exit code, standard output and standard error of each wrong use, by what was typed."""
    before = contents(place)
    paths = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "GIT_CEILING_DIRECTORIES": str(place.parent)}
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        typed = [[port if one == "TAKEN" else one for one in arguments] for arguments, _ in REFUSALS]
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT, json.dumps(typed)],
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    assert contents(place) == before, "a refused command leaves nothing"
    return dict(zip((" ".join(arguments) for arguments, _ in REFUSALS), json.loads(done.stdout), strict=True))


@pytest.mark.parametrize(("arguments", "message"), REFUSALS, ids=[" ".join(arguments) for arguments, _ in REFUSALS])
def test_a_wrong_use_is_refused_before_torch_is_loaded(answers, arguments, message):
    code, out, err = answers[" ".join(arguments)]
    assert (code, out) == (2, ""), err
    assert err.startswith("slsr: ")
    assert message in err
    assert len(err.splitlines()) == 1


def test_every_command_has_a_refusal_in_the_table():
    """All but those that take no paths or names that could be wrong."""
    from slsr.cli.main import app

    commands = {command.name or command.callback.__name__ for group in app.registered_groups
                for command in group.typer_instance.registered_commands}  # fmt: skip
    with_arguments = {"train", "evaluate"}
    stages = {path.stem.replace("_", "-") for path in Path(ROOT / "src/slsr/stages").glob("*.py")}
    assert commands - (stages - with_arguments) - {"doctor", "results"} == {
        arguments[0] for arguments, _ in REFUSALS
    } - {"data"}
