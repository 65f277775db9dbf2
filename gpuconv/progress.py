"""A progress bar on stderr."""

from __future__ import annotations

import sys

__all__ = ["WIDTH", "Progress"]

WIDTH = 100
"""Columns of a terminal that a bar may take."""
_BAR = 24


class Progress:
    """A bar on stderr, redrawn in place on a terminal and one line a step elsewhere.

    Examples
    --------
    >>> bar = Progress(2)
    >>> bar.show(1, "the second of two steps")
    >>> bar.close()
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._is_terminal = sys.stderr.isatty()
        self._width = 0

    def show(self, done: int, text: str) -> None:
        """Draw the bar with `done` steps behind it, and a text."""
        filled = _BAR * done // self._total
        line = f"[{'#' * filled}{'.' * (_BAR - filled)}] {done}/{self._total} {text}"
        if self._is_terminal:
            line = line[:WIDTH]
            print(f"\r{line:<{self._width}}", end="", file=sys.stderr, flush=True)
            self._width = len(line)
        else:
            print(line, file=sys.stderr)

    def say(self, line: str) -> None:
        """Print a line that stays, above the bar."""
        if self._is_terminal:
            print(f"\r{'':<{self._width}}\r", end="", file=sys.stderr)
        print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the bar's line."""
        if self._is_terminal:
            print(file=sys.stderr)
