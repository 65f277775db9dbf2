"""Winograd's transforms and products against the oracle: borders, partial tiles, and what is not finite."""

import numpy as np
import pytest
from support import (
    Engine,
    assert_close,
    assert_same_specials,
    compute,
    expected,
    inputs,
    makes,
    reduction_length,
    tolerance,
)

import gpuconv
from gpuconv.backends.cuda import device, launch, winograd
from gpuconv.dispatch import Call
from gpuconv.problem import ConvProblem

WINOGRAD = Engine("cuda", "winograd")
FORWARD = {
    "even": ((2, 3, 6, 6), (4, 3, 3, 3), {}),
    "odd": ((1, 2, 5, 7), (3, 2, 3, 3), {"padding": 1}),
    "channels last": ((1, 5, 4, 3), (5, 3, 3, 3), {"padding": (1, 2), "layout": "channels_last"}),
    "mirror": ((1, 2, 3, 4), (2, 2, 3, 3), {"padding": 1, "padding_mode": "mirror"}),
    "wrap, cropped": ((1, 1, 6, 5), (1, 1, 3, 3), {"padding": ((-1, 2), (1, -2)), "padding_mode": "wrap"}),
    "constant border": ((1, 2, 3, 3), (1, 2, 3, 3), {"padding": 1, "padding_value": 2.5}),
    "no batch axis": ((2, 4, 4), (1, 2, 3, 3), {"padding": 2}),
    "no input channels": ((1, 0, 4, 4), (2, 0, 3, 3), {}),
    "no batch": ((0, 2, 4, 4), (2, 2, 3, 3), {}),
}


@pytest.fixture
def large(monkeypatch):
    """Force tiles of 4x4 outputs, on few channels too."""
    monkeypatch.setattr(winograd, "_SIZES", {"float32": (4,)})
    monkeypatch.setattr(winograd, "_LARGE_CHANNELS", 0)
    winograd.size_of.cache_clear()
    yield
    winograd.size_of.cache_clear()


def check(problem, operation, dtype, *, bias=False, strided=False, wider=1):
    call = Call(problem, operation, dtype)
    assert WINOGRAD.reason(call) is None
    actual = compute(WINOGRAD, call, "winograd", bias=bias, strided=strided)
    wanted = expected(call, "winograd", bias=bias)
    assert_close(actual, wanted, tolerance(dtype, wider * reduction_length(problem, operation)))


@pytest.mark.parametrize("name", FORWARD)
def test_forward(name):
    x_shape, w_shape, arguments = FORWARD[name]
    odd = list(FORWARD).index(name) % 2
    check(ConvProblem.make(x_shape, w_shape, **arguments), "forward", ("float32", "float64")[odd], bias=bool(odd))


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("name", FORWARD)
def test_forward_by_large_tiles(name):
    """Few channels have larger errors than the many that these tiles are taken for: the tolerance is twice as wide."""
    x_shape, w_shape, arguments = FORWARD[name]
    problem = ConvProblem.make(x_shape, w_shape, **arguments)
    assert winograd.size_of(Call(problem, "forward", "float32")) == 4
    check(problem, "forward", "float32", bias=list(FORWARD).index(name) % 2 == 0, strided=True, wider=2)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("operation", ["transposed", "input_gradient"])
def test_adjoints_by_large_tiles(operation):
    check(ConvProblem.make((1, 2, 5, 7), (3, 2, 3, 3), padding=1), operation, "float32", bias=True, wider=2)


@pytest.mark.usefixtures("large")
def test_the_error_of_large_tiles_is_within_its_bound():
    call = Call(ConvProblem.make((1, 64, 6, 6), (4, 64, 3, 3)), "forward", "float32")
    actual, wanted = compute(WINOGRAD, call, "bound"), expected(call, "bound")
    x, w, _ = (None if a is None else a.astype(np.float64) for a in inputs(call, "bound"))
    exact = makes(call, x, w)
    assert np.linalg.norm(actual - exact) < 1e-6 * np.linalg.norm(exact)
    assert_close(actual, wanted, tolerance("float32", 576))


