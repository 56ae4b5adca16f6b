"""Retrieval evaluation and re-ranking on plain arrays."""

from slsr.retrieval.distances import euclidean_distances
from slsr.retrieval.matching import Labels
from slsr.retrieval.ranking import Evaluation, TopMatches, evaluate, evaluate_distances, top_matches

__all__ = ["Evaluation", "Labels", "TopMatches", "euclidean_distances", "evaluate", "evaluate_distances", "top_matches"]
