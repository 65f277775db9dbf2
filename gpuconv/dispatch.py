"""The registry and the choice: which algorithms exist, which can serve a call, which costs least.

An algorithm is a module of a backend's folder, named in that backend's ``ALGORITHMS``, with

``supports(call, device) -> str | None``
    None, or the reason why it cannot serve the call.
``cost(call, device) -> float``
    Estimated seconds.
``pack(call, w) -> object``
    The weights in the algorithm's own form; what `gpuconv.plan` keeps.
``run(call, x, w, y, bias, packed=None)``
    Writes every element of the array that the operation writes. x, w and y are always the
    arrays of the forward problem, whichever of them the operation writes.

and may have

``TAKES``
    Which of a call's `Call.extras` it takes; one without it is not asked for a call that has any.
``FUSES``
    The activations that it applies itself; others `gpuconv.activation` applies to what was written.
``workspace(call) -> int``
    Bytes that a forward or transposed call takes besides its arrays: packed weights, and scratch memory of all threads.

A backend is a folder with ``ALGORITHMS``, ``device()``, ``unavailable()`` and ``wait()``.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import time
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from gpuconv.dtypes import ACCUMULATORS, result_dtype, to_numpy
from gpuconv.errors import BackendUnavailableError, UnsupportedError

if TYPE_CHECKING:
    from gpuconv.factors import Factored
    from gpuconv.problem import ConvProblem

__all__ = [
    "BACKENDS",
    "PRECISIONS",
    "Call",
    "Explanation",
    "Row",
    "algorithm",
    "backend",
    "best_seconds",
    "choose",
    "estimate",
    "explain",
    "rows",
    "workspace",
]

BACKENDS = ("cpu", "cuda")
PRECISIONS = ("highest", "high", "tf32")
_MEASURED_FOR = 0.2
"""Seconds that an algorithm is timed for."""


@dataclasses.dataclass(frozen=True)
class Call:
    """One operation on one problem in one dtype: all that a choice depends on, besides the device."""

    problem: ConvProblem
    operation: str
    dtype: str
    precision: str = "high"
    sums: str = ""
    """The real dtype of w and of the sums where `dtype` does not settle it: integers beside weights of floats."""
    result: str = ""
    """The dtype of y, given with `sums`. Floats lose their fraction on their way into integers."""
    factored: Factored | None = None
    """What there is to know of w where it is a `Factors` in place of an array."""
    activation: str = ""
    """What is applied to the result after the bias, one of `gpuconv.activation.NAMES`; "" for nothing."""
    planned: bool = False
    """Whether the weights are packed once for many calls, so that a choice need not count it."""

    @functools.cached_property
    def _hash(self) -> int:
        return hash((
            self.problem, self.operation, self.dtype, self.precision, self.sums, self.result, self.factored,
            self.activation, self.planned,
        ))  # fmt: skip

    @property
    def extras(self) -> tuple[str, ...]:
        """What the call has that an algorithm must know of: see ``TAKES``."""
        return ("other dtypes",) * bool(self.sums) + ("factors",) * (self.factored is not None)

    def __hash__(self) -> int:
        return self._hash

    @property
    def accumulator(self) -> str:
        """The real dtype that sums are kept in."""
        return self.sums or ACCUMULATORS[self.dtype]

    @property
    def is_complex(self) -> bool:
        """Whether the arrays are complex."""
        return self.dtype.startswith("complex")

    @functools.cached_property
    def flops(self) -> int:
        """Real multiplications and additions."""
        return self.problem.flops * (4 if self.is_complex else 1)

    @functools.cached_property
    def bytes(self) -> int:
        """Bytes of the arrays read and written, each once."""
        *read, written = self.problem.shapes(self.operation)
        dtype = to_numpy(self.dtype)
        result = to_numpy(self.result) if self.result else result_dtype(dtype)
        return sum(map(math.prod, read)) * dtype.itemsize + math.prod(written) * result.itemsize


class Row(NamedTuple):
    """One algorithm beside one call."""

    backend: str
    algorithm: str
    reason: str | None
    """Why it cannot serve the call; None where it can."""
    seconds: float | None
    """Estimated time, what choices go by; None where it cannot serve the call."""
    tabulated: float | None = None
    """The estimate by the table of `gpuconv.tuning` alone: `seconds` but where `gpuconv tune` scaled that."""
    measured: float | None = None
    """Time of a call; None where nobody asked for it."""


def backend(name: str) -> ModuleType:
    """Return the module of a backend."""
    if name not in BACKENDS:
        raise UnsupportedError(f"backend={name!r} is unknown; valid are 'auto', {', '.join(map(repr, BACKENDS))}")
    return importlib.import_module(f"gpuconv.backends.{name}")


def _check_algorithm(backend_name: str, name: str) -> None:
    known = backend(backend_name).ALGORITHMS
    if name not in known:
        raise UnsupportedError(
            f"algorithm={name!r} is unknown to backend {backend_name!r}; "
            f"valid are 'auto', {', '.join(map(repr, known))}"
        )


def algorithm(backend_name: str, name: str) -> ModuleType:
    """Return the module of an algorithm."""
    _check_algorithm(backend_name, name)
    return importlib.import_module(f"gpuconv.backends.{backend_name}.{name}")


def _reason(module: ModuleType, call: Call, device: Any) -> str | None:
    """Return why an algorithm cannot serve a call, or None."""
    for extra in call.extras:
        if extra not in getattr(module, "TAKES", ()):
            return f"it does not take {extra}"
    reason: str | None = module.supports(call, device)
    return reason


def rows(call: Call, backend_name: str, device_name: str | None = None) -> tuple[Row, ...]:
    """Return a row for every algorithm of one backend, in the registry's order.

    `device_name` names a class of device in place of this machine's, which then need not be there.
    """
    from gpuconv import calibration

    module = backend(backend_name)
    missing = module.unavailable() if device_name is None else None
    found = []
    for name in module.ALGORITHMS:
        reason, seconds, tabulated = missing, None, None
        if reason is None:
            candidate = algorithm(backend_name, name)
            device = module.device() if device_name is None else module.named_device(device_name)
            reason = _reason(candidate, call, device)
            if reason is None:
                tabulated = candidate.cost(call, device)
                seconds = tabulated * calibration.factor(backend_name, name, device.name)
        found.append(Row(backend_name, name, reason, seconds, tabulated))
    return tuple(found)


def workspace(call: Call, module: ModuleType) -> int | None:
    """Return the bytes that an algorithm takes for a call besides its arrays; None where it does not say."""
    stated = getattr(module, "workspace", None)
    return None if stated is None else stated(call)


@functools.lru_cache(maxsize=4096)
def choose(call: Call, backend_name: str, algorithm_name: str = "auto", max_workspace: int | None = None) -> ModuleType:
    """Return the module of the cheapest algorithm that serves the call, or of the one that is named.

    With `max_workspace`, only algorithms that state their workspace and take at most so many bytes are considered.

    Raises
    ------
    BackendUnavailableError
        If the backend cannot run here.
    UnsupportedError
        If no algorithm, or not the named one, can serve the call, or none within `max_workspace`.
    """
    missing = backend(backend_name).unavailable()
    if missing is not None:
        raise BackendUnavailableError(f"backend={backend_name!r} is not available: {missing}")
    if algorithm_name != "auto":
        named = algorithm(backend_name, algorithm_name)
        reason = _reason(named, call, backend(backend_name).device())
        if reason is not None:
            raise UnsupportedError(
                f"algorithm={algorithm_name!r} of backend {backend_name!r} cannot serve this call: {reason}"
            )
        _within(call, [Row(backend_name, algorithm_name, None, None)], max_workspace)
        return named
    candidates = [row for row in rows(call, backend_name) if row.seconds is not None]
    if not candidates:
        reasons = "; ".join(f"{row.algorithm}: {row.reason}" for row in rows(call, backend_name))
        raise UnsupportedError(f"no algorithm of backend {backend_name!r} can serve this call: {reasons}")
    return algorithm(backend_name, min(_within(call, candidates, max_workspace), key=_seconds).algorithm)


@functools.lru_cache(maxsize=4096)
def estimate(call: Call, backend_name: str) -> float:
    """Return the estimated seconds of the algorithm that `choose` returns; infinity where there is none."""
    return min(map(_seconds, rows(call, backend_name)), default=math.inf)


def _within(call: Call, candidates: list[Row], limit: int | None) -> list[Row]:
    """Return the candidates whose workspace is within a limit; raise where none is."""
    if limit is None:
        return candidates
    sizes = [(workspace(call, algorithm(row.backend, row.algorithm)), row) for row in candidates]
    stated = [(size, row) for size, row in sizes if size is not None]
    if not stated:
        names = ", ".join(row.algorithm for row in candidates)
        raise UnsupportedError(
            f"max_workspace={limit}: no algorithm that can serve the call ({names}) states its workspace"
        )
    least, smallest = min(stated, key=lambda pair: pair[0])
    if least > limit:
        raise UnsupportedError(
            f"max_workspace={limit}: the least that this call needs is {least} bytes, for {smallest.algorithm!r}"
        )
    return [row for size, row in stated if size <= limit]


def _seconds(row: Row) -> float:
    return math.inf if row.seconds is None else row.seconds


class Explanation:
    """What would run for a call, and why not the others; `str` gives a table.

    Attributes
    ----------
    problem : ConvProblem
    operation, dtype, precision, activation : str
    flops, bytes : int
        Arithmetic of the definition, and the least traffic.
    rows : tuple of Row
        Every algorithm of every backend, with its estimate in seconds or its reason, and its measured time.
    chosen : Row or None
        The row that would run; None where the call would raise.
    """

    def __init__(
        self, call: Call, backend_name: str, algorithm_name: str = "auto", device_name: str | None = None
    ) -> None:
        self.problem, self.operation = call.problem, call.operation
        self.dtype, self.precision, self.activation = call.dtype, call.precision, call.activation
        self.flops, self.bytes = call.flops, call.bytes
        named = {backend_name: device_name}
        self.rows = tuple(row for name in BACKENDS for row in rows(call, name, named.get(name)))
        able = [
            row
            for row in self.rows
            if row.reason is None and row.backend == backend_name and algorithm_name in ("auto", row.algorithm)
        ]
        self.chosen = min(able, key=_seconds) if able else None

    def measure(self, run: Callable[[str], Any], backend_name: str) -> None:
        """Time each algorithm of a backend that can serve the call, with a bar on stderr; fill in `Row.measured`.

        Parameters
        ----------
        run : callable
            Makes the call with the algorithm of a name.
        backend_name : str
        """
        from gpuconv.progress import Progress

        able = [row for row in self.rows if row.seconds is not None and row.backend == backend_name]
        times, bar = {}, Progress(max(len(able), 1))
        for done, row in enumerate(able):
            bar.show(done, row.algorithm)
            times[row] = best_seconds(functools.partial(run, row.algorithm), _MEASURED_FOR, backend(row.backend).wait)
        bar.show(len(able), f"{len(able)} algorithms")
        bar.close()
        self.rows = tuple(row._replace(measured=times.get(row)) for row in self.rows)
        if self.chosen is not None:
            self.chosen = self.chosen._replace(measured=times.get(self.chosen))

    def __str__(self) -> str:
        p = self.problem
        *read, written = p.shapes(self.operation)
        names = {"forward": "x w y", "weight_gradient": "x y w"}.get(self.operation, "y w x").split()
        arrays = "  ".join(f"{n} {s}" for n, s in zip(names, (*read, written), strict=True))
        columns = {"estimate": "tabulated"}
        if any(row.seconds != row.tabulated for row in self.rows):
            columns["calibrated"] = "seconds"
        if any(row.measured is not None for row in self.rows):
            columns["measured"] = "measured"
        lines = [
            f"{self.operation} {p.rank}d, {self.dtype}, precision {self.precision!r}"
            + (f", then {self.activation}" if self.activation else ""),
            f"  {arrays}",
            f"  kernel {p.kernel}  stride {p.stride}  dilation {p.dilation}  padding {p.padding} {p.padding_mode}"
            f"  groups {p.groups}  {p.layout}",
            f"  {self.flops / 1e9:.4g} GFLOP, {self.bytes / 1e6:.4g} MB, "
            f"{self.flops / max(self.bytes, 1):.3g} FLOP a byte",
            f"  {'':2}{'backend':8}{'algorithm':20}{''.join(f'{title:>12}' for title in columns)}  why not",
        ]
        for row in self.rows:
            mark = "->" if row == self.chosen else ""
            times = "".join(f"{_milliseconds(getattr(row, name)):>12}" for name in columns.values())
            lines.append(f"  {mark:2}{row.backend:8}{row.algorithm:20}{times}  {row.reason or ''}".rstrip())
        return "\n".join(lines)

    def __repr__(self) -> str:
        chosen = "nothing" if self.chosen is None else f"{self.chosen.backend}/{self.chosen.algorithm}"
        return f"<Explanation: {self.operation} {self.dtype} {self.problem.x_shape} runs {chosen}>"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.3f} ms"


def best_seconds(function: Callable[[], Any], seconds: float, wait: Callable[[], None]) -> float:
    """Return the least time of a function's calls, at least two and as many as fit into `seconds`, after a first one.

    `wait` returns when what a call has begun is done.
    """
    function()
    wait()
    end, best, calls = time.perf_counter() + seconds, math.inf, 0
    while calls < 2 or time.perf_counter() < end:
        start = time.perf_counter()
        function()
        wait()
        best, calls = min(best, time.perf_counter() - start), calls + 1
    return best


def explain(call: Call, backend_name: str, algorithm_name: str = "auto", device_name: str | None = None) -> Explanation:
    """Return the explanation of a call on one backend, and on a named class of its devices where one is given."""
    module = backend(backend_name)
    if algorithm_name != "auto":
        _check_algorithm(backend_name, algorithm_name)
    if device_name is not None and not hasattr(module, "named_device"):
        raise UnsupportedError(f"device={device_name!r} names a GPU; backend {backend_name!r} has none")
    return Explanation(call, backend_name, algorithm_name, device_name)
