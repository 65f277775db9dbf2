"""One layer in every dtype."""

from __future__ import annotations

from .common import ALGORITHMS, DTYPES, OverProblems


class Dtypes(OverProblems):
    """Time of the layer."""

    problems = DTYPES
    params = (ALGORITHMS, list(DTYPES))

    def time_call(self, *_: str) -> None:
        self.call()
