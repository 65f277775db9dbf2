"""The stencil kernel, built for the host, against the oracle."""

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

from gpuconv.backends.cuda import Device, raw_loader, raw_stencil
from gpuconv.boundary import MODES
from gpuconv.dispatch import Call
from gpuconv.problem import ConvProblem

GPU = Device("a GPU", (9, 0), 1, simulated=False, flops=5e11, bandwidth=4e12, cupy=True)


@pytest.fixture(autouse=True)
def cupy_pretended(monkeypatch):
    monkeypatch.setattr(raw_loader, "unavailable", lambda: None)


def call_of(dtype, x, w, keywords, operation="forward"):
    call = Call(ConvProblem.make(x, w, **keywords), operation, dtype)
    assert raw_stencil.supports(call, GPU) is None
    return call


def write(runtime, call, first, w, out, bias=None):
    arrays = (first, w, out) if call.operation == "forward" else (out, w, first)
    raw_stencil.compute(runtime, call, *arrays, bias)


def check(runtime, call, *, bias=False, strided=False):
    first, w, offset = inputs(call, "stencil", bias=bias)
    wanted = makes(call, first, w, offset)
    out, intact = poisoned(wanted.shape, wanted.dtype, strided=strided)
    write(runtime, call, first, w, out, offset)
    intact()
    assert_close(out, wanted, tolerance(call.dtype, reduction_length(call.problem, call.operation)), str(call))


# Kernel: dtype, x, w and keywords of a call that runs on it.
CALLS = {
    "Float32_3x3_at3": ("float32", (2, 1, 21, 32), (1, 1, 3, 3), {"padding": 1}),
    "Float32_3x3_at3_apart": ("float32", (1, 2, 9, 13), (2, 1, 3, 3), {"padding": 1, "groups": 2}),
    "Float32_2x4_at0_apart": ("float32", (2, 11, 10, 1), (1, 1, 2, 4), {"layout": "channels_last"}),
    "Float32_anyx9_at1": ("float32", (1, 1, 19, 16), (1, 1, 10, 9), {"padding": ((4, 5), (3, 5))}),
    "Float16_5x5_at6": ("float16", (1, 1, 11, 16), (1, 1, 5, 5), {"padding": 2}),
    "BFloat16_anyx2_at0_apart": ("bfloat16", (1, 1, 9, 21), (1, 1, 8, 2), {"padding": ((0, 3), (0, 1))}),
    "UInt8_3x3_at15": ("uint8", (1, 1, 7, 48), (1, 1, 3, 3), {"padding": 1}),
    "Int8_anyx9_at12_apart": ("int8", (1, 2, 4, 37), (4, 1, 3, 9), {"padding": (1, 4), "groups": 2}),
}


@pytest.mark.parametrize("kernel", CALLS)
def test_every_kernel(runtime, kernel):
    for i, mode in enumerate(MODES):
        dtype, x, w, keywords = CALLS[kernel]
        check(runtime, call_of(dtype, x, w, {**keywords, "padding_mode": mode}), bias=i % 2 == 0, strided=i % 3 == 0)
    assert {name for name, _ in runtime.launched} == {f"stencil_{kernel}"}


@pytest.mark.parametrize("operation", ["transposed", "input_gradient"])
@pytest.mark.parametrize("kernel", ["Float32_3x3_at3", "Float32_3x3_at3_apart", "UInt8_3x3_at15"])
def test_adjoints(runtime, kernel, operation):
    check(runtime, call_of(*CALLS[kernel], operation), bias=operation == "transposed")


CUT = {
    "cropped to a whole chunk": ((1, 1, 9, 32), {"padding": ((-2, 0), (-4, 0))}, "2x4_at0_apart"),
    "cropped": ((1, 1, 9, 32), {"padding": ((1, -1), (-3, -2)), "padding_mode": "wrap"}, "2x4_at0_apart"),
    "wider than x": ((1, 1, 2, 3), {"padding": ((9, 5), (4, 7)), "padding_mode": "mirror"}, "2x4_at0_apart"),
    "one row": ((3, 1, 1, 9), {"padding": ((0, 1), (0, 0))}, "2x4_at0_apart"),
}


@pytest.mark.parametrize("name", CUT)
def test_what_a_window_reads(runtime, name, monkeypatch):
    x, keywords, kernel = CUT[name]
    # The kernel for rows that lie anywhere serves those that begin at sixteen bytes, too.
    chosen = raw_stencil.kernel_of
    monkeypatch.setattr(raw_stencil, "kernel_of", lambda *a, aligned: chosen(*a, aligned=False))
    check(runtime, call_of("float32", x, (1, 1, 2, 4), keywords), bias=True)
    assert runtime.launched[0][0] == f"stencil_Float32_{kernel}"


