"""`gpuconv bench`: this machine beside the libraries that are installed, on the same arrays with equally many threads.

The libraries take turns within each case, so a disturbance meets all of them, and each one's least time counts.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpuconv.benchmark_cases import CASES, GROUPS, Runs

__all__ = ["GROUPS", "PEERS", "Report", "Row", "run", "set_threads"]

OURS = "gpuconv"
PEERS = {"torch": "torch", "scipy": "scipy", "opencv": "cv2"}
"""Libraries to compare with, and the modules that they are imported as."""
_TURNS = 8
"""Times that each library is called upon in a case; it then runs for its share of the seconds."""
_PATIENCE = 5.0
"""Seconds, or ten times the seconds asked for, after which a library is called upon no more; twice at least."""


class Row(NamedTuple):
    """One case: each library's seconds, and what disagrees."""

    group: str
    name: str
    flops: float
    """Multiplications and additions of the definition."""
    seconds: dict[str, float]
    wrong: tuple[str, ...]
    """Libraries whose result differs from gpuconv's by more than rounding."""

    @property
    def ratio(self) -> float | None:
        """The fastest peer's time divided by gpuconv's; None where no peer has the operation."""
        peers = [value for name, value in self.seconds.items() if name != OURS]
        return min(peers) / self.seconds[OURS] if peers else None


class Report:
    """The rows of one run, the versions and the threads; `str` gives a table.

    `load` is how many processes were running or waiting before the run began; of a GPU `threads` is 0.
    """

    def __init__(
        self, rows: tuple[Row, ...], versions: dict[str, str], device: str, threads: int, load: float = 0.0
    ) -> None:
        self.rows, self.versions, self.device, self.threads, self.load = rows, versions, device, threads, load

    @property
    def title(self) -> str:
        """The machine, its threads and the libraries, in one line."""
        libraries = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        threads = f", {self.threads} thread{'s' if self.threads > 1 else ''}" if self.threads else ""
        return f"{self.device}{threads}; {libraries}"

    def __str__(self) -> str:
        peers = [name for name in self.versions if name != OURS]
        heads = "".join(f"{name + ' ms':>13}" for name in (OURS, *peers))
        lines = [self.title, f"{'':36}{heads}{'ratio':>9}{'GFLOP/s':>10}"]
        group = ""
        for row in self.rows:
            if row.group != group:
                group = row.group
                lines.append(f"{group}{self._mean(group)}")
            times = "".join(
                f"{row.seconds[name] * 1e3:13.3f}" if name in row.seconds else f"{'-':>13}" for name in (OURS, *peers)
            )
            ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
            rate = row.flops / row.seconds[OURS] / 1e9
            mark = f"  WRONG: differs from {', '.join(row.wrong)}" if row.wrong else ""
            lines.append(f"  {row.name:34}{times}{ratio:>9}{rate:10.1f}{mark}")
        lines.append(
            "ratio: the fastest other library's time divided by gpuconv's; GFLOP/s by the definition's arithmetic"
        )
        return "\n".join([*lines, self.caution] if self.caution else lines)

    @property
    def caution(self) -> str:
        """A sentence where the ratios may not count, because other processes had the cores; else nothing."""
        # A library whose threads wait for one another in a loop waits for as long as another process has a core.
        if self.load <= 0.5:
            return ""
        return f"The machine had other work just before (load {self.load:.1f}): times and ratios may be far off."

    def _mean(self, group: str) -> str:
        ratios = [row.ratio for row in self.rows if row.group == group and row.ratio and not row.wrong]
        if not ratios:
            return ""
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        return f" (geometric mean of the ratios {mean:.2f})"

    def markdown(self) -> str:
        """Return the table in Markdown, one for each group."""
        peers = [name for name in self.versions if name != OURS]
        lines = ["# gpuconv beside other libraries", "", self.title, *([self.caution] if self.caution else [])]
        for group in dict.fromkeys(row.group for row in self.rows):
            heads = " | ".join(f"{name} ms" for name in (OURS, *peers))
            lines += ["", f"## {group}", "", f"|  | {heads} | ratio |", "|---|" + "---:|" * (len(peers) + 2)]
            for row in self.rows:
                if row.group == group:
                    times = (f"{row.seconds[name] * 1e3:.3g}" if name in row.seconds else "" for name in (OURS, *peers))
                    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
                    mark = " (wrong result)" if row.wrong else ""
                    lines.append(f"| {row.name}{mark} | {' | '.join(times)} | {ratio} |")
        return "\n".join([*lines, "", "ratio: the fastest other library's time divided by gpuconv's.", ""])

    def json(self) -> str:
        """Return the figures as JSON."""
        rows = [{**row._asdict(), "wrong": list(row.wrong), "ratio": row.ratio} for row in self.rows]
        content = {
            "device": self.device,
            "threads": self.threads,
            "load": self.load,
            "versions": self.versions,
            "rows": rows,
        }
        return json.dumps(content, indent=2) + "\n"


