"""Ranked lists, plain and re-ranked, against the evaluation's own functions."""

import numpy as np
import pytest
from naive import dense_rerank
from trained import ORIGIN, drawn_features, named

from slsr.errors import InputError
from slsr.search import store
from slsr.search.ranked_lists import as_json, ranked_lists, render

GALLERY, QUERIES = drawn_features(150), drawn_features(6, seed=1)


@pytest.fixture
def index(tmp_path):
    return store.build(tmp_path / "index", ORIGIN, [named(GALLERY)])


def test_a_plain_list_is_sorted_by_the_product(index):
    for query, matches in zip(QUERIES, ranked_lists(index, QUERIES, 8), strict=True):
        order = np.argsort(-(GALLERY @ query), kind="stable")[:8]
        assert [match.row for match in matches] == order.tolist()
        assert [match.name for match in matches] == [f"image-{row}" for row in order]
        assert [match.identity for match in matches] == (order % 20).tolist()
        np.testing.assert_allclose([match.score for match in matches], GALLERY[order] @ query, atol=1e-5)
        assert {match.distance for match in matches} == {None}


def test_with_every_image_a_candidate_it_is_the_publications_reranking(index):
    lists = ranked_lists(index, QUERIES, 150, reranked=True, candidates=150)
    for query, matches in zip(QUERIES, lists, strict=True):
        expected = dense_rerank(query[None], GALLERY)[0]
        rows = [match.row for match in matches]
        np.testing.assert_allclose([match.distance for match in matches], expected[rows], atol=1e-4)
        np.testing.assert_allclose(np.sort(expected), expected[rows], atol=1e-4)
        np.testing.assert_allclose([match.score for match in matches], GALLERY[rows] @ query, atol=1e-5)


def test_only_candidates_are_reranked(index):
    plain, reranked = (ranked_lists(index, QUERIES, 30, reranked=choice, candidates=30) for choice in (False, True))
    for one, other in zip(plain, reranked, strict=True):
        assert {match.row for match in one} == {match.row for match in other}
    assert any([m.row for m in one] != [m.row for m in other] for one, other in zip(plain, reranked, strict=True))


@pytest.mark.parametrize("images", [1, 2, 3, 10])
def test_little_galleries_can_be_searched_and_reranked(tmp_path, images):
    index = store.build(tmp_path / "index", ORIGIN, [named(GALLERY[:images])])
    for reranked in (False, True):
        lists = ranked_lists(index, QUERIES, 10, reranked=reranked)
        assert [len(matches) for matches in lists] == [images] * 6
        assert {match.row for match in lists[0]} == set(range(images))


def test_places_that_an_approximate_index_left_empty_are_left_out(index, monkeypatch):
    scores, rows = np.array([[0.9, -np.inf]], np.float32), np.array([[4, -1]])
    monkeypatch.setattr(store.Index, "search", lambda *arguments: (scores, rows))
    for reranked in (False, True):
        (matches,) = ranked_lists(index, QUERIES[:1], 2, reranked=reranked)
        assert [match.row for match in matches] == [4]


def test_what_cannot_be_asked_is_refused(index):
    with pytest.raises(InputError, match="-k 0"):
        ranked_lists(index, QUERIES, 0)
    with pytest.raises(InputError, match="--candidates 9"):
        ranked_lists(index, QUERIES, 10, reranked=True, candidates=9)


def test_table_and_json_say_the_same(index):
    lists = ranked_lists(index, QUERIES[:2], 3, reranked=True)
    found = as_json(index, ["a", "b"], lists)
    text = render(["a", "b"], lists)
    assert found["index"] == {"kind": "flat", "images": 150, "model": "a" * 64, "recall_at_10": 1.0}
    for query, matches in zip(found["queries"], lists, strict=True):
        assert [match["rank"] for match in query["matches"]] == [1, 2, 3]
        for match, one in zip(query["matches"], matches, strict=True):
            assert match["name"] == one.name
            line = next(line for line in text.splitlines() if line.endswith(f"  {one.name}"))
            assert line.split() == [
                str(match["rank"]),
                f"{one.score:.4f}",
                f"{one.distance:.4f}",
                str(one.identity),
                str(one.camera),
                one.name,
            ]


def test_without_labels_there_are_none(tmp_path):
    index = store.build(tmp_path / "index", ORIGIN, [named(GALLERY, labeled=False)])
    lists = ranked_lists(index, QUERIES[:1], 2)
    assert set(as_json(index, ["a"], lists)["queries"][0]["matches"][0]) == {"rank", "name", "score"}
    assert render(["a"], lists).splitlines()[2].split()[2:4] == ["-", "-"]
