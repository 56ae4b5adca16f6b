"""Where a backbone's weights come from, and what is said when they cannot."""

import hashlib
import pickle
import shutil
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from tiny import make_image, make_recipe

from slsr.errors import InputError
from slsr.models.backbones import PACKAGED, TORCHVISION, build_backbone, convolutional_part
from slsr.models.efficientnet_lite import PACKAGES
from slsr.models.encoder import save_encoder
from slsr.models.weights import HASH_IN_NAME, IMAGENET_WEIGHTS, initial_encoder, initialize_backbone


@cache
def network(name="resnet18", seed=1, **options):
    torch.manual_seed(seed)
    return torchvision.models.get_model(name, weights=None, **options)


IMAGE = make_image()
backbone_of = cache(partial(build_backbone, image=IMAGE))


def loaded(name, weights):
    """The state of a backbone after loading."""
    backbone = backbone_of(name)
    for value in backbone.state_dict().values():
        value.fill_(7)
    initialize_backbone(backbone, name, str(weights), IMAGE)
    return backbone.state_dict()


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def refused(name, weights):
    with pytest.raises(InputError) as caught:
        initialize_backbone(backbone_of(name), name, str(weights), IMAGE)
    assert str(weights) in str(caught.value)
    return str(caught.value)


def test_none_keeps_the_random_weights():
    found = loaded("resnet18", "none")
    assert all((value == 7).all() for value in found.values())


@pytest.mark.parametrize("form", ["new.pth", "legacy.pth", "weights.safetensors", "without classifier.pth", "1000.bin"])
def test_a_file_in_torchvisions_format_is_read(tmp_path, form):
    source = network()
    state = source.state_dict()
    path = tmp_path / form
    if form.startswith("without"):
        state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form != "legacy.pth")
    assert_same(loaded("resnet18", path), convolutional_part(source, "resnet18").state_dict())


def test_the_number_of_classes_in_the_file_does_not_matter(tmp_path):
    source = network(num_classes=751)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    assert_same(loaded("resnet18", tmp_path / "w.pth"), convolutional_part(source, "resnet18").state_dict())


def test_densenet_reads_new_and_old_names(tmp_path):
    source = network("densenet121")
    expected = convolutional_part(source, "densenet121").state_dict()
    state = source.state_dict()
    # files of before 2018: features.denseblock1.denselayer1.norm.1.weight
    old = {}
    for key, value in state.items():
        for part in ("norm", "relu", "conv"):
            for number in "12":
                key = key.replace(f".{part}{number}.", f".{part}.{number}.") if "denselayer" in key else key
        old[key] = value
    assert sum(".norm.1." in key for key in old) == 58 * 5
    for name, content in (("new", state), ("old", old)):
        torch.save(content, tmp_path / f"{name}.pth")
        assert_same(loaded("densenet121", tmp_path / f"{name}.pth"), expected)


def test_an_encoder_of_ours_gives_its_backbone(tmp_path):
    encoder = initial_encoder(make_recipe(head="bottleneck", seed=5), 4, make_image())
    save_encoder(tmp_path / "model.safetensors", encoder)
    assert_same(loaded("resnet18", tmp_path / "model.safetensors"), encoder.backbone.state_dict())
    assert "does not fit the backbone resnet50" in refused("resnet50", tmp_path / "model.safetensors")


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save(network("resnet18").state_dict(), tmp_path / "w.pth")
    assert "does not fit the backbone resnet50" in refused("resnet50", tmp_path / "w.pth")
    torch.save(network("densenet121").state_dict(), tmp_path / "w.pth")
    assert "does not fit the backbone resnet18" in refused("resnet18", tmp_path / "w.pth")


def test_incomplete_weights_are_refused(tmp_path):
    state = network().state_dict()
    del state["layer3.1.conv2.weight"]
    torch.save(state, tmp_path / "w.pth")
    text = refused("resnet18", tmp_path / "w.pth")
    assert "does not fit the backbone resnet18" in text
    assert "layer3.1.conv2.weight" in text


def test_a_missing_file_names_the_choices(tmp_path):
    text = refused("resnet18", tmp_path / "nosuch.pth")
    assert "no such file" in text
    assert "imagenet, none, or the path" in text
    assert "no such file" in refused("resnet18", tmp_path)


class Trap:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (Path(self.marker),)


@pytest.mark.filterwarnings("ignore")
def test_a_malicious_pickle_is_not_executed(tmp_path):
    marker = tmp_path / "executed"
    trap = {"fc.weight": Trap(str(marker))}
    torch.load(saved(trap, tmp_path / "trap.pth"), weights_only=False)
    assert marker.exists(), "the trap works"
    marker.unlink()
    for path in (saved(trap, tmp_path / "new.pth"), saved(trap, tmp_path / "old.pth", new=False)):
        assert "not a readable weights file" in refused("resnet18", path)
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(trap))
    assert "not a readable weights file" in refused("resnet18", tmp_path / "plain.pth")
    assert not marker.exists()


