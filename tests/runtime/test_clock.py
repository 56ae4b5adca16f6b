"""The clock of a training: it checks, saves, stops and goes on, whatever is trained."""

import pytest
import torch

from slsr.errors import CheckFailed, Interrupted
from slsr.runtime.clock import Clock, Step
from slsr.runtime.resume import Interval, Keeper

CPU = torch.device("cpu")
STEPS, EPOCHS = 7, 3


class Sum:
    """Learns the sum of the numbers of its steps; one step's loss is NaN."""

    title = "sum"

    def __init__(self, diverges_in=None):
        self.total, self.means, self.diverges_in = 0.0, [], diverges_in

    def state_dict(self):
        return {"total": self.total, "means": self.means}

    def load_state_dict(self, state):
        self.total, self.means = state["total"], state["means"]

    def describe_divergence(self, losses, epoch, step):
        return f"losses {losses.tolist()} in epoch {epoch}, step {step}"

    def train(self, keeper, every=None, total=None):
        """Train, and return the numbers of the steps that were done."""
        clock, done = Clock(self, STEPS, EPOCHS, STEPS * 4, CPU, keeper, keeper.load(), every, total), []
        for step in clock:
            done.append(step.number)
            self.total += step.number
            factor = float("nan") if step.number == self.diverges_in else 1.0
            clock.record(torch.tensor([self.total * factor, step.position]), images=4)
            if step.ends_epoch:
                self.means.append(clock.mean().tolist())
        return done


def test_steps_are_numbered_over_epochs(tmp_path):
    clock = Clock(Sum(), 2, 2, 8, CPU)
    assert list(clock) == [Step(0, 0, 0, False), Step(1, 0, 1, True), Step(2, 1, 0, False), Step(3, 1, 1, True)]


def test_a_last_epoch_may_be_a_part_of_one(tmp_path):
    clock = Clock(Sum(), 2, 2, 8, CPU, total=3)
    assert list(clock) == [Step(0, 0, 0, False), Step(1, 0, 1, True), Step(2, 1, 0, True)]
    assert (clock.epochs, clock.total) == (2, 3)


def test_the_means_are_over_the_steps_of_an_epoch(tmp_path):
    learner = Sum()
    learner.train(Keeper(tmp_path, Interval(1e9)))
    totals = torch.arange(STEPS * EPOCHS).cumsum(0).view(EPOCHS, STEPS).float().mean(dim=1)
    assert learner.means == [[float(total), 3.0] for total in totals]


@pytest.mark.parametrize("total", [STEPS * EPOCHS, STEPS * EPOCHS - 3])
def test_a_training_stopped_at_every_step_ends_as_one_that_was_not(tmp_path, total):
    whole, steps = Sum(), []
    whole.train(Keeper(tmp_path / "whole", Interval(1e9)), total=total)
    assert len(whole.means) == EPOCHS
    for _ in range(total):
        part, keeper = Sum(), Keeper(tmp_path / "parts", Interval(1e9))
        keeper.request_stop()
        with pytest.raises(Interrupted, match=rf"after step {len(steps) + 1}; the same command goes on"):
            steps += part.train(keeper, total=total)
        steps.append(len(steps))
    ended = Sum()
    assert ended.train(Keeper(tmp_path / "parts", Interval(1e9)), total=total) == []
    assert (ended.total, ended.means) == (whole.total, whole.means)


@pytest.mark.parametrize(("every", "diverges_in", "done"), [(1, 3, 3), (3, 3, 5), (25, 3, 6), (25, 20, 20)])
def test_a_loss_that_is_not_finite_is_found_when_losses_are_checked(tmp_path, every, diverges_in, done):
    learner = Sum(diverges_in)
    epoch, position = divmod(diverges_in, STEPS)
    message = rf"losses \[nan, {position}\.0\] in epoch {epoch + 1}, step {position + 1} \(no state had been saved"
    with pytest.raises(CheckFailed, match=message):
        learner.train(Keeper(tmp_path, Interval(1e9)), every)
    assert learner.total == sum(range(done + 1))


@pytest.mark.parametrize("every", [1, 25])
def test_a_state_after_a_loss_that_is_not_finite_is_never_saved(tmp_path, every):
    keeper = Keeper(tmp_path, Interval(0))
    with pytest.raises(CheckFailed, match=r"in epoch 2, step 3 \(the last good state, after step 9 of all, is "):
        Sum(diverges_in=9).train(keeper, every)
    assert keeper.load()["step"] == 9


def test_states_are_saved_after_the_epochs_that_the_keeper_wants(tmp_path):
    keeper, learner = Keeper(tmp_path, Interval(epochs=2)), Sum(diverges_in=STEPS * EPOCHS - 1)
    with pytest.raises(CheckFailed):
        learner.train(keeper)
    assert keeper.load()["step"] == 2 * STEPS


def test_a_part_of_a_run_keeps_its_state_apart_and_stops_with_it(tmp_path):
    keeper = Keeper(tmp_path, Interval(0), each_process=True)
    parts = [keeper.below(name) for name in ("one", "two")]
    parts[0].save({"step": 5})
    assert (tmp_path / "one" / "state.pt").is_file()
    assert [part.load() is None for part in parts] == [False, True]
    assert [(part.interval, part.each_process) for part in parts] == [(keeper.interval, True)] * 2
    assert not parts[1].stop_requested
    keeper.request_stop()
    assert all(part.stop_requested for part in parts)
