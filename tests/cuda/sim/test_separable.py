"""The separable kernel against its definition: partial tiles, rows staged in parts, borders, dtypes, specials."""

import numpy as np
import pytest
from support import assert_close, poisoned, rng, tolerance

from gpuconv import reference
from gpuconv.backends.cuda import device, launch, named_device, separable
from gpuconv.dispatch import Call, choose, rows
from gpuconv.factors import Factored, Factors
from gpuconv.problem import ConvProblem

SHAPES = {
    "image": ((1, 10, 11), (3, 3), {"padding": 1}),
    "one tile": ((2, 5, 6), (2, 4), {"padding_mode": "nearest", "padding": ((1, 0), (0, 3))}),
    "one weight down": ((1, 4, 9), (1, 5), {"padding": (0, 2), "padding_mode": "mirror"}),
    "long": ((1, 12, 9), (11, 10), {"padding": (5, 4), "padding_mode": "wrap"}),
    "cropped": ((1, 9, 8), (3, 2), {"padding": ((-2, 1), (1, -1)), "padding_mode": "symmetric"}),
    "constant border": ((1, 3, 3), (3, 3), {"padding": 1, "padding_value": 2.5}),
    "no batch": ((0, 4, 4), (2, 2), {}),
}


def example(name, dtype="float64"):
    shape, kernel, arguments = SHAPES[name]
    generator = rng(name)
    vectors = tuple(generator.uniform(-1, 1, k).astype(dtype) for k in kernel)
    problem = ConvProblem.make((shape[0], 1, *shape[1:]), (1, 1, *kernel), **arguments)
    return problem, generator.uniform(-1, 1, problem.x_shape).astype(dtype), vectors


def call_of(problem, dtype="float64", terms=1, **more):
    return Call(problem, "forward", dtype, factored=Factored(terms), **more)


@pytest.mark.parametrize("name", SHAPES)
def test_against_the_product(name):
    dtype = ("float32", "float64")[list(SHAPES).index(name) % 2]
    problem, x, vectors = example(name, dtype)
    assert separable.supports(call_of(problem, dtype), device()) is None
    y, check = poisoned(problem.y_shape, dtype, strided=name == "cropped")
    separable.run(call_of(problem, dtype), x, Factors((vectors,)), y, None)
    check()
    wanted = reference.forward(problem, x, np.outer(*vectors).reshape(problem.w_shape))
    assert_close(y, wanted, tolerance(dtype, 4 * sum(problem.kernel)))


@pytest.mark.parametrize(("dtype", "sums", "result"), [
    ("uint8", "float32", "uint8"), ("uint16", "float64", "int32"), ("int16", "float32", "float64"),
    ("float16", "float32", "float16"), ("float64", "float32", "uint32"),
])  # fmt: skip
def test_other_dtypes(dtype, sums, result):
    problem = ConvProblem.make((1, 1, 6, 5), (1, 1, 3, 2), padding=1)
    x = rng(dtype).integers(0, 250 if dtype == "uint8" else 60000 if dtype == "uint16" else 99, problem.x_shape)
    y = np.zeros(problem.y_shape, result)
    factors = Factors(((np.ones(3), np.ones(2)),), (3.0, 2.0))
    separable.run(call_of(problem, dtype, sums=sums, result=result), x.astype(dtype), factors, y, None)
    exact = reference.forward(problem, x.astype(np.float64), np.ones(problem.w_shape)) / 6
    np.testing.assert_allclose(y, exact.astype(result), rtol=2.0**-10 if result == "float16" else 1e-6)


def test_specials_reach_what_their_windows_hold():
    problem, x, vectors = example("image")
    x[0, 0, 4, 5], x[0, 0, 0, 0] = np.nan, np.inf
    y = np.zeros(problem.y_shape)
    separable.run(call_of(problem), x, Factors((vectors,)), y, None)
    places = np.zeros(y.shape[2:], bool)
    places[3:6, 4:7] = places[:2, :2] = True
    np.testing.assert_array_equal(~np.isfinite(y[0, 0]), places)


def test_grid_in_slices(monkeypatch):
    monkeypatch.setattr(launch, "GRID_Y", 1)
    test_against_the_product("one tile")


def test_a_packed_filter():
    problem, x, vectors = example("image")
    first, second = np.zeros((2, *problem.y_shape))
    call, factors = call_of(problem), Factors((vectors,))
    separable.run(call, x, factors, first, None)
    separable.run(call, x, factors, second, None, separable.pack(call, factors))
    np.testing.assert_array_equal(first, second)


def test_choice():
    problem = ConvProblem.make((1, 1, 2048, 2048), (1, 1, 17, 17), padding=8)
    found = {row.algorithm: row for row in rows(call_of(problem, "float32"), "cuda", "h200")}
    assert found["separable"].seconds < 1e-3
    assert choose(call_of(problem, "float32"), "cuda") is separable
    longer = ConvProblem.make((1, 1, 2048, 2048), (1, 1, 65, 65), padding=32)
    assert separable.cost(call_of(longer, "float32"), named_device("h200")) > found["separable"].seconds


@pytest.mark.parametrize("sums", ["float32", "float64"])
def test_tiles_fit(sums):
    space = separable.space_of(sums)
    itemsize = np.dtype(sums).itemsize
    assert (space.staged + space.sums + space.weights) * itemsize + 8 * space.places <= 48 << 10
    for height in range(1, 130, 3):
        for width in range(1, 127, 5):
            tile = separable.tile_of(height, width, space)
            assert (tile.rows + height - 1) * (tile.columns | 1) <= space.sums
            assert tile.staged_rows * ((tile.columns + width - 1) | 1) <= space.staged
            assert tile.columns + width - 1 + tile.staged_rows <= space.places


def test_reasons():
    image, kernel = (1, 1, 5, 6), (1, 1, 3, 3)
    plain = ConvProblem.make(image, kernel)
    calls = {
        "not given as factors": Call(plain, "forward", "float32"),
        "only the forward": Call(plain, "input_gradient", "float32", factored=Factored()),
        "a sum of 2 products": call_of(plain, "float32", 2),
        "keep their fraction": Call(plain, "forward", "float32", factored=Factored(is_whole=True)),
        "not float16": call_of(plain, "float16"),
        "one channel": call_of(ConvProblem.make((1, 2, 5, 6), (1, 2, 3, 3)), "float32"),
        "neither strides": call_of(ConvProblem.make(image, kernel, stride=2), "float32"),
        "not turn uint64 into uint64": call_of(plain, "uint64", sums="float64", result="uint64"),
        "do not fit": call_of(ConvProblem.make((1, 1, 400, 6), (1, 1, 300, 3)), "float32"),
    }
    for reason, call in calls.items():
        assert reason in separable.supports(call, device())
