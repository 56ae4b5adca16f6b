"""The clock of a training: it counts the steps, and does between them all that is not learning.

So a loop `for step in clock:` shows what a step learns. The clock checks the losses, saves the state, stops when a
signal asks for it, and shows the progress.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from slsr.errors import CheckFailed
from slsr.runtime.processes import any_process, rank_and_size, wait_for_all
from slsr.runtime.resume import NOT_KEPT, Keeper

# Reading a loss synchronizes with the GPU; on a CPU it costs nothing.
STEPS_BETWEEN_CHECKS = {"cuda": 25}


class Learner(Protocol):
    """What a loop trains, with everything that a step changes.

    `title` names it in the progress bar. `describe_divergence` says which losses are not finite, and what to change;
    epoch and step count from 1.
    """

    title: str

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...

    def describe_divergence(self, losses: Tensor, epoch: int, step: int) -> str: ...


@dataclass(frozen=True)
class Step:
    """A step of a training: its number over all epochs, its epoch, its position in the epoch, all counted from 0."""

    number: int
    epoch: int
    position: int
    ends_epoch: bool


class Clock:
    """Counts the steps of a training; saves its state, stops it, checks its losses and shows its progress.

    If the keeper has one state for all processes, they train one network together and stop at the same step.

    Parameters
    ----------
    learner : what is trained; takes over `state`
    steps : of an epoch
    epochs : of the whole training
    images : of an epoch, for the progress bar
    total : steps of the whole training, if its last epoch is only a part of one; None for `steps` x `epochs`
    device : where the losses are
    state : a state that an earlier clock saved, or None to start from the beginning
    steps_between_checks : how often losses are checked for NaN and infinity; None chooses by the device

    Raises
    ------
    CheckFailed
        A loss is NaN or infinite; the message ends with the last good state. Raised by `record`, and before saving.
    Interrupted
        A signal asked the training to stop, and its state is saved. Raised by the iteration.
    """

    def __init__(
        self,
        learner: Learner,
        steps: int,
        epochs: int,
        images: int,
        device: torch.device,
        keeper: Keeper = NOT_KEPT,
        state: Mapping[str, Any] | None = None,
        steps_between_checks: int | None = None,
        total: int | None = None,
    ) -> None:
        self.steps, self.epochs = steps, epochs
        self.total = steps * epochs if total is None else total
        self._learner, self._images, self._device, self._keeper = learner, images, device, keeper
        self._between_checks = steps_between_checks or STEPS_BETWEEN_CHECKS.get(device.type, 1)
        self._losses: list[Tensor] = []
        self._first = 0
        if state is not None:
            learner.load_state_dict(state["learner"])
            self._first = state["step"]
            self._losses = [torch.tensor(values, device=device) for values in state["losses"]]
        self._checked = len(self._losses)

    def __iter__(self) -> Iterator[Step]:
        """Yield each step that is still to be done; save and stop after it if it is time to."""
        total, done = (self._images * number // self.steps for number in (self.total, self._first))
        with tqdm(
            total=total, initial=done, desc=self._learner.title, unit="image", leave=False, disable=None
        ) as self._bar:
            for number in range(self._first, self.total):
                self._step = self._numbered(number)
                yield self._step
                if self._step.ends_epoch:
                    self._losses, self._checked = [], 0
                self._save_or_stop()

    def record(self, losses: Tensor, images: int) -> None:
        """Note the losses of the current step, a scalar or [L] on the device, and how many images it saw."""
        self._losses.append(losses)
        self._bar.update(images)
        if self._checks():
            self._stop_unless_finite()

    def losses(self) -> Tensor:
        """Return the losses of the current epoch's steps so far, [S] or [S, L]."""
        return torch.stack(self._losses)

    def mean(self) -> Tensor:
        """Return the mean of the losses over the current epoch's steps so far, a scalar or [L]."""
        return self.losses().mean(dim=0)

    def failure(self, message: str) -> CheckFailed:
        """Return an error about this training that also names the last good state."""
        return CheckFailed(f"{message} ({self._keeper.last_good_state()})")

    def _numbered(self, number: int) -> Step:
        epoch, position = divmod(number, self.steps)
        return Step(number, epoch, position, position + 1 == self.steps or number + 1 == self.total)

    def _checks(self) -> bool:
        return self._step.ends_epoch or (self._step.position + 1) % self._between_checks == 0

    def _stop_unless_finite(self) -> None:
        """Check the losses since the last check."""
        unchecked = self._losses[self._checked :]
        if not unchecked:
            return
        finite = torch.isfinite(torch.stack(unchecked)).view(len(unchecked), -1).all(dim=1).tolist()
        if not all(finite):
            place = finite.index(False)
            epoch, step = self._step.epoch + 1, self._checked + place + 1
            raise self.failure(self._learner.describe_divergence(unchecked[place].cpu(), epoch, step))
        self._checked = len(self._losses)

    def _save_or_stop(self) -> None:
        stop, done = self._stops(), self._step.number + 1
        if self._keeper.keeps and (stop or self._keeper.due(self._step.epoch + 1 if self._step.ends_epoch else 0)):
            self._stop_unless_finite()
            losses = self.losses().tolist() if self._losses else []
            self._keeper.save({"step": done, "losses": losses, "learner": self._learner.state_dict()})
        if stop:
            if not self._keeper.each_process:
                wait_for_all()  # the first process may still be saving, and is killed if another one ends
            self._keeper.leave(done)

    def _stops(self) -> bool:
        """Tell whether to stop after this step; processes that share a network ask only when losses are checked."""
        if self._keeper.each_process or rank_and_size()[1] == 1:
            return self._keeper.stop_requested
        return self._checks() and any_process(self._keeper.stop_requested, self._device)
