"""Ranks and the measures on them, against naive loops, other libraries and published values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from slsr.errors import InputError
from slsr.retrieval import Labels, evaluate, evaluate_distances, top_matches


def naive_ranks(distances, labels):
    """For each query sort what is left of the gallery, nearest first, equal ones in gallery order."""
    everything = []
    for query, row in enumerate(distances):
        identity, camera = labels.query_identities[query], labels.query_cameras[query]
        left = [
            image
            for image in range(len(row))
            if labels.gallery_identities[image] != -1
            and not (labels.gallery_identities[image] == identity and labels.gallery_cameras[image] == camera)
        ]
        ranked = sorted(left, key=lambda image: (row[image], image))
        everything.append([i + 1 for i, image in enumerate(ranked) if labels.gallery_identities[image] == identity])
    return everything


def naive_measures(ranks):
    """rank-1, AP trapezoid, AP standard, inverse negative penalty of one query, read off method.md."""
    count = len(ranks)
    trapezoid = standard = 0.0
    for i, rank in enumerate(ranks, start=1):
        standard += i / rank / count
        before = (i - 1) / (rank - 1) if rank > 1 else 1.0
        trapezoid += (i / rank + before) / 2 / count
    return float(ranks[0] == 1), trapezoid, standard, count / ranks[-1]


@st.composite
def labelled_distances(draw):
    seed = draw(st.integers(0, 2**32 - 1))
    queries, gallery = draw(st.integers(1, 12)), draw(st.integers(1, 60))
    identities, cameras, levels = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 40))
    random = np.random.default_rng(seed)
    labels = Labels(
        random.integers(0, identities, queries),
        random.integers(-1, identities + 2, gallery),
        random.integers(0, cameras, queries),
        random.integers(0, cameras, gallery),
    )
    return random.integers(-levels, levels, (queries, gallery)), labels


@settings(max_examples=150, deadline=None)
@given(labelled_distances(), st.sampled_from(["float32", "float64", "tensor"]))
def test_ranks_are_those_of_a_sorted_gallery(case, kind):
    distances, labels = case
    expected = naive_ranks(distances, labels)
    given_distances = torch.tensor(distances, dtype=torch.float32) if kind == "tensor" else distances.astype(kind)
    if not any(expected):
        with pytest.raises(InputError, match="has a right match"):
            evaluate_distances(given_distances, labels)
        return
    result = evaluate_distances(given_distances, labels)
    assert [result.ranks_of(query).tolist() for query in range(len(distances))] == expected
    assert result.excluded == sum(not ranks for ranks in expected)
    naive = np.array([naive_measures(ranks) for ranks in expected if ranks])
    means = result.means()
    np.testing.assert_allclose(
        [means[key] for key in ("rank1", "map_trapezoid", "map_standard", "minp")], naive.mean(axis=0), atol=1e-12
    )


@pytest.mark.parametrize("kind", ["numpy", "tensor"])
@pytest.mark.parametrize("levels", [3, 10**6])
def test_many_right_matches(kind, levels):
    random = np.random.default_rng(5)
    labels = Labels(np.zeros(3, int), random.integers(-1, 2, 900), random.integers(0, 3, 3), random.integers(0, 3, 900))
    distances = random.integers(0, levels, (3, 900)).astype(np.float32)
    result = evaluate_distances(torch.tensor(distances) if kind == "tensor" else distances, labels)
    assert result.matches.min() > 64
    assert [result.ranks_of(query).tolist() for query in range(3)] == naive_ranks(distances, labels)
