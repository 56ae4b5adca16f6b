"""All measures of a set of images, each beside its reference, and the alarms that they sound."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from slsr.quality.features import Features, unit_rows
from slsr.quality.measures import (
    NEIGHBORS,
    Neighborhoods,
    copy_fraction,
    frechet_distance,
    kernel_distance,
    same_picture_distance,
)

SUBSETS = 10


SUBSET_SIZE = 1000


FRECHET_LEAST = 2000


@dataclass(frozen=True)
class Measured:
    """A measure of generated images, and its floor: the same measure of real images taken for generated ones.

    Deviations are over random subsets; None where the value comes from all images at once, or there are too few.
    """

    value: float | None
    deviation: float | None
    floor: float | None
    floor_deviation: float | None


SUBSET_MEASURES: Mapping[str, Callable[[Neighborhoods], float]] = {
    "kernel": lambda pair: kernel_distance(_cosine_scaled(pair.real), _cosine_scaled(pair.fake)),
    "coverage": Neighborhoods.coverage,
    "recall": Neighborhoods.recall,
    "precision": Neighborhoods.precision,
    "density": Neighborhoods.density,
    "duplicates": Neighborhoods.duplicates,
}


def assess(
    real: Features, fake: Features, names: Sequence[str], seed: int, subsets: int = SUBSETS, size: int = SUBSET_SIZE
) -> dict[str, Measured]:
    """Measure generated images against real ones in one feature space, each value with its floor.

    Most measures depend on the numbers of images, so all are means over random subsets in which the reference, the
    generated images, and the other real images that give the floor are equally many: at most half of the real ones.
    Rows are scaled to unit length first. Copies are looked for among all real images. The Frechet distance is that of
    one draw of as many as there are, and None below 2,000: fewer than that say more about their number.

    Parameters
    ----------
    real, fake : float32 [N, D] and [M, D]
    names : of SUBSET_MEASURES, `copies` and `frechet`
    seed : draws the subsets
    subsets, size : how many, and how large at most

    Returns
    -------
    By name; values are None where a subset would have fewer than `NEIGHBORS` + 1 images.
    """
    real, fake = unit_rows(real), unit_rows(fake)
    count = min(len(real) // 2, len(fake), size)
    if count <= NEIGHBORS:
        return {name: Measured(None, None, None, None) for name in names}
    draws = list(_subsets(real, fake, count, subsets, seed))
    generated = [Neighborhoods(draw[0], draw[1]) for draw in draws]
    held_out = [
        Neighborhoods(draw[0], draw[2], among_real=one.real_distances)
        for draw, one in zip(draws, generated, strict=True)
    ]
    found: dict[str, Measured] = {}
    for name in names:
        if name == "copies":
            found[name] = _copies(real, fake, draws)
        elif name == "frechet":
            found[name] = _frechet(real, fake, seed)
        else:
            found[name] = _measured(name, generated, held_out)
    return found


def _cosine_scaled(features: Features) -> Features:
    """Unit rows times the root of D, so that the kernel's x.y / D is the cosine."""
    return features * np.float32(np.sqrt(features.shape[1]))


Draw = tuple[Features, Features, Features]


def _subsets(real: Features, fake: Features, count: int, subsets: int, seed: int) -> Iterator[Draw]:
    """Reference, generated and held-out real images, `count` of each."""
    stream = np.random.default_rng(seed)
    for _ in range(subsets):
        order = stream.permutation(len(real))
        yield real[order[:count]], fake[stream.permutation(len(fake))[:count]], real[order[count : 2 * count]]


def _measured(name: str, generated: Sequence[Neighborhoods], held_out: Sequence[Neighborhoods]) -> Measured:
    values, floors = ([SUBSET_MEASURES[name](pair) for pair in pairs] for pairs in (generated, held_out))
    return Measured(*_mean_and_deviation(values), *_mean_and_deviation(floors))


def _copies(real: Features, fake: Features, draws: Sequence[Draw]) -> Measured:
    value = copy_fraction(real, fake, same_picture_distance(real))
    floors = [copy_fraction(reference, held_out, same_picture_distance(reference)) for reference, _, held_out in draws]
    return Measured(value, None, *_mean_and_deviation(floors))


def _frechet(real: Features, fake: Features, seed: int) -> Measured:
    count = min(len(real) // 2, len(fake))
    if count < FRECHET_LEAST:
        return Measured(None, None, None, None)
    ((reference, generated, held_out),) = _subsets(real, fake, count, 1, seed)
    return Measured(frechet_distance(reference, generated), None, frechet_distance(reference, held_out), None)


def _mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


AlarmName = Literal["collapse", "memorization", "unlike", "narrow"]


# Which alarm a measure sounds, and on which side of its limit: -1 below, 1 above.
ALARMS: Mapping[str, tuple[AlarmName, int]] = {
    "coverage": ("collapse", -1),
    "duplicates": ("collapse", 1),
    "copies": ("memorization", 1),
    "precision": ("unlike", -1),
    "recall": ("narrow", -1),
}


FLOOR_DEVIATIONS = 2.0


LARGEST_LIMIT, SMALLEST_LIMIT = 0.9, 0.05  # what floors may make of a limit: beyond, every set is sound


@dataclass(frozen=True)
class Alarm:
    """A measure on the wrong side of its limit."""

    alarm: AlarmName
    measure: str
    value: float
    limit: float


def find_alarms(measured: Mapping[str, Measured], limits: Mapping[str, float]) -> list[Alarm]:
    """What is wrong with a set of generated images.

    Collapse below the limit of coverage or above that of duplicates, memorization above that of copies, unlike the
    real images below that of precision, narrow below that of recall. What was not measured, or has no limit, sounds
    nothing. Where real images taken for generated ones come near a limit themselves, as copies and duplicates do where
    few images of few people lie close together, the limit is their floor and two of its deviations. A set that is
    unlike covers nothing and is reached by nothing, so that collapse and narrow sound as well: unlike is the cause.

    Parameters
    ----------
    measured, limits : by name of the measure
    """
    found: list[Alarm] = []
    for name, (kind, side) in ALARMS.items():
        one = measured.get(name)
        if one is not None and one.value is not None and name in limits:
            limit = _beyond_floor(one, limits[name], side)
            if (one.value - limit) * side > 0:
                found.append(Alarm(kind, name, one.value, limit))
    return found


def _beyond_floor(measured: Measured, limit: float, side: int) -> float:
    if measured.floor is None:
        return limit
    farthest = measured.floor + side * FLOOR_DEVIATIONS * (measured.floor_deviation or 0.0)
    if side > 0:
        return round(max(limit, min(farthest, LARGEST_LIMIT)), 6)
    return round(min(limit, max(farthest, SMALLEST_LIMIT)), 6)
