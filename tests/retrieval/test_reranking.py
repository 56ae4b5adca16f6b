"""k-reciprocal re-ranking against a dense reading of its formulas in float64."""

import tracemalloc

import numpy as np
import pytest
import torch
from naive import clustered, dense_rerank, naive_ranks, squared_distances

from slsr.errors import InputError
from slsr.retrieval import (
    Labels,
    euclidean_distances,
    evaluate,
    evaluate_distances,
    evaluate_reranked,
    neighbors,
    rerank,
    reranking,
    top_matches,
)
from slsr.retrieval.distances import feature_pair
from slsr.retrieval.workers import Workers


def all_rows(source):
    return source.rows(np.arange(source.shape[0]))


@pytest.mark.parametrize("kind", ["numpy", "tensor"])
@pytest.mark.parametrize(
    ("sizes", "choices"),
    [
        ((150, 1100, 64), {}),
        ((60, 600, 32), {"normalize": False}),
        ((60, 400, 16), {"k1": 7, "k2": 1, "lambda_": 0.1}),
        ((60, 400, 16), {"k1": 30, "k2": 9, "lambda_": 0.0}),
        ((20, 200, 16), {"k1": 100, "k2": 3}),
        ((9, 40, 8), {"k1": 90, "k2": 60}),
        ((1, 1, 4), {}),
    ],
)
def test_distances_are_those_of_the_dense_formulas(sizes, choices, kind):
    query, gallery, _ = clustered(*sizes, noise=1.5)
    sides = (torch.tensor(query), torch.tensor(gallery)) if kind == "tensor" else (query, gallery)
    np.testing.assert_allclose(all_rows(rerank(*sides, **choices)), dense_rerank(query, gallery, **choices), atol=1e-5)


def test_float64_features_are_re_ranked_in_float64():
    query, gallery, _ = clustered(40, 400, 16, dtype=np.float64)
    np.testing.assert_allclose(all_rows(rerank(query, gallery)), dense_rerank(query, gallery), atol=1e-13)


@pytest.mark.parametrize("kind", ["numpy", "tensor"])
def test_half_precision_features(kind):
    query, gallery, _ = clustered(20, 200, 16, dtype=np.float16)
    sides = (torch.tensor(query), torch.tensor(gallery)) if kind == "tensor" else (query, gallery)
    np.testing.assert_allclose(all_rows(rerank(*sides)), dense_rerank(query, gallery), atol=1e-5)


def first_sets(nearest, cut):
    return np.sort(nearest[:, :cut], axis=1)


def test_neighbors_are_those_of_float64_where_float32_errs():
    """Images so close together that sums in float32 put some on the wrong side of a cut."""
    random = np.random.default_rng(0)
    query, gallery = (1 + random.normal(0, 0.03, (size, 128)).astype(np.float32) for size in (60, 740))
    both = np.concatenate([query, gallery])
    exact = np.argsort(squared_distances(both), axis=1, kind="stable")
    single = both / np.linalg.norm(both, axis=1, keepdims=True)
    single = np.argsort(-single @ single.T, axis=1, kind="stable")
    cuts = (6, 11, 21)
    assert sum((first_sets(single, cut) != first_sets(exact, cut)).any(axis=1).sum() for cut in cuts) > 20
    images = neighbors.QueryAndGallery(*feature_pair(query, gallery, normalize=True))
    with Workers() as workers:
        table = images.neighbors(cuts, np.empty((0, len(gallery)), np.float32), workers)
    for cut in cuts:
        np.testing.assert_array_equal(first_sets(table.nearest, cut), first_sets(exact, cut))
    np.testing.assert_allclose(table.furthest, squared_distances(both).max(axis=1), rtol=1e-3)


def near_each_other(kind, queries=40, gallery=260, dimensions=64):
    """Make float32 features of which float32 products cannot tell the near ones apart, with labels."""
    random = np.random.default_rng(5)
    query, gallery, labels = clustered(queries, gallery, dimensions, noise=2.0, dtype=np.float64)
    if kind == "offset":
        return (query + 1e4).astype(np.float32), (gallery + 1e4).astype(np.float32), labels, False
    if kind == "narrow cone":
        return (1 + 1e-3 * query).astype(np.float32), (1 + 1e-3 * gallery).astype(np.float32), labels, True
    centers = random.standard_normal((3, dimensions))  # several narrow cones, the mean far from each of them
    sides = (centers[np.arange(len(side)) % 3] + 3e-4 * side for side in (query, gallery))
    return *(side.astype(np.float32) for side in sides), labels, True


@pytest.mark.parametrize("few", [0, 2048])
@pytest.mark.parametrize("kind", ["offset", "narrow cone", "narrow cones"])
def test_features_that_differ_little_are_re_ranked_as_in_float64(monkeypatch, kind, few):
    monkeypatch.setattr(neighbors, "FEW_IMAGES", few)
    query, gallery, labels, normalize = near_each_other(kind)
    exact = evaluate_distances(dense_rerank(query, gallery, normalize=normalize), labels)
    found = evaluate_reranked(query, gallery, labels, normalize=normalize)
    assert found.means() == pytest.approx(exact.means(), abs=1e-5)


