"""The titles of measures, rankings and runs in reports and model cards, in the order in which they are shown."""

from collections.abc import Mapping
from typing import Any

from slsr.labels.regularizers import REGULARIZERS

FLOORS = {"color_histogram": "floor: color histogram", "untrained": "floor: network before training"}
RETRIEVAL_MEASURES = {
    "rank1": "rank-1",
    "rank5": "rank-5",
    "rank10": "rank-10",
    "map_trapezoid": "mAP (trapezoid)",
    "map_standard": "mAP (standard)",
    "minp": "mINP",
}
RANKINGS = {
    "single_query": "Single query",
    "single_query_rerank": "Single query, re-ranked",
    "multi_query": "Multi-query",
    "multi_query_rerank": "Multi-query, re-ranked",
    "single_gallery_shot": "Single gallery shot (exact expectation)",
}
# The feature spaces of generated images, the one of the headline first.
QUALITY_SPACES = {
    "imagenet": "ImageNet space",
    "imagenet_lite1": "another ImageNet network",
    "handcrafted": "handcrafted space",
    "encoder": "encoder space",
}
VERDICTS = {
    "close to real images": "They are close to real images: the measures hardly distinguish them from real images that "
    "were left out.",
    "recognizable, but poorer": "They are recognizable, but poorer than real images: people can be seen, but details, "
    "colors or variety are lost.",
    "not usable": "They are not usable: they do not show people as the real images do, or they repeat a few pictures.",
    None: "There is no verdict: there are too few images to measure.",
}
QUALITY_MEASURES = {
    "kernel": "KID (kernel distance)",
    "coverage": "coverage",
    "recall": "recall",
    "precision": "precision",
    "density": "density",
    "duplicates": "duplicates",
    "copies": "copies of training images",
    "frechet_of_encoder_features": "Frechet distance of the encoder's features (needs 2,000 images of each kind)",
}


def describe_verdict(quality: Mapping[str, Any]) -> str:
    """Say in one sentence what the verdict on all generated images is, from the content of quality.json."""
    return VERDICTS[quality["overall"].get("verdict")]


def title_of(name: str) -> str:
    """Return the title of a regularizer or a floor in tables."""
    if name in FLOORS:
        return FLOORS[name]
    return REGULARIZERS[name].title if name in REGULARIZERS else name


def short_title_of(name: str) -> str:
    """Return the title of a regularizer without the name in parentheses that it has in params.yaml.

    >>> short_title_of("none")
    'baseline'
    """
    return title_of(name).removesuffix(f" ({name})")
