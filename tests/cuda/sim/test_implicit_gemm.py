"""The implicit matrix product against the oracle: partial tiles, chunks of channels, phases, both orders of reading."""

import pytest
from support import DTYPES, Engine, assert_close, compute, expected, reduction_length, tolerance

from gpuconv import tuning_cuda
from gpuconv.backends.cuda import device, implicit_gemm, launch
from gpuconv.dispatch import Call
from gpuconv.problem import ConvProblem
from gpuconv.tuning_cuda import GemmTile

GEMM = Engine("cuda", "implicit_gemm")
FORWARD = {
    "1d": ((2, 3, 7), (5, 3, 3), {"padding": 1}),
    "2d": ((2, 3, 4, 5), (9, 3, 3, 2), {"padding": 1}),
    "2d channels last": ((2, 4, 5, 3), (5, 3, 3, 2), {"padding": 1, "layout": "channels_last"}),
    "2d stride, dilation": ((1, 2, 7, 8), (3, 2, 2, 3), {"stride": (2, 3), "dilation": (3, 1), "padding": 2}),
    "2d groups": ((1, 6, 4, 4), (4, 3, 3, 3), {"groups": 2}),
    "2d mirror": ((1, 2, 3, 4), (2, 2, 3, 3), {"padding": 1, "padding_mode": "mirror"}),
    "2d wrap, cropped": ((1, 1, 6, 5), (1, 1, 3, 3), {"padding": ((-1, 2), (1, -2)), "padding_mode": "wrap"}),
    "2d constant border": ((1, 3, 3, 3), (1, 3, 3, 3), {"padding": 1, "padding_value": 2.5}),
    "3d no batch axis": ((2, 3, 3, 4), (2, 2, 2, 3, 2), {"padding": (0, 1, 1)}),
    "no input channels": ((2, 0, 5), (2, 0, 3), {}),
    "no batch": ((0, 2, 5), (1, 2, 3), {}),
}
TRANSPOSED = {
    "2d": ((1, 3, 3, 4), (3, 2, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    "1d stride over the kernel": ((1, 2, 4), (2, 1, 2), {"stride": 4, "output_padding": 3}),
    "2d groups, channels last": ((1, 2, 3, 4), (4, 3, 2, 2), {"groups": 2, "stride": 2, "layout": "channels_last"}),
}


def check(problem, operation, dtype, *, bias=False, strided=False):
    call = Call(problem, operation, dtype)
    assert GEMM.reason(call) is None
    actual = compute(GEMM, call, "product", bias=bias, strided=strided)
    wanted = expected(call, "product", bias=bias)
    assert_close(actual, wanted, tolerance(dtype, reduction_length(problem, operation)))


@pytest.mark.parametrize("name", FORWARD)
def test_forward(name):
    x_shape, w_shape, arguments = FORWARD[name]
    odd = list(FORWARD).index(name) % 2
    check(ConvProblem.make(x_shape, w_shape, **arguments), "forward", ("float32", "float64")[odd], bias=bool(odd))


@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed(name):
    y_shape, w_shape, arguments = TRANSPOSED[name]
    check(ConvProblem.make_transposed(y_shape, w_shape, **arguments), "transposed", "float32", bias=True)


def test_input_gradient():
    check(ConvProblem.make((1, 3, 5, 4), (5, 3, 3, 2), stride=2, padding=1), "input_gradient", "float32")


def test_several_fours_of_a_thread(monkeypatch):
    monkeypatch.setattr(tuning_cuda, "CUDA_SIMULATOR_GEMM_TILES", (GemmTile(16, 16, 2, 8, 8),))
    check(ConvProblem.make((1, 3, 4, 5), (18, 3, 2, 2)), "forward", "float32", bias=True)


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if not dtype.startswith("complex")])
def test_every_dtype(dtype):
    check(ConvProblem.make((1, 3, 4, 3), (3, 3, 2, 2), padding=1), "forward", dtype, bias=True, strided=True)


def test_grid_in_slices(monkeypatch):
    monkeypatch.setattr(launch, "GRID_Y", 2)
    check(ConvProblem.make((1, 3, 4), (3, 1, 2), groups=3), "forward", "float32")


def test_reasons():
    problem = ConvProblem.make((1, 2, 4, 4), (1, 2, 3, 3), padding=1, padding_mode="wrap")
    assert "complex64" in implicit_gemm.supports(Call(problem, "forward", "complex64"), device())
    assert "by the weights" in implicit_gemm.supports(Call(problem, "weight_gradient", "float32"), device())
    assert "'zeros' border only" in implicit_gemm.supports(Call(problem, "input_gradient", "float32"), device())
