"""Gradients: the adjoint identity for every problem, finite differences, complex and integer data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpuconv
from gpuconv.dispatch import Call
from problems import CASES, EVERY_DTYPE, Case
from support import assert_close, makes, random_array, reduction_length, rng, tolerance

PUBLIC = [case for case in CASES if not case.transposed and case.public and case.kind != "network"]
FORWARD = [case for case in PUBLIC if "padding_value" not in case.keywords]


def functions(case: Case) -> tuple[Any, Any, Any]:
    name = f"conv{case.rank}d"
    return getattr(gpuconv, name), getattr(gpuconv.grad, f"{name}_input"), getattr(gpuconv.grad, f"{name}_weight")


def inner(a: np.ndarray, b: np.ndarray) -> complex:
    """Return <a, b>, conjugating the first."""
    return complex(np.vdot(a, b))


@pytest.mark.parametrize("case", FORWARD, ids=str)
def test_gradients_are_adjoints(case: Case) -> None:
    """<dy, conv(x, w)> = <dx(dy), x> = <dw(dy), w>, complex, so that a missing conjugate shows."""
    conv, by_input, by_weight = functions(case)
    generator = rng(case.name)
    x, w = (random_array(shape, "complex128", generator) for shape in (case.x_shape, case.w_shape))
    y = conv(x, w, **case.keywords)
    dy = random_array(y.shape, "complex128", generator)
    dx, dw = by_input(x.shape, w, dy, **case.keywords), by_weight(x, w.shape, dy, **case.keywords)
    assert dx.shape == x.shape
    assert dw.shape == w.shape
    value = inner(dy, y)
    terms = max(case.problem().flops, 1)
    limit = 1e-15 * (terms + 4)
    assert abs(inner(dx, x) - value) <= limit
    assert abs(inner(dw, w) - value) <= limit


@pytest.mark.parametrize("case", [c for c in CASES if c.transposed], ids=str)
def test_transposed_is_the_transpose(case: Case) -> None:
    """<Cx, y> = <x, C'y> for real data, where C' is conv_transpose of the same arguments."""
    problem = case.problem()
    generator = rng(case.name)
    x, y = random_array(problem.x_shape, "float64", generator), random_array(problem.y_shape, "float64", generator)
    w = random_array(problem.w_shape, "float64", generator)
    back = getattr(gpuconv, case.function)(y, w, **case.keywords)
    keywords = {"padding": problem.padding, "stride": problem.stride, "dilation": problem.dilation}
    forward = getattr(gpuconv, f"conv{case.rank}d")(x, w, **keywords, groups=problem.groups, layout=problem.layout)
    assert back.shape == x.shape
    assert forward.shape == y.shape
    assert abs(inner(forward, y) - inner(x, back)) <= 1e-15 * (problem.flops + 4)


@pytest.mark.parametrize("mode", ["zeros", "nearest", "symmetric", "mirror", "wrap"])
@pytest.mark.parametrize("padding", [2, ((5, 1),), ((-2, 9),), "same", "same_lower", "causal"])
def test_gradients_are_finite_differences(mode: str, padding: Any) -> None:
    """The map is linear in x and in w, so a difference of any size is exact: the gradient needs no oracle."""
    x, w = np.arange(10.0).reshape(1, 2, 5) - 3, np.arange(12.0).reshape(2, 2, 3) - 5
    keywords = {"padding": padding, "padding_mode": mode, "stride": 2}
    y = gpuconv.conv1d(x, w, **keywords)
    dy = np.arange(float(y.size)).reshape(y.shape) + 1
    slopes = []
    for array in (x, w):
        slope = np.zeros_like(array)
        for place in np.ndindex(array.shape):
            array[place] += 1
            slope[place] = np.sum(dy * (gpuconv.conv1d(x, w, **keywords) - y))
            array[place] -= 1
        slopes.append(slope)
    np.testing.assert_array_equal(gpuconv.grad.conv1d_input(x.shape, w, dy, **keywords), slopes[0])
    np.testing.assert_array_equal(gpuconv.grad.conv1d_weight(x, w.shape, dy, **keywords), slopes[1])


@pytest.mark.parametrize("case", [c for c in EVERY_DTYPE if not c.transposed], ids=str)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64", "int8", "uint8", "int16", "uint64"])
def test_dtypes_through_the_public_functions(case: Case, dtype: str) -> None:
    """The result has the dtype of dy, int32 for 8-bit integers, and integers wrap around."""
    _, by_input, by_weight = functions(case)
    generator, problem = rng(f"{case} {dtype}"), case.problem()
    x, w, dy = (random_array(s, dtype, generator) for s in (problem.x_shape, problem.w_shape, problem.y_shape))
    for operation, pair, result in (
        ("input_gradient", (dy, w), by_input(x.shape, w, dy, **case.keywords)),
        ("weight_gradient", (x, dy), by_weight(x, w.shape, dy, **case.keywords)),
    ):
        assert result.dtype == (np.int32 if dtype in ("int8", "uint8") else x.dtype)
        call = Call(problem, operation, dtype)
        assert_close(result, makes(call, *pair), tolerance(dtype, reduction_length(problem, operation)), operation)


def test_complex_gradients_follow_torch(torch: Any) -> None:
    generator = np.random.default_rng(0)
    x, w = random_array((2, 4, 7, 6), "complex128", generator), random_array((6, 2, 3, 2), "complex128", generator)
    keywords: dict[str, Any] = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2}
    a, b = torch.from_numpy(x).requires_grad_(), torch.from_numpy(w).requires_grad_()
    y = torch.nn.functional.conv2d(a, b, **keywords)
    dy = random_array(tuple(y.shape), "complex128", generator)
    y.backward(torch.from_numpy(dy))
    np.testing.assert_allclose(
        gpuconv.grad.conv2d_input(x.shape, w, dy, **keywords), a.grad.numpy(), rtol=0, atol=1e-13
    )
    np.testing.assert_allclose(
        gpuconv.grad.conv2d_weight(x, w.shape, dy, **keywords), b.grad.numpy(), rtol=0, atol=1e-13
    )


def test_x_of_every_size_that_gives_the_same_output() -> None:
    """A stride leaves inputs over that no window reads: their gradient is zero, and x_shape says how many."""
    w, dy = np.ones((1, 1, 2)), np.ones((1, 3))
    for n in (8, 9, 10):
        dx = gpuconv.grad.conv1d_input((1, n), w, dy, stride=3)
        np.testing.assert_array_equal(dx, [[1, 1, 0, 1, 1, 0, 1, 1, 0, 0][:n]])


@pytest.mark.parametrize("shape", [(1, 4), (1, 2, 4), (2, 3)])
def test_dy_of_a_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(gpuconv.ShapeError, match=r"dy has shape .*gives \(1, 3\)"):
        gpuconv.grad.conv1d_input((1, 5), np.ones((1, 1, 3)), np.ones(shape))
    with pytest.raises(gpuconv.ShapeError, match=r"dy has shape .*gives \(1, 3\)"):
        gpuconv.grad.conv1d_weight(np.ones((1, 5)), (1, 1, 3), np.ones(shape))


def test_names_in_messages_are_the_callers() -> None:
    with pytest.raises(gpuconv.DtypeError, match="dy has dtype float32 and w has dtype float64"):
        gpuconv.grad.conv1d_input((1, 5), np.ones((1, 1, 3)), np.ones((1, 3), np.float32))
    with pytest.raises(gpuconv.DtypeError, match="x has dtype float64 and dy has dtype float32"):
        gpuconv.grad.conv1d_weight(np.ones((1, 5)), (1, 1, 3), np.ones((1, 3), np.float32))


def test_shapes_may_be_lists_and_arrays() -> None:
    w, dy = np.ones((1, 1, 2)), np.ones((1, 3))
    for shape in ([1, 4], np.array([1, 4]), (np.int64(1), np.int32(4))):
        np.testing.assert_array_equal(gpuconv.grad.conv1d_input(shape, w, dy), [[1, 2, 2, 1]])
    np.testing.assert_array_equal(gpuconv.grad.conv1d_weight(np.ones((1, 4)), [1, 1, 2], dy), [[[3, 3]]])
    with pytest.raises(gpuconv.ShapeError, match="the shape of x is 4"):
        gpuconv.grad.conv1d_input(4, w, dy)
