"""`gpuconv tune`: measures each CPU algorithm here and scales the estimates that the choice goes by.

The constants of `gpuconv.tuning` stand for a class of machine. A file of the user's, which `tune` writes and nobody
needs, holds one factor for each algorithm on each device that was measured: measured seconds over estimated ones.
"""

from __future__ import annotations

import functools
import math
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from gpuconv import dispatch

__all__ = [
    "Fit",
    "Measurement",
    "complete",
    "factor",
    "file_path",
    "fit",
    "loss",
    "measure",
    "tune",
    "workloads",
    "write",
]

_FORMAT = 1
_LIMITS = (1e-3, 1e3)
_LONGEST = 0.25
"""Estimated seconds of a call that is still measured."""


def file_path() -> Path | None:
    """Return where factors are kept; ``GPUCONV_TUNING`` names another file or, if empty, none."""
    named = os.environ.get("GPUCONV_TUNING")
    if named is not None:
        return Path(named).expanduser() if named else None
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "gpuconv" / "tuning.json"


def factor(backend: str, algorithm: str, device: str) -> float:
    """Return what an algorithm's estimates on a device are multiplied by: 1 where nobody has tuned."""
    return _factors(file_path()).get((backend, algorithm, device), 1.0)


Factors = dict[tuple[str, str, str], float]


