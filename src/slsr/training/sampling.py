"""Batches of identities for losses that compare images, and the generated images that stand beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from slsr.errors import InputError


def identity_batches(
    labels: Tensor, per_batch: int, per_identity: int, steps: int, generator: torch.Generator
) -> Tensor:
    """Draw the batches of one pass: in each, P = per_batch / per_identity identities with K = per_identity images each.

    The P x K batches of Hermans, Beyer and Leibe ("In Defense of the Triplet Loss for Person Re-Identification", 2017),
    so balanced that a pass of about N / per_batch steps uses each of the N images about once:

    - An identity with n images is due in ceil(n / K) batches, at most in all. Which ones is dealt, like cards, from a
      shuffled deck of the batches. So it is due in a batch once at most, and the numbers of identities that are due in
      two batches differ by one at most.
    - In a batch where more than P are due, random ones are dropped; where fewer are, random others are added.
    - The images of an identity are dealt from a shuffled deck of its own. So those in a batch are distinct if it has K
      or more, and else repeat as evenly as possible; over the pass, the numbers of uses of its images differ by one at
      most.

    Everything follows from the generator.

    Parameters
    ----------
    labels : int64 [N], on the CPU; the identity of each image, any numbers
    per_batch, per_identity : `batch_size` and `images_per_identity` of the recipe
    steps : the number of batches, at least 1
    generator : on the CPU

    Returns
    -------
    int64 [steps, per_batch], indices of `labels`; the images of an identity are adjacent

    Raises
    ------
    InputError
        P is more than the number of identities, or not a whole number.
    """
    _, identity, counts = labels.unique(return_inverse=True, return_counts=True)
    width = _identities_per_batch(per_batch, per_identity, len(counts))
    due = ((counts + per_identity - 1) // per_identity).clamp(max=steps)
    chosen = _identities_of_batches(due, width, steps, generator).flatten()
    images = identity.argsort(stable=True).split(counts.tolist())
    return _deal_images(images, chosen, per_identity, generator).view(steps, per_batch)


def _deal_images(images: Sequence[Tensor], chosen: Tensor, per_identity: int, generator: torch.Generator) -> Tensor:
    """Deal K images of each chosen identity, int64 [len(chosen), K]; `images` has those of each identity."""
    dealt = [
        own[deal(len(own), [per_identity] * times, generator)]
        for own, times in zip(images, chosen.bincount(minlength=len(images)).tolist(), strict=True)
    ]
    found = torch.empty(len(chosen), per_identity, dtype=torch.int64)
    found[chosen.argsort(stable=True)] = torch.cat(dealt).view(-1, per_identity)
    return found


def _identities_per_batch(per_batch: int, per_identity: int, identities: int) -> int:
    """Return P; errors as `identity_batches`."""
    ratio = f"batch_size / images_per_identity: {per_batch} / {per_identity}"
    if per_batch % per_identity:
        raise InputError(
            f"{ratio} is not a whole number of identities; make batch_size a multiple of images_per_identity"
        )
    width = per_batch // per_identity
    if width > identities:
        raise InputError(
            f"{ratio} = {width} identities in a batch, but the training images have {identities}; set batch_size to "
            f"at most {identities * per_identity}, or raise images_per_identity"
        )
    return width


def _identities_of_batches(due: Tensor, width: int, steps: int, generator: torch.Generator) -> Tensor:
    """Return the identities of each batch, int64 [steps, P], from the number of batches that each is due in, [C]."""
    order = torch.randperm(len(due), generator=generator)
    times = due[order]
    batch = deal(steps, times.tolist(), generator)
    member = torch.zeros(steps, len(due), dtype=torch.float64)
    member[batch, order.repeat_interleave(times)] = 1.0
    # members first, at random; then the others, at random
    keys = torch.rand(member.shape, generator=generator, dtype=torch.float64) - member
    return keys.topk(width, dim=1, largest=False).indices


def generated_batches(count: int, real: int, per_batch: int, steps: int, generator: torch.Generator) -> Tensor:
    """Draw the generated images that stand beside the real ones in each batch of a pass, in the ratio count / real.

    They are dealt from a shuffled deck of all generated images. So a batch has none twice unless it has more than there
    are, and over the pass the numbers of their uses differ by one at most. Everything follows from the generator.

    Parameters
    ----------
    count, real : numbers of generated and of real images
    per_batch : real images in a batch
    steps : the number of batches
    generator : on the CPU

    Returns
    -------
    int64 [steps, g], 0..count-1; g is `per_batch * count / real`, rounded, at least 1; 0 without generated images
    """
    width = max(1, round(per_batch * count / real)) if count else 0
    return torch.tensor(deal(count, [width] * steps, generator), dtype=torch.int64).view(steps, width)


def deal(cards: int, hands: Iterable[int], generator: torch.Generator) -> list[int]:
    """Deal hands from a shuffled deck of `cards` cards; a new deck is shuffled each time it runs out.

    The numbers of times that two cards are dealt differ by one at most, in all hands together and in each hand: one
    that needs a new deck first gets the cards that it does not have.

    Parameters
    ----------
    hands : the number of cards in each

    Returns
    -------
    the cards, 0..cards-1, of one hand after the other
    """
    dealt: list[int] = []
    deck: list[int] = []
    for size in hands:
        hand = deck[:size]
        del deck[:size]
        while len(hand) < size:
            shuffled = torch.randperm(cards, generator=generator).tolist()
            surplus = set(hand[: len(hand) % cards])  # the cards that the hand has once more than others
            new = sorted(shuffled, key=surplus.__contains__)[: size - len(hand)]
            hand += new
            left = set(shuffled).difference(new)
            deck = [card for card in shuffled if card in left]
        dealt += hand
    return dealt
