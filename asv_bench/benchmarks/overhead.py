"""Calls so small that the way to the kernel is their time."""

from __future__ import annotations

from .common import ALGORITHMS, TINY, OverProblems


class Overhead(OverProblems):
    """Time of one call."""

    problems = TINY
    params = (ALGORITHMS, list(TINY))

    def time_call(self, *_: str) -> None:
        self.call()
