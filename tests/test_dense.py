"""Kernels as large as their maps: every operation, few and many images, strided arrays, what is chosen."""

from __future__ import annotations

import numpy as np
import pytest
from support import Engine, assert_close, compute, expected, reduction_length, tolerance

import gpuconv
from gpuconv import dispatch
from gpuconv.backends import cpu
from gpuconv.backends.cpu import dense
from gpuconv.dispatch import Call
from gpuconv.problem import ConvProblem

ENGINE = Engine("cpu", "dense")
OPERATIONS = ("forward", "transposed", "input_gradient", "weight_gradient")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("spatial", [(7,), (4, 4), (1, 1), (2, 3, 4)], ids=str)
def test_every_operation(spatial: tuple[int, ...], operation: str, dtype: str) -> None:
    for batch, channels, outputs in ((1, 5, 3), (3, 4, 40), (33, 7, 37)):
        problem = ConvProblem.make((batch, channels, *spatial), (outputs, channels, *spatial), stride=2)
        call = Call(problem, operation, dtype)
        assert dense.supports(call, cpu.device()) is None
        limit = tolerance(dtype, reduction_length(problem, operation))
        for strided in (False, True):
            bias = strided and operation in ("forward", "transposed")
            actual = compute(ENGINE, call, "dense", bias=bias, strided=strided)
            assert_close(actual, expected(call, "dense", bias=bias), limit, f"{problem} {operation}")


@pytest.mark.parametrize("count", [1, 40])
def test_plans_and_unbatched_arrays(count: int) -> None:
    generator = np.random.default_rng(0)
    x, w = generator.random((count, 6, 4, 4), np.float32), generator.random((20, 6, 4, 4), np.float32)
    wanted = np.einsum("nchw,ochw->no", x.astype("d"), w.astype("d"))
    plan = gpuconv.plan(gpuconv.conv2d, x.shape, w, algorithm="dense", backend="cpu")
    np.testing.assert_allclose(plan(x)[:, :, 0, 0], wanted, rtol=1e-5)
    np.testing.assert_allclose(gpuconv.conv2d(x[0], w, algorithm="dense")[:, 0, 0], wanted[0], rtol=1e-5)
    z = generator.random((count, 20, 1, 1), np.float32)
    unfolded = gpuconv.conv_transpose2d(z, w, algorithm="dense", backend="cpu")
    np.testing.assert_allclose(unfolded, np.einsum("no,ochw->nchw", z[:, :, 0, 0].astype("d"), w), rtol=1e-5)


def test_a_nan_stays_in_its_image() -> None:
    x, w = np.ones((40, 6, 4, 4), np.float32), np.ones((20, 6, 4, 4), np.float32)
    x[3, 2, 1, 0] = np.nan
    result = gpuconv.conv2d(x, w, algorithm="dense", backend="cpu")
    assert np.isnan(result[3]).all()
    assert np.isfinite(np.delete(result, 3, axis=0)).all()


def test_what_is_chosen() -> None:
    def chosen(x: tuple[int, ...], w: tuple[int, ...], operation: str) -> str:
        module = dispatch.choose(Call(ConvProblem.make(x, w), operation, "float32"), "cpu")
        return module.__name__.rsplit(".", 1)[1]

    assert chosen((16, 512, 4, 4), (100, 512, 4, 4), "transposed") == "dense"
    assert chosen((16, 256, 6, 6), (512, 256, 6, 6), "forward") == "dense"
    assert chosen((16, 256, 7, 7), (512, 256, 6, 6), "forward") != "dense"


@pytest.mark.parametrize(
    ("reason", "call"),
    [
        ("not int32", Call(ConvProblem.make((2, 3, 4), (5, 3, 4)), "forward", "int32")),
        ("in one group", Call(ConvProblem.make((2, 4, 4), (6, 2, 4), groups=2), "forward", "float32")),
        ("in one group", Call(ConvProblem.make((2, 4, 3), (5, 3, 4), layout="channels_last"), "forward", "float32")),
        ("not as large", Call(ConvProblem.make((2, 3, 5), (5, 3, 4)), "forward", "float32")),
        ("padding", Call(ConvProblem.make((2, 3, 4), (5, 3, 4), padding=1), "forward", "float32")),
        ("no empty arrays", Call(ConvProblem.make((0, 3, 4), (5, 3, 4)), "forward", "float32")),
    ],
)
def test_what_it_refuses(reason: str, call: Call) -> None:
    assert reason in (dense.supports(call, cpu.device()) or "")
