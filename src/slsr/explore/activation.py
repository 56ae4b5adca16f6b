"""Where a network looks: activation maps over images; they need no classes and no labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage
from torch import Tensor, nn

from slsr.embedding.encoder import LoadedEncoder
from slsr.embedding.engine import with_mirrored
from slsr.embedding.pictures import resized
from slsr.images.augmentation import to_input
from slsr.models.encoder import FeatureExtractor
from slsr.params.recipe import Image
from slsr.runtime.devices import to_device

MapKind = Literal["activation", "similarity"]
MAP_KINDS: tuple[MapKind, ...] = ("activation", "similarity")
FINEST_ROWS = 8
COARSE_ROWS = 4  # a map with fewer rows is drawn in blocks: smoothed, it would seem to say more than it does
FADED = 0.45
# A perceptually uniform scale from dark violet over red to light yellow, also for color-blind readers.
SCALE = np.array(
    [[0, 0, 4], [41, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39]], np.float64
)


@dataclass(frozen=True, eq=False)
class ActivationMap:
    """A number for each place of an image, float32 [h, w] from the top left; `lowest` is drawn darkest."""

    values: NDArray[np.float32]
    lowest: float


@torch.inference_mode()
def energy_map(encoder: LoadedEncoder, image: PillowImage.Image) -> ActivationMap:
    """How strongly each place of an image excites the network: `sqrt(sum_c A_c^2)` over the channels c of a layer.

    The activation-based attention map of Zagoruyko and Komodakis (ICLR 2017) with p = 2, under a root. A is the deepest
    feature map that has at least 8 rows: the last one, or one before it where the input is so small that the
    last one has but a few cells. The mirrored image's map is mirrored back and added, as its feature is.
    """
    maps = _fine_maps(encoder.network, _inputs(encoder, image))
    values = _mirrored_back(maps.square().sum(dim=1).sqrt())[0].float().cpu().numpy()
    return ActivationMap(values, float(values.min()))


@torch.inference_mode()
def similarity_map(encoder: LoadedEncoder, image: PillowImage.Image, feature: NDArray[np.float32]) -> ActivationMap:
    """What each place of an image adds to its cosine similarity with another image; the sum is the similarity.

    A feature is the mean of what each of P places adds, f = (1/P) sum_p A_p, so that with q the other image's feature
    of length 1, cos(q, f) = sum_p q.A_p / (P |f|): exact, as Stylianou, Souvenir and Pless have it for average pooling
    (WACV 2019). A is that of the image plus, mirrored back, that of its mirror image. The feature of a transformer that
    ends in a class token is no such mean: its patches take the place of A, and the sum is not the similarity.

    Parameters
    ----------
    feature : of the other image, [D], of length 1
    """
    added = _mirrored_back(encoder.network.added_by_places(_inputs(encoder, image)))
    direction = torch.from_numpy(np.asarray(feature, np.float32)).to(added.device)
    length = added.mean(dim=(2, 3)).norm()
    shares = torch.einsum("nchw,c->nhw", added, direction)[0] / (added.shape[2] * added.shape[3] * length)
    values = shares.float().cpu().numpy()
    return ActivationMap(values, 0.0)


def draw_map(image: PillowImage.Image, found: ActivationMap, size: tuple[int, int], view: Image) -> PillowImage.Image:
    """Draw a map over its image, from dark (the lowest value) to yellow (the highest value).

    A map with fewer than `COARSE_ROWS` rows is drawn as blocks, others smoothly.

    Parameters
    ----------
    size : (width, height), the largest size of the result
    view : how the image goes into the network; what a center crop cuts off is also cut off here
    """
    seen = _cut(image, view)
    seen.thumbnail(size, PillowImage.Resampling.BICUBIC)
    height = float(found.values.max()) - found.lowest
    scaled = np.maximum(found.values - found.lowest, 0) / height if height > 0 else np.zeros_like(found.values)
    smooth = len(scaled) >= COARSE_ROWS
    method = PillowImage.Resampling.BICUBIC if smooth else PillowImage.Resampling.NEAREST
    resized = PillowImage.fromarray(scaled.astype(np.float32)).resize(seen.size, method)
    weight = np.clip(np.asarray(resized), 0, 1)
    gray = np.asarray(seen.convert("L"), np.float64)[..., None].repeat(3, axis=2)
    places = np.linspace(0, 1, len(SCALE))
    color = np.stack([np.interp(weight, places, SCALE[:, channel]) for channel in range(3)], axis=2)
    blended = FADED * gray + (1 - FADED) * color
    return PillowImage.fromarray(np.clip(np.rint(blended), 0, 255).astype(np.uint8))


def map_size(encoder: LoadedEncoder, kind: MapKind) -> tuple[int, int]:
    """Return (rows, columns) of a map of this kind; they do not depend on the image."""
    blank = PillowImage.new("RGB", (encoder.size[1], encoder.size[0]))
    if kind == "activation":
        values = energy_map(encoder, blank).values
    else:
        values = similarity_map(encoder, blank, np.ones(encoder.dimension, np.float32)).values
    return values.shape[0], values.shape[1]


def _inputs(encoder: LoadedEncoder, image: PillowImage.Image) -> Tensor:
    """Prepare an image for the network, and its mirrored image too if that counts: [1 or 2, 3, H, W]."""
    pixels = torch.from_numpy(resized(image, "picture", encoder.image)[None])
    batch = to_input(to_device(pixels, encoder.device), encoder.image)
    return with_mirrored(batch) if encoder.flip else batch.contiguous(memory_format=torch.channels_last)


def _fine_maps(network: FeatureExtractor, inputs: Tensor) -> Tensor:
    """Return the deepest maps with at least `FINEST_ROWS` rows, or the last maps if there are none."""
    found = _maps_of_layers(network, inputs)
    fine = [maps for maps in found if maps.shape[2] >= FINEST_ROWS]
    return fine[-1] if fine else found[-1]


def _maps_of_layers(network: FeatureExtractor, inputs: Tensor) -> list[Tensor]:
    """Return the maps after each layer of a torchvision network, or after each stage of one of timm that gives them.

    The last ones are those that are pooled.
    """
    backbone: Any = network.backbone
    if not isinstance(backbone, nn.Sequential):
        give = getattr(backbone, "forward_intermediates", None)
        stages = give(inputs, intermediates_only=True, output_fmt="NCHW") if give else []
        return [*stages, network.maps(inputs)]
    found = [inputs]
    for layer in _layers(backbone):
        found.append(layer(found[-1]).clone())
    return found[1:]


def _layers(module: nn.Module) -> list[nn.Module]:
    """List a network's layers and blocks in order; nested lists are flattened."""
    if type(module) is not nn.Sequential:
        return [module]
    return [layer for child in module for layer in _layers(child)]


def _mirrored_back(maps: Tensor) -> Tensor:
    """Mirror the second image's map back and add it to the first: [1 or 2, ..., h, w] to [1, ..., h, w]."""
    return maps[:1] + maps[1:].flip(-1) if len(maps) == 2 else maps


def _cut(image: PillowImage.Image, view: Image) -> PillowImage.Image:
    """Cut out the part of an image that the network sees, in the image's own resolution."""
    whole = image.convert("RGB")
    if view.test != "center-crop":
        return whole.copy()
    top, left = (view.resize_height - view.height) // 2, (view.resize_width - view.width) // 2
    across, down = whole.width / view.resize_width, whole.height / view.resize_height
    box = (left * across, top * down, (left + view.width) * across, (top + view.height) * down)
    edges = tuple(round(edge) for edge in box)
    return whole.crop((edges[0], edges[1], max(edges[2], edges[0] + 1), max(edges[3], edges[1] + 1)))
