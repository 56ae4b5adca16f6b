"""Initial weights of a backbone: those of ImageNet, those of a file, or random ones."""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from slsr.errors import InputError, first_line
from slsr.models.backbones import (
    PACKAGED,
    TORCHVISION,
    build_timm_network,
    check_imagenet_weights,
    convolutional_part,
    normalization_of,
)
from slsr.models.efficientnet_lite import packaged_file, packaged_state
from slsr.models.encoder import Encoder, EncoderDescription, FeatureExtractor
from slsr.params.recipe import NO_WEIGHTS_FILE, Image, Recipe

IMAGENET_WEIGHTS = "IMAGENET1K_V1"
FILES_IN_HUB = ("model.safetensors", "pytorch_model.bin")  # in the order in which timm looks for them
SECONDS_FOR_AN_ANSWER = 5.0
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.")


def initialize_backbone(backbone: nn.Module, name: str, weights: str, image: Image) -> None:
    """Give a backbone its initial weights, in place.

    Parameters
    ----------
    weights : `none` keeps the random weights. `imagenet` loads those of torchvision (version V1, which existed when the
        paper was written; they are kept in torch's cache, and their hash is checked at every use); those of
        EfficientNet-Lite0 and -Lite1 from installed packages, whose hashes are also checked; and those of timm's other
        networks from timm's hub or its cache. Any other value is the path of a safetensors file or of a state dict of
        torchvision or timm, which is read with `weights_only`.
    image : the sizes of the images, to which position embeddings are adapted

    Raises
    ------
    InputError
        The weights cannot be downloaded, the file is missing or unreadable, or does not fit the backbone.
    """
    if weights == "none":
        return
    if weights != "imagenet":
        _load(backbone, name, _file_state(Path(weights)), weights, image)
    elif name in TORCHVISION:
        _load(backbone, name, _imagenet_state(name), weights, image)
    elif name in PACKAGED:
        _load(backbone, name, packaged_state(name), weights, image)
    else:
        _load(backbone, name, _hub_state(name), weights, image)


def _imagenet_state(name: str) -> dict[str, Tensor]:
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


def imagenet_file(name: str) -> tuple[str, Path]:
    """Return the address of torchvision's ImageNet weights, and the place of the file in torch's cache."""
    import torchvision

    url: str = torchvision.models.get_model_weights(name)[IMAGENET_WEIGHTS].url
    return url, _in_torch_cache(url)


