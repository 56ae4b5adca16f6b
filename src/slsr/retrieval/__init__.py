"""Retrieval evaluation and re-ranking on plain arrays."""

from slsr.retrieval.bootstrap import PairedDifference, compare, headline, intervals, paired_differences
from slsr.retrieval.distances import euclidean_distances
from slsr.retrieval.matching import Labels
from slsr.retrieval.measures import Evaluation
from slsr.retrieval.protocols import (
    SingleGalleryShot,
    both_directions,
    both_directions_of_distances,
    pool_queries,
    single_gallery_shot,
)
from slsr.retrieval.query_values import QueryValues
from slsr.retrieval.ranking import TopMatches, evaluate, evaluate_distances, top_matches
from slsr.retrieval.reranking import evaluate_reranked, rerank

__all__ = [
    "Evaluation",
    "Labels",
    "PairedDifference",
    "QueryValues",
    "SingleGalleryShot",
    "TopMatches",
    "both_directions",
    "both_directions_of_distances",
    "compare",
    "euclidean_distances",
    "evaluate",
    "evaluate_distances",
    "evaluate_reranked",
    "headline",
    "intervals",
    "paired_differences",
    "pool_queries",
    "rerank",
    "single_gallery_shot",
    "top_matches",
]
