"""The titles of measures, rankings and runs in reports and model cards, in the order in which they are shown."""

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


def title_of(name: str) -> str:
    """Return the title of a regularizer or a floor in tables."""
    if name in FLOORS:
        return FLOORS[name]
    return REGULARIZERS[name].title if name in REGULARIZERS else name
