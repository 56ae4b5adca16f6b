"""The learning rate of each step of a training."""

from __future__ import annotations

import math

from slsr.params.recipe import Schedule

# The one-cycle policy starts at 1/25 of the peak and ends at 1/250,000 of it (Smith and Topin 2019; torch's defaults).
ONE_CYCLE_START = 1 / 25
ONE_CYCLE_END = ONE_CYCLE_START / 1e4


def learning_rate_factor(schedule: Schedule, step: int, steps_an_epoch: int, epochs: int) -> float:
    """Return the factor by which the base learning rate is multiplied at a step.

    - `constant`: 1.
    - `step`: `step_factor ** (epoch // step_epochs)`.
    - `inverse-iteration`, `inverse-epoch`: `(1 + gamma i)^-p`, i counting steps or epochs (the paper, section 5.2).
    - `one-cycle`: cosine from 1/25 up to 1 over the first `one_cycle_warmup` of all steps, cosine down to 1/250,000.

    Parameters
    ----------
    step : 0-based, over the whole run
    steps_an_epoch, epochs : size of the run
    """
    epoch = step // steps_an_epoch
    match schedule.name:
        case "constant":
            return 1.0
        case "step":
            return math.pow(schedule.step_factor, epoch // schedule.step_epochs)
        case "inverse-iteration":
            return math.pow(1 + schedule.inverse_gamma * step, -schedule.inverse_power)
        case "inverse-epoch":
            return math.pow(1 + schedule.inverse_gamma * epoch, -schedule.inverse_power)
        case "one-cycle":
            return _one_cycle(step, steps_an_epoch * epochs, schedule.one_cycle_warmup)


def _one_cycle(step: int, steps: int, warmup: float) -> float:
    peak = max(warmup * steps - 1, 1e-9)
    if step <= peak:
        return _cosine(ONE_CYCLE_START, 1.0, step / peak)
    return _cosine(1.0, ONE_CYCLE_END, (step - peak) / max(steps - 1 - peak, 1e-9))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * min(share, 1.0)))
