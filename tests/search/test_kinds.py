"""Which index a gallery gets, and what each index finds, compared with sorting all products."""

import numpy as np
import pytest
from trained import drawn_features

from slsr.errors import InputError
from slsr.search import kinds
from slsr.search.kinds import KINDS

GALLERY = drawn_features(2000, 32, people=500, noise=2)
QUERIES = drawn_features(40, 32, seed=1, people=500, noise=2)
GIGABYTE = 10**9


def naive(queries, gallery, count):
    products = queries.astype(np.float64) @ gallery.astype(np.float64).T
    return np.argsort(-products, axis=1, kind="stable")[:, :count]


def assert_nearest(rows, count):
    """The first `count` rows of each query are its nearest; rounding may swap equally near ones."""
    products = QUERIES.astype(np.float64) @ GALLERY.astype(np.float64).T
    found, wanted = (np.take_along_axis(products, one, axis=1) for one in (rows, naive(QUERIES, GALLERY, count)))
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert all(len(set(row)) == len(row) for row in rows.tolist())


def built(kind, gallery=GALLERY, memory=GIGABYTE):
    index, parameters = kinds.create(kind, gallery, memory)
    kinds.add(index, gallery)
    return index, parameters


@pytest.mark.parametrize(
    ("images", "dimension", "memory", "kind"),
    [
        (483, 1024, GIGABYTE, "flat"),
        (100_000, 2048, GIGABYTE, "flat"),
        (100_000, 2048, GIGABYTE // 2, "ivf-pq"),
        (100_001, 512, GIGABYTE, "hnsw"),
        (1_000_000, 512, 3 * GIGABYTE, "hnsw"),
        (1_000_000, 512, GIGABYTE, "ivf-pq"),
        (100_000_000, 2048, 100 * GIGABYTE, "ivf-pq"),
    ],
)
def test_the_kind_follows_size_and_memory(images, dimension, memory, kind):
    assert kinds.choose_kind(images, dimension, memory) == kind
    assert kinds.index_bytes(kind, images, dimension) <= memory


@pytest.mark.parametrize("kind", KINDS)
def test_index_bytes_is_about_what_the_file_has(kind):
    import faiss

    gallery = drawn_features(20_000, 64, people=500)
    size = len(faiss.serialize_index(built(kind, gallery)[0]))
    assert size == pytest.approx(kinds.index_bytes(kind, 20_000, 64), rel=0.1)


def test_a_flat_index_is_exact():
    index, _ = built("flat")
    scores, rows = kinds.search(index, "flat", None, QUERIES, 10, 0)
    assert_nearest(rows, 10)
    np.testing.assert_allclose(scores, (QUERIES[:, None] * GALLERY[rows]).sum(axis=2), atol=1e-5)


@pytest.mark.parametrize("kind", ["hnsw", "ivf-pq"])
def test_with_all_the_effort_the_answer_is_nearly_exact(kind):
    index, _ = built(kind)
    _, rows = kinds.search(index, kind, GALLERY, QUERIES, 10, 1024)
    exact = naive(QUERIES, GALLERY, 10)
    found = np.mean([len(set(one) & set(other)) / 10 for one, other in zip(rows, exact, strict=True)])
    assert found > 0.99


def test_little_effort_finds_less_than_much():
    index, parameters = built("ivf-pq")
    assert parameters["cells"] > 32
    share = {}
    for effort in (1, 64):
        _, rows = kinds.search(index, "ivf-pq", GALLERY, QUERIES, 10, effort)
        share[effort] = np.mean([np.isin(rows[q], naive(QUERIES[[q]], GALLERY, 10)).mean() for q in range(40)])
    assert share[1] < share[64] - 0.1


@pytest.mark.parametrize("count", [1, 7, 2000])
def test_exact_search_by_blocks(monkeypatch, count):
    monkeypatch.setattr(kinds, "ROWS_AT_ONCE", 300)
    scores, rows = kinds.search_exactly(GALLERY, QUERIES, count)
    assert_nearest(rows, count)
    np.testing.assert_allclose(scores, -np.sort(-(QUERIES @ GALLERY.T), axis=1)[:, :count], atol=1e-5)
    assert (np.diff(scores, axis=1) <= 0).all()


def test_rescoring_orders_by_the_features_and_keeps_gaps_last():
    shortlist = np.array([[5, -1, 3, 9], [-1, -1, 2, -1]])
    scores, rows = kinds.rescore(GALLERY.astype(np.float16), QUERIES[:2], shortlist, 3)
    products = QUERIES @ GALLERY.T
    assert rows[0].tolist() == sorted([5, 3, 9], key=lambda row: -products[0, row])
    assert rows[1].tolist() == [2, -1, -1]
    assert scores[1, 0] == pytest.approx(products[1, 2], abs=1e-3)


@pytest.mark.parametrize("kind", ["hnsw", "ivf-pq"])
def test_the_reported_recall_is_what_a_loop_over_the_images_counts(kind):
    index, _ = built(kind)
    reported = kinds.measure_recall(index, kind, GALLERY, 0.9, seed=3)
    assert reported.at_10 >= 0.9
    sample = np.sort(np.random.default_rng(3).choice(len(GALLERY), kinds.SAMPLE, replace=False))
    _, rows = kinds.search(index, kind, GALLERY, GALLERY[sample], 11, reported.effort)
    shares = []
    for own, found in zip(sample, rows, strict=True):
        others = [row for row in naive(GALLERY[[own]], GALLERY, 11)[0] if row != own][:10]
        shares.append(len(set(others) & {row for row in found if row != own}) / 10)
    assert reported.at_10 == pytest.approx(np.mean(shares), abs=0.01)


def test_more_recall_needs_more_effort():
    index, _ = built("ivf-pq")
    low, high = (kinds.measure_recall(index, "ivf-pq", GALLERY, wanted) for wanted in (0.3, 0.999))
    assert low.effort < high.effort
    assert low.at_10 < high.at_10


def test_copies_of_an_image_do_not_lower_the_recall():
    copies = np.repeat(drawn_features(100, 32, noise=2), 20, axis=0)
    index, _ = built("hnsw", copies)
    assert kinds.measure_recall(index, "hnsw", copies, 0.99).at_10 > 0.95


def test_features_of_another_length_are_refused():
    gallery = GALLERY.copy()
    gallery[1234] *= 2
    with pytest.raises(InputError, match="row 1234"):
        built("flat", gallery)
    gallery[77] = np.nan
    with pytest.raises(InputError, match="row 77"):
        built("flat", gallery)


def test_codes_need_images_to_learn_from():
    with pytest.raises(InputError, match="255 images: an ivf-pq index learns its codes from at least 256 images"):
        kinds.create("ivf-pq", GALLERY[:255], GIGABYTE)


@pytest.mark.parametrize("dimension", [1, 7, 16, 96, 512, 1024, 2048, 1000, 1009])
def test_a_code_divides_the_dimension(dimension):
    size = kinds.code_bytes(dimension)
    assert dimension % size == 0
    assert 1 <= size <= 128


def test_memory_bounds_the_training_sample():
    _, much = kinds.create("ivf-pq", drawn_features(20_000, 32, people=500), GIGABYTE)
    _, little = kinds.create("ivf-pq", drawn_features(20_000, 32, people=500), 10**6)
    assert little["trained_on"] == 30 * 512 < much["trained_on"]