def _in_torch_cache(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def find_imagenet_weights(name: str) -> dict[str, str | None]:
    """Look for the ImageNet weights of a backbone on this machine, without a network connection.

    Returns
    -------
    `path`, where they are or will be, None if only timm's hub knows; `url`, the address of the download, None if they
    are installed; `problem`, what is wrong with them, or None.
    """
    if name in PACKAGED:
        try:
            return {"path": str(packaged_file(name)), "url": None, "problem": None}
        except InputError as error:
            return {"path": None, "url": None, "problem": str(error)}
    if name not in TORCHVISION:
        return _find_those_of_timm(name)
    url, file = imagenet_file(name)
    hashes = hash_mismatch(file) if file.is_file() else None
    problem = hashes and (
        f"{file} is not the file of this name: its SHA-256 begins with {hashes[0]}, not with {hashes[1]}; remove it, "
        "so that it is downloaded again"
    )
    return {"path": str(file), "url": url, "problem": problem or None}


def _find_those_of_timm(name: str) -> dict[str, str | None]:
    """Look in the cache of timm's hub; a few weights are in no hub, and timm has them in torch's cache."""
    import timm
    from huggingface_hub import hf_hub_url, try_to_load_from_cache

    try:
        check_imagenet_weights(name)
    except InputError as error:
        return {"path": None, "url": None, "problem": str(error)}
    config: Any = timm.get_pretrained_cfg(name)
    if config.hf_hub_id is None:
        return {"path": str(_in_torch_cache(config.url)), "url": config.url, "problem": None}
    cached = (try_to_load_from_cache(config.hf_hub_id, file) for file in FILES_IN_HUB)
    path = next((file for file in cached if isinstance(file, str)), None)
    return {"path": path, "url": hf_hub_url(config.hf_hub_id, FILES_IN_HUB[0]), "problem": None}


def _hash_in_name(path: Path) -> str:
    found = HASH_IN_NAME.search(path.name)
    return found[1] if found else ""


def hash_mismatch(path: Path) -> tuple[str, str] | None:
    """Return how the hash of a file begins and how it should by the file's name; None if the two agree."""
    expected = _hash_in_name(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return None if digest.startswith(expected) else (digest[: len(expected)], expected)


def _hub_state(name: str) -> dict[str, Tensor]:
    """Return the ImageNet weights of a whole network of timm, from the cache of its hub or from the hub.

    Raises
    ------
    InputError
        The hub cannot be reached.
    """
    import timm

    place = find_imagenet_weights(name)
    if place["problem"]:
        raise InputError(f"weights: imagenet: {place['problem']}")
    if place["path"] is not None and Path(place["path"]).is_file():
        return _file_state(Path(place["path"]))
    try:
        _require_answer(str(place["url"]))
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # the client of the hub raises errors of many kinds
        raise InputError(
            f"weights: imagenet: those of {name} could not be downloaded from {place['url']} ({first_line(error)}). "
            f"Set weights to a file in weights/, or to none; those of {' and '.join(PACKAGED)} need no download"
        ) from error


def _require_answer(url: str) -> None:
    """Ask whether an address answers, since the client of the hub repeats its tries for most of a minute.

    Raises
    ------
    OSError
        It does not.
    """
    with suppress(HTTPError):  # an answer: the client may have what is needed, such as an access token
        urlopen(Request(url, method="HEAD"), timeout=SECONDS_FOR_AN_ANSWER).close()


def _download(url: str, path: Path, expected: str) -> None:
    """Download into a temporary file, which gets the name when it is complete and its hash is right."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), expected, progress=False)
    except (URLError, OSError, RuntimeError) as error:
        raise InputError(
            f"weights: imagenet: {url} could not be downloaded, or its hash is wrong ({error}). Put the file into "
            f"{path.parent} yourself, or set weights to a file in weights/, or to none (from scratch; see the presets "
            "sample-scratch and market1501-scratch for a recipe that learns without); those of "
            f"{' and '.join(PACKAGED)} need no download"
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


def _load(backbone: nn.Module, name: str, state: dict[str, Tensor], source: str, image: Image) -> None:
    """Load a state dict of torchvision or timm, or the `backbone.*` tensors of an encoder of this project."""
    own = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    try:
        if own:
            backbone.load_state_dict(own)
        elif name in TORCHVISION:
            backbone.load_state_dict(_torchvision_state(name, state))
        else:
            whole = _timm_state(name, state, image)
            own_names = backbone.state_dict().keys()
            backbone.load_state_dict({key: value for key, value in whole.items() if key in own_names})
    except (RuntimeError, LookupError) as error:
        first = first_line(error)
        raise InputError(f"weights: {source}: does not fit the backbone {name} ({first}); choose another") from error


def _torchvision_state(name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of the convolutional part from those of a whole torchvision network."""
    import torchvision

    network = torchvision.models.get_model(name, weights=None)
    unused = {"fc.weight", "fc.bias", "classifier.weight", "classifier.bias"}
    problems = network.load_state_dict(_modern_names(state, unused), strict=False)
    missing = set(problems.missing_keys) - unused
    if missing or problems.unexpected_keys:
        raise RuntimeError(f"missing {sorted(missing)[:3]}, unexpected {problems.unexpected_keys[:3]}")
    return convolutional_part(network, name).state_dict()


def _timm_state(name: str, state: dict[str, Tensor], image: Image) -> dict[str, Tensor]:
    """Return the weights of a whole network of timm, whatever its classes are, adapted to the size of the images.

    timm checks the names of all weights only if the classifier is loaded too.
    """
    import timm

    config: Any = timm.get_pretrained_cfg(name)
    classifier = config.classifier
    bias = state.get(f"{classifier}.bias")
    classes = 0 if bias is None else len(bias)
    whole = build_timm_network(
        name,
        image,
        num_classes=classes,
        global_pool=None,
        pretrained=True,
        pretrained_cfg_overlay={"state_dict": state, "num_classes": classes},
    )
    return whole.state_dict()


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
    image : with the normalization `backbone`, the encoder's has that of its backbone
    weights_folder : folder of the weights file, if the recipe names one

    Raises
    ------
    InputError
        The backbone is unknown or does not fit the recipe or the images, or its weights are not available.
    """
    torch.manual_seed(recipe.seed)
    own = with_normalization(image, recipe.backbone)
    encoder = Encoder(
        EncoderDescription(
            recipe.backbone, recipe.head, classes, own, last_stride=recipe.last_stride, pooling=recipe.pooling
        )
    )
    _initialize_by_recipe(encoder, recipe, weights_folder)
    return encoder


def initial_extractor(recipe: Recipe, image: Image, weights_folder: Path = Path()) -> FeatureExtractor:
    """Build what `initial_encoder` builds, with the same weights, but without a head."""
    torch.manual_seed(recipe.seed)
    own = with_normalization(image, recipe.backbone)
    extractor = FeatureExtractor(recipe.backbone, own, last_stride=recipe.last_stride, pooling=recipe.pooling)
    _initialize_by_recipe(extractor, recipe, weights_folder)
    return extractor


def _initialize_by_recipe(extractor: FeatureExtractor, recipe: Recipe, folder: Path) -> None:
    weights = recipe.weights if recipe.weights in NO_WEIGHTS_FILE else str(folder / recipe.weights)
    initialize_backbone(extractor.backbone, recipe.backbone, weights, extractor.image)


def with_normalization(image: Image, backbone: str) -> Image:
    """Return the images with the normalization of a backbone where they ask for it."""
    if image.normalization != "backbone":
        return image
    return image.model_copy(update={"normalization": normalization_of(backbone)})


def weights_files(weights: str, folder: Path) -> list[Path]:
    """List the file of initial weights in `folder` that a recipe names, if it names one."""
    return [] if weights in NO_WEIGHTS_FILE else [folder / weights]
