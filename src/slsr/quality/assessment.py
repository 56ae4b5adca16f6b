"""All measures of a set of generated images, each with its reference, and the alarms that follow."""

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
KERNEL_BLOCK = 100
FRECHET_LEAST = 2000

KEYS = ("value", "deviation", "reference", "reference_deviation")


@dataclass(frozen=True)
class Measured:
    """A measure of generated images, and its reference: the same measure of real images in their place.

    Deviations are over random subsets; those of the kernel distance are over its blocks. They are None if the value
    comes from all images at once, and everything is None if there are too few images.
    """

    value: float | None
    deviation: float | None
    reference: float | None
    reference_deviation: float | None

    @classmethod
    def from_json(cls, numbers: Mapping[str, float | None]) -> Measured:
        """Read what `as_json` wrote."""
        return cls(*(numbers[key] for key in KEYS))

    def as_json(self) -> dict[str, float | None]:
        """Write the measure as in quality.json, with 6 decimals."""
        values = (self.value, self.deviation, self.reference, self.reference_deviation)
        return {key: None if value is None else round(value, 6) for key, value in zip(KEYS, values, strict=True)}


SUBSET_MEASURES: Mapping[str, Callable[[Neighborhoods], float]] = {
    "coverage": Neighborhoods.coverage,
    "recall": Neighborhoods.recall,
    "precision": Neighborhoods.precision,
    "density": Neighborhoods.density,
    "duplicates": Neighborhoods.duplicates,
}


def assess(
    real: Features, fake: Features, names: Sequence[str], seed: int, subsets: int = SUBSETS, size: int = SUBSET_SIZE
) -> dict[str, Measured]:
    """Measure generated images against real ones in one feature space, each value with its reference.

    Most measures depend on the number of images, so they are means over random subsets. Each subset has equally many
    real images, generated images, and held-out real images, which give the reference: at most half of the real ones.
    The kernel distance is the mean over blocks of at least 100 images of the subsets, as published, so that its
    deviation does not shrink with the number of images; a subset with fewer is one block.
    Rows are scaled to unit length first. Copies are searched among all real images. The Frechet distance is computed
    once, from as many images as possible, and is None below 2,000 images, for which it says more about their number.

    Parameters
    ----------
    real, fake : float32 [N, D] and [M, D]
    names : names in SUBSET_MEASURES, `kernel`, `copies` and `frechet`
    subsets, size : the number of subsets, and their largest size

    Returns
    -------
    The measures by name; values are None if a subset would have fewer than `NEIGHBORS` + 1 images.
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
    of_all = {
        "copies": lambda: _copies(real, fake, draws),
        "frechet": lambda: _frechet(real, fake, seed),
        "kernel": lambda: _kernel(draws),
    }
    return {name: of_all[name]() if name in of_all else _measured(name, generated, held_out) for name in names}


def _cosine_scaled(features: Features) -> Features:
    """Multiply unit rows by the root of D, so that the kernel's x.y / D is the cosine."""
    return features * np.float32(np.sqrt(features.shape[1]))


Draw = tuple[Features, Features, Features]


def _subsets(real: Features, fake: Features, count: int, subsets: int, seed: int) -> Iterator[Draw]:
    """Draw real, generated and held-out real images, `count` of each."""
    stream = np.random.default_rng(seed)
    for _ in range(subsets):
        order = stream.permutation(len(real))
        yield real[order[:count]], fake[stream.permutation(len(fake))[:count]], real[order[count : 2 * count]]


def _measured(name: str, generated: Sequence[Neighborhoods], held_out: Sequence[Neighborhoods]) -> Measured:
    values, references = ([SUBSET_MEASURES[name](pair) for pair in pairs] for pairs in (generated, held_out))
    return Measured(*_mean_and_deviation(values), *_mean_and_deviation(references))


