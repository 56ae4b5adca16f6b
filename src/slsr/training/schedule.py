"""The steps of a training, and the learning rate of each."""

from __future__ import annotations

import bisect
import math

from slsr.params.recipe import Recipe, Schedule

# The one-cycle policy starts at 1/25 of the peak and ends at 1/250,000 of it (Smith and Topin 2019; torch's defaults).
ONE_CYCLE_START = 1 / 25
ONE_CYCLE_END = ONE_CYCLE_START / 1e4


def steps_of_pass(images: int, batch_size: int) -> int:
    """Return the number of batches in one pass over the images; a last batch of one image joins the batch before it."""
    return max(1, (images + batch_size - 2) // batch_size)


def images_of_pass(recipe: Recipe, real: int, generated: int) -> int:
    """Return the number of images that make a pass: all, or with the sampler `identities` the real ones.

    There the generated ones come beside the real ones of a batch, so that every regularizer has the same steps.
    """
    return real if recipe.sampler == "identities" else real + generated


def planned_steps(recipe: Recipe, images: int) -> int:
    """Return the number of steps of the whole training: `recipe.steps`, or `recipe.epochs` passes over the images."""
    return recipe.steps or recipe.epochs * steps_of_pass(images, recipe.batch_size)


def learning_rate_factors(recipe: Recipe, images: int) -> list[float]:
    """Return the factor by which the base learning rates are multiplied, for each step of a training on the images."""
    steps = planned_steps(recipe, images)
    return [learning_rate_factor(recipe.schedule, step, steps, recipe.epochs) for step in range(steps)]


def learning_rate_factor(schedule: Schedule, step: int, steps: int, epochs: int) -> float:
    """Return the factor by which the base learning rate is multiplied at a step.

    The epochs of the schedule divide the run into equal parts, whatever a pass over the images is. So two runs with
    the same number of steps have the same factors, however many images they see.

    - `constant`: 1.
    - `step`: `step_factor` to the power of the number of drops, one after every `step_epochs` epochs, or one after each
      epoch in the list `step_epochs`.
    - `inverse-iteration`, `inverse-epoch`: `(1 + gamma i)^-p`, i counting steps or epochs (the paper, section 5.2).
    - `one-cycle`: cosine from 1/25 up to 1 over the first `one_cycle_warmup` of all steps, cosine down to 1/250,000.
    - `cosine`: after the warm-up, `(1 + cos(pi s)) / 2` at the share s of the rest (Loshchilov and Hutter, ICLR 2017).

    All but `one-cycle` are multiplied in the first `warmup_epochs` by a factor that rises linearly, step by step, from
    `warmup_start` to 1 (Goyal et al., 2017).

    Parameters
    ----------
    step : 0-based, over the whole run
    steps, epochs : of the whole run
    """
    epoch, warmup = step * epochs // steps, schedule.warmup_epochs * steps / epochs
    rising = schedule.warmup_start + (1 - schedule.warmup_start) * step / warmup if step < warmup else 1.0
    match schedule.name:
        case "constant":
            return rising
        case "step":
            return rising * math.pow(schedule.step_factor, _drops(schedule.step_epochs, epoch))
        case "inverse-iteration":
            return rising * math.pow(1 + schedule.inverse_gamma * step, -schedule.inverse_power)
        case "inverse-epoch":
            return rising * math.pow(1 + schedule.inverse_gamma * epoch, -schedule.inverse_power)
        case "one-cycle":
            return _one_cycle(step, steps, schedule.one_cycle_warmup)
        case "cosine":
            return rising * _cosine(1.0, 0.0, max(0.0, (step - warmup) / (steps - warmup)))


def _drops(step_epochs: int | list[int], epoch: int) -> int:
    """Return how often the rate has dropped before an epoch (0-based)."""
    return epoch // step_epochs if isinstance(step_epochs, int) else bisect.bisect_right(step_epochs, epoch)


def _one_cycle(step: int, steps: int, warmup: float) -> float:
    peak = max(warmup * steps - 1, 1e-9)
    if step <= peak:
        return _cosine(ONE_CYCLE_START, 1.0, step / peak)
    return _cosine(1.0, ONE_CYCLE_END, (step - peak) / max(steps - 1 - peak, 1e-9))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * min(share, 1.0)))
