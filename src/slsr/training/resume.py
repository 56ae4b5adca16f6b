"""Interrupted is not lost: the state of a run, kept on disk while it lasts.

Every random draw of a run follows from its seed and the number of the step, so that the state is no more than
weights, optimiser and step, and a run that goes on from it ends with the bytes of an uninterrupted one.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import numpy as np
import torch

from slsr.errors import Interrupted
from slsr.training.processes import is_first, rank_and_size

log = logging.getLogger(__name__)

STATE = "state.pt"
SECONDS_BETWEEN_SAVES = 60.0
STALE_AFTER_DAYS = 14.0
SECONDS_TO_LEAVE = 20.0


class Keeper:
    """Keeps the state of one run in a folder of its own.

    Attributes
    ----------
    stop_requested : whether a signal has asked the run to save and leave
    """

    def __init__(self, folder: Path, seconds: float = SECONDS_BETWEEN_SAVES) -> None:
        self.folder = folder
        self.stop_requested = False
        self._seconds = seconds
        self._saved_at = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The state saved last, or None; one that does not read is put aside with a warning."""
        path = self.folder / STATE
        if not path.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # what a damaged file raises depends on where the damage is
            log.warning("%s: not readable (%s); the run starts afresh", path, error)
            return None
        log.info("going on from %s, step %d", path, state["step"])
        return state

    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() - self._saved_at >= self._seconds

    def save(self, state: Mapping[str, Any]) -> None:
        """Save a state, which has the key `step`.

        The one before stays until the new one is whole; when the disk is full it is kept, and the run goes on.
        """
        try:
            self._write(state)
        except OSError as error:
            log.warning("%s: the state could not be saved (%s); an earlier one is kept", self.folder, error)
        self._saved_at = time.monotonic()

    def leave(self, step: int) -> NoReturn:
        """End the run because a signal asked for it.

        Raises
        ------
        Interrupted
            Always.
        """
        raise Interrupted(f"interrupted after step {step}; the same command goes on from {self.folder}")

    def _write(self, state: Mapping[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{STATE}.partial"
        try:
            with temporary.open("wb") as file:
                torch.save(dict(state), file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.folder / STATE)
        finally:
            temporary.unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget the state: the run has ended well."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def kept(folder: Path, seconds: float = SECONDS_BETWEEN_SAVES) -> Iterator[Keeper]:
    """A keeper for the time of a block: SIGTERM and Ctrl-C ask it to save; the state goes when the block ends well.

    States beside `folder` that nobody has touched for two weeks are removed.
    """
    _remove_stale(folder)
    keeper = Keeper(folder, seconds)

    def request_stop(number: int, frame: FrameType | None) -> None:
        keeper.stop_requested = True
        if rank_and_size()[1] > 1:
            _leave_in_any_case()

    before = {number: signal.signal(number, request_stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield keeper
        if is_first():
            keeper.clear()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_in_any_case() -> None:
    """End this process soon even if it waits for another one that is gone."""
    timer = threading.Timer(SECONDS_TO_LEAVE, os._exit, (128 + signal.SIGTERM,))
    timer.daemon = True
    timer.start()


def _remove_stale(folder: Path) -> None:
    limit = time.time() - STALE_AFTER_DAYS * 86400
    for other in sorted(folder.parent.glob("*")) if folder.parent.is_dir() else []:
        with suppress(OSError):
            if (
                other != folder
                and other.is_dir()
                and max(path.stat().st_mtime for path in [other, *other.iterdir()]) < limit
            ):
                shutil.rmtree(other)
                log.info("removed %s: untouched for %d days", other, STALE_AFTER_DAYS)


def derived_seed(*numbers: int) -> int:
    """A seed that follows from several numbers and is independent of its neighbours'."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def derived_generator(*numbers: int) -> torch.Generator:
    """A CPU generator with the derived seed."""
    return torch.Generator().manual_seed(derived_seed(*numbers))
