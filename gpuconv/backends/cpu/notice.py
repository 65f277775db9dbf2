"""One line on stderr when a process first compiles a kernel, as opposed to loading it from the cache."""

from __future__ import annotations

import functools
import os
import sys
from typing import Any

from numba.core import event

from gpuconv.config import cache_directory
from gpuconv.progress import WIDTH

__all__ = ["register"]


class _Notice(event.Listener):  # type: ignore[misc]
    """Speaks at the first compilation of a function of gpuconv's.

    Every kernel calls such functions, which Numba compiles with it; a kernel from the cache brings its own.
    """

    def __init__(self) -> None:
        self._said = False

    def on_start(self, event: Any) -> None:
        function = getattr(event.data["dispatcher"], "py_func", None)
        if self._said or not getattr(function, "__module__", "").startswith("gpuconv."):
            return
        self._said = True
        if os.environ.get("GPUCONV_QUIET", "0") not in ("", "0") or sys.stderr is None:
            return
        text = f"gpuconv: compiling kernels, once for this machine; they are kept in {cache_directory()}"
        # A progress bar may stand on the terminal's line.
        print(f"\r{text:<{WIDTH}}" if sys.stderr.isatty() else text, file=sys.stderr, flush=True)

    def on_end(self, event: Any) -> None:
        pass


@functools.cache
def register() -> None:
    """Listen to Numba's compilations; silent with ``GPUCONV_QUIET=1`` in the environment."""
    event.register("numba:compile", _Notice())
