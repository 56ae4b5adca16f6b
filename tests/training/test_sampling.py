"""Batches of identities: who is in them, how often each image is used, and that chance is fair."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slsr.errors import InputError
from slsr.training.sampling import deal, generated_batches, identity_batches
from slsr.training.schedule import steps_of_pass


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def labels_of(counts, seed=0):
    """The labels of images in random order, `counts[i]` of identity i."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=generator(seed))]


def market_like():
    """12,936 images of 751 identities, each with 2 to 74."""
    drawn = -8.0 * torch.rand(751, 2, generator=generator(), dtype=torch.float64).log().sum(dim=1)
    counts = drawn.round().long().clamp(2, 72)
    missing = 12_936 - int(counts.sum())
    return labels_of((counts + (torch.arange(751) < missing % 751) + missing // 751).tolist())


def times_of(numbers, count):
    """How often each of 0..count-1 is among the numbers."""
    return [numbers.count(number) for number in range(count)]


def is_even(times):
    return max(times) - min(times) <= 1


@st.composite
def passes(draw):
    """A pass that can be drawn, from a few identities with a few images to repeats, a cap and no groups to spare."""
    counts = draw(st.lists(st.integers(1, 15), min_size=1, max_size=9))
    per_identity, width = draw(st.integers(1, 5)), draw(st.integers(1, len(counts)))
    return counts, width, per_identity, draw(st.integers(1, 12)), draw(st.integers(0, 1000))


@given(passes())
def test_a_batch_has_p_identities_with_k_images_each(drawn):
    counts, width, per_identity, steps, seed = drawn
    labels = labels_of(counts, seed)
    found = identity_batches(labels, width * per_identity, per_identity, steps, generator(seed))
    assert found.shape == (steps, width * per_identity)
    assert found.dtype == torch.int64
    for batch in found.view(steps, width, per_identity).tolist():
        identities = [{int(labels[image]) for image in images} for images in batch]
        assert all(len(one) == 1 for one in identities), "the images of an identity are adjacent"
        assert len(set.union(*identities)) == width, "no identity twice"
        for images, (identity,) in zip(batch, identities, strict=True):
            own = (labels == identity).nonzero().flatten().tolist()
            assert is_even([images.count(image) for image in own]), "distinct, or else as evenly as possible"


@given(passes())
def test_the_images_of_an_identity_are_used_equally_often_or_once_more(drawn):
    counts, width, per_identity, steps, seed = drawn
    labels = labels_of(counts, seed)
    found = identity_batches(labels, width * per_identity, per_identity, steps, generator(seed)).flatten().tolist()
    times = torch.tensor(times_of(found, len(labels)))
    for identity in range(len(counts)):
        assert is_even(times[labels == identity].tolist())


@given(passes())
def test_an_identity_has_its_groups_except_those_that_batches_cannot_hold_or_lack(drawn):
    """An identity is due in ceil(n / K) batches, at most in all. The batches share them evenly."""
    counts, width, per_identity, steps, seed = drawn
    labels = labels_of(counts, seed)
    due = [min(steps, -(-count // per_identity)) for count in counts]
    found = identity_batches(labels, width * per_identity, per_identity, steps, generator(seed))
    groups = times_of(labels[found[:, ::per_identity]].flatten().tolist(), len(counts))
    assert sum(groups) == steps * width
    if sum(due) >= steps * width:
        assert all(one <= other for one, other in zip(groups, due, strict=True)), "some are dropped, none is added"
    else:
        assert all(one >= other for one, other in zip(groups, due, strict=True)), "some are added, none is dropped"


@given(
    width=st.integers(1, 6),
    extra=st.integers(0, 4),
    per_identity=st.integers(1, 5),
    times=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_where_all_goes_up_each_image_is_used_exactly_once(width, extra, per_identity, times, seed):
    """n a multiple of K for each identity, as many groups as places."""
    identities = (width + extra) * width
    labels = labels_of([times * per_identity] * identities, seed)
    steps = times * (width + extra)
    assert steps == -(-len(labels) // (width * per_identity))
    found = identity_batches(labels, width * per_identity, per_identity, steps, generator(seed))
    assert sorted(found.flatten().tolist()) == list(range(len(labels)))


def test_an_identity_with_more_images_than_a_pass_has_places_is_in_every_batch():
    labels = labels_of([200, 3, 4, 5, 6, 7, 8])
    found = identity_batches(labels, 12, 4, 6, generator())
    assert (labels[found] == 0).sum(dim=1).tolist() == [4] * 6


@pytest.mark.parametrize("seed", range(20))
def test_what_such_an_identity_cannot_use_is_not_taken_from_others(seed):
    """6 images, but 4 batches: 4 + 2 + 2 are the 8 places."""
    labels = labels_of([6, 2, 2], seed)
    found = identity_batches(labels, 2, 1, 4, generator(seed))
    assert times_of(labels[found].flatten().tolist(), 3) == [4, 2, 2]


def test_a_pass_over_market_1501_uses_nearly_every_image_once():
    labels = market_like()
    steps = steps_of_pass(len(labels), 64)
    assert steps == 203
    found = identity_batches(labels, 64, 4, steps, generator())
    times = found.flatten().bincount(minlength=len(labels))
    assert ((times == 1).sum() / len(labels)) > 0.85
    assert times.max() == 2
    again = identity_batches(labels, 64, 4, steps, generator(1)).flatten().bincount(minlength=len(labels))
    assert ((times + again) == 0).sum() < 0.01 * len(labels), "another pass drops others"


def test_an_identity_meets_many_others():
    """Of the identities beside it in its batches of a pass, most are there once."""
    labels = market_like()
    found = identity_batches(labels, 64, 4, steps_of_pass(len(labels), 64), generator())
    member = torch.zeros(len(found), 751).scatter_(1, labels[found[:, ::4]], 1.0)
    together = (member.T @ member).fill_diagonal_(0)
    assert (together > 0).sum() / together.sum() > 0.9


def test_chance_is_fair():
    """Which identities are dropped or added, which images fill a group, and the order in a batch and of batches."""
    passes, deviations = 600, 4.5

    def draw(counts, width, per_identity, steps):
        labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        found = [
            identity_batches(labels, width * per_identity, per_identity, steps, generator(i)) for i in range(passes)
        ]
        return torch.stack(found), labels

    for counts, width, per_identity, steps in (([5] * 7, 2, 2, 5), ([2] * 7, 4, 2, 3), ([1] * 5, 1, 1, 4)):
        found, labels = draw(counts, width, per_identity, steps)
        expected = found.numel() / len(labels)
        assert ((found.flatten().bincount() - expected).abs() < deviations * expected**0.5).all()
        first, expected = labels[found[:, :, 0]].flatten().bincount(), passes * steps / len(counts)
        assert ((first - expected).abs() < deviations * expected**0.5).all()
    found, _ = draw([4] * 6, 1, 4, 6)
    first = found[:, 0, 0].bincount(minlength=24)
    assert ((first - passes / 24).abs() < deviations * (passes / 24) ** 0.5).all(), "which batch comes first"


def test_everything_follows_from_the_generator():
    labels = labels_of([3, 8, 5, 1, 12, 4])
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = identity_batches(labels, 12, 4, 3, generator(5))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(identity_batches(labels, 12, 4, 3, generator(5)), first)
    assert torch.equal(identity_batches(1000 * labels - 17, 12, 4, 3, generator(5)), first), "labels may be any numbers"
    assert not torch.equal(identity_batches(labels, 12, 4, 3, generator(6)), first)


def test_more_identities_in_a_batch_than_there_are_is_an_error():
    labels = labels_of([9] * 10)
    message = (
        "batch_size / images_per_identity: 64 / 4 = 16 identities in a batch, but the training images have 10; "
        "set batch_size to at most 40, or raise images_per_identity"
    )
    with pytest.raises(InputError, match=re.escape(message)):
        identity_batches(labels, 64, 4, 5, generator())
    for per_batch, per_identity in ((40, 4), (64, 8)):
        assert identity_batches(labels, per_batch, per_identity, 2, generator()).shape == (2, per_batch)


@pytest.mark.parametrize(("per_batch", "per_identity"), [(64, 5), (3, 4)])
def test_a_part_of_an_identity_in_a_batch_is_an_error(per_batch, per_identity):
    message = f"batch_size / images_per_identity: {per_batch} / {per_identity} is not a whole number"
    with pytest.raises(InputError, match=message):
        identity_batches(labels_of([9] * 20), per_batch, per_identity, 2, generator())


@pytest.mark.parametrize(
    ("count", "real", "per_batch", "width"),
    [
        (12_000, 12_936, 64, 59),
        (24_000, 12_936, 64, 119),
        (12_000, 12_185, 32, 32),
        (1, 12_936, 64, 1),
        (100, 12_936, 64, 1),
        (0, 12_936, 64, 0),
        (3, 3, 8, 8),
    ],
)
def test_generated_images_stand_beside_real_ones_in_their_ratio(count, real, per_batch, width):
    steps = steps_of_pass(real, per_batch)
    found = generated_batches(count, real, per_batch, steps, generator())
    assert found.shape == (steps, width)
    assert found.dtype == torch.int64


@given(st.integers(1, 60), st.integers(1, 80), st.integers(1, 20), st.integers(1, 12), st.integers(0, 1000))
def test_generated_images_are_used_equally_often_or_once_more(count, real, per_batch, steps, seed):
    found = generated_batches(count, real, per_batch, steps, generator(seed)).tolist()
    assert {image for batch in found for image in batch} <= set(range(count))
    assert is_even(times_of([image for batch in found for image in batch], count))
    for batch in found:
        assert is_even(times_of(batch, count))


def test_generated_images_are_shuffled_and_follow_from_the_generator():
    first = generated_batches(50, 50, 10, 20, generator(3))
    assert torch.equal(generated_batches(50, 50, 10, 20, generator(3)), first)
    assert not torch.equal(generated_batches(50, 50, 10, 20, generator(4)), first)
    decks = first.view(4, 50).tolist()
    assert all(sorted(deck) == list(range(50)) for deck in decks)
    assert len({tuple(deck) for deck in decks}) == 4, "each deck is shuffled anew"


@given(st.integers(1, 9), st.lists(st.integers(0, 30), max_size=12), st.integers(0, 1000))
def test_hands_of_any_size_are_even_and_so_is_every_start_of_the_deal(cards, hands, seed):
    dealt = deal(cards, hands, generator(seed))
    assert len(dealt) == sum(hands)
    for end in range(1, len(dealt) + 1):
        assert is_even(times_of(dealt[:end], cards))
    start = 0
    for size in hands:
        assert is_even(times_of(dealt[start : start + size], cards))
        start += size


def test_a_hand_that_needs_a_new_deck_is_filled_fairly():
    """5 cards, hands of 3: the second has the two that are left and one of the others, each equally often."""
    fillers = [0] * 3
    for seed in range(900):
        dealt = deal(5, [3, 3], generator(seed))
        assert set(dealt[3:5]).isdisjoint(dealt[:3])
        fillers[dealt[:3].index(dealt[5])] += 1
    assert all(abs(times - 300) < 5 * (900 * 2 / 9) ** 0.5 for times in fillers)
