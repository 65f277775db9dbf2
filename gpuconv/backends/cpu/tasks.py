"""How long tasks take together, and how large one may be."""

from __future__ import annotations

import heapq

__all__ = ["TASK_FLOPS", "cycles_until_done"]

TASK_FLOPS = 200e6
"""A task's operations at most, but for a single block of rows: a call can be interrupted between tasks."""
_DISTURBANCE = 0.05
"""Of a task's time: what a thread may wait for another's last task."""


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
