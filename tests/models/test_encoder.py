"""The encoder against torchvision's own networks, and its file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from tiny import make_image
from torch import nn

from slsr.errors import InputError
from slsr.models.checkpoint import load_checkpoint, save_checkpoint
from slsr.models.encoder import Encoder, EncoderDescription, build_head, load_encoder, save_encoder
from slsr.models.weights import initialize_backbone

BACKBONES = ["resnet18", "resnet50", "densenet121"]
HEADS = ["plain", "linear", "bottleneck"]
WIDTHS = {"resnet18": 512, "resnet50": 2048, "densenet121": 1024}


def build(backbone="resnet18", head="plain", classes=5, seed=0, last_relu=False, choices=None, **image):
    torch.manual_seed(seed)
    return Encoder(EncoderDescription(backbone, head, classes, make_image(**image), last_relu, **(choices or {})))


def inputs(count=2, height=64, width=32, seed=3):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def torchvision_network(name, seed=1):
    """A randomly initialized network whose batch statistics are not those of a fresh one."""
    torch.manual_seed(seed)
    network = torchvision.models.get_model(name, weights=None)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2.0)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
    return network.eval()


@torch.no_grad()
@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("last_relu", [True, False])
def test_features_are_what_torchvision_feeds_its_classifier(name, last_relu, tmp_path):
    """DenseNet's last ReLU is torchvision's alone: the released network pools the last batch norm."""
    network = torchvision_network(name)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    encoder = build(name, last_relu=last_relu).eval()
    before = encoder.features(inputs())
    initialize_backbone(encoder.backbone, name, str(tmp_path / "weights.pth"), make_image())
    found = encoder.features(inputs())
    setattr(network, "classifier" if name == "densenet121" else "fc", nn.Identity())
    assert found.shape == (2, WIDTHS[name])
    expected = network(inputs())
    if name == "densenet121" and not last_relu:
        assert not torch.allclose(found, expected, atol=0.1)
        expected = network.features(inputs()).mean(dim=(2, 3))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before, found)
    assert float(found.std()) > 0.01


@torch.no_grad()
@pytest.mark.parametrize("head", HEADS)
def test_logits_are_the_head_on_the_features(head, tiny_backbone):
    encoder = build(head=head, classes=7).eval()
    batch = inputs(3, 48, 48)
    logits = encoder(batch)
    assert logits.shape == (3, 7)
    torch.testing.assert_close(logits, encoder.head(encoder.features(batch)))


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_heads_have_the_layers_they_promise():
    width, classes = 40, 9
    assert parameters(build_head("plain", width, classes)) == (width + 1) * classes
    assert parameters(build_head("linear", width, classes)) == (width + 1) * width + (width + 1) * classes
    bottleneck = build_head("bottleneck", width, classes)
    assert parameters(bottleneck) == (width + 1) * 512 + 2 * 512 + (512 + 1) * classes
    assert [type(layer) for layer in bottleneck] == [nn.Linear, nn.BatchNorm1d, nn.LeakyReLU, nn.Dropout, nn.Linear]
    assert bottleneck[2].negative_slope == 0.1
    assert bottleneck[3].p == 0.5
    for head in HEADS:
        classifier = build_head(head, width, classes)[-1]
        assert (classifier.bias == 0).all()
        assert 0 < float(classifier.weight.detach().std()) < 0.002


def naive_head(head, features):
    """The equations of the heads in evaluation mode, a number at a time; float64 [B, D] to [B, C]."""

    def linear(layer, vector):
        weight, bias = layer.weight.tolist(), layer.bias.tolist()
        return [sum(w * v for w, v in zip(row, vector, strict=True)) + b for row, b in zip(weight, bias, strict=True)]

    def normed(layer, vector):
        statistics = zip(
            vector, layer.running_mean.tolist(), layer.running_var.tolist(), layer.weight.tolist(), layer.bias.tolist(),
            strict=True,
        )  # fmt: skip
        return [(v - mean) / (variance + layer.eps) ** 0.5 * g + b for v, mean, variance, g, b in statistics]

    rows = []
    for vector in features.tolist():
        if len(head) == 5:
            reduced = normed(head[1], linear(head[0], vector))
            vector = [value if value > 0 else 0.1 * value for value in reduced]
        elif len(head) == 2:
            vector = linear(head[0], vector)
        rows.append(linear(head[-1], vector))
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("name", HEADS)
def test_heads_are_their_equations_and_so_are_their_gradients(name):
    torch.manual_seed(0)
    head = build_head(name, 12, 5).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
        if name == "bottleneck":
            head[1].running_mean.normal_()
            head[1].running_var.uniform_(0.5, 2.0)
    features = torch.randn(3, 12, dtype=torch.float64, requires_grad=True)
    head.eval()
    torch.testing.assert_close(head(features), naive_head(head, features.detach()))
    head.train()
    if name == "bottleneck":
        head[3].p = 0.0
    assert torch.autograd.gradcheck(head, (features,))


def test_drop_out_works_in_training_alone(tiny_backbone):
    encoder = build(head="bottleneck")
    features = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    encoder.train()
    torch.manual_seed(1)
    assert not torch.equal(encoder.head(features), encoder.head(features))
    encoder.eval()
    assert torch.equal(encoder.head(features), encoder.head(features))


@torch.no_grad()
@pytest.mark.parametrize("head", HEADS)
def test_a_file_gives_the_same_network_back(tmp_path, head, tiny_backbone):
    encoder = build("resnet18", head, 6, normalization="symmetric", interpolation="bilinear")
    encoder.train()
    encoder(inputs(4))
    save_encoder(tmp_path / "new" / "model.safetensors", encoder)
    back = load_encoder(tmp_path / "new" / "model.safetensors")
    assert not back.training
    assert back.description == encoder.description
    assert torch.equal(back(inputs()), encoder.eval()(inputs()))
    assert list(back.state_dict()) == list(encoder.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(back.state_dict().values(), encoder.state_dict().values(), strict=True)
    )
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.safetensors"]


TENSORS = {"b.weight": torch.arange(6.0), "a.weight": torch.ones(2, 3), "a.count": torch.tensor(3)}
DESCRIPTION = {"kind": "encoder", "head": "plain", "image": {"width": 32, "height": 64}, "classes": 4, "backbone": "x"}
PROGRAM = f"""
from pathlib import Path
import torch
from slsr.models.checkpoint import save_checkpoint
tensors = {{name: torch.tensor(value) for name, value in {[(n, t.tolist()) for n, t in TENSORS.items()]!r}}}
save_checkpoint(Path("theirs.safetensors"), dict(reversed(tensors.items())), {DESCRIPTION!r})
"""


def test_the_same_network_is_the_same_bytes_in_any_process(tmp_path):
    here = tmp_path / "ours.safetensors"
    save_checkpoint(here, TENSORS, DESCRIPTION)
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "theirs.safetensors").read_bytes() == here.read_bytes()


def test_equal_encoders_are_equal_bytes(tmp_path, tiny_backbone):
    contents = []
    for number, seed in enumerate((0, 0, 0, 0, 1)):
        save_encoder(tmp_path / f"{number}.safetensors", build(seed=seed))
        contents.append((tmp_path / f"{number}.safetensors").read_bytes())
    assert contents[0] == contents[1] == contents[2] == contents[3] != contents[4]


def test_any_safetensors_reader_opens_the_file(tmp_path, tiny_backbone):
    encoder = build()
    save_encoder(tmp_path / "m.safetensors", encoder)
    tensors = load_file(tmp_path / "m.safetensors")
    assert {name: tuple(value.shape) for name, value in tensors.items()} == {
        name: tuple(value.shape) for name, value in encoder.state_dict().items()
    }


def refused(path):
    with pytest.raises(InputError) as caught:
        load_encoder(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_what_is_no_encoder_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    assert "no such model" in refused(path)
    save_checkpoint(path, {"a": torch.zeros(2)}, {"kind": "generator"})
    assert "no encoder" in refused(path)
    save_checkpoint(path, {"a": torch.zeros(2)}, {})
    assert "no encoder" in refused(path)
    save_file({"a": torch.zeros(2)}, path)
    assert "not a model of this project" in refused(path)
    torch.save({"a": torch.zeros(2)}, path)
    assert "not a readable safetensors file" in refused(path)
    path.write_bytes(b"")
    assert "not a readable safetensors file" in refused(path)


def test_a_truncated_file_is_refused(tmp_path, tiny_backbone):
    path = tmp_path / "m.safetensors"
    save_encoder(path, build())
    whole = path.read_bytes()
    for length in (7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "not a readable safetensors file" in refused(path)


def test_a_checkpoint_with_the_earlier_spelling_is_read(tmp_path, tiny_backbone):
    path = tmp_path / "m.safetensors"
    save_encoder(path, build())
    tensors, description = load_checkpoint(path)
    save_checkpoint(path, tensors, description | {"image": description["image"] | {"test": "centre-crop"}})
    assert load_encoder(path).description.image.test == "center-crop"


def test_an_encoder_of_another_version_is_refused(tmp_path, tiny_backbone):
    path = tmp_path / "m.safetensors"
    save_encoder(path, build())
    tensors, description = load_checkpoint(path)
    for changes in (
        {"classes": 6},
        {"backbone": "resnet50"},
        {"head": "bnneck"},
        {"image": {"height": 64}},
        {"temperature": 2},
    ):
        save_checkpoint(path, tensors, description | changes)
        assert "another version" in refused(path)
    save_checkpoint(path, tensors, {"kind": "encoder"})
    assert "another version" in refused(path)
    _, *rest = tensors
    save_checkpoint(path, {name: tensors[name] for name in rest}, description)
    assert "another version" in refused(path)


def test_an_encoder_with_a_backbone_that_is_not_known_here_is_refused(tmp_path, tiny_backbone):
    path = tmp_path / "m.safetensors"
    save_encoder(path, build())
    tensors, description = load_checkpoint(path)
    save_checkpoint(path, tensors, description | {"pooling": "class-token"})
    assert "has no class token" in refused(path)


def test_a_crash_while_saving_leaves_the_old_model(tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, {"a": torch.zeros(2)}, {"kind": "old"})
    before = path.read_bytes()

    def full(self, content):
        with self.open("wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, {"a": torch.ones(2)}, {"kind": "new"})
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.safetensors"]


def test_tensors_come_back_as_they_went(tmp_path):
    shared = torch.arange(6.0)
    tensors = {
        "shared": shared,
        "again": shared,
        "strided": torch.arange(12.0).reshape(3, 4).t(),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "scalar": torch.tensor(7),
        "half": torch.randn(3).bfloat16(),
        "trained": torch.randn(3, requires_grad=True),
    }
    save_checkpoint(tmp_path / "m.safetensors", tensors, {"b": [1, 2], "a": {"d": None}})
    found, description = load_checkpoint(tmp_path / "m.safetensors")
    assert description == {"a": {"d": None}, "b": [1, 2]}
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


@torch.no_grad()
def test_a_densenet_of_an_earlier_version_keeps_its_last_relu(tmp_path):
    """Its description does not say so; one of today says that it has none."""
    path = tmp_path / "model.safetensors"
    encoder = build("densenet121").eval()
    save_encoder(path, encoder)
    tensors, description = load_checkpoint(path)
    assert description["last_relu"] is False
    batch = inputs()
    torch.testing.assert_close(load_encoder(path).features(batch), encoder.features(batch))
    maps = encoder.backbone(batch)
    assert (maps < 0).any()
    del description["last_relu"]
    save_checkpoint(path, tensors, description)
    earlier = load_encoder(path)
    torch.testing.assert_close(earlier.features(batch), maps.clamp(min=0).mean(dim=(2, 3)))
    save_encoder(path, earlier)
    assert load_checkpoint(path)[1]["last_relu"] is True
