"""What the tests share: arrays of every dtype, poisoned outputs, tolerances, and the walk over the registry."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

from gpuconv import arrays, dispatch, reference
from gpuconv.dtypes import SUPPORTED, result_dtype, to_numpy
from gpuconv.problem import OPERATIONS

if TYPE_CHECKING:
    from gpuconv.dispatch import Call
    from gpuconv.problem import ConvProblem

__all__ = [
    "DTYPES", "OPERATIONS", "Engine", "assert_activated", "assert_close", "assert_same_specials", "compute", "engines",
    "environment", "expected", "inputs", "makes", "marks", "opened", "poisoned", "python", "random_array", "reachable",
    "reduction_length", "rng", "simulated", "tolerance", "within",
]  # fmt: skip

DTYPES = SUPPORTED
"""Every dtype that gpuconv computes in, by name."""

Array = np.ndarray[Any, np.dtype[Any]]


# Arrays


def rng(name: str) -> np.random.Generator:
    """Return the generator that belongs to a name: the same in every process."""
    return np.random.default_rng(zlib.crc32(name.encode()))


def random_array(shape: tuple[int, ...], dtype: str, generator: np.random.Generator) -> Array:
    """Return floats within [-1, 1], or integers of the dtype's whole range, whose sums wrap around."""
    kind = to_numpy(dtype)
    if kind.kind in "iu":
        info = np.iinfo(kind)
        return generator.integers(info.min, info.max, shape, kind, endpoint=True)
    if kind.kind == "c":
        return (generator.uniform(-1, 1, shape) + 1j * generator.uniform(-1, 1, shape)).astype(kind)
    return generator.uniform(-1, 1, shape).astype(kind)


def inputs(call: Call, seed: str, *, bias: bool = False) -> tuple[Array, Array, Array | None]:
    """Return the two arrays that a call reads, in its callers' order, and a bias or None."""
    generator = rng(f"{seed} {call.operation} {call.dtype}")
    first, second, _ = call.problem.shapes(call.operation)
    pair = random_array(first, call.dtype, generator), random_array(second, call.dtype, generator)
    if not bias or call.operation not in ("forward", "transposed"):
        return *pair, None
    channels = call.problem.out_channels if call.operation == "forward" else call.problem.in_channels
    return *pair, random_array((channels,), result_dtype(to_numpy(call.dtype)).name, generator)


def poisoned(shape: tuple[int, ...], dtype: Any, *, strided: bool = False) -> tuple[Array, Callable[[], None]]:
    """Return an output array full of NaN or a sentinel, and a check that nothing around it was written.

    It lies inside a larger array: contiguous between two guards, or strided with guards between all its elements.
    """
    dtype = np.dtype(dtype)
    poison = 0x5B if dtype.kind in "iu" else np.nan
    if strided:
        buffer = np.full(tuple(2 * n + 3 for n in shape), poison, dtype)
        place = tuple(slice(1, 2 * n + 1, 2) for n in shape)
        out = buffer[place]
    else:
        buffer = np.full(math.prod(shape) + 128, poison, dtype)
        place = (slice(64, 64 + math.prod(shape)),)
        out = buffer[place].reshape(shape)
    assert np.shares_memory(out, buffer) or not out.size

    def check() -> None:
        around = np.ones(buffer.shape, bool)
        around[place] = False
        guards = buffer[around]
        intact = guards == poison if dtype.kind in "iu" else guards != guards
        assert intact.all(), f"{(~intact).sum()} elements outside the output were written"

    return out, check


# Tolerance


def reduction_length(problem: ConvProblem, operation: str) -> int:
    """Return how many products an element of the result sums at most."""
    taps = math.prod(problem.kernel)
    if operation == "forward":
        return problem.in_channels // problem.groups * taps
    if operation == "weight_gradient":
        return problem.batch * math.prod(problem.output)
    if problem.padding_mode != "zeros":
        # An element may stand at as many border positions as there are.
        taps *= math.prod(1 + max(p, 0) + max(q, 0) for p, q in problem.padding)
    return problem.out_channels // problem.groups * taps


