"""The implicit GEMM's kernels, built for the host, against the oracle."""

import dataclasses
import mmap
import zlib

import numpy as np
import pytest
from problems import AWKWARD, CASES, EVERY_DTYPE
from support import (
    OPERATIONS,
    assert_activated,
    assert_close,
    assert_same_specials,
    inputs,
    makes,
    poisoned,
    random_array,
    reachable,
    reduction_length,
    rng,
    tolerance,
)

from gpuconv.backends import cuda
from gpuconv.backends.cuda import Device, implicit_gemm_mma, raw_loader
from gpuconv.backends.cuda import implicit_gemm_mma_geometry as geometry
from gpuconv.dispatch import Call
from gpuconv.dtypes import result_dtype
from gpuconv.problem import ConvProblem

GPU = Device("a GPU", (9, 0), 1, simulated=False, flops=5e11, bandwidth=4e12, cupy=True)
DTYPES = ("float16", "bfloat16", "float32", "int8", "uint8")
LARGEST = 200_000
"""Operations of a problem that the emulation is given: it does about a million a second."""


@pytest.fixture(autouse=True)
def cupy_pretended(monkeypatch):
    monkeypatch.setattr(raw_loader, "unavailable", lambda: None)


def takes(call):
    return call.problem.flops <= LARGEST and implicit_gemm_mma.supports(call, GPU) is None


def write(runtime, call, first, second, out, bias=None):
    if call.operation == "forward":
        implicit_gemm_mma.compute(runtime, call, first, second, out, bias)
    elif call.operation == "weight_gradient":
        implicit_gemm_mma.compute(runtime, call, first, out, second, bias)
    else:
        implicit_gemm_mma.compute(runtime, call, out, second, first, bias)


def limits(call):
    """Return the tolerance; one TF32 product keeps 11 bits of each factor, each within 1."""
    relative, absolute = tolerance(call.dtype, reduction_length(call.problem, call.operation))
    if call.dtype == "float32" and call.precision == "tf32":
        absolute += 2.0**-10 * reduction_length(call.problem, call.operation)
    return relative, absolute


def check(runtime, call, seed, *, bias=False, strided=False):
    first, second, offset = inputs(call, seed, bias=bias)
    wanted = makes(call, first, second, offset)
    out, intact = poisoned(wanted.shape, result_dtype(first.dtype), strided=strided)
    write(runtime, call, first, second, out, offset)
    intact()
    assert_close(out, wanted, limits(call), f"{call}")


