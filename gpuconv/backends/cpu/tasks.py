"""What calls share that are divided into tasks: how large one may be, how long they take, what is ready for a run."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

__all__ = ["TASK_FLOPS", "Ready", "cycles_until_done"]

TASK_FLOPS = 200e6
"""A task's operations at most, but for a single block of rows: a call can be interrupted between tasks."""
_DISTURBANCE = 0.05
"""Of a task's time: what a thread may wait for another's last task."""


class Ready(NamedTuple):
    """All that runs of one call on arrays of the same strides share."""

    words: Array
    tasks: int
    scratch_bytes: int
    slice_tasks: int
    no_bias: Array
    kernel: int
    kept: tuple[Any, ...]
    """What the words hold addresses of."""


def cycles_until_done(tasks: list[tuple[float, int]], workers: int) -> float:
    """Return the cycles until all tasks, (cycles, number) of each kind, are done, the first kind the longest."""
    total, longest = sum(cycles * number for cycles, number in tasks), tasks[0][0]
    if workers == 1:
        return total
    if sum(number for _, number in tasks) > 8 * workers:
        return total / workers + (0.5 + _DISTURBANCE) * longest
    # Each task goes to the thread that is free first.
    ends = [0.0] * workers
    for cycles, number in tasks:
        for _ in range(number):
            heapq.heapreplace(ends, ends[0] + cycles)
    return max(ends) + _DISTURBANCE * longest
