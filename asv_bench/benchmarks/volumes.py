"""Volumes."""

from __future__ import annotations

from .common import ALGORITHMS, VOLUMES, OverProblems


class Volumes(OverProblems):
    """Time of one convolution."""

    problems = VOLUMES
    params = (ALGORITHMS, list(VOLUMES))

    def time_call(self, *_: str) -> None:
        self.call()
