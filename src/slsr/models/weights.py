"""Initial weights of a backbone: those of ImageNet, those of a file, or random ones."""

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
from slsr.models.encoder import Encoder, EncoderDescription, FeatureExtractor, convolutional_part
from slsr.params.recipe import NO_WEIGHTS_FILE, Backbone, Image, Recipe

IMAGENET_WEIGHTS = "IMAGENET1K_V1"
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.")


def initialize_backbone(backbone: nn.Module, name: Backbone, weights: str) -> None:
    """Give a backbone its initial weights, in place.

    Parameters
    ----------
    weights : `none` keeps the random weights. `imagenet` loads those of torchvision (version V1, which existed when the
        paper was written; they are kept in torch's cache, and their hash is checked at every use). Any other value is
        the path of a safetensors file or of a torchvision state dict, which is read with `weights_only`.

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
    """Read torchvision's weights from torch's cache; download them first if they are not there.

    torchvision's own loader checks the hash only when it downloads, and unpickles any file that is in the cache.
    """
    url, path = imagenet_file(name)
    if not path.is_file():
        _download(url, path, _hash_in_name(path))
    if hashes := hash_mismatch(path):
        raise InputError(
            f"weights: imagenet: {path} is damaged or another file: its SHA-256 begins with {hashes[0]}, not with "
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
    """Download into a temporary file, which gets the name when it is complete and its hash is right."""
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
        raise InputError(f"weights: {path}: no such file; give imagenet, none, or the path of a weights file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler of torch raises errors of any kind
        raise InputError(f"weights: {path}: not a readable weights file ({error}); use safetensors") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"weights: {path}: not a state dict of tensors; save `network.state_dict()`")
    return state


def _load(backbone: nn.Module, name: Backbone, state: dict[str, Tensor], source: str) -> None:
    """Load a torchvision state dict, or the `backbone.*` tensors of an encoder of this project."""
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
    """Rename the parameters of DenseNet files from before 2018: `norm.1` is called `norm1` today."""
    return {
        key.replace("norm.", "norm").replace("relu.", "relu").replace("conv.", "conv")
        if "denselayer" in key
        else key: (value)
        for key, value in state.items()
        if key not in unused
    }


def initial_encoder(recipe: Recipe, classes: int, image: Image, weights_folder: Path = Path()) -> Encoder:
    """Build an encoder as it is before training, on the CPU.

    Its weights are random, from the recipe's seed; then the backbone gets those that `recipe.weights` names.

    Parameters
    ----------
    weights_folder : folder of the weights file, if the recipe names one
    """
    torch.manual_seed(recipe.seed)
    encoder = Encoder(EncoderDescription(recipe.backbone, recipe.head, classes, image))
    _initialize_by_recipe(encoder, recipe, weights_folder)
    return encoder


def initial_extractor(recipe: Recipe, image: Image, weights_folder: Path = Path()) -> FeatureExtractor:
    """Build what `initial_encoder` builds, with the same weights, but without a head."""
    torch.manual_seed(recipe.seed)
    extractor = FeatureExtractor(recipe.backbone, image)
    _initialize_by_recipe(extractor, recipe, weights_folder)
    return extractor


def _initialize_by_recipe(extractor: FeatureExtractor, recipe: Recipe, folder: Path) -> None:
    weights = recipe.weights if recipe.weights in NO_WEIGHTS_FILE else str(folder / recipe.weights)
    initialize_backbone(extractor.backbone, recipe.backbone, weights)


def weights_files(weights: str, folder: Path) -> list[Path]:
    """List the file of initial weights in `folder` that a recipe names, if it names one."""
    return [] if weights in NO_WEIGHTS_FILE else [folder / weights]
