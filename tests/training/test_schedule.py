"""Learning rates against torch's schedulers and the paper's own figure."""

import pytest
import torch
from tiny import ROOT, make_recipe

from slsr.params.file import validate_params
from slsr.params.presets import render_preset
from slsr.params.reading import parse_yaml
from slsr.training.schedule import learning_rate_factor, learning_rate_factors, planned_steps, steps_of_pass


def factors(epochs, steps_an_epoch, **schedule):
    choice = make_recipe(epochs=epochs, schedule=schedule).schedule
    steps = epochs * steps_an_epoch
    return [learning_rate_factor(choice, step, steps, epochs) for step in range(steps)]


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


@pytest.mark.parametrize("milestones", [[40, 70], [1, 2, 129], [130]])
def test_steps_after_listed_epochs_are_torchs(milestones):
    per_epoch = torch_rates(
        lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, 0.1), steps=130
    )
    found = factors(130, 3, name="step", step_epochs=milestones, step_factor=0.1)
    assert found == pytest.approx([rate for rate in per_epoch for _ in range(3)], rel=1e-9)


@pytest.mark.parametrize(("epochs", "steps_an_epoch"), [(14, 9), (1, 40), (5, 1)])
def test_cosine_is_torchs(epochs, steps_an_epoch):
    steps = epochs * steps_an_epoch
    expected = torch_rates(lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps), steps)
    found = factors(epochs, steps_an_epoch, name="cosine")
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert found[0] == 1.0
    assert found[steps // 2] == pytest.approx(0.5, abs=2 / steps)


WARMUP = {"warmup_epochs": 3, "warmup_start": 0.1}


@pytest.mark.parametrize(
    "schedule",
    [
        {"name": "constant"},
        {"name": "step", "step_epochs": 2, "step_factor": 0.5},
        {"name": "step", "step_epochs": [4, 7], "step_factor": 0.1},
        {"name": "inverse-epoch", "inverse_gamma": 0.3, "inverse_power": 0.7},
        {"name": "inverse-iteration", "inverse_gamma": 0.3, "inverse_power": 0.7},
    ],
    ids=str,
)
def test_a_warmup_is_torchs_and_multiplies_the_schedule(schedule):
    """9 epochs of 5 steps: torch's LinearLR over the first 15 steps, and the schedule after them as without it."""
    warmup = torch_rates(
        lambda optimizer: torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=15), steps=45
    )
    plain = factors(9, 5, **schedule)
    found = factors(9, 5, **schedule, **WARMUP)
    assert found == pytest.approx([a * b for a, b in zip(plain, warmup, strict=True)], rel=1e-9)
    assert found[0] == pytest.approx(0.1)
    assert found[15:] == plain[15:]


def test_cosine_begins_where_the_warmup_ends():
    """Torch's LinearLR over 15 steps, then its CosineAnnealingLR over the 30 that are left."""

    def one_after_the_other(optimizer):
        schedulers = torch.optim.lr_scheduler
        parts = [
            schedulers.LinearLR(optimizer, start_factor=0.1, total_iters=15),
            schedulers.CosineAnnealingLR(optimizer, 30),
        ]
        return schedulers.SequentialLR(optimizer, parts, milestones=[15])

    found = factors(9, 5, name="cosine", **WARMUP)
    assert found == pytest.approx(torch_rates(one_after_the_other, 45), rel=1e-9, abs=1e-12)
    assert (found[0], found[15]) == (pytest.approx(0.1), 1.0)
    assert found[15:] == sorted(found[15:], reverse=True)
    assert found[-1] < 0.01


def test_the_inverse_schedule_decays_as_the_paper_says():
    """From .0100 to .0079 in 101,000 iterations, gamma 0.1, p 0.025."""
    choice = make_recipe(schedule={"name": "inverse-iteration", "inverse_gamma": 0.1, "inverse_power": 0.025}).schedule
    assert learning_rate_factor(choice, 0, 104_000, 260) == 1.0
    assert round(0.01 * learning_rate_factor(choice, 101_000, 104_000, 260), 4) == 0.0079
    assert 0.01 * learning_rate_factor(choice, 50, 104_000, 260) == pytest.approx(0.01 * 6**-0.025)


