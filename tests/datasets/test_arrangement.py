from collections import Counter

from builders import BASE_ENTRIES, entry, entry_collection
from hypothesis import given
from hypothesis import strategies as st

from slsr.datasets.arrangement import arrange, draw_validation, queries_without_match
from slsr.datasets.collection import JUNK
from slsr.retrieval import matching


def names(entries):
    return [entry.name for entry in entries]


def test_tables_are_sorted_and_labeled_by_ascending_identity():
    arrangement = arrange(entry_collection(BASE_ENTRIES), None, "one-per-identity", 1)
    for entries in arrangement.tables.values():
        assert names(entries) == sorted(names(entries))
    assert arrangement.labels == {3: 0, 7: 1, 20: 2}
    assert Counter(each.identity for each in arrangement.tables["validation"]) == {3: 1, 7: 1, 20: 1}
    assert Counter(each.identity for each in arrangement.tables["train"]) == {3: 2, 7: 2, 20: 2}


def test_multi_query_has_only_images_of_the_identity_and_camera_of_a_query():
    arrangement = arrange(entry_collection(BASE_ENTRIES), None, "none", 1)
    assert names(arrangement.tables["multi_query"]) == ["0005_c1_0.jpg"]
    assert arrangement.left_out == {"multi_query images of no query's identity and camera": 3}


def test_no_validation():
    arrangement = arrange(entry_collection(BASE_ENTRIES), None, "none", 1)
    assert not arrangement.tables["validation"]
    assert len(arrangement.tables["train"]) == 9


def test_one_image_stays_in_training():
    arrangement = arrange(entry_collection([*BASE_ENTRIES, entry("train", 99)]), None, "one-per-identity", 1)
    assert arrangement.single_image == [99]
    assert 99 in {each.identity for each in arrangement.tables["train"]}
    assert 99 not in {each.identity for each in arrangement.tables["validation"]}


def test_first_identities_without_junk_and_distractors():
    arrangement = arrange(entry_collection([*BASE_ENTRIES, entry("query", 12), entry("gallery", 12, 2)]), 2, "none", 1)
    found = {split: {each.identity for each in entries} for split, entries in arrangement.tables.items()}
    assert found["train"] == {3, 7}
    assert found["query"] == found["gallery"] == {5, 11}
    assert arrangement.labels == {3: 0, 7: 1}


def test_more_identities_than_there_are_takes_all(caplog):
    arrangement = arrange(entry_collection(BASE_ENTRIES), 500, "none", 1)
    assert len(arrangement.labels) == 3
    assert "dataset.identities is 500, but there are 3 training identities" in caplog.text


def test_group_is_held_out_together():
    grouped = [entry("train", 1, 1, n, group="ab"[n // 3]) for n in range(6)] + [entry("train", 2, 1, 0, group="a")]
    held_out, single = draw_validation(grouped, 1)
    assert held_out in ({f"0001_c1_{n}.jpg" for n in range(3)}, {f"0001_c1_{n}.jpg" for n in range(3, 6)})
    assert single == [2]


counts = st.dictionaries(st.integers(1, 500), st.integers(1, 6), min_size=1, max_size=20)


@given(counts, st.integers(0, 2**31 - 1), st.randoms())
def test_draws_are_independent_of_other_identities_and_of_order(images, seed, random):
    entries = [entry("train", identity, 1, n) for identity, count in images.items() for n in range(count)]
    held_out, single = draw_validation(entries, seed)
    assert sorted(single) == sorted(identity for identity, count in images.items() if count == 1)
    assert len(held_out) == len(images) - len(single)
    kept = random.sample(sorted(images), len(images) // 2)
    some = [each for each in entries if each.identity in kept]
    random.shuffle(some)
    assert draw_validation(some, seed)[0] == {name for name in held_out if int(name[:4]) in kept}


def test_every_image_is_drawn_equally_often():
    entries = [entry("train", 1, 1, n) for n in range(4)]
    drawn = Counter(next(iter(draw_validation(entries, seed)[0])) for seed in range(2000))
    assert len(drawn) == 4
    chi_squared = sum((count - 500) ** 2 / 500 for count in drawn.values())
    assert chi_squared < 16.3  # 0.1 % quantile of chi-squared with 3 degrees of freedom


def test_query_without_match():
    extra = [entry("query", 8, 1), entry("gallery", 8, 1, 5), entry("query", 9, 1)]
    arrangement = arrange(entry_collection([*BASE_ENTRIES, *extra]), None, "none", 1)
    assert queries_without_match(arrangement.tables) == ["0008_c1_0.jpg", "0009_c1_0.jpg"]


def test_junk_has_the_same_number_in_tables_and_in_retrieval():
    assert JUNK == matching.JUNK
