"""One verdict on generated images, in plain words, from their measures in an ImageNet space."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

from slsr.quality.assessment import Alarm, Measured

Verdict = Literal["not usable", "recognizable, but poorer", "close to real images"]
FROM_WORST = get_args(Verdict)

# From benchmarks/degradations.py: between the groups of degradations as the eye orders them.
CLOSE_KERNEL, CLOSE_COVERAGE = 0.3, 0.8
FAR_KERNEL, MOST_REPEATED = 1.8, 0.5


def judge(measured: Mapping[str, Measured], alarms: Sequence[Alarm]) -> Verdict | None:
    """Judge generated images by their measures in one ImageNet space.

    - `not usable`: KID is more than 1.8 above its reference, or more than half of the images are duplicates.
    - `close to real images`: KID is at most 0.3 above its reference, coverage is at least 0.8 of its reference, and
      there is no alarm.
    - `recognizable, but poorer`: everything else.

    Parameters
    ----------
    measured : `kernel`, `coverage` and `duplicates`
    alarms : of the same images, in any space

    Returns
    -------
    None if there are too few images to measure.
    """
    kernel, coverage, duplicates = (measured[name] for name in ("kernel", "coverage", "duplicates"))
    beyond = difference(kernel)
    if beyond is None or coverage.value is None or coverage.reference is None or duplicates.value is None:
        return None
    if beyond > FAR_KERNEL or duplicates.value > MOST_REPEATED:
        return "not usable"
    if beyond <= CLOSE_KERNEL and coverage.value >= CLOSE_COVERAGE * coverage.reference and not alarms:
        return "close to real images"
    return "recognizable, but poorer"


def difference(measured: Measured) -> float | None:
    """Return how far a value is above its reference."""
    if measured.value is None or measured.reference is None:
        return None
    return measured.value - measured.reference


def worst(verdicts: Iterable[Verdict | None]) -> Verdict | None:
    """Return the worst of several verdicts; None if no set has one."""
    return min((verdict for verdict in verdicts if verdict is not None), key=FROM_WORST.index, default=None)
