"""Calls on NumPy arrays in parts: images of the batch, and rows of the first spatial axis."""

import dataclasses
import itertools

import numpy as np
import pytest
from problems import CASES
from support import (
    OPERATIONS,
    Engine,
    assert_close,
    compute,
    expected,
    inputs,
    makes,
    poisoned,
    reachable,
    reduction_length,
    tolerance,
)

import gpuconv
from gpuconv.backends.cuda import batches, direct, fft, gemm, launch, memory, slabs
from gpuconv.backends.cuda.batches import Cut
from gpuconv.dispatch import Call
from gpuconv.dtypes import result_dtype
from gpuconv.problem import ConvProblem

CALLS = {
    "direct": (ConvProblem.make((5, 2, 6), (3, 2, 3), padding=1), "forward"),
    "implicit_gemm": (ConvProblem.make((5, 3, 4), (2, 3, 3), stride=2), "input_gradient"),
    "stencil": (ConvProblem.make((5, 1, 4, 4), (1, 1, 3, 3), padding=1), "transposed"),
    "winograd": (ConvProblem.make((5, 1, 4, 4), (1, 1, 3, 3), padding=1), "forward"),
}


@pytest.fixture
def uploads(monkeypatch):
    sizes = []
    upload = memory._Slot.upload
    monkeypatch.setattr(memory._Slot, "upload", lambda slot, a, *more: sizes.append(a.shape) or upload(slot, a, *more))
    return sizes


def room(call, how, temporary=lambda _: 0):
    """Return the memory that parts of a size need: two of them."""
    return 2 * batches._needed(call, how, temporary)


@pytest.mark.parametrize("algorithm", CALLS)
def test_parts_of_the_batch(algorithm, monkeypatch, uploads):
    problem, operation = CALLS[algorithm]
    call = Call(problem, operation, "float32")
    rows = batches._rows(call)
    temporary = Engine("cuda", "winograd").module.temporary if algorithm == "winograd" else lambda _: 0
    monkeypatch.setenv("GPUCONV_MAX_DEVICE_MEMORY", str(room(call, Cut(2, rows), temporary)))
    monkeypatch.setattr(batches, "_ALWAYS_FITS", 0)
    bias = operation != "input_gradient"
    actual = compute(Engine("cuda", algorithm), call, "batch", bias=bias)
    limit = tolerance("float32", reduction_length(problem, operation))
    assert_close(actual, expected(call, "batch", bias=bias), limit)
    read = problem.x_shape if operation == "forward" else problem.y_shape
    assert [shape[0] for shape in uploads if shape[1:] == read[1:]] == [2, 2, 1]


