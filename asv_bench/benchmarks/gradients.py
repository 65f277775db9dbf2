"""Gradients by the input and by the weights."""

from __future__ import annotations

from .common import ALGORITHMS, GRADIENTS, OverProblems


class Gradients(OverProblems):
    """Time of one gradient."""

    problems = GRADIENTS
    params = (ALGORITHMS, list(GRADIENTS))

    def time_call(self, *_: str) -> None:
        self.call()
