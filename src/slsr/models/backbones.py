"""Backbones: the networks of torchvision and timm, without pooling and classifier.

`resnet18`, `resnet50` and `densenet121` are torchvision's, as the publications use them; every other name is timm's.
timm and torchvision take seconds to import, so each is imported when a network of it is built.
"""

from __future__ import annotations

import copy
import os
from typing import Any, cast

import torch
from torch import Tensor, nn

from slsr.errors import InputError, first_line
from slsr.images.augmentation import NORMALIZATION
from slsr.models.efficientnet_lite import PACKAGES
from slsr.params.recipe import Image, Normalization

TORCHVISION = ("resnet18", "resnet50", "densenet121")
PACKAGED = tuple(PACKAGES)  # their ImageNet weights are packages, so they need no network connection
# The number of maps of backbones that take images of any size. Others are tried out.
WIDTHS = {"resnet18": 512, "resnet50": 2048, "densenet121": 1024} | dict.fromkeys(PACKAGED, 1280)
STRIDED = (nn.Conv2d, nn.AvgPool2d, nn.MaxPool2d)
SUGGESTIONS = 5

Size = tuple[int, int]

# The client of timm's hub reads this once, when timm is imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def build_backbone(name: str, image: Image, last_stride: int = 2) -> nn.Module:
    """Build a backbone with random weights; `maps_of` turns what it returns into maps, [B, D, h, w].

    Parameters
    ----------
    image : the sizes that it has to take
    last_stride : 1 lets the last stage keep the size of its maps, as in the strong baseline (Luo et al., CVPR workshops
        2019)

    Raises
    ------
    InputError
        timm has no network of this name, or the network cannot take images of these sizes or has no last stride.
    """
    if name in TORCHVISION:
        import torchvision

        backbone: nn.Module = convolutional_part(torchvision.models.get_model(name, weights=None), name)
    else:
        backbone = build_timm_network(name, image)
    if last_stride == 1:
        _remove_last_stride(backbone, name, input_sizes(image)[0])
    return backbone


def convolutional_part(network: nn.Module, name: str) -> nn.Sequential:
    """Take a torchvision network without pooling and classifier; DenseNet's ends with its last batch norm."""
    if name == "densenet121":
        return nn.Sequential(network.get_submodule("features"))
    return nn.Sequential(*[part for key, part in network.named_children() if key not in {"avgpool", "fc"}])


def build_timm_network(name: str, image: Image, **options: Any) -> nn.Module:
    """Build a network of timm, by default with random weights, without pooling and classifier.

    Parameters
    ----------
    options : for `timm.create_model`

    Raises
    ------
    InputError
        timm has no network of this name, or it takes only one size and the images have two.
    """
    import timm

    config = _timm_config(name)
    sizes = input_sizes(image)
    if config.fixed_input_size:
        if len(sizes) > 1:
            raise InputError(
                f"backbone {name} takes images of one size, and there are {_written(sizes)} (training and tests); set "
                "image.test: center-crop, or resize_height and resize_width to height and width"
            )
        options = {"img_size": sizes[0]} | options
    chosen: dict[str, Any] = {"num_classes": 0, "global_pool": ""} | options
    try:
        network: nn.Module = timm.create_model(name, **chosen)
    except (AssertionError, ValueError, TypeError) as error:
        raise _unfit(name, sizes, error) from error
    return network


def input_sizes(image: Image) -> list[Size]:
    """Return the sizes (height, width) of the images that a network sees: in training, and in tests if different."""
    crop, resized = (image.height, image.width), (image.resize_height, image.resize_width)
    return [crop] if image.test == "center-crop" or crop == resized else [crop, resized]


def maps_of(backbone: nn.Module, output: Tensor) -> Tensor:
    """Turn the output of a backbone into its last maps, [B, D, h, w]: those of a transformer are its patches."""
    if output.ndim == 3:
        patches: Any = backbone.get_submodule("patch_embed")
        maps: Tensor = output[:, _prefix_tokens(backbone) :].transpose(1, 2).unflatten(2, patches.grid_size)
        return maps
    return output.permute(0, 3, 1, 2) if getattr(backbone, "output_fmt", "NCHW") == "NHWC" else output


def class_token_of(output: Tensor) -> Tensor:
    """Take the class token of a transformer's output: [B, N, D] to [B, D]."""
    return output[:, 0]


def has_class_token(backbone: nn.Module) -> bool:
    """Tell whether a backbone is a transformer whose first token sums up the image."""
    return _prefix_tokens(backbone) > 0 and getattr(backbone, "cls_token", None) is not None


def _prefix_tokens(backbone: nn.Module) -> int:
    return int(getattr(backbone, "num_prefix_tokens", 0))  # a transformer of timm has this number


def feature_width(backbone: nn.Module, name: str, image: Image) -> int:
    """Return D, the number of maps of a backbone; try it on all sizes that it has to take.

    Raises
    ------
    InputError
        It cannot take images of a size.
    """
    if name in WIDTHS:
        return WIDTHS[name]
    shapes = [_shape_of_maps(_without_data(backbone), name, size) for size in input_sizes(image)]
    return int(shapes[0][1])