def tolerance(dtype: str, length: int) -> tuple[float, float]:
    """Return (relative, absolute) tolerance of a sum of `length` products of numbers within [-1, 1].

    Relative: one rounding into the result's dtype. Absolute: one of the accumulator's roundings for each term, whose
    partial sums grow with the root of the length; four more for a bias and short sums. Integers are exact.
    """
    kind = to_numpy(dtype)
    if kind.kind in "iu":
        return 0.0, 0.0
    accumulator = np.finfo(dispatch.ACCUMULATORS[dtype])
    terms = 2 * length if kind.kind == "c" else length
    return _epsilon(dtype), float(accumulator.eps) * (terms + 4)


def _epsilon(dtype: str) -> float:
    return 2.0**-7 if dtype == "bfloat16" else float(np.finfo(dtype).eps)


def assert_close(actual: Any, wanted: Any, tolerances: tuple[float, float], what: str = "") -> None:
    """Assert equal shapes, and values within (relative, absolute) tolerance; NaN and infinities in the same places."""
    actual, wanted = np.asarray(actual), np.asarray(wanted)
    assert actual.shape == wanted.shape, f"{what}: shape {actual.shape}, not {wanted.shape}"
    if not actual.size:
        return
    if actual.dtype.kind in "iu":
        wrong = actual != wanted
    else:
        wide = np.complex128 if actual.dtype.kind == "c" else np.float64
        a, b = actual.astype(wide), wanted.astype(wide)
        finite = np.isfinite(b)
        misplaced = np.isfinite(a) != finite
        assert not misplaced.any(), f"{what}: {misplaced.sum()} elements are finite, or not, where they should not be"
        a, b = a[finite], b[finite]
        wrong = np.abs(a - b) > tolerances[1] + tolerances[0] * np.abs(b)
    if wrong.any():
        places = np.argwhere(wrong)[:4].tolist()
        got = (actual if actual.shape == wrong.shape else a)[wrong][:4]
        due = (wanted if wanted.shape == wrong.shape else b)[wrong][:4]
        raise AssertionError(f"{what}: {wrong.sum()} of {wrong.size} elements differ, at {places}: {got}, not {due}")


def assert_activated(actual: Any, before: Array, name: str, tolerances: tuple[float, float]) -> None:
    """Assert that an activation was applied to what is within tolerance of `before`, the oracle's result without it."""
    relative, absolute = tolerances
    z = before.astype(np.float64)
    with np.errstate(all="ignore"):
        # Two roundings of z: the oracle's, and that of a result to which the activation is applied afterwards.
        off = np.where(np.isfinite(z), absolute + 2 * relative * np.abs(z), 0)
        wanted = reference.activated(name, z)
        slack = np.maximum(*(np.abs(reference.activated(name, z + sign * off) - wanted) for sign in (-1, 1)))
        slack += off**2 + relative * np.abs(wanted) + 16 * float(np.finfo(np.float32).eps) ** (1 + (absolute < 1e-12))
        wrong = ~(np.abs(np.asarray(actual).astype(np.float64) - wanted) <= slack) & np.isfinite(wanted)
    assert actual.shape == wanted.shape
    np.testing.assert_array_equal(np.isnan(np.asarray(actual, np.float64)), np.isnan(wanted))
    assert not wrong.any(), f"{name}: {wrong.sum()} of {wrong.size} elements, at {np.argwhere(wrong)[:4].tolist()}"


def assert_same_specials(actual: np.ndarray, wanted: np.ndarray, what: str) -> None:
    """Assert that NaN and infinities stand in the same places; a complex product may turn one into the other."""
    if actual.dtype.kind == "c":
        np.testing.assert_array_equal(np.isfinite(actual), np.isfinite(wanted), what)
        return
    actual, wanted = actual.astype(np.float64), wanted.astype(np.float64)
    special = ~np.isfinite(wanted)
    np.testing.assert_array_equal(np.where(np.isfinite(actual), 0, actual), np.where(special, wanted, 0), what)


# The registry