@pytest.mark.parametrize("kind", ["offset", "narrow cone", "narrow cones"])
def test_lists_of_features_that_differ_little_are_those_of_float64(kind):
    query, gallery, labels, normalize = near_each_other(kind)
    exact = np.sqrt(squared_distances(np.concatenate([query, gallery]), normalize)[:40, 40:])
    top = top_matches(euclidean_distances(query, gallery, normalize=normalize), labels, range(40), 10)
    np.testing.assert_allclose(top.distances, np.take_along_axis(exact, top.indices, 1), rtol=1e-4)


def test_features_in_general_position_stay_in_their_own_type(monkeypatch):
    monkeypatch.setattr(neighbors, "FEW_IMAGES", 0)
    query, gallery, _ = clustered(40, 260, 64)
    images = neighbors.QueryAndGallery(*feature_pair(query, gallery, normalize=True))
    assert images.sharpened(21) is images


@pytest.mark.parametrize("kept", [0, 13 * 300 * 4, 2**28])
def test_tiles_blocks_and_what_is_kept_make_no_difference(monkeypatch, kept):
    query, gallery, labels = clustered(70, 300, 16, noise=1.5)
    expected = all_rows(rerank(query, gallery))
    monkeypatch.setattr(neighbors, "TILE_ROWS", 32)
    monkeypatch.setattr(neighbors, "TILE_COLUMNS", 150)
    monkeypatch.setattr(reranking, "KEPT_BYTES", kept)
    reranked = rerank(query, gallery)
    np.testing.assert_allclose(all_rows(reranked), expected, atol=1e-6)
    for _ in range(2):
        blocks = [reranked.order(start, min(start + 20, 70)).copy() for start in range(0, 70, 20)]
        np.testing.assert_allclose(np.concatenate(blocks), expected, atol=1e-6)
    whole = reranked.order(0, 70).copy()
    assert evaluate_distances(reranked, labels).means() == evaluate_distances(whole, labels).means()


@pytest.mark.parametrize("kind", ["numpy", "tensor"])
def test_evaluation_of_re_ranked_distances(kind):
    """In float64, so that rounding does not decide the order of two images."""
    query, gallery, labels = clustered(50, 500, 16, dtype=np.float64)
    labels = Labels(
        labels.query_identities,
        np.where(np.arange(500) % 5 == 0, -1, labels.gallery_identities),
        labels.query_cameras,
        labels.gallery_cameras,
    )
    sides = (torch.tensor(query), torch.tensor(gallery)) if kind == "tensor" else (query, gallery)
    found = evaluate_reranked(*sides, labels)
    expected = naive_ranks(dense_rerank(query, gallery), labels)
    assert [found.ranks_of(row).tolist() for row in range(50)] == expected
    assert found.means()["map_standard"] > evaluate(query, gallery, labels).means()["map_standard"]
    without = evaluate_reranked(*sides, labels, junk=False)
    kept = np.flatnonzero(labels.kept)
    expected = naive_ranks(dense_rerank(query, gallery[kept]), labels.with_gallery(kept))
    assert [without.ranks_of(row).tolist() for row in range(50)] == expected
    assert without.gallery == found.gallery == 500
    assert without.means() != found.means()


def test_lambda_1_is_the_plain_ranking():
    query, gallery, labels = clustered(40, 300, 16, noise=2.0, dtype=np.float64)
    plain, reranked = evaluate(query, gallery, labels), evaluate_reranked(query, gallery, labels, lambda_=1.0)
    assert plain.ranks.tolist() == reranked.ranks.tolist()


def test_top_matches_of_re_ranked_distances():
    query, gallery, labels = clustered(20, 200, 16)
    reranked = rerank(query, gallery)
    result, top = evaluate_distances(reranked, labels), top_matches(reranked, labels, [4, 7], 10)
    for row, chosen in enumerate([4, 7]):
        ranks = result.ranks_of(chosen)
        assert (np.flatnonzero(top.right[row]) + 1).tolist() == ranks[ranks <= 10].tolist()
    np.testing.assert_allclose(top.distances, dense_rerank(query, gallery)[[[4], [7]], top.indices], atol=1e-5)


@pytest.mark.parametrize("kind", ["numpy", "tensor"])
@pytest.mark.parametrize("normalize", [True, False])
def test_copies_of_one_image_are_no_trouble(kind, normalize):
    gallery = np.ones((60, 8), np.float32)
    sides = (torch.tensor(gallery[:5]), torch.tensor(gallery)) if kind == "tensor" else (gallery[:5], gallery)
    found = all_rows(rerank(*sides, normalize=normalize))
    assert np.isfinite(found).all()
    assert (found >= -1e-6).all()
    assert (found <= 1 + 1e-6).all()


def test_memory_grows_with_images_times_neighbors(monkeypatch):
    """The matrix of distances of 6,000 images takes 144 MB; the queries' part alone 19 MB."""
    monkeypatch.setattr(reranking, "KEPT_BYTES", 0)
    query, gallery, labels = clustered(1000, 5000, 16)
    evaluate_reranked(query[:50], gallery[:200], Labels([1] * 50, [1] * 200, [0] * 50, [1] * 200))
    tracemalloc.start()
    evaluate_reranked(query, gallery, labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6


@pytest.mark.parametrize(
    ("choices", "message"),
    [({"k1": 0}, "k1 = 0"), ({"k2": 0}, "k2 = 0"), ({"lambda_": 1.5}, "lambda = 1.5"), ({"lambda_": np.nan}, "nan")],
)
def test_parameters_out_of_range(choices, message):
    query, gallery, _ = clustered(3, 9, 4)
    with pytest.raises(InputError, match=message):
        rerank(query, gallery, **choices)
