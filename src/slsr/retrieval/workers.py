"""Compiled loops, spread over the processors."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

import numba

PARTS_PER_WORKER = 4

Loop = TypeVar("Loop", bound=Callable[..., Any])


def compiled(function: Loop) -> Loop:
    """Compile a loop that runs without the interpreter's lock; the plain function is its `py_func`.

    The machine code is kept on disk if a cache folder can be written.
    """
    return _compiled(function)


def compiled_sum(function: Loop) -> Loop:
    """Compile as `compiled` does, and allow the compiler to add in another order, several numbers at a time."""
    return _compiled(function, fastmath={"reassoc", "contract"})


def _compiled(function: Loop, **options: Any) -> Loop:
    try:
        loop: Loop = numba.njit(nogil=True, cache=True, **options)(function)
    except RuntimeError:  # no folder to keep the machine code in
        loop = numba.njit(nogil=True, **options)(function)
    return loop


def processors() -> int:
    """Count the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """Threads for loops of the form `loop(start, stop, ...)`; no two parts of a loop may write to the same place."""

    def __init__(self, count: int | None = None) -> None:
        self.count = count or processors()
        self._pool = ThreadPoolExecutor(self.count)

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()

    def run(self, loop: Callable[..., Any], length: int, *arguments: Any) -> list[Any]:
        """Run `loop(start, stop, *arguments)` over consecutive parts of `range(length)`, and return their results."""
        parts = min(length, self.count * PARTS_PER_WORKER)
        edges = [length * part // max(parts, 1) for part in range(parts + 1)]
        calls = [self._pool.submit(loop, start, stop, *arguments) for start, stop in itertools.pairwise(edges)]
        return [call.result() for call in calls]
