"""Independent tasks spread over the processes of a run: which process does which, and how results are collected."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from slsr.errors import CheckFailed, Interrupted
from slsr.runtime.processes import rank_and_size

PATIENCE = timedelta(days=30)


def spread(costs: Sequence[int], processes: int) -> list[int]:
    """Assign each task to a process: the costliest task first, always to the process with the least to do.

    >>> spread([5, 9, 4, 5], 2)
    [1, 0, 0, 1]
    """
    load, owners = [0] * processes, [0] * len(costs)
    for task in sorted(range(len(costs)), key=lambda task: -costs[task]):
        owners[task] = load.index(min(load))
        load[owners[task]] += costs[task]
    return owners


class Channel:
    """Sends Python objects from one process to another, between their hosts' memories.

    A process may wait for days while another one trains, which torch's default group does not allow. Every process has
    to open a channel at the same place. `stopping` tells whether a signal has asked this process to leave: then it is
    no error if another process has left.
    """

    def __init__(self, stopping: Callable[[], bool] = lambda: False) -> None:
        self._stopping = stopping
        self._group: Any = dist.new_group(backend="gloo", timeout=PATIENCE) if rank_and_size()[1] > 1 else None

    def to_first(self, value: Any, owner: int) -> Any:
        """Send the owner's value to the first process, and return it there; both have to call this."""
        rank = rank_and_size()[0]
        if owner == 0 or rank not in (0, owner):
            return value
        box = [value]
        with self._while_others_live():
            if rank == owner:
                dist.send_object_list(box, dst=0, group=self._group)
            else:
                dist.recv_object_list(box, src=owner, group=self._group)
        return box[0]

    def from_first(self, value: Any) -> Any:
        """Return the first process's value, on every process; all have to call this."""
        if self._group is None:
            return value
        box = [value]
        with self._while_others_live():
            dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    @contextmanager
    def _while_others_live(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # what gloo raises if the other process has gone
            if self._stopping():
                raise Interrupted("interrupted while waiting for another process; the same command goes on") from error
            raise CheckFailed("another process of this run has ended; the same command goes on") from error