def test_memory_that_lies_at_no_multiple_of_sixteen_bytes(runtime):
    call = call_of(*CALLS["Float32_3x3_at3"])
    x, w, _ = inputs(call, "misaligned")
    moved = np.zeros(x.size + 1, x.dtype)[1:].reshape(x.shape)
    moved[...] = x
    out = np.zeros(call.problem.y_shape, np.float32)
    raw_stencil.compute(runtime, call, moved, w, out, None)
    assert runtime.launched[0][0].endswith("apart") == (moved.ctypes.data % 16 != 0)
    assert_close(out, makes(call, x, w), tolerance("float32", 9))


def test_more_planes_than_a_grid_has_rows(runtime, monkeypatch):
    monkeypatch.setattr(raw_stencil, "_GRID_Y", 2)
    check(runtime, call_of("float32", (3, 1, 5, 9), (1, 1, 3, 3), {"padding": 1}), bias=True)
    assert [grid[1] for _, grid in runtime.launched] == [2, 1]


@pytest.mark.parametrize(
    ("name", "dtype", "x"), [("gelu", "float16", (1, 1, 5, 21)), ("silu", "bfloat16", (1, 1, 5, 24))]
)
def test_activations_are_fused(runtime, name, dtype, x):
    call = dataclasses.replace(call_of(dtype, x, (1, 1, 3, 3), {"padding": 1}), activation=name)
    arrays = inputs(call, "activation", bias=True)
    out = np.full(call.problem.y_shape, np.nan).astype(arrays[0].dtype)
    raw_stencil.compute(runtime, call, *arrays[:2], out, arrays[2])
    before = makes(Call(call.problem, "forward", "float64"), *(a.astype(np.float64) for a in arrays))
    assert_activated(out, before, name, tolerance(dtype, 9))
    assert name in runtime.launched[-1][0]


@pytest.mark.parametrize("kernel", ["Float32_3x3_at3", "Float32_3x3_at3_apart", "Float32_anyx9_at1", "Float16_5x5_at6"])
def test_not_a_number_and_infinity_stay_in_their_receptive_fields(runtime, kernel):
    call, generator = call_of(*CALLS[kernel]), rng(kernel)
    x, w = (random_array(shape, call.dtype, generator) for shape in (call.problem.x_shape, call.problem.w_shape))
    for array in (x, w):
        for place, value in zip(generator.integers(0, array.size, 3), (np.nan, np.inf, -np.inf), strict=True):
            array.reshape(-1)[place] = value
        with np.errstate(all="ignore"):
            wanted = makes(call, x, w)
            out = np.zeros(wanted.shape, x.dtype)
            write(runtime, call, x, w, out)
        assert_same_specials(out, wanted, kernel)


@pytest.mark.parametrize("operation", ["forward", "transposed"])
def test_stated_workspace_is_what_is_packed(runtime, operation):
    call = call_of(*CALLS["Float32_2x4_at0_apart"], operation)
    _, w, _ = inputs(call, "workspace")
    assert raw_stencil.packed_for(runtime, call, w).nbytes == raw_stencil.workspace(call)


def test_reasons():
    def reason(x, w, operation="forward", dtype="float32", **keywords):
        return raw_stencil.supports(Call(ConvProblem.make(x, w, **keywords), operation, dtype), GPU)

    image = (1, 1, 40, 40), (1, 1, 3, 3)
    assert reason(*image) is None
    assert "float64" in reason(*image, dtype="float64")
    assert "weight gradient" in reason(*image, "weight_gradient")
    assert "2-d problems" in reason((1, 1, 9), (1, 1, 3))
    assert "it takes 1 only" in reason(*image, dilation=2)
    assert "2 input channels" in reason((1, 2, 9, 9), (1, 2, 3, 3))
    assert "planes" in reason((1, 9, 9, 2), (2, 1, 3, 3), groups=2, layout="channels_last")
    assert "a window of" in reason((1, 1, 40, 40), (1, 1, 3, 33))
    assert "border of zeros" in reason(*image, padding_value=1.0)
    assert "counted" in reason((1, 1, 1 << 20, 1 << 15), (1, 1, 3, 3), padding=1) or "positions" in reason(
        (1, 1, 1 << 20, 1 << 15), (1, 1, 3, 3), padding=1
    )
