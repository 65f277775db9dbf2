"""Layers of neural networks."""

from __future__ import annotations

from .common import ALGORITHMS, NETWORKS, OverProblems


class Networks(OverProblems):
    """Time of one layer."""

    problems = NETWORKS
    params = (ALGORITHMS, list(NETWORKS))

    def time_call(self, *_: str) -> None:
        self.call()
