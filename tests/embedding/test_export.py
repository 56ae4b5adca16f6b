"""Exported networks in the programs that others run them with, against the model's own features."""

import json
import os
import subprocess
import sys
from typing import get_args

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image as PillowImage
from tiny import make_image, noise
from trained import write_model

from slsr.embedding import export as room
from slsr.embedding.encoder import load_encoder
from slsr.embedding.export import Format, export
from slsr.errors import CheckFailed
from slsr.models.encoder import Encoder, EncoderDescription, save_encoder

FORMATS = get_args(Format)
OF_HOME = {"ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"}
PICTURES = [PillowImage.fromarray(noise(1, 20 + number, 50 - number // 2, seed=number)[0]) for number in range(64)]


def loaded(path, form):
    """The metadata, and a function from inputs to features, by the other libraries alone."""
    if form == "onnx":
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        metadata = json.loads(session.get_modelmeta().custom_metadata_map["slsr"])
        return metadata, lambda images: session.run(None, {session.get_inputs()[0].name: images})[0]
    files = {"slsr": ""}
    network = torch.jit.load(str(path), _extra_files=files)
    return json.loads(files["slsr"]), lambda images: network(torch.from_numpy(images)).detach().numpy()


def prepared(picture, rules):
    """An image as the metadata says, by Pillow and numpy."""
    size = rules["resize"]
    how = {"bicubic": PillowImage.Resampling.BICUBIC, "bilinear": PillowImage.Resampling.BILINEAR}
    pixels = np.asarray(picture.resize((size["width"], size["height"]), how[size["interpolation"]]))
    if crop := rules["center_crop"]:
        top, left = (pixels.shape[0] - crop["height"]) // 2, (pixels.shape[1] - crop["width"]) // 2
        pixels = pixels[top : top + crop["height"], left : left + crop["width"]]
    return ((pixels * rules["scale"] - rules["mean"]) / rules["std"]).transpose(2, 0, 1).astype(np.float32)


@pytest.mark.usefixtures("tiny_backbone")
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("flip", "image"),
    [
        (True, {"test": "center-crop"}),
        (True, {"test": "whole", "normalization": "symmetric", "interpolation": "bilinear"}),
        (False, {"test": "whole", "normalization": "unit"}),
    ],
)
def test_features_of_real_pictures_are_those_of_the_model(tmp_path, form, flip, image):
    encoder = load_encoder(write_model(tmp_path / "m.safetensors", **image), "cpu", flip=flip)
    path = tmp_path / "network"
    parity = export(encoder, path, form)
    assert parity.images == 64
    assert parity.cosine > 0.9999
    rules, run = loaded(path, form)
    ours = encoder.embed(PICTURES)
    inputs = np.stack([prepared(picture, rules) for picture in PICTURES])
    for batch in (64, 1, 7):
        theirs = np.concatenate([run(inputs[start : start + batch]) for start in range(0, 64, batch)])
        assert (ours * theirs).sum(axis=1).min() > 0.9999
        np.testing.assert_allclose(np.linalg.norm(theirs, axis=1), 1, atol=1e-5)
    assert rules["mirrored_added"] == flip
    assert rules["model_fingerprint"] == encoder.fingerprint
    assert (rules["input"]["shape"][2:], rules["output"]["shape"]) == (list(encoder.size), ["N", encoder.dimension])
    assert sorted(one.name for one in tmp_path.iterdir()) == ["m.safetensors", "network"]


@pytest.mark.usefixtures("tiny_backbone")
def test_the_onnx_file_is_sound_and_its_batch_is_free(tmp_path):
    export(load_encoder(write_model(tmp_path / "m.safetensors"), "cpu"), tmp_path / "network.onnx", "onnx")
    model = onnx.load(tmp_path / "network.onnx")
    onnx.checker.check_model(model, full_check=True)
    batch, *rest = (one.dim_param or one.dim_value for one in model.graph.input[0].type.tensor_type.shape.dim)
    assert isinstance(batch, str)
    assert rest == [3, 32, 32]
    convolutions = sum(node.op_type == "Conv" for node in model.graph.node)
    assert convolutions == 2, "the mirrored images go through in the same batch, not through a second network"


@pytest.mark.parametrize("form", FORMATS)
def test_a_network_of_timm_with_neck_and_generalized_mean_is_exported(tmp_path, form):
    """Features of pictures by the other library, from the rules of the metadata, in which [-1, 1] is spelled out."""
    torch.manual_seed(0)
    sizes = {"height": 64, "width": 32, "resize_height": 64, "resize_width": 32}
    image = make_image(**sizes, normalization="symmetric")
    network = Encoder(EncoderDescription("tf_efficientnet_lite0", "bnneck", 5, image, last_stride=1, pooling="gem"))
    network.neck.weight.data.uniform_(0.5, 2.0)
    with torch.no_grad():
        network.pool.p.fill_(2.5)
        network.train()(torch.randn(8, 3, 64, 32))
    save_encoder(tmp_path / "m.safetensors", network.eval())
    encoder = load_encoder(tmp_path / "m.safetensors", "cpu")
    assert export(encoder, tmp_path / "network", form).cosine > 0.9999
    rules, run = loaded(tmp_path / "network", form)
    assert rules["mean"] == rules["std"] == [0.5] * 3
    assert rules["output"]["shape"] == ["N", 1280]
    theirs = run(np.stack([prepared(picture, rules) for picture in PICTURES[:5]]))
    np.testing.assert_allclose((encoder.embed(PICTURES[:5]) * theirs).sum(axis=1), 1, atol=1e-4)


@pytest.mark.usefixtures("tiny_backbone")
@pytest.mark.parametrize("form", FORMATS)
def test_a_network_with_other_features_is_not_written(tmp_path, monkeypatch, form):
    """As if the exporter had lost the mirrored images."""
    encoder = load_encoder(write_model(tmp_path / "m.safetensors"), "cpu")
    (tmp_path / "network").write_text("the one before")

    class WithoutMirror(room.Embedder):
        def __init__(self, encoder):
            super().__init__(encoder)
            self.flip = False

    monkeypatch.setattr(room, "Embedder", WithoutMirror)
    with pytest.raises(CheckFailed, match=r"cosine similarity of 64 images is 0\."):
        export(encoder, tmp_path / "network", form)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["m.safetensors", "network"]
    assert (tmp_path / "network").read_text() == "the one before"


@pytest.mark.parametrize("name", ["network.onnx", "network.pt"])
def test_export_leaves_nothing_in_the_home_folder(tmp_path, name):
    """onnxruntime would leave a device number and an outbox of events."""
    torch.manual_seed(0)
    save_encoder(tmp_path / "m.safetensors", Encoder(EncoderDescription("resnet18", "plain", 5, make_image())).eval())
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in OF_HOME} | {"HOME": str(home)}
    command = [sys.executable, "-m", "slsr", "export", "m.safetensors", "-o", name]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert (tmp_path / name).is_file()
    assert list(home.rglob("*")) == []


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "densenet121"])
def test_every_backbone_can_be_exported(tmp_path, backbone, form):
    torch.manual_seed(0)
    network = Encoder(EncoderDescription(backbone, "bottleneck", 5, make_image()))
    network.train()(torch.randn(4, 3, 32, 32))
    save_encoder(tmp_path / "m.safetensors", network.eval())
    assert export(load_encoder(tmp_path / "m.safetensors", "cpu"), tmp_path / "network", form).cosine > 0.9999
