"""The state of a run, kept on disk while the run lasts, so that an interruption loses nothing.

Every random draw of a run follows from its seed and the number of the step. So the state is only the weights, the
optimizer and the step, and a run that goes on from it ends with the same bytes as an uninterrupted run.
"""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch

from slsr.errors import InputError, Interrupted
from slsr.runtime.processes import agreed, is_first, rank_and_size

log = logging.getLogger(__name__)

STATE = "state.pt"
STALE_AFTER_DAYS = 14.0
SECONDS_TO_LEAVE = 25.0  # torch's launcher kills after 30
MINUTES_OF_A_LEFTOVER = 10.0


@dataclass(frozen=True)
class Interval:
    """How often to save: after this many seconds, or after this many epochs if `epochs` is not 0."""

    seconds: float = 60.0
    epochs: int = 0


EVERY_MINUTE = Interval()


def save_interval(environment: Mapping[str, str]) -> Interval:
    """Read how often to save from `SLSR_SAVE_EVERY`: `10 minutes`, `0.5 minutes`, `2 epochs`; unset, every minute.

    Raises
    ------
    InputError
        It says something else.
    """
    text = environment.get("SLSR_SAVE_EVERY", "").strip()
    if not text:
        return EVERY_MINUTE
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *(minutes?|epochs?)", text)
    number = float(found[1]) if found else 0.0
    if found is None or number == 0 or (found[2].startswith("epoch") and number % 1):
        raise InputError(f"SLSR_SAVE_EVERY: {text!r}; give for example `10 minutes` or `2 epochs`, or unset it")
    return Interval(epochs=int(number)) if found[2].startswith("epoch") else Interval(seconds=60 * number)


@dataclass
class _StopRequest:
    made: bool = False