def test_the_inverse_schedule_may_count_epochs():
    settings = {"inverse_gamma": 0.3, "inverse_power": 0.7}
    found = factors(4, 3, name="inverse-epoch", **settings)
    assert found == pytest.approx([(1 + 0.3 * epoch) ** -0.7 for epoch in range(4) for _ in range(3)])
    by_iteration = factors(4, 3, name="inverse-iteration", **settings)
    assert by_iteration == pytest.approx([(1 + 0.3 * step) ** -0.7 for step in range(12)])


def market1501(**differences):
    """The re-ID network of the preset market1501."""
    recipe = validate_params(parse_yaml(render_preset(ROOT / "presets", "market1501")), "market1501").train
    return recipe.model_copy(update=differences)


REAL, GENERATED = 12_936 - 751, 12_000


def naive_factors(epochs, passes_steps, step_epochs):
    """Every epoch, every step: a tenth after each `step_epochs` epochs."""
    found, rate = [], 1.0
    for epoch in range(epochs):
        if epoch and epoch % step_epochs == 0:
            rate /= 10
        found += [rate] * passes_steps
    return found


def test_the_published_run_has_98280_steps_and_a_control_of_as_many_has_the_same_schedule():
    slsr = learning_rate_factors(market1501(), REAL + GENERATED)
    expected = naive_factors(130, 756, 40)
    assert len(slsr) == len(expected) == 98_280
    assert slsr == pytest.approx(expected, rel=1e-9)
    assert 0.01 * sum(slsr) == pytest.approx(335.7, abs=0.1)
    control = learning_rate_factors(market1501(steps=98_280), REAL)
    assert control == slsr
    assert learning_rate_factors(market1501(steps=98_280), REAL + GENERATED) == slsr


def strong_baseline(**differences):
    """The schedule of Luo et al. (CVPR workshops 2019)."""
    schedule = {"name": "step", "step_epochs": [40, 70], "step_factor": 0.1, "warmup_epochs": 10, "warmup_start": 0.1}
    optimizer = {"name": "adam", "learning_rate": 3.5e-4}
    sampler = {"sampler": "identities", "images_per_identity": 4}
    return make_recipe(optimizer, schedule, epochs=120, batch_size=64, **sampler, **differences)


def test_the_strong_baselines_rates_are_the_published_ones():
    """On Market-1501 a pass has 203 batches of 64: from 3.5e-5 to 3.5e-4 in 10 epochs, a tenth after 40 and 70."""
    rates = [3.5e-4 * factor for factor in learning_rate_factors(strong_baseline(), 12_936)]
    assert len(rates) == 120 * 203
    assert rates[0] == pytest.approx(3.5e-5)
    assert rates[5 * 203] == pytest.approx((3.5e-5 + 3.5e-4) / 2)
    assert rates[: 10 * 203] == sorted(rates[: 10 * 203])
    assert max(rates[: 10 * 203]) < 3.5e-4
    for first, last, rate in ((10, 40, 3.5e-4), (40, 70, 3.5e-5), (70, 120, 3.5e-6)):
        of_these = rates[first * 203 : last * 203]
        assert of_these == pytest.approx([rate] * len(of_these))


