"""Compiled loops spread over the processors."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

import numba

PARTS_A_WORKER = 4


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """Compile a loop that runs without the interpreter's lock, kept on disk where a cache folder can be written."""
    try:
        return numba.njit(nogil=True, cache=True, **options)(function)
    except RuntimeError:
        return numba.njit(nogil=True, **options)(function)


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """Threads for loops of the form `loop(start, stop, ...)`, which must not write to the same place."""

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
        """Run `loop(start, stop, *arguments)` over `range(length)` in consecutive parts; their results, in order."""
        parts = min(length, self.count * PARTS_A_WORKER)
        edges = [length * part // max(parts, 1) for part in range(parts + 1)]
        calls = [self._pool.submit(loop, start, stop, *arguments) for start, stop in itertools.pairwise(edges)]
        return [call.result() for call in calls]
