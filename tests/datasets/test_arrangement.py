from collections import Counter

import pytest
from builders import BASE_ENTRIES, entry, entry_collection
from hypothesis import given
from hypothesis import strategies as st

from slsr.datasets.arrangement import arrange, draw_people, draw_validation, queries_without_match
from slsr.datasets.collection import JUNK, UNKNOWN_CAMERA
from slsr.errors import InputError
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


images_of_people = st.dictionaries(
    st.integers(1, 500), st.dictionaries(st.integers(1, 4), st.integers(1, 3), min_size=1), min_size=4, max_size=25
)


@given(images_of_people, st.integers(0, 2**31 - 1), st.floats(0.05, 0.5))
def test_people_who_are_held_out_are_nowhere_else(images, seed, share):
    entries = [
        entry("train", identity, camera, number)
        for identity, cameras in images.items()
        for camera, count in cameras.items()
        for number in range(count)
    ]
    test_people = [entry("query", 501, 1), entry("gallery", 501, 2)]
    count = max(2, round(share * len(images)))
    try:
        arrangement = arrange(entry_collection([*entries, *test_people]), None, "identities", seed, share)
    except InputError:
        ranked = sum(len(cameras) > 1 for cameras in images.values())
        assert len(images) - count < 2 or count - (len(images) - ranked) < 2, "enough, whoever is drawn"
        return
    train, validation = (arrangement.tables[name] for name in ("train", "validation"))
    people = {each.identity for each in validation}
    assert len(people) == count
    assert people.isdisjoint(each.identity for each in train)
    assert sorted(names([*train, *validation])) == sorted(names(entries))
    assert arrangement.labels == {one: label for label, one in enumerate(sorted({each.identity for each in train}))}
    assert arrangement.single_image == []
    queries = [each for each in validation if each.name in arrangement.validation_queries]
    gallery = [each for each in validation if each.name not in arrangement.validation_queries]
    assert len(queries) == len(arrangement.validation_queries)
    assert max(Counter((each.identity, each.camera) for each in queries).values()) == 1
    for identity in people:
        cameras, asked = images[identity], {each.camera for each in queries if each.identity == identity}
        assert len(cameras) - len(asked) <= 1 if len(cameras) > 1 else not asked
        if sum(number > 1 for number in cameras.values()) > 1:
            assert asked == set(cameras)
    for query in queries:
        assert any(each.identity == query.identity and each.camera != query.camera for each in gallery)


def test_who_is_held_out_depends_on_the_seed_and_the_numbers_alone():
    """Of fewer people the same ones come first; each is held out equally often."""
    entries = [entry("train", identity, camera) for identity in range(1, 21) for camera in (1, 2)]
    people = draw_people(entries, 3, 0.3)
    assert len(people) == 6
    assert draw_people(reversed(entries), 3, 0.3) == people
    assert draw_people(entries, 3, 0.2) < people
    without = next(iter(sorted(set(range(1, 21)) - people)))
    assert draw_people([each for each in entries if each.identity != without], 3, 6 / 19) == people
    drawn = Counter(one for seed in range(1000) for one in draw_people(entries, seed, 0.3))
    assert len(drawn) == 20
    assert all(abs(count - 300) < 70 for count in drawn.values())  # five deviations of a binomial count


@pytest.mark.parametrize(
    ("people", "cameras", "share", "part"),
    [
        (20, (1,), 0.5, r"0 of the 10 people held out have images of two cameras.*one-per-identity"),
        (20, (1, 2, -1), 0.5, r"cameras of some people held out are not known.*one-per-identity"),
        (3, (1, 2), 0.1, r"2 of 3 training people would be held out, and training needs at least 2"),
        (20, (1, 2), 0.95, r"19 of 20 training people would be held out.*lower the share"),
    ],
)
def test_too_few_people_for_a_validation_are_refused(people, cameras, share, part):
    entries = [entry("train", identity, camera) for identity in range(1, people + 1) for camera in cameras]
    with pytest.raises(InputError, match=rf"dataset\.validation: identities, dataset\.validation_share: .*{part}"):
        arrange(entry_collection(entries), None, "identities", 1, share)


def test_query_without_match():
    extra = [entry("query", 8, 1), entry("gallery", 8, 1, 5), entry("query", 9, 1)]
    arrangement = arrange(entry_collection([*BASE_ENTRIES, *extra]), None, "none", 1)
    assert queries_without_match(arrangement.tables) == ["0008_c1_0.jpg", "0009_c1_0.jpg"]


def test_junk_and_unknown_cameras_have_the_same_numbers_in_tables_and_in_retrieval():
    assert (JUNK, UNKNOWN_CAMERA) == (matching.JUNK, matching.UNKNOWN_CAMERA)