@pytest.mark.parametrize(
    "schedule",
    [
        {"name": "constant"},
        {"name": "step", "step_epochs": 40},
        {"name": "step", "step_epochs": [40, 70]},
        {"name": "inverse-epoch"},
        {"name": "cosine"},
    ],
    ids=str,
)
@pytest.mark.parametrize("warmup_epochs", [0, 10])
def test_a_run_in_steps_has_the_same_factors_at_the_same_share(schedule, warmup_epochs):
    """120 epochs of 20 steps; as many steps, ten times as many, and a number that 120 does not divide."""
    schedule = schedule | {"warmup_epochs": warmup_epochs}
    in_epochs = learning_rate_factors(make_recipe(epochs=120, batch_size=8, schedule=schedule), 160)
    assert len(in_epochs) == 2400
    for steps, pick in ((2400, 1), (24_000, 10)):
        in_steps = learning_rate_factors(make_recipe(epochs=120, batch_size=8, steps=steps, schedule=schedule), 999)
        assert len(in_steps) == steps
        assert in_steps[::pick] == pytest.approx(in_epochs, rel=1e-9)
    uneven = learning_rate_factors(make_recipe(epochs=120, batch_size=8, steps=2417, schedule=schedule), 160)
    for epoch in range(120):
        assert uneven[-(-epoch * 2417 // 120)] == pytest.approx(in_epochs[20 * epoch], abs=0.01)


def test_more_epochs_alone_are_no_control():
    """As many steps with `step_epochs` as it was: half of the summed rate. Scaled by hand, nearly all of it."""
    longer = learning_rate_factors(market1501(epochs=258), REAL)
    assert len(longer) == 258 * 381
    assert 0.01 * sum(longer) == pytest.approx(0.01 * sum(naive_factors(258, 381, 40)))
    assert 0.01 * sum(longer) == pytest.approx(169.3, abs=0.1)
    assert 0.01 * sum(naive_factors(258, 381, 79)) == pytest.approx(334.2, abs=0.1)


@pytest.mark.parametrize("name", ["constant", "step", "inverse-epoch", "inverse-iteration", "one-cycle", "cosine"])
def test_the_same_steps_are_the_same_schedule_whatever_a_pass_is(name):
    warmup = {"warmup_epochs": 0 if name == "one-cycle" else 2}
    recipe = make_recipe(epochs=5, steps=37, schedule={"name": name, "step_epochs": 2} | warmup)
    one, two = (learning_rate_factors(recipe, images) for images in (16, 61))
    assert one == two
    assert len(one) == 37


def test_the_epochs_of_a_schedule_are_equal_parts_of_a_run_in_steps():
    recipe = make_recipe(epochs=5, steps=37, schedule={"name": "step", "step_epochs": 2, "step_factor": 0.5})
    position = [step / 37 * 5 for step in range(37)]
    expected = [0.25 if at >= 4 else 0.5 if at >= 2 else 1.0 for at in position]
    assert learning_rate_factors(recipe, 16) == pytest.approx(expected)


def test_steps_in_epochs_are_those_of_whole_passes():
    for images in range(2, 40):
        for size in range(2, 9):
            sizes = [min(size, images - start) for start in range(0, images, size)]
            joined = len(sizes) > 1 and sizes[-1] == 1
            assert steps_of_pass(images, size) == len(sizes) - joined
    assert planned_steps(make_recipe(epochs=3, batch_size=8), 21) == 9
    assert planned_steps(make_recipe(epochs=3, batch_size=8, steps=7), 21) == 7


def test_pseudo_labels_start_where_mprls_code_starts_them():
    """50 epochs, the rate divided by 10 after 40, generated images after 20: 21 of 41 parts of the rate are left."""
    start = validate_params(parse_yaml(render_preset(ROOT / "presets", "market1501")), "m").pseudo_labels.start
    of_mprl = naive_factors(50, 100, 40)
    left = sum(of_mprl[20 * 100 :]) / sum(of_mprl)
    assert left == pytest.approx(0.512, abs=5e-4)
    assert 1 - start == pytest.approx(left, abs=5e-4)
    published = naive_factors(130, 756, 40)
    total, spent, first = sum(published), 0.0, 0
    while spent + published[first] <= start * total:
        spent, first = spent + published[first], first + 1
    assert 1 - spent / total == pytest.approx(left, abs=5e-4)
    assert first // 756 == 21, "long before the first drop; 0.4 of the epochs left 7 % of the rate"
    assert sum(published[52 * 756 :]) / total == pytest.approx(0.072, abs=5e-4)
