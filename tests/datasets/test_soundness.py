import pytest
from builders import BASE_ENTRIES, entry, entry_collection

from slsr.datasets.soundness import find_problems, require_sound
from slsr.errors import InputError


def test_no_problems():
    assert find_problems(entry_collection(BASE_ENTRIES)) == []


def test_all_problems_are_found():
    entries = [*BASE_ENTRIES, entry("gallery", 3), entry("gallery", -7), BASE_ENTRIES[0]]
    assert len(find_problems(entry_collection(entries))) == 3


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            [*BASE_ENTRIES, entry("query", 20), entry("gallery", 20)],
            r"data/x\.zip: identity 20 is both in training and test",
        ),
        (
            [*BASE_ENTRIES, *(entry("gallery", identity) for identity in (3, 7))],
            r"2 identities \(3, 7\) are both in training and",
        ),
        ([*BASE_ENTRIES, BASE_ENTRIES[0]], r"1 name used more than once, for example 0020_c1_0\.jpg in train"),
        ([*BASE_ENTRIES, entry("train", 0)], r"train/0000_c1_0\.jpg \(train\) has identity 0, which only gallery"),
        ([*BASE_ENTRIES, entry("query", -1)], r"has identity -1, which only gallery"),
        ([*BASE_ENTRIES, entry("gallery", -2)], "has identity -2, not within"),
        ([*BASE_ENTRIES, entry("gallery", 2**31)], "has identity 2147483648, not within"),
        ([*BASE_ENTRIES, entry("gallery", 5, 40000)], r"has camera 40000, not within 0\.\.32767"),
        ([each for each in BASE_ENTRIES if each.split != "gallery"], "no gallery images"),
        (
            [each for each in BASE_ENTRIES if each.identity != 3 and each.identity != 7],
            "only 1 training identity; at least 2",
        ),
    ],
)
def test_unusable_splits(entries, message):
    with pytest.raises(InputError, match=message):
        require_sound(entry_collection(entries))


def test_a_query_identity_missing_in_the_gallery_is_an_error_only_in_your_own_split():
    entries = [*BASE_ENTRIES, entry("query", 8)]
    require_sound(entry_collection(entries))
    with pytest.raises(InputError, match="identity 8 is in query but not in gallery"):
        require_sound(entry_collection(entries, own=True))


@pytest.mark.parametrize("own", [False, True])
def test_it_is_an_error_if_no_query_has_a_match(own):
    """The query identities are not in the gallery, or only with the camera of the query."""
    entries = [each for each in BASE_ENTRIES if each.split != "query"]
    alone = [entry("query", 5, 2), entry("query", 11, 2)]
    assert find_problems(entry_collection([*entries, *alone, entry("query", 5, 1)], own=own)) == []
    with pytest.raises(InputError, match=r"data/x\.zip: no query has a right match, which is a gallery image of its"):
        require_sound(entry_collection([*entries, *alone], own=own))
    absent = [entry("query", 8), entry("query", 9)]
    message = "2 identities \\(8, 9\\) are in query but not in gallery" if own else "no query has a right match"
    assert len(find_problems(entry_collection([*entries, *absent], own=own))) == 1
    with pytest.raises(InputError, match=message):
        require_sound(entry_collection([*entries, *absent], own=own))