def saved(content, path, new=True):
    torch.save(content, path, _use_new_zipfile_serialization=new)
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello world\n", b"<html>404</html>", b"PK\x03\x04junk", b"\x80\x02junk"])
def test_what_is_no_weights_file_is_refused(tmp_path, content, suffix):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    assert "not a readable weights file" in refused("resnet18", path)


@pytest.mark.filterwarnings("ignore")
def test_a_truncated_file_is_refused(tmp_path):
    for path in (saved(network().state_dict(), tmp_path / "new.pth"), tmp_path / "w.safetensors"):
        if path.suffix == ".safetensors":
            save_file(network().state_dict(), path)
        path.write_bytes(path.read_bytes()[:5_000_000])
        assert "not a readable weights file" in refused("resnet18", path)


@pytest.mark.parametrize(
    "content", [[1, 2], {"state_dict": {"conv1.weight": torch.zeros(1)}}, torch.zeros(3), {"a": 1}]
)
def test_what_holds_no_state_dict_is_refused(tmp_path, content):
    assert "not a state dict of tensors" in refused("resnet18", saved(content, tmp_path / "w.pth"))


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("resnet18", URLError("[Errno -3] Temporary failure in name resolution")),
        ("resnet50", ConnectionResetError("reset")),
        ("densenet121", RuntimeError('invalid hash value (expected "f37072fd", got "00000000")')),
    ],
)
def test_imagenet_without_network_names_the_alternatives(monkeypatch, tmp_path, name, error):
    asked = []

    def fail(url, target, hash_prefix, progress):
        asked.append((url, hash_prefix))
        raise error

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    text = refused(name, "imagenet")
    url = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url
    assert asked == [(url, url.rpartition("-")[2].removesuffix(".pth"))]
    assert len(asked[0][1]) == 8
    for part in (url, str(error), str(tmp_path), "a file in weights/", "none", "market1501-scratch"):
        assert part in text
    assert len(text.splitlines()) == 1


@pytest.fixture
def published(monkeypatch, tmp_path):
    """A network that stands for torchvision's: where its file lies in torch's cache, under a name with its hash."""
    source = network(seed=4)
    torch.save(source.state_dict(), tmp_path / "state.pth")
    digest = hashlib.sha256((tmp_path / "state.pth").read_bytes()).hexdigest()[:8]
    choice = SimpleNamespace(url=f"https://host.invalid/models/resnet18-{digest}.pth")
    monkeypatch.setattr("torchvision.models.get_model_weights", lambda name: {IMAGENET_WEIGHTS: choice})
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return source, tmp_path / "state.pth", tmp_path / "hub" / "checkpoints" / choice.url.rpartition("/")[2]


def test_imagenet_weights_are_torchvisions(published, monkeypatch):
    source, file, cached = published
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda url, target, *_, **__: shutil.copy(file, target))
    expected = convolutional_part(source, "resnet18").state_dict()
    assert_same(loaded("resnet18", "imagenet"), expected)
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("downloaded again"))
    assert cached.is_file()
    assert_same(loaded("resnet18", "imagenet"), expected)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["other weights", "a page", "a pickle"])
def test_what_lies_in_the_cache_under_the_name_of_imagenet_weights_is_checked_and_never_run(published, tmp_path, kind):
    _, _, cached = published
    cached.parent.mkdir(parents=True)
    if kind == "a page":
        cached.write_text("<html>404</html>")
    else:
        torch.save(network(seed=5).state_dict() if kind == "other weights" else Malicious(tmp_path / "ran"), cached)
    text = refused("resnet18", "imagenet")
    assert str(cached) in text
    assert "is damaged or another file" in text
    assert not (tmp_path / "ran").exists()


def test_the_initial_encoder_follows_from_the_seed(tmp_path):
    one, two, three = (initial_encoder(make_recipe(seed=seed), 4, make_image()) for seed in (1, 1, 2))
    assert_same(one.state_dict(), two.state_dict())
    assert not torch.equal(one.head[0].weight, three.head[0].weight)
    assert not torch.equal(one.backbone[0].weight, three.backbone[0].weight)
    assert one.head[0].weight.shape == (4, 512)
    torch.save(network(seed=8).state_dict(), tmp_path / "w.pth")
    given = initial_encoder(make_recipe(seed=1, weights="w.pth"), 4, make_image(), tmp_path)
    assert_same(given.head.state_dict(), one.head.state_dict())
    assert_same(given.backbone.state_dict(), convolutional_part(network(seed=8), "resnet18").state_dict())


def test_the_file_that_stands_for_imagenet_names_what_torchvision_downloads():
    """When torchvision moves on to other weights, this file must change with it, so that DVC sees it."""
    text = (Path(__file__).parents[2] / "weights" / "imagenet").read_text()
    assert IMAGENET_WEIGHTS in text
    for name in PACKAGED:
        assert f"{name}  {PACKAGES[name].sha256}\n" in text
    for name in TORCHVISION:
        url = torchvision.models.get_model_weights(name)[IMAGENET_WEIGHTS].url
        assert f"{name} " in text
        assert url in text
        assert HASH_IN_NAME.search(url), "a file without a hash in its name could not be checked"
