"""Rankings a query at a time, beside those of the whole query set by slsr.retrieval."""

import numpy as np
import pytest

from slsr.errors import InputError
from slsr.explore.rankings import cosine_similarity, rank_gallery
from slsr.retrieval import Labels, euclidean_distances, evaluate, rerank
from slsr.retrieval.one_query import OneQueryReranker, distances_to_gallery, find_neighbors


def features(count, seed, dimensions=24, people=9):
    generator = np.random.default_rng(seed)
    centers = np.random.default_rng(99).standard_normal((people, dimensions))
    people = np.arange(count) % people
    return (centers[people] + 0.8 * generator.standard_normal((count, dimensions))).astype(np.float32), people


@pytest.fixture(scope="module")
def sides():
    (query, query_people), (gallery, gallery_people) = features(14, 1), features(90, 2)
    cameras = np.random.default_rng(3).integers(1, 4, 104)
    gallery_people = gallery_people.copy()
    gallery_people[::13] = -1
    return query, gallery, Labels(query_people, gallery_people, cameras[:14], cameras[14:])


@pytest.fixture(scope="module")
def reranker(sides):
    query, gallery, _ = sides
    return OneQueryReranker(query, gallery, find_neighbors(query, gallery))


def test_ranks_and_average_precision_are_those_of_evaluate(sides):
    query, gallery, labels = sides
    found = evaluate(query, gallery, labels)
    for row in range(len(query)):
        identity, camera = int(labels.query_identities[row]), int(labels.query_cameras[row])
        distances = distances_to_gallery(query[row], gallery)
        ranking = rank_gallery(distances, labels.gallery_identities, labels.gallery_cameras, identity, camera)
        assert ranking.ranks.tolist() == found.ranks_of(row).tolist()
        assert ranking.average_precision == pytest.approx(found.average_precision_trapezoid[row])
        own = (labels.gallery_identities == identity) & (labels.gallery_cameras == camera)
        assert ranking.left_out == ((labels.gallery_identities == -1).sum(), own.sum())
        assert len(ranking.rows) == len(gallery) - sum(ranking.left_out)


def test_distances_and_similarity_beside_numpy(sides):
    query, gallery, _ = sides
    one, many = (side / np.linalg.norm(side, axis=-1, keepdims=True) for side in (query[3], gallery))
    distances = distances_to_gallery(query[3], gallery)
    np.testing.assert_allclose(distances, np.linalg.norm(many - one, axis=1), atol=1e-5)
    np.testing.assert_allclose(cosine_similarity(distances), many @ one, atol=1e-5)


def test_without_labels_everything_is_ranked_but_the_query_itself(sides):
    _, gallery, labels = sides
    distances = distances_to_gallery(gallery[5], gallery)
    whole = rank_gallery(distances, labels.gallery_identities, labels.gallery_cameras, None, None)
    assert whole.rows[0] == 5
    assert sorted(whole.rows) == list(range(len(gallery)))
    assert (whole.right, whole.average_precision, len(whole.ranks)) == (None, None, 0)
    assert rank_gallery(distances, None, None, 1, 1, itself=5).rows.tolist() == whole.rows[1:].tolist()


def test_known_queries_are_reranked_as_by_rerank(sides, reranker):
    query, gallery, _ = sides
    expected = rerank(query, gallery).rows(np.arange(len(query)))
    for row in range(len(query)):
        np.testing.assert_allclose(reranker.of_query(row), expected[row], atol=2e-6)


@pytest.mark.parametrize("seed", range(4))
def test_a_new_query_is_reranked_as_if_it_had_been_in_the_query_set(sides, reranker, seed):
    query, gallery, _ = sides
    new = features(1, 10 + seed)[0][0] if seed else gallery[7]  # a copy of a gallery image too
    expected = rerank(np.concatenate([query, new[None]]), gallery).rows(np.array([len(query)]))[0]
    np.testing.assert_allclose(reranker.of_feature(new), expected, atol=2e-6)


@pytest.mark.parametrize("size", [3, 20, 60])
def test_a_gallery_without_queries_and_smaller_than_the_lists(size):
    gallery, new = features(size, 4)[0], features(1, 5)[0][0]
    found = OneQueryReranker(gallery[:0], gallery, find_neighbors(gallery[:0], gallery)).of_feature(new)
    np.testing.assert_allclose(found, rerank(new[None], gallery).rows(np.array([0]))[0], atol=2e-6)


def test_neighbors_of_other_images_are_refused(sides):
    query, gallery, _ = sides
    with pytest.raises(InputError, match="neighbors of 104 images, but there are 13 queries"):
        OneQueryReranker(query[1:], gallery, find_neighbors(query, gallery))


def test_plain_order_is_that_of_the_library(sides):
    query, gallery, _ = sides
    matrix = euclidean_distances(query, gallery).rows(np.arange(len(query)))
    ranking = rank_gallery(distances_to_gallery(query[2], gallery), None, None, None, None)
    assert ranking.rows.tolist() == np.argsort(matrix[2], kind="stable").tolist()


def test_a_gallery_image_of_unknown_camera_is_not_its_own_match():
    cameras = np.full(3, -1)
    ranked = rank_gallery(np.array([0.0, 0.5, 0.2]), np.array([7, 7, 8]), cameras, 7, -1, 0)
    assert ranked.rows.tolist() == [2, 1]
    assert ranked.right.tolist() == [False, True]
