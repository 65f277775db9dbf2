"""The depthwise kernel, built for the host, against the oracle."""

import dataclasses

import numpy as np
import pytest
from support import (
    assert_activated,
    assert_close,
    assert_same_specials,
    inputs,
    makes,
    poisoned,
    random_array,
    reduction_length,
    rng,
    tolerance,
)

from gpuconv.backends.cuda import Device, raw_depthwise, raw_loader
from gpuconv.boundary import MODES
from gpuconv.dispatch import Call
from gpuconv.problem import ConvProblem

GPU = Device("a GPU", (9, 0), 1, simulated=False, flops=5e11, bandwidth=4e12, cupy=True)
DTYPES = ("float16", "bfloat16", "float32")
PROBLEMS = {
    "3x3": ((2, 6, 7, 16), (3, 3), {"padding": 1}),
    "5x5": ((1, 7, 9, 8), (5, 5), {"padding": 2}),
    "7x7, one strip": ((1, 4, 3, 24), (7, 7), {"padding": 3}),
    "2 taps": ((1, 5, 11, 8), (3, 2), {"padding": ((0, 1), (1, 0))}),
    "stride": ((1, 9, 10, 16), (3, 3), {"padding": 1, "stride": 2}),
    "stride on one axis": ((1, 9, 10, 16), (3, 3), {"stride": (3, 1)}),
    "dilation": ((1, 9, 12, 8), (3, 3), {"padding": 2, "dilation": 2}),
    "cropped": ((1, 9, 12, 8), (3, 3), {"padding": ((-1, 0), (2, -2))}),
    "a stride over the kernel": ((1, 9, 12, 8), (2, 1), {"stride": 3}),
    "signal": ((2, 40, 16), (9,), {"padding": 4}),
    "volume": ((1, 3, 4, 9, 8), (2, 3, 3), {"padding": 1}),
    "no batch axis": ((6, 7, 16), (3, 3), {"padding": 1}),
}


@pytest.fixture(autouse=True)
def cupy_pretended(monkeypatch):
    monkeypatch.setattr(raw_loader, "unavailable", lambda: None)


def call_of(shape, kernel, keywords, operation="forward", dtype="float32"):
    channels = shape[-1]
    problem = ConvProblem.make(shape, (channels, 1, *kernel), groups=channels, layout="channels_last", **keywords)
    call = Call(problem, operation, dtype)
    assert raw_depthwise.supports(call, GPU) is None
    return call


def write(runtime, call, first, w, out, bias=None):
    arrays = (first, w, out) if call.operation == "forward" else (out, w, first)
    raw_depthwise.compute(runtime, call, *arrays, bias)


def check(runtime, call, *, bias=False, strided=False):
    first, w, offset = inputs(call, "depthwise", bias=bias)
    wanted = makes(call, first, w, offset)
    out, intact = poisoned(wanted.shape, first.dtype, strided=strided)
    write(runtime, call, first, w, out, offset)
    intact()
    assert_close(out, wanted, tolerance(call.dtype, reduction_length(call.problem, call.operation)), str(call))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operation", ["forward", "transposed", "input_gradient"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_every_problem(runtime, name, operation, dtype):
    check(runtime, call_of(*PROBLEMS[name], operation, dtype), bias=operation != "input_gradient", strided="1" in name)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_borders(runtime, mode, dtype):
    for kernel in ((3, 3), (5, 5), (7, 7), (3, 4)):
        check(runtime, call_of((1, 3, 5, 8), kernel, {"padding": kernel, "padding_mode": mode}, dtype=dtype))


def test_each_kernel_runs_where_it_is_meant(runtime):
    for name, taps in (("3x3", "3"), ("stride", "any"), ("dilation", "any"), ("signal", "any")):
        check(runtime, call_of(*PROBLEMS[name], dtype="float16"))
        assert {launched.rpartition("_")[2] for launched, _ in runtime.launched} == {taps}
        runtime.launched.clear()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operation", ["forward", "transposed"])