def test_the_size_of_tiles_is_chosen_by_cost():
    def size(channels, outputs, pixels, dtype="float32"):
        shapes = (64, channels, pixels, pixels), (outputs, channels, 3, 3)
        return winograd.size_of(Call(ConvProblem.make(*shapes, padding=1), "forward", dtype))

    assert size(256, 256, 56) == 4
    assert size(256, 256, 56, "float16") == 2
    assert size(31, 256, 56) == 2  # on few channels the error is larger
    assert size(256, 256, 2) == 2  # a tile of 4x4 would be mostly idle


@pytest.mark.parametrize("operation", ["transposed", "input_gradient"])
def test_adjoints(operation):
    check(ConvProblem.make((1, 2, 5, 4), (3, 2, 3, 3), padding=1), operation, "float32", bias=True)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype):
    check(ConvProblem.make((1, 2, 4, 4), (2, 2, 3, 3), padding=1), "forward", dtype, bias=True, strided=True)


@pytest.mark.filterwarnings("ignore:invalid value encountered", "ignore:overflow encountered")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("size", [2, 4])
def test_what_is_not_finite_stays_in_its_receptive_field(bad, size, request):
    if size == 4:
        request.getfixturevalue("large")
    call = Call(ConvProblem.make((1, 2, 6, 7), (2, 2, 3, 3), padding=1), "forward", "float32")
    x, w, _ = inputs(call, "bad")
    x[0, 1, 2, 3] = bad
    w[...] = np.abs(w) + np.float32(0.5)
    y = np.zeros(call.problem.y_shape, np.float32)
    WINOGRAD.write(call, x, w, y)
    with np.errstate(all="ignore"):
        wanted = makes(call, x, w)
    assert_same_specials(y, wanted, "winograd")
    near = np.isfinite(wanted) & (np.abs(wanted) < 1e3)
    np.testing.assert_allclose(y[near], wanted[near], rtol=1e-5, atol=1e-5)


def test_a_plan_keeps_the_transformed_weights(monkeypatch):
    call = Call(ConvProblem.make((1, 2, 4, 5), (3, 2, 3, 3)), "forward", "float32")
    x, w, _ = inputs(call, "plan")
    plan = gpuconv.plan(gpuconv.conv2d, x.shape, w, backend="cuda", algorithm="winograd")
    monkeypatch.setattr(winograd, "_packed", None)
    assert_close(plan(x), makes(call, x, w), tolerance("float32", 40))


def test_grid_in_slices(monkeypatch):
    monkeypatch.setattr(launch, "GRID_Y", 2)
    check(ConvProblem.make((1, 3, 4, 4), (3, 3, 3, 3)), "forward", "float32")


REASONS = {
    "3x3, 1 and 1": ((1, 1, 4, 4), (1, 1, 3, 2), {}, "forward", "float32", "high"),
    "groups=2": ((1, 2, 4, 4), (2, 1, 3, 3), {"groups": 2}, "forward", "float32", "high"),
    "complex64": ((1, 2, 4, 4), (2, 2, 3, 3), {}, "forward", "complex64", "high"),
    "no transforms": ((1, 2, 4, 4), (2, 2, 3, 3), {}, "forward", "float32", "highest"),
    "by the weights": ((1, 2, 4, 4), (2, 2, 3, 3), {}, "weight_gradient", "float32", "high"),
    "transformed arrays of": ((9, 64, 900, 900), (64, 64, 3, 3), {}, "forward", "float32", "high"),
    "border only": ((1, 2, 4, 4), (2, 2, 3, 3), {"padding_mode": "edge"}, "input_gradient", "float32", "high"),
}


@pytest.mark.parametrize("reason", REASONS)
def test_reasons(reason):
    x, w, arguments, *rest = REASONS[reason]
    assert reason in winograd.supports(Call(ConvProblem.make(x, w, **arguments), *rest), device())