@functools.lru_cache(maxsize=8)
def _factors(path: Path | None) -> Factors:
    """Return the factors of a file; none, and a warning, where it is not one of ours."""
    if path is None:
        return {}
    try:
        return _parsed(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        warnings.warn(
            f"the tuning file {path} is ignored ({type(error).__name__}: {error}); `gpuconv tune` writes a new one, "
            "GPUCONV_TUNING names another",
            RuntimeWarning,
            stacklevel=2,
        )
        return {}


def _parsed(text: str) -> Factors:
    import json

    content = json.loads(text)
    if content["format"] != _FORMAT:
        raise ValueError(f"format {content['format']!r} is not {_FORMAT}")
    found = {}
    for backend, devices in content["factors"].items():
        for device, algorithms in devices.items():
            for algorithm, value in algorithms.items():
                if not _LIMITS[0] <= float(value) <= _LIMITS[1]:
                    raise ValueError(f"{value!r} for {algorithm!r} is not between {_LIMITS[0]} and {_LIMITS[1]}")
                found[backend, algorithm, device] = float(value)
    return found


def write(path: Path, fits: tuple[Fit, ...], device: str) -> None:
    """Write the factors of one CPU into a file, whole or not at all; what it knows of others stays."""
    import json

    try:
        known = _parsed(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        known = {}
    content: dict[str, Any] = {}
    for (backend, algorithm, name), value in {
        **known, **{("cpu", fit.algorithm, device): fit.factor for fit in fits},
    }.items():  # fmt: skip
        content.setdefault(backend, {}).setdefault(name, {})[algorithm] = float(f"{value:.4g}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_text(json.dumps({"format": _FORMAT, "factors": content}, indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _factors.cache_clear()


# Measuring


class Measurement(NamedTuple):
    """One algorithm's time of one workload."""

    workload: str
    algorithm: str
    estimate: float
    """Seconds by the constants of `gpuconv.tuning` alone."""
    seconds: float


class Fit(NamedTuple):
    """One algorithm's factor."""

    algorithm: str
    factor: float
    spread: float
    """The ratio of the third to the first quartile of the single workloads' factors."""
    measured: int
    """Workloads."""


def measure(workloads: Any, seconds: float, show: Callable[[int, str], None]) -> tuple[Measurement, ...]:
    """Time every CPU algorithm on each of the workloads that it serves.

    Parameters
    ----------
    workloads : sequence of (Workload, dtype)
    seconds : float
        To spend on one algorithm and workload, at least two calls.
    show : callable
        Told how many workloads are done, and the next one's name.
    """
    backend = dispatch.backend("cpu")
    device, found = backend.device(), []
    for i, (work, dtype) in enumerate(workloads):
        show(i, f"{dtype} {work}")
        call = work.call(dtype)
        for name in backend.ALGORITHMS:
            module = dispatch.algorithm("cpu", name)
            if module.supports(call, device) is not None:
                continue
            estimate = module.cost(call, device)
            if estimate <= _LONGEST:
                function = work.prepare(dtype, backend="cpu", algorithm=name)
                found.append(
                    Measurement(
                        f"{dtype} {work}", name, estimate, dispatch.best_seconds(function, seconds, backend.wait)
                    )
                )
    return tuple(found)


def fit(measurements: tuple[Measurement, ...]) -> tuple[Fit, ...]:
    """Return the median ratio of measured to estimated seconds of each algorithm.

    Examples
    --------
    >>> fit((Measurement("a", "direct", 1.0, 2.0), Measurement("b", "direct", 1.0, 3.0)))  # doctest: +ELLIPSIS
    (Fit(algorithm='direct', factor=2.5, spread=..., measured=2),)
    """
    import statistics

    ratios: dict[str, list[float]] = {}
    for one in measurements:
        ratios.setdefault(one.algorithm, []).append(one.seconds / one.estimate)
    fits = []
    for name, values in ratios.items():
        low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else (1, 1, 1)
        middle = min(max(statistics.median(values), _LIMITS[0]), _LIMITS[1])
        fits.append(Fit(name, middle, high / low, len(values)))
    return tuple(fits)


def complete(fits: tuple[Fit, ...], algorithms: tuple[str, ...]) -> tuple[Fit, ...]:
    """Return the fits with those algorithms added that nothing measured: they are scaled like the others.

    Examples
    --------
    >>> complete((Fit("direct", 3.0, 1.2, 9), Fit("gemm", 2.0, 1.2, 9)), ("direct", "fft", "gemm"))[2]
    Fit(algorithm='fft', factor=2.5, spread=1.0, measured=0)
    """
    import statistics

    missing = set(algorithms) - {one.algorithm for one in fits}
    middle = statistics.median(one.factor for one in fits) if fits else 1.0
    return (*fits, *(Fit(name, middle, 1.0, 0) for name in algorithms if name in missing))


def loss(measurements: tuple[Measurement, ...], fits: tuple[Fit, ...] = ()) -> float:
    """Return how many times as long as the best algorithm the one of least estimate takes: a geometric mean.

    Examples
    --------
    >>> both = Measurement("a", "direct", 1.0, 4.0), Measurement("a", "gemm", 2.0, 2.0)
    >>> loss(both), loss(both, fit(both))
    (2.0, 1.0)
    """
    factors = {one.algorithm: one.factor for one in fits}
    by_workload: dict[str, list[Measurement]] = {}
    for one in measurements:
        by_workload.setdefault(one.workload, []).append(one)
    total = 0.0
    for group in by_workload.values():
        chosen = min(group, key=lambda one: one.estimate * factors.get(one.algorithm, 1.0))
        total += math.log(chosen.seconds / min(one.seconds for one in group))
    return math.exp(total / max(len(by_workload), 1))


def workloads() -> tuple[Any, ...]:
    """Return what is measured, as (Workload, dtype): small and large, of every kind, none longer than a blink."""
    from gpuconv.workload import Workload

    listed = (
        Workload("conv2d", (1, 8, 8, 8), (8, 8, 3, 3), {"padding": 1}),
        Workload("conv2d", (1, 48, 40, 40), (64, 48, 3, 3), {"padding": 1}),
        Workload("conv2d", (1, 160, 14, 14), (160, 160, 3, 3), {"padding": 1}),
        Workload("conv2d", (2, 192, 20, 20), (96, 192, 1, 1), {}),
        Workload("conv2d", (1, 24, 7, 7), (48, 24, 1, 1), {}),
        Workload("conv2d", (1, 80, 40, 40), (80, 80, 3, 3), {"padding": 1, "stride": 2}),
        Workload("conv2d", (1, 64, 30, 30), (64, 64, 3, 3), {"padding": 2, "dilation": 2}),
        Workload("conv2d", (1, 30, 30, 64), (64, 64, 5, 5), {"padding": 2, "layout": "channels_last"}),
        Workload("conv2d", (1, 120, 40, 40), (120, 1, 3, 3), {"padding": 1, "groups": 120}),
        Workload("conv2d", (1, 64, 28, 28), (64, 1, 7, 7), {"padding": 3, "groups": 64}),
        Workload("conv2d", (1, 1, 1200, 1200), (1, 1, 3, 3), {"padding": 1}),
        Workload("conv2d", (1, 1, 200, 200), (1, 1, 11, 11), {"padding": 5}),
        Workload("conv2d", (1, 1, 800, 800), (1, 1, 31, 31), {"padding": 15}),
        Workload("conv1d", (4, 64, 500), (64, 64, 5), {"padding": 2}),
        Workload("conv1d", (1, 1, 300_000), (1, 1, 401), {}),
        Workload("conv1d", (1, 1, 40_000), (1, 1, 21), {}),
        Workload("conv1d", (1, 32, 2000), (32, 1, 9), {"groups": 32}),
        Workload("conv3d", (1, 16, 12, 20, 20), (24, 16, 3, 3, 3), {"padding": 1}),
        Workload("conv3d", (1, 1, 60, 60, 60), (1, 1, 5, 5, 5), {"padding": 2}),
        Workload("conv_transpose2d", (1, 64, 24, 24), (64, 32, 4, 4), {"padding": 1, "stride": 2}),
        Workload("grad.conv2d_input", (2, 48, 32, 32), (64, 48, 3, 3), {"padding": 1}),
        Workload("grad.conv2d_weight", (2, 48, 32, 32), (64, 48, 3, 3), {"padding": 1}),
    )
    wide = tuple((work, "float64") for work in listed[1:13:4])
    return tuple((work, "float32") for work in listed) + wide


def tune(seconds: float = 0.1, *, dry_run: bool = False) -> int:
    """Measure, print what was found, and write the user's file; return the exit status.

    Nothing is written where the choices get no better by it.
    """
    from gpuconv.progress import Progress

    todo = workloads()
    bar = Progress(len(todo))
    measurements = measure(todo, seconds, bar.show)
    bar.show(len(todo), f"{len(measurements)} measurements")
    bar.close()
    backend = dispatch.backend("cpu")
    fits, device = complete(fit(measurements), backend.ALGORITHMS), backend.device().name
    print(f"{'algorithm':12}{'factor':>8}{'quartiles apart':>18}{'measured':>10}   on {device}")
    for one in fits:
        print(f"{one.algorithm:12}{one.factor:8.2f}{one.spread:17.2f}x{one.measured:10}")
    before, after = loss(measurements), loss(measurements, fits)
    print(f"the chosen algorithm takes {before:.3f} times the best one's time; with these factors {after:.3f}")
    path = file_path()
    if dry_run:
        print("nothing was written")
    elif after >= before:
        print("nothing was written: the choices would be no better")
    elif path is None:
        print("nothing was written: GPUCONV_TUNING is empty")
    else:
        try:
            write(path, fits, device)
        except OSError as error:
            print(f"gpuconv tune: {path} cannot be written: {error.strerror or error}", file=sys.stderr)
            return 1
        print(path)
    return 0