def test_not_a_number_and_infinity_stay_in_their_receptive_fields(runtime, operation, dtype):
    for name in ("3x3", "5x5", "7x7, one strip", "stride"):
        call, generator = call_of(*PROBLEMS[name], operation, dtype), rng(name)
        first, second, _ = call.problem.shapes(operation)
        a, w = random_array(first, dtype, generator), random_array(second, dtype, generator)
        for array in (a, w) if operation == "forward" else (a,):
            for place, value in zip(generator.integers(0, array.size, 3), (np.nan, np.inf, -np.inf), strict=True):
                array.reshape(-1)[place] = value
            with np.errstate(all="ignore"):
                wanted = makes(call, a, w)
                out = np.zeros(wanted.shape, a.dtype)
                write(runtime, call, a, w, out)
            assert_same_specials(out, wanted, name)


@pytest.mark.parametrize(("name", "dtype", "problem"), [("silu", "float16", "3x3"), ("gelu", "float32", "stride")])
def test_activations_are_fused(runtime, name, dtype, problem):
    call = dataclasses.replace(call_of(*PROBLEMS[problem], dtype=dtype), activation=name)
    x, w, bias = inputs(call, "activation", bias=True)
    out = np.full(call.problem.y_shape, np.nan).astype(x.dtype)
    raw_depthwise.compute(runtime, call, x, w, out, bias)
    before = makes(Call(call.problem, "forward", "float64"), *(a.astype(np.float64) for a in (x, w, bias)))
    assert_activated(out, before, name, tolerance(dtype, 9))
    assert name in runtime.launched[-1][0]


def test_misaligned_memory(runtime, monkeypatch):
    call = call_of(*PROBLEMS["3x3"])
    x, w, _ = inputs(call, "misaligned")
    moved = np.zeros(x.size + 1, x.dtype)[1:].reshape(x.shape)
    moved[...] = x
    empty = runtime.empty
    taken = []

    def first_misaligned(size, dtype):
        taken.append(size)
        return empty(size + 1, dtype)[1:] if len(taken) == 1 else empty(size, dtype)

    monkeypatch.setattr(runtime, "empty", first_misaligned)
    out = np.zeros(call.problem.y_shape, np.float32)
    raw_depthwise.compute(runtime, call, moved, w, out, None)
    assert len(taken) == 2
    assert_close(out, makes(call, x, w), tolerance("float32", 9))


def test_more_rows_than_a_launch_counts(runtime, monkeypatch):
    monkeypatch.setattr(raw_depthwise, "_MOST", 20)
    check(runtime, call_of((2, 6, 7, 16), (3, 3), {"padding": 1}, dtype="float16"))
    assert len(runtime.launched) == 3


@pytest.mark.parametrize("operation", ["forward", "transposed"])
def test_stated_workspace_is_what_is_packed(runtime, operation):
    call = call_of(*PROBLEMS["5x5"], operation)
    _, w, _ = inputs(call, "workspace")
    assert raw_depthwise.packed_for(runtime, call, w).nbytes == raw_depthwise.workspace(call)


def test_reasons():
    def reason(x_shape, w_shape, operation="forward", dtype="float32", **keywords):
        return raw_depthwise.supports(Call(ConvProblem.make(x_shape, w_shape, **keywords), operation, dtype), GPU)

    last = {"groups": 16, "layout": "channels_last"}
    assert reason((1, 6, 6, 16), (16, 1, 3, 3), **last) is None
    assert "counted" in reason((1 << 20, 2048, 6, 16), (16, 1, 3, 3), **last)
    assert "float64" in reason((1, 6, 6, 16), (16, 1, 3, 3), dtype="float64", **last)
    assert "groups=16" in reason((1, 6, 6, 16), (32, 1, 3, 3), **last)
    assert "groups=1" in reason((1, 6, 6, 16), (16, 16, 3, 3), layout="channels_last")
    assert "channels_first" in reason((1, 16, 6, 6), (16, 1, 3, 3), groups=16)
    assert "multiple of 4" in reason((1, 6, 6, 15), (15, 1, 3, 3), groups=15, layout="channels_last")
    assert "weight gradient" in reason((1, 6, 6, 16), (16, 1, 3, 3), "weight_gradient", **last)
