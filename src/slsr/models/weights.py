"""The weights a backbone starts from: ImageNet's, a file's, or random ones."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from urllib.error import URLError

import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn

from slsr.errors import InputError, first_line
from slsr.models.encoder import Encoder, EncoderDescription, convolutional_part
from slsr.params.recipe import NO_WEIGHTS_FILE, Backbone, Image, Recipe

IMAGENET_WEIGHTS = "IMAGENET1K_V1"
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.")


def initialize_backbone(backbone: nn.Module, name: Backbone, weights: str) -> None:
    """Give a backbone its initial weights, in place.

    Parameters
    ----------
    weights : `none` leaves the random ones; `imagenet` loads torchvision's (the V1 weights, those of the paper's time,
        kept in torch's cache and checked at every use against the hash in their name); anything else is the path of a
        safetensors file or of a torchvision state dict. State dicts are read with `weights_only`.

    Raises
    ------
    InputError
        The weights cannot be downloaded, the file is missing or unreadable, or does not fit the backbone.
    """
    if weights == "none":
        return
    state = _imagenet_state(name) if weights == "imagenet" else _file_state(Path(weights))
    _load(backbone, name, state, weights)


def _imagenet_state(name: Backbone) -> dict[str, Tensor]:
    """Torchvision's weights, out of torch's cache, where they are put first if need be.

    torchvision's own loader checks a hash only while it downloads, and unpickles whatever lies in the cache.
    """
    url, path = imagenet_file(name)
    if not path.is_file():
        _download(url, path, _hash_in_name(path))
    if hashes := hash_mismatch(path):
        raise InputError(
            f"weights: imagenet: {path} is not the file of this name: its SHA-256 begins with {hashes[0]}, not with "
            f"{hashes[1]}; remove it, so that it is downloaded again from {url}"
        )
    return _file_state(path)


def imagenet_file(name: Backbone) -> tuple[str, Path]:
    """Return the address of torchvision's ImageNet weights, and the place of the file in torch's cache."""
    url: str = torchvision.models.get_model_weights(name)[IMAGENET_WEIGHTS].url
    return url, Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def _hash_in_name(path: Path) -> str:
    found = HASH_IN_NAME.search(path.name)
    return found[1] if found else ""


def hash_mismatch(path: Path) -> tuple[str, str] | None:
    """Return how the hash of a file begins and how it should by the file's name; None if the two agree."""
    expected = _hash_in_name(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return None if digest.startswith(expected) else (digest[: len(expected)], expected)


def _download(url: str, path: Path, expected: str) -> None:
    """Into a temporary file, which takes the name when it is whole and its hash is right."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), expected, progress=False)
    except (URLError, OSError, RuntimeError) as error:
        raise InputError(
            f"weights: imagenet: {url} could not be downloaded, or its hash is wrong ({error}). Put the file into "
            f"{path.parent} yourself, or set weights to a file in weights/, or to none (from scratch; see the presets "
            "sample and market1501-scratch for a recipe that learns without)"
        ) from error


def _file_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(
            f"weights: {path}: no such file; the choices are imagenet, none, or the path of a weights file"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's unpickler raises whatever the bytes lead it to
        raise InputError(f"weights: {path}: not a readable weights file ({error}); use safetensors") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"weights: {path}: holds no state dict of tensors; save `network.state_dict()`")
    return state


def _load(backbone: nn.Module, name: Backbone, state: dict[str, Tensor], source: str) -> None:
    """Load a torchvision state dict, or one of our encoders' `backbone.*` tensors."""
    own = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    try:
        if own:
            backbone.load_state_dict(own)
            return
        network = torchvision.models.get_model(name, weights=None)
        unused = {"fc.weight", "fc.bias", "classifier.weight", "classifier.bias"}
        problems = network.load_state_dict(_modern_names(state, unused), strict=False)
        missing = set(problems.missing_keys) - unused
        if missing or problems.unexpected_keys:
            raise RuntimeError(f"missing {sorted(missing)[:3]}, unexpected {problems.unexpected_keys[:3]}")
        backbone.load_state_dict(convolutional_part(network, name).state_dict())
    except RuntimeError as error:
        first = first_line(error)
        raise InputError(f"weights: {source}: does not fit the backbone {name} ({first}); choose another") from error


def _modern_names(state: dict[str, Tensor], unused: set[str]) -> dict[str, Tensor]:
    """DenseNet files of before 2018 say `norm.1` where today's say `norm1`."""
    return {
        key.replace("norm.", "norm").replace("relu.", "relu").replace("conv.", "conv")
        if "denselayer" in key
        else key: (value)
        for key, value in state.items()
        if key not in unused
    }


def initial_encoder(recipe: Recipe, classes: int, image: Image, weights_folder: Path = Path()) -> Encoder:
    """An encoder before training, on the CPU: seeded random weights, then the backbone's from `recipe.weights`.

    `weights_folder` is where the recipe's weights file lies, if it names one.
    """
    torch.manual_seed(recipe.seed)
    encoder = Encoder(EncoderDescription(recipe.backbone, recipe.head, classes, image))
    named = recipe.weights if recipe.weights in NO_WEIGHTS_FILE else str(weights_folder / recipe.weights)
    initialize_backbone(encoder.backbone, recipe.backbone, named)
    return encoder


def weights_files(weights: str, folder: Path) -> list[Path]:
    """The file of initial weights in `folder` that a recipe names, if it names one."""
    return [] if weights in NO_WEIGHTS_FILE else [folder / weights]