def calls(cases, operation, dtypes):
    for case in cases:
        problem = case.problem()
        if reachable(problem, operation):
            for dtype in dtypes(case):
                precision = "tf32" if zlib.crc32(case.name.encode()) % 4 == 0 else "high"
                call = Call(problem, operation, dtype, precision)
                if takes(call):
                    yield case, call


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_share_of_every_problem(runtime, operation):
    """Half of the problems in the forward operation and a fifth in each other, in a dtype by the problem's name."""

    def one_dtype(case):
        number = zlib.crc32(f"{case} {operation}".encode()) >> 8
        chosen = number % (2 if operation == "forward" else 5) == 0
        return (DTYPES[number // 10 % len(DTYPES)],) * chosen

    for i, (case, call) in enumerate(calls(CASES, operation, one_dtype)):
        runtime.backwards = i % 2 == 1
        check(runtime, call, case.name, bias=i % 3 == 0, strided=i % 5 == 0)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_dtype(runtime, operation):
    for i, (case, call) in enumerate(calls(EVERY_DTYPE[::2], operation, lambda case: DTYPES)):
        check(runtime, call, case.name, bias=i % 2 == 0)


# Shapes that reach what the list's small problems do not: several tiles on each side, more steps of the sum than the
# pipeline has stages, channels that fill chunks and such that do not, groups, and splits.
LARGER = {
    "pipeline": ((1, 5, 6, 160), (8, 160, 3, 3), {"padding": 1}),
    "two tiles of rows and columns": ((2, 9, 9, 16), (136, 16, 1, 1), {}),
    "odd outputs": ((1, 9, 9, 16), (33, 16, 3, 3), {"stride": 2}),
    "channels not whole chunks": ((1, 7, 7, 19), (10, 19, 3, 3), {"padding": 1, "padding_mode": "wrap"}),
    "groups": ((2, 6, 6, 96), (24, 32, 3, 3), {"groups": 3, "padding": 2, "dilation": 2}),
    "volume": ((1, 3, 5, 6, 16), (6, 16, 2, 3, 3), {"padding": 1, "padding_mode": "mirror"}),
    "positions": ((1, 40, 30, 16), (16, 16, 2, 2), {"padding": 1}),
    "signal": ((2, 70, 32), (20, 32, 7), {"stride": 3, "padding": 4}),
}
PRECISIONS = (*((dtype, "high") for dtype in DTYPES), ("float32", "tf32"))


def larger(name, layout, operation, dtype, precision):
    x_shape, w_shape, keywords = LARGER[name]
    if operation == "input_gradient":
        keywords = {**keywords, "padding_mode": "zeros"}
    if layout == "channels_first":
        x_shape = (x_shape[0], x_shape[-1], *x_shape[1:-1])
    return Call(ConvProblem.make(x_shape, w_shape, layout=layout, **keywords), operation, dtype, precision)


@pytest.mark.parametrize("name", LARGER)
@pytest.mark.parametrize(("dtype", "precision"), PRECISIONS)
def test_larger_problems(runtime, name, dtype, precision):
    for layout in ("channels_last", "channels_first"):
        for operation in ("forward", "input_gradient", "weight_gradient"):
            call = larger(name, layout, operation, dtype, precision)
            runtime.backwards = layout == "channels_first"
            check(runtime, call, name, bias=operation == "forward")


@pytest.mark.parametrize(("dtype", "precision"), PRECISIONS)
def test_split_sums(runtime, dtype, precision):
    runtime.multiprocessors = 20
    for layout in ("channels_last", "channels_first"):
        for name, operation in (("pipeline", "forward"), ("positions", "weight_gradient")):
            call = larger(name, layout, operation, dtype, precision)
            check(runtime, call, "splits", bias=operation == "forward")
            (_, grid), (name, _) = runtime.launched
            assert grid[2] > 1
            assert name.endswith("add_splits")
            runtime.launched.clear()


@pytest.mark.parametrize(("name", "operation"), [("pipeline", "forward"), ("groups", "transposed")])
def test_stated_workspace_is_what_is_taken(runtime, name, operation, monkeypatch):
    call = dataclasses.replace(larger(name, "channels_last", "forward", "float16", "high"), operation=operation)
    first, w, _ = inputs(call, "workspace")
    runtime.multiprocessors, empty, taken = 20, runtime.empty, []
    monkeypatch.setattr(cuda, "device", lambda: GPU._replace(multiprocessors=20))
    monkeypatch.setattr(runtime, "empty", lambda size, kind: taken.append(size * kind.itemsize) or empty(size, kind))
    packed = implicit_gemm_mma.packed_for(runtime, call, w)
    out = np.zeros(call.problem.shapes(operation)[2], np.float16)
    arrays = (first, w, out) if operation == "forward" else (out, w, first)
    implicit_gemm_mma.compute(runtime, call, *arrays, None, packed)
    assert packed.nbytes + max(taken[1:], default=0) == implicit_gemm_mma.workspace(call)


def test_more_groups_than_a_grid_has_rows(runtime, monkeypatch):
    monkeypatch.setattr(implicit_gemm_mma, "_GRID_Y", 2)
    call = larger("groups", "channels_last", "forward", "float16", "high")
    check(runtime, call, "groups", bias=True)
    assert [grid[1] for _, grid in runtime.launched] == [2, 1]


ACTIVATED = {"gelu": "float16", "relu": "bfloat16", "gelu_tanh": "float32", "silu": "float32"}


@pytest.mark.parametrize("name", ACTIVATED)
@pytest.mark.parametrize("problem", ["odd outputs", "pipeline"])
def test_activations_are_fused(runtime, name, problem):
    """After the bias, in the sums' precision, and where the sum is split in the second pass."""
    dtype = ACTIVATED[name]
    layout = "channels_first" if dtype == "float32" else "channels_last"
    plain = larger(problem, layout, "forward", dtype, "tf32" if name == "gelu_tanh" else "high")
    call = dataclasses.replace(plain, activation=name)
    x, w, bias = inputs(call, name, bias=True)
    out = np.full(call.problem.y_shape, np.nan).astype(x.dtype)
    implicit_gemm_mma.compute(runtime, call, x, w, out, bias)
    wide = [a.astype(np.float64) for a in (x, w, bias)]
    assert_activated(out, makes(dataclasses.replace(plain, dtype="float64"), *wide), name, limits(call))
    assert name in runtime.launched[-1][0]
    assert runtime.launched[-1][0].endswith("add_splits") == (problem == "pipeline")


def test_the_memory_s_layout_chooses_the_way_of_reading(runtime):
    call = larger("pipeline", "channels_first", "forward", "float16", "high")
    x, w, bias = inputs(call, "memory", bias=True)
    wanted = makes(call, x, w, bias)
    last = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    out = np.moveaxis(np.zeros((*wanted.shape[:1], *wanted.shape[2:], wanted.shape[1]), wanted.dtype), -1, 1)
    for source, how in ((x, "gather"), (np.moveaxis(last, -1, 1), "vector")):
        out[...] = 0
        implicit_gemm_mma.compute(runtime, call, source, w, out, bias)
        assert_close(out, wanted, limits(call))
        assert how in runtime.launched.pop()[0]
    misaligned = np.zeros(last.size + 1, last.dtype)[1:].reshape(last.shape)
    misaligned[...] = last
    implicit_gemm_mma.compute(runtime, call, np.moveaxis(misaligned, -1, 1), w, out, bias)
    assert_close(out, wanted, limits(call))
    assert "gather" in runtime.launched.pop()[0]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("precision", ["high", "tf32"])
def test_not_a_number_and_infinity_stay_in_their_receptive_fields(runtime, operation, precision):
    for i, case in enumerate((*EVERY_DTYPE, *AWKWARD)):
        problem = case.problem()
        for dtype in ("float32",) if i % 2 or precision == "tf32" else ("float16", "bfloat16"):
            call = Call(problem, operation, dtype, precision)
            if not (case.public and reachable(problem, operation) and takes(call)):
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
                out = np.zeros(wanted.shape, a.dtype)
                write(runtime, call, a, b, out)
            assert_same_specials(out, wanted, f"{case} {dtype}")


@pytest.mark.parametrize("precision", ["high", "tf32"])
def test_the_largest_floats_stay_finite(runtime, precision):
    call = Call(ConvProblem.make((1, 4, 8), (3, 4, 1)), "forward", "float32", precision)
    x = np.zeros((1, 4, 8), np.float32)
    x[0, 1] = np.finfo(np.float32).max
    w = np.full((3, 4, 1), 0.5, np.float32)
    out = np.zeros((1, 3, 8), np.float32)
    implicit_gemm_mma.compute(runtime, call, x, w, out, None)
    assert np.all(np.abs(out / (x[0, 1, 0] * 0.5) - 1) < 2.0**-9)


@pytest.mark.parametrize("bits", [0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7FC00000])
@pytest.mark.parametrize("precision", ["high", "tf32"])
def test_every_kind_of_nan_stays_one(runtime, precision, bits):
    call = Call(ConvProblem.make((1, 8, 4), (8, 4, 1), layout="channels_last"), "forward", "float32", precision)
    x, w = np.ones((1, 8, 4), np.float32), np.ones((8, 4, 1), np.float32)
    for array, place in ((x, (0, 3, 1)), (w, (5, 2, 0))):
        kept = array[place]
        array.view(np.uint32)[place] = bits
        out = np.zeros((1, 8, 8), np.float32)
        implicit_gemm_mma.compute(runtime, call, x, w, out, None)
        wanted = np.full(out.shape, False)
        wanted[(0, 3) if array is x else (0, slice(None), 5)] = True
        np.testing.assert_array_equal(np.isnan(out), wanted)
        array[place] = kept


def test_high_precision_is_near_float32(runtime):
    """Three products keep about 21 bits of each factor: float32's own rounding of the sum is more than they lose."""
    errors = {}
    for precision in ("high", "tf32"):
        call = Call(ConvProblem.make((1, 64, 20), (16, 64, 3)), "forward", "float32", precision)
        x, w, _ = inputs(call, "near")
        out = np.zeros(call.problem.y_shape, np.float32)
        implicit_gemm_mma.compute(runtime, call, x, w, out, None)
        exact = makes(Call(call.problem, "forward", "float64"), x.astype(np.float64), w.astype(np.float64))
        errors[precision] = np.abs(out - exact).max()
    assert errors["high"] < errors["tf32"] / 50


def test_offsets_beyond_32_bits(runtime):
    """Most of the 2.7 GB is never touched, and so takes no memory."""
    x, w = np.frombuffer(mmap.mmap(-1, 5 << 29), np.uint8).reshape(5, 1, 1 << 29), np.full((1, 1, 1), 2, np.uint8)
    x[4, 0, 1 << 28] = 3
    call = Call(ConvProblem.make(x.shape, w.shape, stride=1 << 28), "forward", "uint8")
    out = np.zeros(call.problem.y_shape, np.int32)
    implicit_gemm_mma.compute(runtime, call, x, w, out, None)
    assert out[4, 0, 1] == 6
    assert out.sum() == 6
    dw, dy = np.zeros((1, 1, 1), np.int32), np.ones(call.problem.y_shape, np.uint8)
    gradient = Call(call.problem, "weight_gradient", "uint8")
    implicit_gemm_mma.compute(runtime, gradient, x, dw, dy, None)
    assert dw.item() == 3


def test_the_struct_has_a_member_for_each_field(runtime):
    assert runtime.size_of_problem() == 8 * len(geometry.FIELDS)
