"""Ranks and the measures on them, against naive loops, other libraries and published values."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from builders import golden
from hypothesis import given
from hypothesis import strategies as st
from naive import clustered, naive_measures, naive_ranks
from scipy.io import loadmat
from sklearn.metrics import average_precision_score
from torchmetrics.functional.retrieval import retrieval_average_precision

from slsr.errors import InputError
from slsr.retrieval import Labels, euclidean_distances, evaluate, evaluate_distances, top_matches


def ranks_of(result):
    return [result.ranks_of(query).tolist() for query in range(len(result.valid))]


def left_of(labels, query):
    """The gallery images that are ranked for a query."""
    same = (labels.gallery_identities == labels.query_identities[query]) & (
        labels.gallery_cameras == labels.query_cameras[query]
    )
    return np.flatnonzero(~same & (labels.gallery_identities != -1))


@st.composite
def labeled_distances(draw):
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    queries, gallery = draw(st.integers(1, 12)), draw(st.integers(1, 60))
    identities, cameras, levels = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 40))
    labels = Labels(
        random.integers(-1, identities, queries),
        random.integers(-1, identities + 2, gallery),
        random.integers(0, cameras, queries),
        random.integers(0, cameras, gallery),
    )
    return random.integers(-levels, levels, (queries, gallery)), labels


@given(labeled_distances(), st.sampled_from(["int64", "float32", "float64", "tensor"]))
def test_ranks_are_those_of_a_sorted_gallery(case, kind):
    values, labels = case
    expected = naive_ranks(values, labels)
    given_values = torch.tensor(values, dtype=torch.float32) if kind == "tensor" else values.astype(kind)
    if not any(expected):
        with pytest.raises(InputError, match="has a right match"):
            evaluate_distances(given_values, labels)
        return
    result = evaluate_distances(given_values, labels)
    assert ranks_of(result) == expected
    assert (result.queries, result.excluded) == (sum(map(bool, expected)), sum(not ranks for ranks in expected))
    naive = np.array([naive_measures(ranks) for ranks in expected if ranks])
    means = result.means()
    keys = ("rank1", "map_trapezoid", "map_standard", "minp")
    np.testing.assert_allclose([means[key] for key in keys], naive.mean(axis=0), atol=1e-12)
    curve = result.cmc(7)
    firsts = [ranks[0] for ranks in expected if ranks]
    np.testing.assert_allclose(curve, [np.mean([first <= k for first in firsts]) for k in range(1, 8)])


@pytest.mark.parametrize("kind", ["numpy", "tensor"])
@pytest.mark.parametrize("levels", [3, 10**6])
def test_many_right_matches(kind, levels):
    random = np.random.default_rng(5)
    labels = Labels(np.zeros(3, int), random.integers(-1, 2, 900), random.integers(0, 3, 3), random.integers(0, 3, 900))
    values = random.integers(0, levels, (3, 900)).astype(np.float32)
    result = evaluate_distances(torch.tensor(values) if kind == "tensor" else values, labels)
    assert result.matches.min() > 64
    assert ranks_of(result) == naive_ranks(values, labels)


def test_ties_fall_in_gallery_order():
    labels = Labels([7], [1, 7, 1, 7, 1], [0], [1, 1, 1, 1, 1])
    assert ranks_of(evaluate_distances(np.zeros((1, 5)), labels)) == [[2, 4]]
    copies = np.ones((5, 3), np.float32)
    assert ranks_of(evaluate(copies[:1], copies, labels)) == [[2, 4]]


@pytest.mark.parametrize("gallery", [50, 1000, 4099])
def test_copies_of_an_image_tie_wherever_they_stand(gallery):
    """A product of features depends in its last bits on the column it stands in; ranks must not."""
    random = np.random.default_rng(gallery)
    features = np.tile(random.standard_normal(513).astype(np.float32), (gallery, 1))
    features[::7] = random.standard_normal(513)
    query = random.standard_normal((33, 513)).astype(np.float32)
    right = random.random(gallery) < 0.1
    labels = Labels(np.zeros(33, int), np.where(right, 0, 1), np.zeros(33, int), np.ones(gallery, int))
    pair = query.astype(np.float64) @ features[:2].astype(np.float64).T / np.linalg.norm(features[:2], axis=1)
    kind = np.where(np.arange(gallery) % 7 == 0, 0, 1)
    found = ranks_of(evaluate(query, features, labels))
    for row, ranks in enumerate(found):
        order = np.lexsort((np.arange(gallery), -pair[row][kind]))
        assert ranks == (1 + np.flatnonzero(right[order])).tolist()


def test_junk_same_camera_and_distractors():
    labels = Labels([5], [-1, 5, 0, 5, 9], [1], [2, 1, 2, 2, 2])
    result = evaluate_distances(np.array([[0.0, 0.1, 0.2, 0.3, 0.4]]), labels)
    assert ranks_of(result) == [[2]], "junk and the own camera are taken out, the distractor stays in front"


def test_queries_without_a_right_match_are_left_out():
    labels = Labels([1, 2, 3], [1, 3, 4], [0, 0, 0], [1, 0, 1])
    result = evaluate_distances(np.array([[0.5, 0.1, 0.9]] * 3), labels)
    assert result.valid.tolist() == [True, False, False]
    assert (result.queries, result.excluded) == (1, 2)
    assert result.first_rank.tolist() == [2, 0, 0]
    assert result.means()["map_standard"] == 0.5
    for values in (
        result.average_precision_standard,
        result.average_precision_trapezoid,
        result.inverse_negative_penalty,
    ):
        assert np.isnan(values).tolist() == [False, True, True]


def test_average_precision_is_that_of_other_libraries():
    query, gallery, labels = clustered(20, 300, 8, noise=2.0)
    result = evaluate(query, gallery, labels)
    one, other = (side / np.linalg.norm(side, axis=1)[:, None] for side in (query.astype(float), gallery.astype(float)))
    similarity = one @ other.T
    for row in np.flatnonzero(result.valid):
        left = left_of(labels, row)
        truth, scores = labels.gallery_identities[left] == labels.query_identities[row], similarity[row, left] + 2
        found = result.average_precision_standard[row]
        assert found == pytest.approx(average_precision_score(truth, scores), abs=1e-9)
        theirs = retrieval_average_precision(torch.tensor(scores), torch.tensor(truth))
        assert found == pytest.approx(float(theirs), abs=1e-6)


@given(labeled_distances())
def test_trapezoid_never_exceeds_standard(case):
    values, labels = case
    if any(naive_ranks(values, labels)):
        result = evaluate_distances(values, labels)
        gap = result.average_precision_standard - result.average_precision_trapezoid
        assert (gap[result.valid] >= -1e-12).all()


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, ">f8", "tensor", "half tensor", "double tensor"])
def test_features_are_ranked_by_euclidean_distance(kind, normalize):
    precision = np.float16 if kind in (np.float16, "half tensor") else np.float32
    query, gallery, labels = clustered(25, 400, 10, noise=1.5, dtype=precision)
    both = np.concatenate([query, gallery]).astype(np.float64)
    if normalize:
        both /= np.linalg.norm(both, axis=1, keepdims=True)
    expected = naive_ranks([((both[25:] - one) ** 2).sum(axis=1) for one in both[:25]], labels)
    if isinstance(kind, str) and "tensor" in kind:
        dtype = torch.float64 if "double" in kind else None
        query, gallery = (torch.tensor(side, dtype=dtype) for side in (query, gallery))
    else:
        query, gallery = query.astype(kind), gallery.astype(kind)
    assert ranks_of(evaluate(query, gallery, labels, normalize=normalize)) == expected


def test_features_of_any_layout_are_left_as_they_are():
    query, gallery, labels = clustered(10, 80, 6)
    expected = ranks_of(evaluate(query, gallery, labels))
    wide = np.zeros((80, 12), np.float32)
    wide[:, ::2] = gallery
    frozen = query.copy()
    frozen.flags.writeable = False
    assert ranks_of(evaluate(frozen, wide[:, ::2], labels)) == expected
    assert ranks_of(evaluate(np.asfortranarray(query), gallery[::-1][::-1], labels)) == expected
    np.testing.assert_array_equal(wide[:, ::2], gallery)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
@pytest.mark.parametrize("kind", ["numpy", "tensor"])
def test_length_of_features_does_not_matter_when_normalized(scale, kind):
    query, gallery, labels = clustered(10, 80, 6)
    expected = ranks_of(evaluate(query, gallery, labels))
    scaled = gallery.copy()
    scaled[::3] *= np.float32(scale)
    before = scaled.copy()
    sides = (torch.tensor(query), torch.tensor(scaled)) if kind == "tensor" else (query, scaled)
    assert ranks_of(evaluate(*sides, labels)) == expected
    np.testing.assert_array_equal(scaled, before)


@pytest.mark.parametrize("normalize", [True, False])
def test_blocks_of_queries_are_streamed(normalize):
    query, gallery, labels = clustered(50, 90, 6, noise=2.0)
    whole = evaluate(query, gallery, labels, normalize=normalize)
    source = euclidean_distances(query, gallery, normalize=normalize)
    asked = []
    order = source.order
    source.order = lambda start, stop: asked.append(stop - start) or order(start, stop)
    assert ranks_of(evaluate_distances(source, labels, block_bytes=7 * 90 * 4)) == ranks_of(whole)
    assert asked == [7] * 7 + [1]


def test_golden_market_protocol():
    """Real labels of Market-1501 and made-up distances with many ties, whose results are known."""
    names = ("queryID", "testID", "queryCam", "testCam")
    values = [next(v for k, v in loadmat(golden(f"{name}.mat")).items() if k[0] != "_").ravel() for name in names]
    labels = Labels(*values)
    hashed = np.empty((labels.queries, labels.gallery), np.float32)
    j = np.arange(labels.gallery)
    for i, identity in enumerate(labels.query_identities):
        h = ((i + 1) * 2654435761 + (j + 1) * 40503 * (i + 7)) % 1000003
        hashed[i] = np.where(labels.gallery_identities == identity, h % 2000, h)

    result = evaluate_distances(hashed, labels)
    means = result.means()
    assert means["map_trapezoid"] == pytest.approx(0.324708, abs=5e-7)
    assert means["map_standard"] == pytest.approx(0.352322, abs=5e-7)
    np.testing.assert_allclose(result.cmc(20)[[0, 4, 9, 19]], [0.290380, 0.801960, 0.927257, 0.980998], atol=5e-7)
    assert (result.matches.min(), result.matches.max(), round(result.matches.mean(), 2)) == (1, 68, 14.74)
    junk_as_wrong = Labels(values[0], np.where(labels.kept, values[1], 10**6), values[2], values[3])
    assert evaluate_distances(hashed, junk_as_wrong).means()["map_standard"] == pytest.approx(0.307089, abs=5e-7)


@pytest.mark.parametrize("kind", ["matrix", "features", "tensor"])
def test_top_matches_agree_with_ranks(kind):
    query, gallery, labels = clustered(12, 60, 5, noise=1.0)
    both = torch.tensor(query), torch.tensor(gallery)
    source = euclidean_distances(*both) if kind == "tensor" else euclidean_distances(query, gallery)
    source = source.rows(np.arange(12)) if kind == "matrix" else source
    result = evaluate_distances(source, labels)
    top = top_matches(source, labels, [3, 0, 11], 15)
    for row, chosen in enumerate([3, 0, 11]):
        ranks = result.ranks_of(chosen)
        assert (np.flatnonzero(top.right[row]) + 1).tolist() == ranks[ranks <= 15].tolist()
        assert set(top.indices[row]) <= set(left_of(labels, chosen).tolist())
        assert (np.diff(top.distances[row]) >= 0).all()
        one, other = query[chosen].astype(float), gallery[top.indices[row, 0]].astype(float)
        expected = np.linalg.norm(one / np.linalg.norm(one) - other / np.linalg.norm(other))
        assert top.distances[row, 0] == pytest.approx(expected, abs=1e-6)


def test_top_matches_of_a_short_gallery():
    labels = Labels([1, 2], [1, -1, 2], [0, 0], [1, 1, 0])
    top = top_matches(np.array([[0.3, 0.1, 0.2]] * 2), labels, [0, 1], 3)
    assert top.indices.tolist() == [[2, 0, -1], [0, -1, -1]]
    assert top.right.tolist() == [[False, True, False], [False, False, False]]
    assert np.isnan(top.distances).tolist() == [[False, False, True], [False, True, True]]
    with pytest.raises(InputError, match="there are queries 0 to 1"):
        top_matches(np.zeros((2, 3)), labels, [2], 3)


GOOD = {"query_identities": [1, 2], "gallery_identities": [1, 2], "query_cameras": [0, 0], "gallery_cameras": [1, 1]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_identities": [1.0, 2.0]}, "query_identities is of type float64"),
        ({"query_cameras": [True, False]}, "query_cameras is of type bool"),
        ({"gallery_identities": [[1, 2]]}, r"gallery_identities has shape \[1, 2\]"),
        ({"gallery_cameras": [1]}, "gallery_identities holds 2 images and gallery_cameras 1"),
        ({"query_identities": np.zeros(0, int), "query_cameras": np.zeros(0, int)}, "query_identities is empty"),
        ({"query_cameras": np.array([0, 2**64 - 1], np.uint64)}, "too large"),
    ],
)
def test_bad_labels_are_named(change, message):
    with pytest.raises(InputError, match=message):
        Labels(**(GOOD | change))


def with_value(value, dtype=np.float32):
    features = np.ones((2, 3), dtype)
    features[1, 2] = value
    return features


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize(
    ("query", "gallery", "message"),
    [
        (np.ones((2, 3), np.float32), np.ones((3, 3), np.float32), "3 gallery images but 2"),
        (np.ones((2, 3), np.float32), np.ones((2, 4), np.float32), "3 dimensions and gallery_features 4"),
        (np.ones((2, 0), np.float32), np.ones((2, 0), np.float32), "neither of them zero"),
        (np.ones((2, 3), int), np.ones((2, 3), np.float32), "query_features is of type"),
        (with_value(np.nan), np.ones((2, 3), np.float32), r"query_features holds NaN .* in 1 of its rows \(1\)"),
        (np.ones((2, 3), np.float64), with_value(np.inf), r"gallery_features holds NaN .* in 1 of its rows \(1\)"),
        (np.ones((2, 3), np.float32), np.eye(3, dtype=np.float32)[1:] * [[1], [0]], r"zero vectors.* \(1\)"),
    ],
)
def test_bad_features_are_named(query, gallery, message, as_tensor):
    sides = (torch.tensor(query), torch.tensor(gallery)) if as_tensor else (query, gallery)
    with pytest.raises(InputError, match=message):
        evaluate(*sides, Labels(**GOOD))


def test_a_tensor_that_numpy_cannot_read_is_refused_with_the_remedy():
    features = torch.ones(2, 3, dtype=torch.bfloat16)
    with pytest.raises(InputError, match=r"query_features: Tensor cannot be read .*tensor\.float\(\)\.cpu\(\)"):
        evaluate(features, np.ones((2, 3)), Labels(**GOOD))


def test_bad_features_of_junk_are_named_too():
    labels = Labels([1], [1, -1], [0], [1, 1])
    with pytest.raises(InputError, match=r"gallery_features holds NaN .* \(1\)"):
        evaluate(np.ones((1, 3)), with_value(np.nan), labels)


@pytest.mark.parametrize("kind", ["numpy", "tensor"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_distances_that_cannot_be_ranked_are_refused_unless_they_are_junk(value, kind):
    labels = Labels([1, 1], [1, 2, -1], [0, 0], [1, 1, 1])
    values = np.zeros((2, 3), np.float32)
    values[1, 2] = value
    convert = torch.tensor if kind == "tensor" else np.asarray
    assert ranks_of(evaluate_distances(convert(values), labels)) == [[1], [1]]
    values[1, 1] = value
    with pytest.raises(InputError, match="query 1 contain NaN or infinity"):
        evaluate_distances(convert(values), labels)


def test_evaluation_needs_no_torch():
    code = "import sys, slsr.retrieval; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_camera_differs_from_every_camera():
    """By hand: identity 7; the gallery has it from cameras 1, 2 and unknown, and an image of identity 8."""
    gallery = np.array([7, 7, 7, 8]), np.array([1, 2, -1, -1])
    for camera, expected in ((1, [1, 2]), (-1, [0, 1, 2])):
        labels = Labels(np.array([7]), gallery[0], np.array([camera]), gallery[1])
        right, removed = labels.matches(np.array([0]))
        assert right.indices.tolist() == expected
        assert removed.indices.tolist() == sorted({0, 1, 2} - set(expected))
        assert labels.cameras_unknown
    assert not Labels(np.array([7]), gallery[0], np.array([1]), np.array([1, 2, 3, 4])).cameras_unknown
