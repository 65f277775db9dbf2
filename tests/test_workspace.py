"""What an algorithm says it takes besides the arrays is at least what a call allocates, and not far more."""

from __future__ import annotations

import gc
import tracemalloc

import numpy as np
import pytest
from support import Engine

from gpuconv import dispatch
from gpuconv.backends.cpu import memory
from gpuconv.dispatch import Call
from gpuconv.factors import Factors
from gpuconv.problem import ConvProblem

SMALL_CHANGE = 48 << 10
"""Tables, records and Python's own objects."""


def problem(x, w, **arguments) -> ConvProblem:
    return ConvProblem.make(x, w, **arguments)


CASES = {
    "dense": (problem((2, 64, 40, 40), (96, 64, 3, 3), padding=1), "forward"),
    "deep, small map": (problem((1, 256, 7, 7), (256, 256, 3, 3), padding=1), "forward"),
    "pointwise": (problem((1, 128, 40, 40), (64, 128, 1, 1)), "forward"),
    "strided stem": (problem((1, 3, 160, 160), (64, 3, 7, 7), stride=2, padding=3), "forward"),
    "wide image": (problem((1, 1, 400, 3000), (1, 1, 5, 5), padding=2), "forward"),
    "large kernel": (problem((1, 1, 400, 500), (1, 1, 41, 41), padding=20), "forward"),
    "signal": (problem((1, 1, 300_000), (1, 1, 31), padding=15), "forward"),
    "long with long": (problem((1, 1, 200_000), (1, 1, 20_001)), "forward"),
    "volume": (problem((1, 16, 20, 30, 40), (24, 16, 3, 3, 3), padding=1), "forward"),
    "depthwise": (problem((2, 96, 56, 56), (96, 1, 3, 3), padding=1, groups=96), "forward"),
    "input gradient": (problem((1, 48, 40, 40), (64, 48, 3, 3), padding=1), "input_gradient"),
    "transposed, stride 2": (problem((1, 64, 40, 40), (48, 64, 4, 4), stride=2, padding=1), "transposed"),
}


def measured(engine: Engine, call: Call, x, w, y) -> int:
    """Return the most bytes that packing and one run hold at a time, with no memory kept from earlier calls."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        packed = engine.module.pack(call, w)
        engine.module.run(call, x, w, y, None, packed)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def check(engine: Engine, call: Call, x, w, y) -> None:
    # Compiles, and fills the tables that are kept for the next call.
    engine.module.run(call, x, w, y, None, engine.module.pack(call, w))
    memory.forget()
    gc.collect()
    took, stated = measured(engine, call, x, w, y), engine.module.workspace(call)
    assert took <= stated + SMALL_CHANGE, f"{took} bytes taken, {stated} stated"
    assert stated <= 2 * took + SMALL_CHANGE, f"{stated} bytes stated, only {took} taken"


@pytest.mark.parametrize("name", CASES)
def test_stated_workspace_covers_what_is_taken(name: str, engine: Engine) -> None:
    if engine.backend != "cpu":
        pytest.skip("memory on a device is not Python's to trace")
    forward, operation = CASES[name]
    call = Call(forward, operation, "float32")
    if not engine.takes(call):
        pytest.skip(f"{engine}: {engine.reason(call)}")
    x, w, y = (np.ones(shape, np.float32) for shape in (forward.x_shape, forward.w_shape, forward.y_shape))
    check(engine, call, x, w, y)


def test_stated_workspace_of_passes() -> None:
    forward = problem((1, 1, 600, 700), (1, 1, 15, 21), padding=(7, 10))
    factors = Factors(((np.ones(15, np.float32), np.ones(21, np.float32)),))
    x, y = np.ones(forward.x_shape, np.float32), np.empty(forward.y_shape, np.float32)
    check(Engine("cpu", "separable"), Call(forward, "forward", "float32", factored=factors.described), x, factors, y)


def test_every_algorithm_states_its_workspace() -> None:
    for name in dispatch.backend("cpu").ALGORITHMS:
        assert callable(getattr(dispatch.algorithm("cpu", name), "workspace", None)), name


def test_stated_workspace_of_complex_numbers() -> None:
    forward = problem((2, 32, 40, 40), (48, 32, 3, 3), padding=1)
    x, w, y = (np.ones(shape, np.complex64) for shape in (forward.x_shape, forward.w_shape, forward.y_shape))
    check(Engine("cpu", "complex_planes"), Call(forward, "forward", "complex64"), x, w, y)