def normalization_of(name: str) -> Normalization:
    """Return the normalization that the ImageNet weights of a backbone expect.

    Raises
    ------
    InputError
        timm has no network of this name, or this project does not know its normalization.
    """
    if name in TORCHVISION:
        return "imagenet"
    config = _timm_config(name)
    for known, (mean, deviation) in NORMALIZATION.items():
        if torch.allclose(torch.tensor([mean, deviation]), torch.tensor([config.mean, config.std]), atol=1e-4):
            return cast(Normalization, known)
    raise InputError(
        f"normalization of {name}: mean {config.mean} and deviation {config.std} are not known here; set "
        f"image.normalization to one of {', '.join(NORMALIZATION)}, or choose another backbone"
    )


def check_imagenet_weights(name: str) -> None:
    """Check that timm has ImageNet weights of a network of its own.

    Raises
    ------
    InputError
        It has no network of this name, or no weights of it.
    """
    import timm

    if not timm.is_model_pretrained(_known(name)):
        raise InputError(f"weights imagenet: timm has none for {name}; set weights to none, or to a file in weights/")


def _timm_config(name: str) -> Any:
    """Return what timm knows about a network: normalization, input size, classifier.

    Raises
    ------
    InputError
        timm has no network of this name.
    """
    import timm

    return timm.get_pretrained_cfg(_known(name), allow_unregistered=True) or timm.models.PretrainedCfg()


def _known(name: str) -> str:
    """Return the name if timm has a network, or weights, of this name.

    Raises
    ------
    InputError
        It has not; the message suggests similar names.
    """
    import difflib

    import timm

    architecture = name.partition(".")[0]
    if timm.is_model(architecture) and (architecture == name or name in timm.list_pretrained(f"{architecture}.*")):
        return name
    names = [*timm.list_models(), *(timm.list_pretrained() if "." in name else [])]
    near = difflib.get_close_matches(name, names, SUGGESTIONS, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else "`timm.list_models()` lists the names"
    raise InputError(f"backbone {name!r}: unknown; {hint}")


def _without_data(backbone: nn.Module) -> nn.Module:
    """Return a copy that computes shapes only."""
    return copy.deepcopy(backbone).to("meta").eval()


@torch.no_grad()
def _shape_of_maps(backbone: nn.Module, name: str, size: Size) -> torch.Size:
    """Return the shape of the maps of one image, [1, D, h, w], of a backbone without data.

    Raises
    ------
    InputError
        It cannot take images of this size.
    """
    try:
        return maps_of(backbone, backbone(torch.empty(1, 3, *size, device="meta"))).shape
    except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise _unfit(name, [size], error) from error


def _unfit(name: str, sizes: list[Size], error: Exception) -> InputError:
    if isinstance(error, AttributeError):
        return InputError(f"backbone {name} has no maps to pool ({first_line(error)}); choose another backbone")
    return InputError(
        f"backbone {name} does not work with images of {_written(sizes)} pixels ({first_line(error)}); choose another "
        "backbone, or change image.height and image.width"
    )


def _written(sizes: list[Size]) -> str:
    return " and ".join(f"{height}x{width}" for height, width in sizes)


def _remove_last_stride(backbone: nn.Module, name: str, size: Size) -> None:
    """Let the layers that halve the maps for the last time keep their size, in place.

    Raises
    ------
    InputError
        The maps do not become twice as high and wide.
    """
    trial = _without_data(backbone)
    before = _shape_of_maps(trial, name, size)
    for layer in _last_halving(trial, (before[2], before[3]), size):
        for network in (trial, backbone):
            _set_stride_1(network, layer)
    try:
        after = _shape_of_maps(trial, name, size)
    except InputError:
        after = before
    if after == before or any(not _halves(new, old) for old, new in zip(before[2:], after[2:], strict=True)):
        raise InputError(
            f"last_stride 1 is not available for backbone {name} with images of {_written([size])} pixels; set "
            "last_stride to 2"
        )


@torch.no_grad()
def _last_halving(backbone: nn.Module, last: Size, size: Size) -> list[str]:
    """Name the convolutions and poolings of a backbone without data that make its maps as small as the last ones."""
    found = []

    def note(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            shapes = zip(inputs[0].shape[2:], output.shape[2:], strict=True)
            if output.shape[2:] == last and all(old > new and _halves(old, new) for old, new in shapes):
                found.append(name)

        return hook

    layers = [(name, layer) for name, layer in backbone.named_modules() if isinstance(layer, STRIDED)]
    hooks = [layer.register_forward_hook(note(name)) for name, layer in layers]
    backbone(torch.empty(1, 3, *size, device="meta"))
    for hook in hooks:
        hook.remove()
    return found


def _halves(old: int, new: int) -> bool:
    return new in (old // 2, (old + 1) // 2)


def _set_stride_1(backbone: nn.Module, name: str) -> None:
    """Give a convolution the stride 1; a pooling becomes the identity."""
    layer = backbone.get_submodule(name)
    if isinstance(layer, nn.Conv2d):
        layer.stride = (1, 1)
        return
    parent, _, own = name.rpartition(".")
    setattr(backbone.get_submodule(parent), own, nn.Identity())