def _kernel(draws: Sequence[Draw]) -> Measured:
    """Measure the kernel distance of blocks of 100 to 199 images, or of all images if there are fewer."""
    values: tuple[list[float], list[float]] = ([], [])
    for draw in draws:
        blocks = max(1, len(draw[0]) // KERNEL_BLOCK)
        for parts in zip(*(np.array_split(_cosine_scaled(part), blocks) for part in draw), strict=True):
            for found, other in zip(values, parts[1:], strict=True):
                found.append(kernel_distance(parts[0], other))
    return Measured(*_mean_and_deviation(values[0]), *_mean_and_deviation(values[1]))


def _copies(real: Features, fake: Features, draws: Sequence[Draw]) -> Measured:
    value = copy_fraction(real, fake, same_picture_distance(real))
    references = [copy_fraction(part, held_out, same_picture_distance(part)) for part, _, held_out in draws]
    return Measured(value, None, *_mean_and_deviation(references))


def _frechet(real: Features, fake: Features, seed: int) -> Measured:
    count = min(len(real) // 2, len(fake))
    if count < FRECHET_LEAST:
        return Measured(None, None, None, None)
    ((part, generated, held_out),) = _subsets(real, fake, count, 1, seed)
    return Measured(frechet_distance(part, generated), None, frechet_distance(part, held_out), None)


def _mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


AlarmName = Literal["collapse", "memorization", "unlike", "narrow"]


# The alarm of a measure, and the side of its limit on which it is raised: -1 below, 1 above. KID and density have their
# own rules.
ALARMS: Mapping[str, tuple[AlarmName, int]] = {
    "coverage": ("collapse", -1),
    "duplicates": ("collapse", 1),
    "copies": ("memorization", 1),
    "precision": ("unlike", -1),
    "recall": ("narrow", -1),
}
REFERENCE_DEVIATIONS = 2.0
LARGEST_LIMIT, SMALLEST_LIMIT = 0.9, 0.05  # bounds of a limit that the reference moved, so that it can be crossed


@dataclass(frozen=True)
class Alarm:
    """A measure on the wrong side of its limit."""

    alarm: AlarmName
    measure: str
    value: float
    limit: float


def find_alarms(measured: Mapping[str, Measured], limits: Mapping[str, float]) -> list[Alarm]:
    """Find out what is wrong with a set of generated images.

    - collapse: `coverage` is below its limit, or `duplicates` are above theirs.
    - memorization: `copies` are above their limit.
    - unlike (the real images): `precision` is below its limit; or `kernel` is above its reference by more than
      `limits["kernel_deviations"]` deviations of the reference; or `density` is above its limit while `recall` is below
      its own. The last two find blots, which are in the neighborhood of many real images and have a high precision.
    - narrow: `recall` is below its limit.

    A measure without a value or a limit raises no alarm. If the real images in the place of generated ones come near a
    limit themselves, as when few people with similar images are in a cluster, the limit is the reference and two of its
    deviations. A set that is unlike neither covers nor reaches any real image, so that collapse and narrow are raised
    too: unlike is the cause.

    Parameters
    ----------
    measured : by the name of the measure
    limits : by the name of the measure, and `kernel_deviations`
    """
    found: list[Alarm] = []
    for name, (kind, side) in ALARMS.items():
        one = measured.get(name)
        if one is not None and one.value is not None and name in limits:
            limit = _limit_beyond_reference(one, limits[name], side)
            if (one.value - limit) * side > 0:
                found.append(Alarm(kind, name, one.value, limit))
    narrow = any(alarm.measure == "recall" for alarm in found)
    return [*found, *_far(measured, limits), *(_crowded(measured, limits) if narrow else [])]


def _far(measured: Mapping[str, Measured], limits: Mapping[str, float]) -> Iterator[Alarm]:
    """Raise `unlike` if the kernel distance is beyond its reference; without a deviation there is no limit."""
    kernel = measured.get("kernel")
    if kernel is None or kernel.value is None or kernel.reference is None or "kernel_deviations" not in limits:
        return
    limit = kernel.reference + limits["kernel_deviations"] * (kernel.reference_deviation or 0.0)
    if kernel.reference_deviation and kernel.value > limit:
        yield Alarm("unlike", "kernel", kernel.value, round(limit, 6))


def _crowded(measured: Mapping[str, Measured], limits: Mapping[str, float]) -> Iterator[Alarm]:
    """Raise `unlike` for narrow images if each of them is in the neighborhoods of too many real images."""
    density = measured.get("density")
    if density is None or density.value is None or "density" not in limits:
        return
    if density.value > limits["density"]:
        yield Alarm("unlike", "density", density.value, limits["density"])


def _limit_beyond_reference(measured: Measured, limit: float, side: int) -> float:
    if measured.reference is None:
        return limit
    farthest = measured.reference + side * REFERENCE_DEVIATIONS * (measured.reference_deviation or 0.0)
    if side > 0:
        return round(max(limit, min(farthest, LARGEST_LIMIT)), 6)
    return round(min(limit, max(farthest, SMALLEST_LIMIT)), 6)