def set_threads(number: int | None) -> int:
    """Have every call of gpuconv use `number` threads, and return how many it uses.

    Raises
    ------
    ValueError
        If it cannot: the pool keeps the number that it began with.
    """
    if number is not None and not 1 <= number <= 64:
        raise ValueError(f"--threads {number} must be from 1 to 64")
    from gpuconv.backends.cpu import device

    if number is not None and not device.cache_info().currsize:
        os.environ["GPUCONV_NUM_THREADS"] = str(number)
    if number is not None and device().threads != number:
        raise ValueError(f"--threads {number} comes too late: gpuconv already uses {device().threads} in this process")
    return device().threads


def run(groups: Sequence[str], seconds: float, threads: int, cases: Sequence[Any] = CASES) -> Report:
    """Time the cases of some groups, with a bar on stderr.

    Parameters
    ----------
    groups : sequence of str
    seconds : float
        To spend on one library and case; each is called twice at least.
    threads : int
        What gpuconv uses, and what the others are told to use.
    cases : sequence of Case, optional
    """
    from gpuconv import __version__
    from gpuconv.backends.cpu import device
    from gpuconv.progress import Progress

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    modules = {name: importlib.import_module(m) for name, m in PEERS.items() if importlib.util.find_spec(m)}
    todo = [case for case in cases if case.group in groups]
    bar, rows = Progress(len(todo)), []
    with _limited(modules, threads):
        for i, case in enumerate(todo):
            bar.show(i, f"{case.group}: {case.name}")
            rows.append(_row(case, modules, seconds))
    bar.show(len(todo), "done")
    bar.close()
    versions = {OURS: __version__, **{name: str(module.__version__) for name, module in modules.items()}}
    return Report(tuple(rows), versions, device().name, threads, load)


@contextlib.contextmanager
def _limited(modules: dict[str, Any], threads: int) -> Any:
    """Have the peers use so many threads, SciPy for its transforms: its filters have one."""
    with contextlib.ExitStack() as stack:
        if "torch" in modules:
            torch = modules["torch"]
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            stack.enter_context(torch.inference_mode())
            torch.set_num_threads(threads)
        if "scipy" in modules:
            stack.enter_context(importlib.import_module("scipy.fft").set_workers(threads))
        if "opencv" in modules:
            stack.callback(modules["opencv"].setNumThreads, modules["opencv"].getNumThreads())
            modules["opencv"].setNumThreads(threads)
        yield


def _row(case: Any, modules: dict[str, Any], seconds: float) -> Row:
    runs: Runs = case.prepare(modules)
    results = {name: np.asarray(function()) for name, function in runs.items()}  # the first call compiles
    wrong = tuple(name for name in runs if name != OURS and not _agree(results[OURS], results[name]))
    del results
    best, spent = dict.fromkeys(runs, math.inf), dict.fromkeys(runs, 0.0)
    for turn in range(_TURNS):
        for name, function in runs.items():
            if turn < 2 or spent[name] < max(_PATIENCE, 10 * seconds):
                start = time.perf_counter()
                best[name] = min(best[name], _least(function, seconds / _TURNS))
                spent[name] += time.perf_counter() - start
    return Row(case.group, case.name, case.flops, best, wrong)


def _least(function: Callable[[], Any], seconds: float) -> float:
    """Return the least time of the calls that fit in some seconds, one at least."""
    end, best = time.perf_counter() + seconds, math.inf
    while True:
        start = time.perf_counter()
        function()
        now = time.perf_counter()
        best = min(best, now - start)
        if now >= end:
            return best


def _agree(ours: Any, theirs: Any) -> bool:
    """Whether two results are equal up to rounding; of 8-bit images, up to the fractions that two passes lose."""
    if ours.shape != theirs.shape:
        return False
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return False
    largest = float(np.abs(b).max(initial=0.0))
    limit = 2.0 if ours.dtype.kind in "iu" else 1e-4 * largest
    return float(np.abs(a - b).max(initial=0.0)) <= limit