class Keeper:
    """Keeps the state of one run in a folder of its own.

    Attributes
    ----------
    each_process : whether every process keeps a state of its own; otherwise the first process keeps it for all
    """

    def __init__(self, folder: Path, interval: Interval = EVERY_MINUTE, each_process: bool = False) -> None:
        self.folder = folder
        self.interval = interval
        self.each_process = each_process
        self._stop = _StopRequest()
        self._saved_at = time.monotonic()
        self._step: int | None = None

    def below(self, name: str) -> Keeper:
        """Return a keeper for a part of the run, in a subfolder; a request to stop this one stops the part too."""
        part = Keeper(self.folder / name, self.interval, self.each_process)
        part._stop = self._stop
        return part

    @property
    def stop_requested(self) -> bool:
        """Whether a signal has asked the run to save its state and leave."""
        return self._stop.made

    def request_stop(self) -> None:
        """Ask the run to save its state after the current step and to leave."""
        self._stop.made = True

    @property
    def keeps(self) -> bool:
        """Whether this process saves states."""
        return self.each_process or is_first()

    def load(self) -> dict[str, Any] | None:
        """Read the state saved last, for every process that goes on from it; None if there is no readable state."""
        return self._read() if self.each_process else agreed(self._read() if is_first() else None)

    def _read(self) -> dict[str, Any] | None:
        self._step = None
        self._remove_leftovers()
        path = self.folder / STATE
        if not path.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # what a damaged file raises depends on where the damage is
            log.warning("%s: cannot be read (%s); the run starts from the beginning", path, error)
            return None
        log.info("going on from %s, step %d", path, state["step"])
        self._step = state["step"]
        return state

    def last_good_state(self) -> str:
        """Say where the last good state is, for a message about a run that failed."""
        if not self.keeps:
            return "the first process says where the last good state is"
        if self._step is None:
            return "no state had been saved before"
        return f"the last good state, after step {self._step} of all, is {self.folder / STATE}"

    def due(self, ended: int = 0) -> bool:
        """Tell whether to save now; `ended` is the number of the epoch that has just ended, 0 within an epoch."""
        if self.interval.epochs:
            return ended > 0 and ended % self.interval.epochs == 0
        return time.monotonic() - self._saved_at >= self.interval.seconds

    def save(self, state: Mapping[str, Any]) -> None:
        """Save a state, which has the key `step`.

        The previous state is replaced only when the new one is complete. If the disk is full, or the new state
        contains NaN or infinity, the previous one is kept and the run goes on.
        """
        try:
            if not _finite(state):
                text = "%s: the state after step %d contains NaN or infinity; not saved"
                log.warning(text, self.folder, state["step"])
                return
            self._write(state)
            self._step = state["step"]
        except (OSError, RuntimeError) as error:  # torch's writer wraps what the file raises
            log.warning("%s: the state could not be saved (%s); %s", self.folder, error, self.last_good_state())
        finally:
            self._saved_at = time.monotonic()

    def leave(self, step: int) -> NoReturn:
        """End the run because a signal asked for it.

        Raises
        ------
        Interrupted
            Always.
        """
        if not self.keeps:
            raise Interrupted(f"interrupted after step {step}; the first process says how to go on")
        if self._step is None:
            raise Interrupted(
                f"interrupted after step {step}; nothing could be saved, so the same command starts from the beginning"
            )
        older = f", step {self._step}, because this step could not be saved" if self._step != step else ""
        raise Interrupted(f"interrupted after step {step}; the same command goes on from {self.folder}{older}")

    def _remove_leftovers(self) -> None:
        """Remove unfinished files of processes that were killed while saving, but not those of a running process."""
        for path in self.folder.glob(f".{STATE}.*.partial"):
            with suppress(OSError):
                if path.stat().st_mtime < time.time() - 60 * MINUTES_OF_A_LEFTOVER:
                    path.unlink()

    def _write(self, state: Mapping[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{STATE}.{os.getpid()}.partial"  # two experiments may share a key, and a folder
        try:
            with temporary.open("wb") as file:
                torch.save(dict(state), file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.folder / STATE)
        finally:
            temporary.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove the state, because the run has ended well."""
        shutil.rmtree(self.folder, ignore_errors=True)


class _NoKeeper(Keeper):
    """Keeps nothing, for a training that need not survive an interruption."""

    def load(self) -> None:
        """Return None, since no state is kept."""

    def last_good_state(self) -> str:
        return "no state was kept"

    def due(self, ended: int = 0) -> bool:
        return False

    def save(self, state: Mapping[str, Any]) -> None:
        """Save nothing."""


NOT_KEPT = _NoKeeper(Path())


@contextmanager
def kept(folder: Path, interval: Interval = EVERY_MINUTE, each_process: bool = False) -> Iterator[Keeper]:
    """Give a keeper for the time of a block.

    SIGTERM and Ctrl-C ask it to save and leave. The state is removed when the block ends well. States beside `folder`
    that have not changed for two weeks are removed too.
    """
    _remove_stale(folder)
    keeper = Keeper(folder, interval, each_process)

    def request_stop(number: int, frame: FrameType | None) -> None:
        keeper.request_stop()

    before = {number: signal.signal(number, request_stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with _left_in_any_case() if rank_and_size()[1] > 1 else nullcontext():
            yield keeper
        if is_first():
            keeper.clear()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _left_in_any_case() -> Iterator[None]:
    """End this process soon after a signal, even if it waits outside Python for another process that is gone."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    ended = threading.Event()

    def watch() -> None:
        signaled = os.read(reader, 1)
        if signaled and not ended.wait(SECONDS_TO_LEAVE):
            text = f"asked to stop {SECONDS_TO_LEAVE:.0f} s ago, still waiting for another process; not saved"
            os.write(2, f"slsr, process {rank_and_size()[0]}: {text}\n".encode())
            os._exit(128 + signal.SIGTERM)

    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(before)
        os.close(writer)


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
                log.info("removed %s: unchanged for %d days", other, STALE_AFTER_DAYS)


def _finite(value: Any) -> bool:
    """Tell whether every float in a tree of dictionaries, lists and tensors is finite."""
    if isinstance(value, torch.Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, Mapping):
        return all(_finite(each) for each in value.values())
    if isinstance(value, list | tuple):
        return all(_finite(each) for each in value)
    return not isinstance(value, float) or math.isfinite(value)
