"""Multi-query and single-gallery-shot, against loops, enumeration and sampling."""

import numpy as np
import pytest
import torch
from naive import clustered, naive_gallery_shot

from slsr.errors import InputError
from slsr.retrieval import (
    Labels,
    both_directions,
    euclidean_distances,
    evaluate,
    pool_queries,
    single_gallery_shot,
)


@pytest.mark.parametrize("how", ["mean", "max"])
@pytest.mark.parametrize("normalize", [True, False])
def test_queries_are_pooled_over_identity_and_camera(how, normalize):
    random = np.random.default_rng(0)
    features = random.standard_normal((60, 5)).astype(np.float32)
    identities, cameras = random.integers(-3, 4, 60), random.integers(0, 3, 60)
    chosen = random.permutation(60)[:20]
    found = pool_queries(
        features, identities, cameras, identities[chosen], cameras[chosen], how=how, normalize=normalize
    )
    for row, query in enumerate(chosen):
        own = features[(identities == identities[query]) & (cameras == cameras[query])].astype(float)
        own = own / np.linalg.norm(own, axis=1, keepdims=True) if normalize else own
        np.testing.assert_allclose(found[row], getattr(own, how)(axis=0), atol=1e-6)


def test_multi_query_of_single_images_is_the_single_query():
    query, gallery, labels = clustered(20, 100, 6)
    names = np.arange(20)
    pooled = pool_queries(query, names, names, names, names)
    assert evaluate(pooled, gallery, labels).ranks.tolist() == evaluate(query, gallery, labels).ranks.tolist()


def test_pooling_refuses_what_it_cannot_pool():
    features = np.ones((2, 3), np.float32)
    with pytest.raises(InputError, match=r"query 1 \(identity 1, camera 9\) has no image"):
        pool_queries(features, [1, 2], [0, 0], [1, 1], [0, 9])
    with pytest.raises(InputError, match="'median'; choose mean or max"):
        pool_queries(features, [1, 2], [0, 0], [1], [0], how="median")
    with pytest.raises(InputError, match="2 features to pool but 1 identities"):
        pool_queries(features, [1], [0], [1], [0])


@pytest.mark.parametrize("kind", ["matrix", "tensor"])
def test_expectation_is_the_mean_over_every_gallery(kind):
    random = np.random.default_rng(3)
    labels = Labels([0, 1, 2, 3, 9], random.integers(-1, 4, 14), [0, 1, 0, 1, 0], random.integers(0, 2, 14))
    values = random.integers(0, 6, (5, 14)).astype(np.float32)
    found = single_gallery_shot(torch.tensor(values) if kind == "tensor" else values, labels, depth=6)
    np.testing.assert_allclose(found, naive_gallery_shot(values, labels, 6), atol=1e-12)
    assert np.isnan(found[4]).all()


def test_expectation_is_what_sampling_tends_to():
    query, gallery, labels = clustered(40, 200, 6, noise=1.5)
    distances = euclidean_distances(query, gallery).rows(np.arange(40))
    exact = single_gallery_shot(euclidean_distances(query, gallery), labels, depth=5)
    random = np.random.default_rng(0)
    samples = []
    for _ in range(400):
        order = random.permutation(labels.gallery)
        hits = []
        for row in range(40):
            same = labels.gallery_identities == labels.query_identities[row]
            left = order[~(same & (labels.gallery_cameras == labels.query_cameras[row]))[order]]
            drawn = left[np.unique(labels.gallery_identities[left], return_index=True)[1]]
            ranked = drawn[np.argsort(distances[row, drawn])]
            rank = np.flatnonzero(labels.gallery_identities[ranked] == labels.query_identities[row])
            hits.append([len(rank) > 0 and rank[0] < k for k in range(1, 6)])
        samples.append(hits)
    valid = ~np.isnan(exact[:, 0])
    sampled = np.mean(samples, axis=0)[valid]
    error = np.sqrt(np.maximum(exact[valid] * (1 - exact[valid]), 1e-3) / 400)
    assert (np.abs(sampled - exact[valid]) < 5 * error).all()
    assert 0.1 < exact[valid, 0].mean() < 0.95


def two_views(identities, images, noise=1.0, seed=0):
    random = np.random.default_rng(seed)
    person = np.repeat(np.arange(identities), 2 * images)
    camera = np.tile(np.repeat([4, 7], images), identities)
    centers = random.standard_normal((identities, 6))
    return centers[person] + noise * random.standard_normal((len(person), 6)), person, camera


def sides(query, gallery, person, camera):
    """Labels of some rows as queries and others as the gallery."""
    return Labels(person[query], person[gallery], camera[query], camera[gallery])


def test_both_directions_of_one_image_per_camera_are_the_plain_cmc():
    features, person, camera = two_views(30, 1)
    found = both_directions(features, features, sides(person >= 0, person >= 0, person, camera))
    assert found.matched.shape == (60, 20)
    for direction, view in enumerate((4, 7)):
        one = found.matched[found.directions == direction]
        query, gallery = camera == view, camera != view
        labels = sides(query, gallery, person, camera)
        expected = evaluate(features[query], features[gallery], labels).cmc(20)
        np.testing.assert_allclose(one.mean(axis=0), expected)
    np.testing.assert_array_equal(person[found.images], found.identities)
    np.testing.assert_array_equal(camera[found.images], np.array([4, 7])[found.directions])


def test_both_directions_leave_out_queries_without_a_match():
    features, person, camera = two_views(12, 3)
    alone = person + np.where((person < 4) & (camera == 4), 100, 0)
    found = both_directions(features, features, sides(person >= 0, person >= 0, alone, camera), depth=5)
    assert (found.queries, found.excluded) == (48, 24)
    query, gallery = camera == 4, camera == 7
    labels = sides(query, gallery, alone, camera)
    expected = single_gallery_shot(euclidean_distances(features[query], features[gallery]), labels, depth=5)
    np.testing.assert_allclose(found.matched[found.valid][:24], expected[12:])
    means = [found.matched[found.valid & (found.directions == d)].mean(axis=0) for d in (0, 1)]
    np.testing.assert_allclose(found.cmc(5), np.mean(means, axis=0))
    assert found.query_values().means() == pytest.approx({"rank1": found.cmc(5)[0], "rank5": found.cmc(5)[4]})


def test_both_directions_need_two_cameras_and_matches():
    features, person, camera = two_views(4, 1)
    everything = person >= 0
    with pytest.raises(InputError, match="all queries are from camera 0"):
        both_directions(features, features, sides(everything, everything, person, camera * 0))
    with pytest.raises(InputError, match="no query of camera 4 has an image from another camera"):
        both_directions(features, features, sides(everything, everything, np.arange(8), camera))
    with pytest.raises(InputError, match="8 query images but 7 query identities"):
        both_directions(features, features, sides(np.arange(7), everything, person, camera))