class Engine(NamedTuple):
    """One algorithm of an available backend."""

    backend: str
    algorithm: str

    @property
    def module(self) -> ModuleType:
        return dispatch.algorithm(self.backend, self.algorithm)

    def reason(self, call: Call) -> str | None:
        """Return None, or why it cannot serve the call."""
        reason: str | None = self.module.supports(call, dispatch.backend(self.backend).device())
        return reason

    def takes(self, call: Call) -> bool:
        """Whether tests give it the call: it supports it, and the simulator, slow as it is, gets only a few."""
        if self.backend == "cuda" and simulated() and (call.flops > 1_500 or zlib.crc32(repr(call).encode()) % 30):
            return False
        return self.reason(call) is None

    def write(self, call: Call, first: Array, second: Array, out: Array, bias: Array | None = None) -> None:
        """Run it on the two arrays that a call reads, in its callers' order."""
        if call.operation == "forward":
            self.module.run(call, first, second, out, bias)
        elif call.operation == "weight_gradient":
            self.module.run(call, first, out, second, bias)
        else:
            self.module.run(call, out, second, first, bias)

    def __str__(self) -> str:
        return f"{self.backend}.{self.algorithm}"


def simulated() -> bool:
    """Whether CUDA kernels run in Numba's simulator."""
    return os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")


@functools.cache
def engines() -> tuple[Engine, ...]:
    """Return every algorithm of every backend that can run here."""
    available = (name for name in dispatch.BACKENDS if dispatch.backend(name).unavailable() is None)
    return tuple(Engine(name, algorithm) for name in available for algorithm in dispatch.backend(name).ALGORITHMS)


def marks(engine: Engine) -> tuple[pytest.MarkDecorator, ...]:
    """Return the marks of a test that runs an engine."""
    return (pytest.mark.gpu,) if engine.backend == "cuda" and not simulated() else ()


def reachable(problem: ConvProblem, operation: str) -> bool:
    """Whether any public function or gradient can ask for the operation on the problem."""
    return operation != "transposed" or (problem.padding_mode == "zeros" and problem.padding_value == 0)


def compute(engine: Engine, call: Call, seed: str, *, bias: bool = False, strided: bool = False) -> Array:
    """Return what an engine writes into a poisoned output, whose surroundings it must leave alone."""
    first, second, b = inputs(call, seed, bias=bias)
    shape = call.problem.shapes(call.operation)[2]
    out, check = poisoned(shape, result_dtype(first.dtype), strided=strided)
    if out.size:
        engine.write(call, first, second, out, b)
    check()
    return out


def makes(call: Call, first: Array, second: Array, bias: Array | None = None) -> Array:
    """Return the oracle's result for the two arrays that a call reads."""
    if call.operation == "forward":
        return reference.forward(call.problem, first, second, bias)
    if call.operation == "transposed":
        return reference.transposed(call.problem, first, second, bias)
    if call.operation == "input_gradient":
        return reference.input_gradient(call.problem, first, second)
    return reference.weight_gradient(call.problem, first, second)


@functools.lru_cache(maxsize=32)
def expected(call: Call, seed: str, *, bias: bool = False) -> Array:
    """Return the oracle's result for `inputs` of the same arguments."""
    with np.errstate(all="ignore"):
        return makes(call, *inputs(call, seed, bias=bias))


# Processes and time

_PATHS = (str(Path(arrays.__file__).parents[1]), str(Path(__file__).parent))


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of a child process that finds gpuconv and the tests' modules."""
    paths = (*_PATHS, os.environ.get("PYTHONPATH", ""))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **variables}


def python(code: str, *, timeout: float = 120, **variables: str) -> str:
    """Return what `code` prints in a fresh interpreter; fail with its errors, or when it hangs."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment(**variables), capture_output=True, text=True,
            timeout=timeout, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        pytest.fail(f"the process hung: no end after {timeout} s; it printed {late.stdout!r}, {late.stderr!r}")
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail instead of hanging: what must be refused at once may not begin to work."""

    def late(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"not done within {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# Images


def opened(path: Path) -> Any:
    """Return a Pillow image with its pixels and metadata read and its file closed."""
    from PIL import Image

    with Image.open(path) as image:
        image.load()
        image.getexif()
        return image
