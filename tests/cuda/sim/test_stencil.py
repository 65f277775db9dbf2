"""The stencil kernel against the oracle: partial tiles, every border, windows in registers and in shared memory."""

import numpy as np
import pytest
from support import DTYPES, Engine, assert_close, compute, expected, reduction_length, rng, tolerance

from gpuconv import reference
from gpuconv.backends.cuda import device, launch, stencil
from gpuconv.dispatch import Call
from gpuconv.problem import ConvProblem

STENCIL = Engine("cuda", "stencil")
FORWARD = {
    "image": ((1, 9, 10), (1, 1, 3, 3), {"padding": 1}),
    "one tile": ((1, 1, 4, 4), (1, 1, 1, 1), {}),
    "one row of the window": ((2, 1, 5, 9), (1, 1, 1, 4), {"padding": (0, 2), "padding_mode": "nearest"}),
    "one column of the window": ((1, 1, 7, 3), (1, 1, 3, 1), {"padding": (2, 0), "padding_mode": "symmetric"}),
    "image in channels last": ((1, 6, 5, 1), (1, 1, 3, 2), {"padding": 1, "layout": "channels_last"}),
    "mirror, wider than x": ((1, 1, 2, 3), (1, 1, 3, 3), {"padding": (3, 4), "padding_mode": "mirror"}),
    "wrap, cropped": ((1, 1, 6, 7), (1, 1, 3, 3), {"padding": ((-1, 2), (1, -2)), "padding_mode": "wrap"}),
    "constant border": ((1, 1, 3, 3), (1, 1, 3, 3), {"padding": 1, "padding_value": 2.5}),
    "depthwise": ((2, 3, 4, 5), (3, 1, 3, 3), {"groups": 3, "padding": "same"}),
    "depthwise, two outputs each": ((1, 3, 4, 5), (6, 1, 2, 3), {"groups": 3, "padding": "causal"}),
    "too large for registers": ((1, 1, 9, 8), (1, 1, 8, 7), {"padding": 1}),
    "tall": ((1, 1, 12, 4), (1, 1, 9, 2), {"padding": (1, 0)}),
    "no batch": ((0, 1, 4, 4), (1, 1, 2, 2), {}),
}


def check(problem, operation, dtype, *, bias=False, strided=False):
    call = Call(problem, operation, dtype)
    assert STENCIL.reason(call) is None
    actual = compute(STENCIL, call, "stencil", bias=bias, strided=strided)
    assert_close(
        actual, expected(call, "stencil", bias=bias), tolerance(dtype, reduction_length(problem, operation))
    )  # fmt: skip


@pytest.mark.parametrize("name", FORWARD)
def test_forward(name):
    x_shape, w_shape, arguments = FORWARD[name]
    odd = list(FORWARD).index(name) % 2
    check(ConvProblem.make(x_shape, w_shape, **arguments), "forward", ("float32", "float64")[odd], bias=bool(odd))


@pytest.mark.parametrize("operation", ["transposed", "input_gradient"])
@pytest.mark.parametrize("w_shape", [(3, 1, 3, 2), (3, 1, 2, 4)])
def test_adjoints(operation, w_shape):
    check(ConvProblem.make((2, 3, 5, 6), w_shape, groups=3, padding=1), operation, "float32")


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if not dtype.startswith("complex")])
def test_every_dtype(dtype):
    check(ConvProblem.make((1, 2, 4, 5), (2, 1, 3, 3), groups=2, padding=1), "forward", dtype, bias=True, strided=True)


@pytest.mark.parametrize("algorithm", ["direct", "stencil"])
@pytest.mark.parametrize(("dtype", "sums", "result"), [
    ("uint8", "float32", "uint8"), ("uint16", "float64", "int32"), ("float16", "float32", "float16"),
    ("float64", "float32", "uint16"),
])  # fmt: skip
def test_images_under_weights_of_floats(algorithm, dtype, sums, result):
    problem = ConvProblem.make((1, 1, 4, 5), (1, 1, 3, 2), padding=1)
    call = Call(problem, "forward", dtype, sums=sums, result=result)
    engine = Engine("cuda", algorithm)
    assert engine.reason(call) is None
    x = rng(dtype).integers(0, 250 if dtype == "uint8" else 9000, problem.x_shape).astype(dtype)
    w = np.array([[0.5, 1], [0.25, 0], [2, 0.5]], sums).reshape(problem.w_shape)
    y = np.zeros(problem.y_shape, result)
    engine.module.run(call, x, w, y, None)
    exact = reference.forward(problem, x.astype(np.float64), w.astype(np.float64))
    np.testing.assert_allclose(
        y, exact.astype(np.int64).astype(result) if result != "float16" else exact, rtol=2.0**-10
    )


def test_dtypes_that_are_not_served():
    problem = ConvProblem.make((1, 1, 4, 4), (1, 1, 3, 3))
    into_uint64 = Call(problem, "forward", "uint64", sums="float64", result="uint64")
    assert "into uint64" in STENCIL.reason(into_uint64)
    assert "does not sum" in STENCIL.reason(Call(problem, "forward", "uint8", sums="int32", result="int32"))


def test_grid_in_slices(monkeypatch):
    monkeypatch.setattr(launch, "GRID_Y", 2)
    check(ConvProblem.make((1, 3, 4, 4), (3, 1, 2, 2), groups=3), "forward", "float32")


REASONS = {
    "2-d problems": ((1, 1, 4), (1, 1, 3), {}),
    "takes 1 only": ((1, 1, 4, 4), (1, 1, 3, 3), {"stride": 2}),
    "input channels of a group": ((1, 4, 4, 4), (2, 2, 3, 3), {"groups": 2}),
    "takes planes": ((1, 4, 4, 2), (2, 1, 3, 3), {"groups": 2, "layout": "channels_last"}),
    "a window of": ((1, 1, 40, 4), (1, 1, 33, 3), {}),
    "'zeros' border only": ((1, 1, 4, 4), (1, 1, 3, 3), {"padding": 1, "padding_mode": "wrap"}),
}


@pytest.mark.parametrize("reason", REASONS)
def test_reasons(reason):
    x_shape, w_shape, arguments = REASONS[reason]
    operation = "input_gradient" if "border" in reason else "forward"
    assert reason in stencil.supports(
        Call(ConvProblem.make(x_shape, w_shape, **arguments), operation, "float32"), device()
    )


def test_reasons_of_the_call():
    problem = ConvProblem.make((1, 1, 4, 4), (1, 1, 3, 3))
    assert "complex64" in stencil.supports(Call(problem, "forward", "complex64"), device())
    assert "gradient by the weights" in stencil.supports(Call(problem, "weight_gradient", "float32"), device())


@pytest.mark.parametrize("itemsize", [4, 8])
def test_tiles_fit_in_shared_memory(itemsize):
    for height in range(1, 33):
        for width in range(1, 33):
            strips = stencil.strips_of(height, width, itemsize)
            halo = (strips.tile_rows + height - 1) * (strips.tile_columns + width - 1)
            tables = strips.tile_rows + height + strips.tile_columns + width
            assert (halo + height * width) * itemsize + 8 * tables <= 48 << 10
