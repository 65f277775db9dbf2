"""Signals of one dimension."""

from __future__ import annotations

from .common import ALGORITHMS, SIGNALS, OverProblems


class Signals(OverProblems):
    """Time of one convolution."""

    problems = SIGNALS
    params = (ALGORITHMS, list(SIGNALS))

    def time_call(self, *_: str) -> None:
        self.call()
