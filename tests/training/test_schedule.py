"""Learning rates against torch's schedulers and the paper's own figure."""

import pytest
import torch
from tiny import make_recipe

from slsr.training.schedule import learning_rate_factor


def factors(epochs, steps_an_epoch, **schedule):
    choice = make_recipe(schedule=schedule).schedule
    return [learning_rate_factor(choice, step, steps_an_epoch, epochs) for step in range(epochs * steps_an_epoch)]


def torch_rates(make, steps, rate=1.0):
    """The rate at each step, and the scheduler moved after it."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    scheduler = make(optimizer)
    rates = []
    for step in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step + 1 < steps:
            scheduler.step()
    return rates


def test_constant_is_one():
    assert factors(3, 4, name="constant") == [1.0] * 12


@pytest.mark.parametrize("warmup", [0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize(("epochs", "steps_an_epoch"), [(14, 9), (1, 40), (5, 7)])
def test_one_cycle_is_torchs(epochs, steps_an_epoch, warmup):
    steps = epochs * steps_an_epoch
    expected = torch_rates(
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=1.0, total_steps=steps, pct_start=warmup, cycle_momentum=False
        ),
        steps,
    )
    found = factors(epochs, steps_an_epoch, name="one-cycle", one_cycle_warmup=warmup)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert found[0] == pytest.approx(1 / 25)
    assert found[-1] == pytest.approx(1 / 250_000)


@pytest.mark.parametrize(("epochs", "steps_an_epoch", "warmup"), [(1, 1, 0.3), (2, 1, 0.3), (1, 3, 0.01), (1, 3, 0.99)])
def test_one_cycle_of_very_few_steps_stays_within_its_range(epochs, steps_an_epoch, warmup):
    found = factors(epochs, steps_an_epoch, name="one-cycle", one_cycle_warmup=warmup)
    assert all(1 / 250_001 < factor <= 1 for factor in found)


@pytest.mark.parametrize(("step_epochs", "step_factor"), [(40, 0.1), (3, 0.5)])
def test_step_is_torchs(step_epochs, step_factor):
    per_epoch = torch_rates(
        lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, step_epochs, step_factor), steps=130
    )
    found = factors(130, 2, name="step", step_epochs=step_epochs, step_factor=step_factor)
    assert found == pytest.approx([rate for rate in per_epoch for _ in range(2)], rel=1e-9)
    if step_epochs == 40:
        assert found[:80] == [1.0] * 80
        assert found[-1] == pytest.approx(1e-3)


def test_the_inverse_schedule_decays_as_the_paper_says():
    """From .0100 to .0079 in 101,000 iterations, gamma 0.1, p 0.025."""
    choice = make_recipe(schedule={"name": "inverse-iteration", "inverse_gamma": 0.1, "inverse_power": 0.025}).schedule
    assert learning_rate_factor(choice, 0, 400, 260) == 1.0
    assert round(0.01 * learning_rate_factor(choice, 101_000, 400, 260), 4) == 0.0079
    assert 0.01 * learning_rate_factor(choice, 50, 400, 260) == pytest.approx(0.01 * 6**-0.025)


def test_the_inverse_schedule_may_count_epochs():
    settings = {"inverse_gamma": 0.3, "inverse_power": 0.7}
    found = factors(4, 3, name="inverse-epoch", **settings)
    assert found == pytest.approx([(1 + 0.3 * epoch) ** -0.7 for epoch in range(4) for _ in range(3)])
    by_iteration = factors(4, 3, name="inverse-iteration", **settings)
    assert by_iteration == pytest.approx([(1 + 0.3 * step) ** -0.7 for step in range(12)])