ROWS = {
    "2d": (ConvProblem.make((1, 1, 17, 3), (1, 1, 3, 3), padding=1), "forward", "float32"),
    "mirror, halves": (
        ConvProblem.make((2, 2, 9), (3, 2, 3), padding=2, padding_mode="mirror"), "input_gradient", "float16"
    ),
    "stride, dilation": (
        ConvProblem.make((1, 1, 11, 3), (2, 1, 2, 2), stride=(2, 1), dilation=2, padding=1), "transposed", "float64",
    ),
    "by the weights": (ConvProblem.make((2, 1, 20), (1, 1, 3), padding=1), "weight_gradient", "float32"),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_an_image_that_is_too_large(name, monkeypatch, uploads):
    problem, operation, dtype = ROWS[name]
    call = Call(problem, operation, dtype)
    monkeypatch.setenv("GPUCONV_MAX_DEVICE_MEMORY", str(room(call, Cut(1, 2))))
    bias = operation == "transposed"
    actual = compute(Engine("cuda", "direct"), call, "rows", bias=bias, strided=True)
    limit = tolerance(dtype, reduction_length(problem, operation))
    assert_close(actual, expected(call, "rows", bias=bias), limit)
    assert len(uploads) >= 2 * len(range(0, batches._rows(call), 2))


def by_the_oracle(call, x, w, y, bias, packed=None):
    """Be an algorithm."""
    if call.operation == "forward":
        y[...] = makes(call, x, w, bias)
    elif call.operation == "weight_gradient":
        w[...] = makes(call, x, y)
    else:
        x[...] = makes(call, y, w, bias)


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize(("rows", "turn"), [(1, 0), (2, 1), (5, 2)])
def test_the_arithmetic_of_parts(rows, turn, monkeypatch):
    """The shared problems in parts, by an algorithm that is the oracle: what is wrong is the cut."""
    run, seen = batches.split(by_the_oracle), set()
    small = [case for case in CASES if case.problem().flops < 20_000 and max(case.problem().output) < 200]
    for case, operation in itertools.product(small[turn::3], OPERATIONS):
        p = case.problem()
        dtype = ("float32", "float16", "complex64", "int16")[len(seen) % 4]
        call = Call(p, operation, dtype)
        if not reachable(p, operation) or p.input_dilation[0] > 1 or min(p.batch, p.in_channels, p.out_channels) < 1:
            continue
        step = batches._step(call)
        monkeypatch.setattr(batches, "cut", lambda *_, step=step: Cut(1, rows * step))
        bias = operation in ("forward", "transposed") and len(seen) % 2 == 0
        first, second, offset = inputs(call, "parts", bias=bias)
        out, intact = poisoned(p.shapes(operation)[2], result_dtype(first.dtype), strided=len(seen) % 3 == 0)
        if operation == "forward":
            run(call, first, second, out, offset)
        elif operation == "weight_gradient":
            run(call, first, out, second, None)
        else:
            run(call, out, second, first, offset)
        intact()
        limit = tolerance(dtype, reduction_length(p, operation))
        assert_close(out, expected(call, "parts", bias=bias), limit, f"{case} {operation} {dtype}")
        seen.add((case.name, operation, p.padding_mode))
    assert {(operation, mode) for _, operation, mode in seen} >= {
        (operation, mode)
        for operation in OPERATIONS[2:]
        for mode in ("zeros", "nearest", "symmetric", "mirror", "wrap")
    }


def test_packed_weights_fit_every_part(monkeypatch):
    """Phases of a transposed convolution are packed one after the other, and a part must have the same."""
    problem = ConvProblem.make_transposed((2, 2, 7), (2, 1, 5), stride=3, padding=1)
    call = Call(problem, "transposed", "float32")
    y, w, bias = inputs(call, "packed", bias=True)
    packed = direct.pack(call, w)
    monkeypatch.setattr(batches, "cut", lambda *_: Cut(1, 6))
    x = np.full(problem.x_shape, np.nan, np.float32)
    direct.run(call, x, w, y, bias, packed)
    assert_close(x, makes(call, y, w, bias), tolerance("float32", 10))


@pytest.mark.parametrize("activation", ["", "relu"])
def test_rows_that_are_made_of_nothing_are_the_bias(activation, monkeypatch):
    problem = ConvProblem.make_transposed((1, 1, 3), (1, 2, 2), stride=4, output_padding=3)
    y, w, _ = inputs(Call(problem, "transposed", "float32"), "nothing")
    bias = np.array([-0.5, 0.25], np.float32)
    monkeypatch.setattr(batches, "cut", lambda *_: Cut(1, 4))
    x = gpuconv.conv_transpose1d(
        y, w, bias, stride=4, output_padding=3, backend="cuda", algorithm="direct", activation=activation or None
    )
    wanted = makes(Call(problem, "transposed", "float32"), y, w, bias)
    assert_close(x, np.maximum(wanted, 0) if activation else wanted, tolerance("float32", 2))
    np.testing.assert_array_equal(x[0, :, 12], [0 if activation else -0.5, 0.25])


def test_how_a_call_is_cut(monkeypatch):
    problem = ConvProblem.make((8, 1, 100), (1, 1, 3), padding=1, padding_mode="wrap")
    call = Call(problem, "forward", "float64")
    assert batches.cut(call) == Cut(8, 100)
    monkeypatch.setenv("GPUCONV_MAX_DEVICE_MEMORY", "10000")
    assert batches.cut(call) == Cut((5000 - 60) // 1600, 100)
    assert batches.cut(Call(problem, "input_gradient", "float64")) == Cut((5000 - 60) // 2416, 100)
    assert batches.cut(Call(problem, "weight_gradient", "float64")) == Cut((5000 - 60) // 1600, 100)
    assert batches.cut(call, lambda part: 100 * part.problem.batch) == Cut((5000 - 60) // 1700, 100)
    monkeypatch.setenv("GPUCONV_MAX_DEVICE_MEMORY", "1000")
    assert batches.cut(call) == Cut(1, (500 - 60 - 16) // 16)
    monkeypatch.setenv("GPUCONV_MAX_DEVICE_MEMORY", "1")
    assert batches.cut(call) == Cut(1, 1)
    monkeypatch.delenv("GPUCONV_MAX_DEVICE_MEMORY")
    monkeypatch.setattr(batches, "_ALWAYS_FITS", 0)
    monkeypatch.setattr(batches, "_PART", 3 * 1600 + 60)
    assert batches.cut(call) == Cut(3, 100)
    monkeypatch.setattr(batches, "_PART", 60 + 16 * 30)
    assert batches.cut(call) == Cut(1, 100)  # an image that is not much larger than a part
    single = dataclasses.replace(call, problem=dataclasses.replace(problem, batch=1))
    assert batches.cut(single) == Cut(1, 29)
    monkeypatch.setattr(batches, "_PART", 180)
    assert batches.cut(call) == Cut(1, 24)  # eight times what two parts share
    monkeypatch.setattr(batches, "_PART", 1 << 20)
    monkeypatch.setattr(launch, "free_memory", lambda: 6000.0)
    assert batches.cut(call) == Cut((2550 - 60) // 1600, 100)


def test_a_transposed_call_is_cut_at_multiples_of_its_stride(monkeypatch):
    call = Call(ConvProblem.make_transposed((1, 1, 100), (1, 1, 5), stride=4), "transposed", "float32")
    for memory_ in range(200, 1200, 100):
        monkeypatch.setenv("GPUCONV_MAX_DEVICE_MEMORY", str(memory_))
        how = batches.cut(call)
        assert how.rows % 4 == 0
        assert 4 <= how.rows < call.problem.spatial[0]


@pytest.mark.parametrize("operation", ["forward", "input_gradient", "weight_gradient"])
def test_volumes_past_32_bits(operation, monkeypatch):
    """A volume of 2^36 elements, in memory for a part of it: the arithmetic, without the arrays."""
    n = 4096
    problem = ConvProblem.make((1, n, n, n), (1, 1, 5, 5, 5), padding=2, stride=(1, 1, 1))
    call = Call(problem, operation, "float32")
    monkeypatch.setenv("GPUCONV_MAX_DEVICE_MEMORY", str(64 << 30))
    assert batches.cut(call) == Cut(1, 40)  # eight times the five rows that a part shares
    monkeypatch.setenv("GPUCONV_MAX_DEVICE_MEMORY", str(4 << 30))
    how = batches.cut(call)
    assert how.images == 1
    assert batches._needed(call, how, lambda _: 0) <= 2 << 30 < batches._needed(call, Cut(1, how.rows + 1), lambda _: 0)
    parts = list(batches._parts(call, how))
    assert [begin for _, _, begin, _ in parts] == list(range(0, n, how.rows))
    assert sum(end - begin for _, _, begin, end in parts) == n
    for part, _, begin, end in parts:
        assert (part.problem.spatial if operation == "input_gradient" else part.problem.output)[0] == end - begin
        assert np.prod(part.problem.x_shape, dtype=object) * 4 < 2 << 30


def test_signals_past_32_bits():
    n = (1 << 33) + 5
    problem = ConvProblem.make((1, 1, n), (1, 1, 7), padding=3, padding_mode="wrap", dilation=2)
    part, rows = slabs.forward(problem, (1 << 32) + 1, (1 << 32) + 101)
    assert (part.spatial, rows) == ((112,), slabs.Rows((1 << 32) - 2, (1 << 32) + 110))
    part, rows = slabs.forward(problem, problem.output[0] - 3, problem.output[0])
    assert rows.shown.tolist() == [*range(n - 12, n), 0, 1, 2]
    back = dataclasses.replace(problem, padding_mode="zeros")
    part, rows = slabs.adjoint(back, (1 << 32) + 1, (1 << 32) + 101)
    assert (part.output, rows) == ((112,), slabs.Rows((1 << 32) - 8, (1 << 32) + 104))


def test_a_bad_limit_is_named(monkeypatch):
    monkeypatch.setenv("GPUCONV_MAX_DEVICE_MEMORY", "4 GB")
    with pytest.raises(ValueError, match="GPUCONV_MAX_DEVICE_MEMORY='4 GB' must be a number of bytes"):
        gpuconv.conv1d(np.ones((2, 1, 4)), np.ones((1, 1, 2)), backend="cuda")


# The pipeline


def test_two_parts_are_under_way(monkeypatch):
    """A part's result is brought back when the turn after the next begins, or at the end, in the order of turns."""
    streams, events = iter("ab"), []
    monkeypatch.setattr(launch, "new_stream", lambda: next(streams))
    monkeypatch.setattr(launch, "synchronize", lambda on: events.append(f"wait {on}"))
    with memory.Pipeline() as pipeline:
        for i in range(3):
            with pipeline.turn():
                events.append(f"start {i}")
                pipeline.then(lambda i=i: events.append(f"end {i}"))
    assert events == [
        "wait a", "start 0", "wait b", "start 1", "wait a", "end 0", "start 2", "wait b", "end 1", "wait a", "end 2",
    ]  # fmt: skip


def test_page_locked_memory_is_used_again(monkeypatch):
    sizes = []
    pinned = launch.pinned
    monkeypatch.setattr(launch, "pinned", lambda size: sizes.append(size) or pinned(size))
    monkeypatch.setattr(batches, "cut", lambda *_: Cut(1, 6))
    x, w = np.arange(48, dtype=np.float32).reshape(8, 1, 6), np.ones((1, 1, 1), np.float32)
    np.testing.assert_array_equal(gpuconv.conv1d(x, w, backend="cuda", algorithm="direct"), x)
    assert len(sizes) == 6  # of two parts: x, w and y


def test_a_fault_in_a_part_ends_the_call_and_leaves_the_next_alone(monkeypatch):
    monkeypatch.setattr(batches, "cut", lambda *_: Cut(1, 6))
    x, w = np.ones((4, 1, 6), np.float32), np.ones((1, 1, 1), np.float32)
    real, calls = launch.launch, []

    def fail(*arguments, **options):
        calls.append(1)
        if len(calls) > 4:
            raise MemoryError("planted")
        real(*arguments, **options)

    monkeypatch.setattr(launch, "launch", fail)
    with pytest.raises(MemoryError, match="planted"):
        gpuconv.conv1d(x, w, backend="cuda", algorithm="direct")
    monkeypatch.setattr(launch, "launch", real)
    np.testing.assert_array_equal(gpuconv.conv1d(x, w, backend="cuda", algorithm="direct"), x)


def test_what_algorithms_take_besides_their_arrays():
    large = ConvProblem.make((2, 64, 32, 32), (64, 64, 3, 3), padding=1)
    winograd = Engine("cuda", "winograd").module
    assert winograd.temporary(Call(large, "forward", "float32")) > 4 * np.prod(large.x_shape)
    patches = ConvProblem.make((2, 3, 32, 32), (8, 3, 4, 4), stride=4)
    assert gemm.temporary(Call(patches, "forward", "float32")) == 4 * np.prod(patches.x_shape)
    pointwise = ConvProblem.make((2, 3, 32, 32), (8, 3, 1, 1))
    assert gemm.temporary(Call(pointwise, "forward", "float32")) == 0
    kernel = ConvProblem.make((1, 1, 512, 512), (1, 1, 31, 31))
    assert fft.temporary(Call(kernel, "forward", "float32")) > 4 * np.prod(kernel.x_shape)
