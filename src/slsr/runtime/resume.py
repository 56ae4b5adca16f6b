"""Interrupted is not lost: the state of a run, kept on disk while it lasts.

Every random draw of a run follows from its seed and the number of the step, so that the state is no more than
weights, optimizer and step, and a run that goes on from it ends with the bytes of an uninterrupted one.
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
from slsr.runtime.processes import is_first, rank_and_size

log = logging.getLogger(__name__)


STATE = "state.pt"


SECONDS_BETWEEN_SAVES = 60.0


STALE_AFTER_DAYS = 14.0


SECONDS_TO_LEAVE = 25.0  # torch's launcher kills after 30


MINUTES_OF_A_LEFTOVER = 10.0


@dataclass(frozen=True)
class Interval:
    """How often to save: every so many seconds, or, where `epochs` is not 0, every so many epochs."""

    seconds: float = SECONDS_BETWEEN_SAVES
    epochs: int = 0


def save_interval(environment: Mapping[str, str]) -> Interval:
    """How often `SLSR_SAVE_EVERY` says to save: `10 minutes`, `0.5 minutes`, `2 epochs`; a minute where it is unset.

    Raises
    ------
    InputError
        It says something else.
    """
    text = environment.get("SLSR_SAVE_EVERY", "").strip()
    if not text:
        return Interval()
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *(minutes?|epochs?)", text)
    number = float(found[1]) if found else 0.0
    if found is None or number == 0 or (found[2].startswith("epoch") and number % 1):
        raise InputError(f"SLSR_SAVE_EVERY: {text!r}; give for example `10 minutes` or `2 epochs`, or unset it")
    return Interval(epochs=int(number)) if found[2].startswith("epoch") else Interval(seconds=60 * number)


class Keeper:
    """Keeps the state of one run in a folder of its own.

    Attributes
    ----------
    stop_requested : whether a signal has asked the run to save and leave
    each_process : whether every process keeps states of its own, and not only the first one
    """

    def __init__(
        self, folder: Path, seconds: float = SECONDS_BETWEEN_SAVES, epochs: int = 0, each_process: bool = False
    ) -> None:
        self.folder = folder
        self.stop_requested = False
        self.each_process = each_process
        self._seconds, self._epochs = seconds, epochs
        self._saved_at = time.monotonic()
        self._step: int | None = None

    def load(self) -> dict[str, Any] | None:
        """The state saved last, or None; one that does not read is passed over with a warning."""
        self._step = None
        self._remove_leftovers()
        path = self.folder / STATE
        if not path.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # what a damaged file raises depends on where the damage is
            log.warning("%s: not readable (%s); the run starts afresh", path, error)
            return None
        log.info("going on from %s, step %d", path, state["step"])
        self._step = state["step"]
        return state

    def described(self) -> str:
        """Where the last good state is, in words."""
        if not self._keeps():
            return "the first process says where the last good state is"
        if self._step is None:
            return "no state had been saved before"
        return f"the last good state, after step {self._step} of all, is {self.folder / STATE}"

    def due(self, ended: int = 0) -> bool:
        """Whether it is time to save; `ended` is the number of the epoch that has just ended, 0 within an epoch."""
        if self._epochs:
            return ended > 0 and ended % self._epochs == 0
        return time.monotonic() - self._saved_at >= self._seconds

    def save(self, state: Mapping[str, Any]) -> None:
        """Save a state, which has the key `step`.

        The one before stays until the new one is whole; when the disk is full it is kept, and the run goes on. So it
        does where a number in the new one is infinite or none.
        """
        try:
            if not _finite(state):
                text = "%s: the state after step %d has numbers that are none; not saved"
                log.warning(text, self.folder, state["step"])
                return
            self._write(state)
            self._step = state["step"]
        except (OSError, RuntimeError) as error:  # torch's writer wraps what the file raises
            log.warning("%s: the state could not be saved (%s); %s", self.folder, error, self.described())
        finally:
            self._saved_at = time.monotonic()

    def leave(self, step: int) -> NoReturn:
        """End the run because a signal asked for it.

        Raises
        ------
        Interrupted
            Always.
        """
        if not self._keeps():
            raise Interrupted(f"interrupted after step {step}; the first process says how to go on")
        if self._step is None:
            raise Interrupted(f"interrupted after step {step}; nothing could be saved, the same command starts afresh")
        older = f", step {self._step}, since this one could not be saved" if self._step != step else ""
        raise Interrupted(f"interrupted after step {step}; the same command goes on from {self.folder}{older}")

    def _keeps(self) -> bool:
        return self.each_process or is_first()

    def _remove_leftovers(self) -> None:
        """What processes that were killed while saving left behind; another that saves just now is not disturbed."""
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
        """Forget the state: the run has ended well."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def kept(
    folder: Path, seconds: float = SECONDS_BETWEEN_SAVES, epochs: int = 0, each_process: bool = False
) -> Iterator[Keeper]:
    """A keeper for the time of a block: SIGTERM and Ctrl-C ask it to save; the state goes when the block ends well.

    It is due every so many seconds, or every so many epochs where that is not 0. States beside `folder` that nobody
    has touched for two weeks are removed.
    """
    _remove_stale(folder)
    keeper = Keeper(folder, seconds, epochs, each_process)

    def request_stop(number: int, frame: FrameType | None) -> None:
        keeper.stop_requested = True

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
    """End this process soon after a signal even if it waits, outside Python, for another process that is gone."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    ended = threading.Event()

    def watch() -> None:
        signaled = os.read(reader, 1)
        if signaled and not ended.wait(SECONDS_TO_LEAVE):
            text = "slsr, process %d: asked to leave %.0f s ago, and still waiting for another process; left unsaved\n"
            os.write(2, (text % (rank_and_size()[0], SECONDS_TO_LEAVE)).encode())
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
                log.info("removed %s: untouched for %d days", other, STALE_AFTER_DAYS)


def _finite(value: Any) -> bool:
    """Whether every floating number in a tree of dictionaries, lists and tensors is one."""
    if isinstance(value, torch.Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, Mapping):
        return all(_finite(each) for each in value.values())
    if isinstance(value, list | tuple):
        return all(_finite(each) for each in value)
    return not isinstance(value, float) or math.isfinite(value)
