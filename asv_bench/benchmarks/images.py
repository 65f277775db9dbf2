"""Filters of images."""

from __future__ import annotations

from .common import ALGORITHMS, IMAGES, OverProblems


class Images(OverProblems):
    """Time of one filter."""

    problems = IMAGES
    params = (ALGORITHMS, list(IMAGES))

    def time_call(self, *_: str) -> None:
        self.call()
