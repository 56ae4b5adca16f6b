"""Published results that tables show next to measured ones, and what a reader must know about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Published:
    """A published rank-1 and trapezoid mAP, as fractions, and the source."""

    rank1: float
    map_trapezoid: float
    source: str


PAPER = "Ainam et al."
QUOTED = "Zheng et al. 2017, as Ainam et al. quote it"
NOTE = (
    "Published rows are single runs and not a controlled comparison: the released code of Ainam et al. gives generated "
    "images the uniform label of LSRO instead of the sparse one, and its baseline was trained without random erasing, "
    "with another learning rate of the head, and for 60 epochs instead of 130. They are shown only next to runs on the "
    "full data set with the same backbone and ImageNet weights."
)

# (data set, backbone, regularizer, ranking), in percent.
_ROWS: dict[tuple[str, str, str, str], tuple[float, float, str]] = {
    ("market1501", "resnet50", "none", "single_query"): (87.29, 69.70, PAPER),
    ("market1501", "resnet50", "slsr", "single_query"): (89.16, 75.15, PAPER),
    ("market1501", "densenet121", "none", "single_query"): (90.05, 74.16, PAPER),
    ("market1501", "densenet121", "slsr", "single_query"): (92.43, 79.08, PAPER),
    ("market1501", "densenet121", "slsr", "single_query_rerank"): (93.82, 90.20, PAPER),
    ("market1501", "resnet50", "none", "multi_query"): (91.27, 76.94, PAPER),
    ("market1501", "resnet50", "slsr", "multi_query"): (92.25, 81.92, PAPER),
    ("market1501", "densenet121", "none", "multi_query"): (92.90, 81.22, PAPER),
    ("market1501", "densenet121", "slsr", "multi_query"): (94.06, 85.20, PAPER),
    ("market1501", "resnet50", "lsro", "single_query"): (83.97, 66.07, QUOTED),
    ("market1501", "resnet50", "lsro", "multi_query"): (88.42, 76.10, QUOTED),
    ("dukemtmc", "resnet50", "none", "single_query"): (76.66, 58.35, PAPER),
    ("dukemtmc", "resnet50", "slsr", "single_query"): (76.53, 60.79, PAPER),
    ("dukemtmc", "densenet121", "none", "single_query"): (79.67, 63.19, PAPER),
    ("dukemtmc", "densenet121", "slsr", "single_query"): (82.94, 67.78, PAPER),
    ("dukemtmc", "densenet121", "slsr", "single_query_rerank"): (86.66, 83.35, PAPER),
    ("dukemtmc", "resnet50", "lsro", "single_query"): (67.68, 47.13, QUOTED),
}
FULL_QUERIES = {"market1501": 3368, "dukemtmc": 2228}
FULL_GALLERY = {"market1501": 19732, "dukemtmc": 17661}
SMALLEST_HEIGHT = 224
PAPER_CLUSTERS, PAPER_IMAGES = 3, 12000
# Table 2 of Ainam et al.: rank-1 and mAP by clusters and generated images, in percent.
TABLE_2_OF = ("market1501", "densenet121", "slsr", "single_query_rerank")
_TABLE_2: dict[tuple[int, int], tuple[float, float]] = {
    (2, 12000): (93.41, 90.15),
    (2, 18000): (92.87, 89.59),
    (2, 24000): (93.20, 89.41),
    (2, 30000): (93.02, 89.51),
    (2, 36000): (92.31, 88.51),
    (3, 12000): (93.82, 90.20),
    (3, 18000): (92.96, 89.54),
    (3, 24000): (92.70, 89.01),
    (3, 30000): (93.08, 89.00),
    (3, 36000): (92.78, 88.13),
    (4, 12000): (93.02, 89.89),
    (4, 18000): (93.32, 89.26),
    (4, 24000): (92.42, 88.99),
    (4, 30000): (92.66, 88.65),
    (4, 36000): (92.27, 88.55),
}
# Table 1 of Ainam et al.: mean silhouette by k, of two principal components of ResNet-50 features, in percent.
TABLE_1_OF = ("market1501", "resnet50", "imagenet", 751)
TABLE_1 = {2: 51.75, 3: 70.03, 4: 68.49, 5: 61.76}


def published_silhouettes(
    dataset: str, backbone: str, weights: str, height: int, training_identities: int
) -> Mapping[int, float]:
    """Return Table 1 by k, in percent; it is empty for other data, networks, initial weights or input sizes."""
    same = (dataset, backbone, weights, training_identities) == TABLE_1_OF and height >= SMALLEST_HEIGHT
    return TABLE_1 if same else {}


def published(
    regularizer: str, ranking: str, settings: Mapping[str, Any], metrics: Mapping[str, Any]
) -> Published | None:
    """Return the published row for a setting; None if there is none, or if the data, weights or scale are different.

    Parameters
    ----------
    settings : the parameters, `block.key` -> value
    metrics : the measures of `evaluate` for this way of ranking
    """
    dataset = settings.get("dataset.name")
    setting = (str(dataset), str(settings.get("train.backbone")), regularizer, ranking)
    row = _ROWS.get(setting)
    full = (
        metrics.get("queries", 0) + metrics.get("queries_without_match", 0) == FULL_QUERIES.get(str(dataset))
        and metrics.get("gallery") == FULL_GALLERY.get(str(dataset))
        and settings.get("train.weights") == "imagenet"
        and settings.get("image.height", 0) >= SMALLEST_HEIGHT
    )
    if row is None or not full:
        return None
    size = (settings.get("cluster.k"), settings.get("generate.images"))
    if setting == TABLE_2_OF and size in _TABLE_2:
        row = (*_TABLE_2[size], PAPER)
    elif regularizer == "slsr" and size != (PAPER_CLUSTERS, PAPER_IMAGES):
        return None
    return Published(row[0] / 100, row[1] / 100, row[2])
