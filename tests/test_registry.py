"""Every problem through every algorithm and operation of the registry, against the oracle."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from problems import AWKWARD, CASES, EVERY_DTYPE, Case
from support import (
    DTYPES,
    OPERATIONS,
    Engine,
    assert_close,
    assert_same_specials,
    compute,
    engines,
    expected,
    makes,
    marks,
    random_array,
    reachable,
    reduction_length,
    rng,
    tolerance,
)

import gpuconv
from gpuconv import dispatch
from gpuconv.dispatch import Call
from gpuconv.dtypes import to_numpy
from gpuconv.problem import ConvProblem


def calls(case: Case, dtypes: tuple[str, ...]) -> Iterator[Call]:
    """Yield the case in every operation and dtype that can be asked for."""
    problem = case.problem()
    for operation in OPERATIONS:
        if reachable(problem, operation):
            yield from (Call(problem, operation, dtype) for dtype in dtypes)


def runs(cases: tuple[Case, ...], dtypes: tuple[str, ...] | None) -> list[Any]:
    """Return (engine, case) for every engine that takes some call of the case."""
    return [
        pytest.param(engine, case, id=f"{engine}-{case}", marks=marks(engine))
        for case in cases
        for engine in engines()
        if any(engine.takes(call) for call in calls(case, dtypes or case.dtypes))
    ]


def check(engine: Engine, call: Call, seed: str, *, bias: bool, strided: bool) -> None:
    actual = compute(engine, call, seed, bias=bias, strided=strided)
    wanted = expected(call, seed, bias=bias)
    assert actual.dtype == wanted.dtype
    limit = tolerance(call.dtype, reduction_length(call.problem, call.operation))
    assert_close(actual, wanted, limit, f"{engine} {call.operation} {call.dtype}")


@pytest.mark.parametrize(("engine_", "case"), runs(CASES, None))
def test_every_problem(engine_: Engine, case: Case) -> None:
    parity = zlib.crc32(case.name.encode()) & 1
    for i, call in enumerate(calls(case, case.dtypes)):
        if engine_.takes(call):
            check(engine_, call, case.name, bias=bool((i // 2 + parity) & 1), strided=bool((i + parity) & 1))


@pytest.mark.parametrize(("engine_", "case"), runs(EVERY_DTYPE, DTYPES))
def test_every_dtype(engine_: Engine, case: Case) -> None:
    for i, call in enumerate(calls(case, DTYPES)):
        if engine_.takes(call):
            check(engine_, call, case.name, bias=i % 3 == 0, strided=i % 2 == 0)


@pytest.mark.parametrize("name", dispatch.BACKENDS)
def test_direct_takes_everything_that_can_be_asked(name: str) -> None:
    missing = dispatch.backend(name).unavailable()
    if missing is not None:
        pytest.skip(missing)
    engine = Engine(name, "direct")
    refused = {
        (case.name, call.operation, call.dtype): reason
        for case in CASES
        if case.public
        for call in calls(case, DTYPES)
        if (reason := engine.reason(call)) is not None
    }
    assert not refused


def test_costs_order_the_choice(engine: Engine) -> None:
    for case in CASES:
        for call in calls(case, ("float32",)):
            if engine.takes(call):
                seconds = engine.module.cost(call, dispatch.backend(engine.backend).device())
                assert 0 < seconds < 3600 or (seconds == 0 and not call.flops)


def test_names_are_unique() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


def unaligned(a: np.ndarray) -> np.ndarray:
    buffer = np.zeros(a.nbytes + 1, np.uint8)
    view = buffer[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def spaced(a: np.ndarray) -> np.ndarray:
    wide = np.full(tuple(2 * n + 1 for n in a.shape), 99, a.dtype)
    view = wide[tuple(slice(1, None, 2) for _ in a.shape)]
    view[...] = a
    return view


def read_only(a: np.ndarray) -> np.ndarray:
    copy = a.copy()
    copy.flags.writeable = False
    return copy


def reversed_axes(a: np.ndarray) -> np.ndarray:
    back = (slice(None, None, -1),) * a.ndim
    return a[back].copy()[back]


def one_reversed(a: np.ndarray) -> np.ndarray:
    return a[..., ::-1].copy()[..., ::-1]


MEMORY = {
    "fortran": np.asfortranarray,
    "axes reversed": reversed_axes,
    "last axis reversed": one_reversed,
    "every second element": spaced,
    "read-only": read_only,
    "byte order swapped": lambda a: a.astype(a.dtype.newbyteorder("S")),
    "unaligned": unaligned,
}


def call_public(case: Case, engine: Engine, first: Any, second: Any, **more: Any) -> Any:
    function = getattr(gpuconv, case.function)
    return function(first, second, **case.keywords, backend=engine.backend, algorithm=engine.algorithm, **more)


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("case", AWKWARD, ids=str)
def test_awkward_memory(case: Case, memory: str, engine: Engine) -> None:
    arrange = MEMORY[memory]
    for dtype in ("float32", "float64", "int8", "complex64", "float16"):
        call = Call(case.problem(), "transposed" if case.transposed else "forward", dtype)
        if not engine.takes(call):
            continue
        generator = rng(f"{case} {memory}")
        x, w = (random_array(shape, dtype, generator) for shape in (case.x_shape, case.w_shape))
        before = x.copy(), w.copy()
        wanted = makes(call, x, w)
        limit = tolerance(dtype, reduction_length(call.problem, call.operation))
        # Only one of the two at a time, so that each is met beside an ordinary one, and then both.
        for first, second in ((arrange(x), w), (x, arrange(w)), (arrange(x), arrange(w))):
            result = call_public(case, engine, first, second)
            assert result.dtype.isnative
            assert_close(result, wanted, limit, f"{engine} {memory} {dtype}")
            np.testing.assert_array_equal(first, before[0])
            np.testing.assert_array_equal(second, before[1])


@pytest.mark.parametrize("case", AWKWARD, ids=str)
def test_broadcast_inputs(case: Case, engine: Engine) -> None:
    generator = rng(f"{case} broadcast")
    call = Call(case.problem(), "transposed" if case.transposed else "forward", "float32")
    if not engine.takes(call):
        pytest.skip(f"{engine}: {engine.reason(call) or 'one of the many that the simulator is spared'}")
    limit = tolerance("float32", reduction_length(call.problem, call.operation))
    for axis in (0, -1):
        sources = []
        for shape in (case.x_shape, case.w_shape):
            thin = list(shape)
            thin[axis] = 1
            sources.append(np.broadcast_to(random_array(tuple(thin), "float32", generator), shape))
        x, w = sources
        assert_close(call_public(case, engine, x, w), makes(call, x.copy(), w.copy()), limit, f"{engine} axis {axis}")


@pytest.mark.parametrize("case", AWKWARD, ids=str)
def test_awkward_outputs(case: Case, engine: Engine) -> None:
    generator = rng(f"{case} out")
    call = Call(case.problem(), "transposed" if case.transposed else "forward", "float64")
    if not engine.takes(call):
        pytest.skip(f"{engine}: {engine.reason(call) or 'one of the many that the simulator is spared'}")
    x, w = (random_array(shape, "float64", generator) for shape in (case.x_shape, case.w_shape))
    limit = tolerance("float64", reduction_length(call.problem, call.operation))
    wanted = makes(call, x, w)
    for arrange in (np.asfortranarray, reversed_axes, one_reversed, spaced, unaligned):
        out = arrange(np.full(wanted.shape, np.nan))
        assert call_public(case, engine, x, w, out=out) is out
        assert_close(out, wanted, limit, f"{engine} {arrange.__name__}")


# The simulator computes in NumPy, which warns of what is on purpose here.
@pytest.mark.filterwarnings("ignore:.*invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("precision", dispatch.PRECISIONS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_not_a_number_and_infinity_stay_in_their_receptive_fields(
    operation: str, precision: str, engine: Engine
) -> None:
    for case in (*EVERY_DTYPE, *AWKWARD):
        problem = case.problem()
        for dtype in ("float16", "bfloat16", "float32", "float64", "complex64"):
            call = Call(problem, operation, dtype, precision)
            if not (case.public and reachable(problem, operation) and engine.takes(call)):
                continue
            generator = rng(f"{case} not finite {operation} {dtype}")
            first, second, _ = problem.shapes(operation)
            a, b = random_array(first, dtype, generator), random_array(second, dtype, generator)
            if not a.size:
                continue
            for place, value in zip(generator.integers(0, a.size, 3), (np.nan, np.inf, -np.inf), strict=True):
                a.reshape(-1)[place] = value
            with np.errstate(all="ignore"):
                wanted = makes(call, a, b)
                out = np.zeros(wanted.shape, to_numpy(dtype))
                engine.write(call, a, b, out)
            assert_same_specials(out, wanted, f"{engine} {case} {dtype}")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_spoils_its_own_output_channel_only(value: float, engine: Engine) -> None:
    generator = rng("weights not finite")
    for dtype in ("float32", "float64"):
        call = Call(ConvProblem.make((2, 3, 9, 11), (9, 3, 3, 3)), "forward", dtype)
        if not engine.takes(call):
            continue
        x, w = (
            np.abs(random_array(shape, dtype, generator)) + 1 for shape in (call.problem.x_shape, call.problem.w_shape)
        )
        w[4, 1, 2, 0] = value
        y = gpuconv.conv2d(x, w, backend=engine.backend, algorithm=engine.algorithm)
        special = np.isnan(y) if np.isnan(value) else np.isposinf(y)
        assert special[:, 4].all()
        assert np.isfinite(np.delete(y, 4, axis=1)).all()
