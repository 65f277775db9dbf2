"""The direct kernels against the oracle, on problems that are tiny and reach every branch."""

import threading

import numpy as np
import pytest
from support import (
    DTYPES,
    OPERATIONS,
    Engine,
    assert_close,
    compute,
    expected,
    inputs,
    reachable,
    reduction_length,
    tolerance,
)

import gpuconv
from gpuconv import reference, tuning_cuda
from gpuconv.backends.cuda import device, direct, direct_gradient, launch
from gpuconv.dispatch import Call
from gpuconv.problem import ConvProblem
from gpuconv.tuning_cuda import CudaTile, GradientTile

DIRECT = Engine("cuda", "direct")

TILES = {
    # Two threads along the positions and two along the outputs, and a depth that divides no kernel here.
    "halo": (CudaTile(8, 2, 4, 1, 5, 256, 64),),
    # Shared memory for one or two channels of a small halo only: many segments, and no halo for what is spread out.
    "cramped": (CudaTile(6, 2, 3, 2, 4, 40, 30),),
    # More outputs of a thread than the problems have: tiles that hang over both ends.
    "wide": (CudaTile(8, 4, 4, 4, 7, 64, 40),),
}
GRADIENT_TILES = (
    # Threads along rows and columns, tiles over the edge, and a depth that divides no sum here.
    GradientTile(2, 6, 1, 3, 3),
    # One thread, and a tile that is larger than any gradient's rows.
    GradientTile(8, 16, 8, 16, 4),
)
FLOAT64 = ("1d", "2d groups", "2d wrap, cropped", "2d constant border", "3d")
GRADIENTS = (
    "1d stride, border wider than x", "1d one element, mirror", "1d no batch axis", "1d wrap, as long as x",
    "1d kernel far apart", "2d stride over the kernel", "2d depthwise, channels last", "2d channels last, stride",
    "2d nearest", "2d symmetric, wider than x", "2d mirror", "2d wrap, cropped", "2d cropped", "2d input dilation",
    "3d wrap, stride, dilation", "no batch", "no input channels", "no output channels",
)  # fmt: skip


@pytest.fixture
def tiles(request, monkeypatch):
    monkeypatch.setattr(tuning_cuda, "CUDA_SIMULATOR_TILES", TILES[request.param])
    return request.param


def check(problem, operation, dtype, *, bias=False, strided=False):
    """Run `direct` into a poisoned output, and compare with the oracle."""
    call = Call(problem, operation, dtype)
    actual = compute(DIRECT, call, "tiny", bias=bias, strided=strided)
    wanted = expected(call, "tiny", bias=bias)
    assert actual.dtype == wanted.dtype
    assert_close(actual, wanted, tolerance(dtype, reduction_length(problem, operation)))


FORWARD = {
    "1d": ((2, 2, 11), (3, 2, 3), {}),
    "1d stride, border wider than x": ((1, 1, 3), (1, 1, 4), {"stride": 2, "padding": 8, "padding_mode": "mirror"}),
    "1d one element, mirror": ((1, 1, 1), (1, 1, 3), {"padding": 2, "padding_mode": "mirror"}),
    "1d no batch axis": ((2, 7), (2, 2, 3), {"padding": ((2, 0),)}),
    "1d wrap, as long as x": ((1, 1, 6), (1, 1, 3), {"padding": ((1, -1),), "padding_mode": "wrap"}),
    "1d kernel far apart": ((1, 2, 23), (1, 2, 3), {"dilation": 9, "padding": 4, "padding_mode": "wrap"}),
    "2d": ((2, 2, 4, 5), (3, 2, 3, 2), {"padding": 1}),
    "2d 1x1, stride 2": ((1, 5, 5, 4), (2, 5, 1, 1), {"stride": 2}),
    "2d stride over the kernel": ((1, 1, 8, 9), (1, 1, 2, 2), {"stride": (3, 4)}),
    "2d dilation": ((1, 2, 5, 7), (2, 2, 2, 3), {"dilation": (2, 3), "padding": (1, 1)}),
    "2d groups": ((1, 4, 4, 4), (6, 2, 3, 3), {"groups": 2, "padding": "same"}),
    "2d depthwise": ((2, 3, 4, 5), (3, 1, 3, 3), {"groups": 3, "padding": "same"}),
    "2d depthwise, channels last": ((1, 4, 5, 3), (6, 1, 3, 2), {"groups": 3, "layout": "channels_last"}),
    "2d channels last": ((2, 3, 4, 5), (3, 5, 3, 2), {"padding": 1, "layout": "channels_last"}),
    "2d channels last, stride": ((1, 5, 6, 3), (2, 3, 2, 3), {"stride": 2, "padding": 2, "layout": "channels_last"}),
    "2d nearest": ((1, 1, 3, 4), (2, 1, 3, 3), {"padding": 2, "padding_mode": "nearest"}),
    "2d symmetric, wider than x": ((1, 1, 2, 3), (1, 1, 3, 3), {"padding": (3, 4), "padding_mode": "symmetric"}),
    "2d mirror": ((1, 2, 3, 4), (1, 2, 3, 3), {"padding": 1, "padding_mode": "mirror"}),
    "2d wrap, cropped": ((1, 1, 6, 5), (1, 1, 3, 3), {"padding": ((-1, 2), (1, -2)), "padding_mode": "wrap"}),
    "2d cropped": ((1, 2, 6, 5), (1, 2, 3, 2), {"padding": ((-1, 2), (-2, 0))}),
    "2d constant border": ((1, 2, 3, 3), (1, 2, 3, 3), {"padding": 1, "padding_value": 2.5}),
    "2d input dilation": ((1, 2, 3, 4), (2, 2, 3, 3), {"input_dilation": (2, 3), "stride": (3, 2), "padding": 2}),
    "2d large kernel": ((1, 1, 8, 7), (1, 1, 7, 6), {}),
    "3d": ((1, 2, 3, 3, 4), (2, 2, 2, 3, 2), {"padding": (0, 1, 1)}),
    "3d wrap, stride, dilation": (
        (1, 1, 3, 4, 3), (1, 1, 2, 2, 2),
        {"padding": 1, "stride": (1, 2, 1), "dilation": (2, 1, 2), "padding_mode": "wrap"},
    ),
    "no batch": ((0, 2, 5), (1, 2, 3), {}),
    "no input channels": ((2, 0, 5), (2, 0, 3), {}),
    "no output channels": ((2, 1, 5), (0, 1, 3), {}),
}  # fmt: skip

TRANSPOSED = {
    "1d": ((2, 2, 4), (2, 3, 3), {}),
    "1d stride over the kernel: phases without taps": ((1, 2, 4), (2, 1, 2), {"stride": 4, "output_padding": 3}),
    "1d fewer outputs than phases": ((1, 1, 1), (1, 1, 2), {"stride": 5}),
    "1d same, ends in zeros": ((1, 1, 3), (1, 1, 2), {"stride": 4, "padding": "same"}),
    "2d": ((1, 3, 3, 4), (3, 2, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    "2d dilation": ((1, 2, 3, 3), (2, 2, 2, 2), {"stride": (2, 1), "dilation": (3, 2), "padding": 1}),
    "2d stride and dilation share a factor": ((1, 1, 3, 3), (1, 1, 3, 2), {"stride": 2, "dilation": 2}),
    "2d groups": ((1, 4, 2, 3), (4, 3, 2, 2), {"groups": 2, "stride": 2}),
    "2d depthwise, channels last": ((1, 2, 3, 3), (3, 1, 3, 3), {"groups": 3, "stride": 2, "layout": "channels_last"}),
    "2d more padding than the kernel": ((1, 1, 6, 6), (1, 1, 2, 2), {"padding": (2, 3)}),
    "3d": ((1, 2, 2, 2, 3), (2, 1, 2, 3, 2), {"stride": (2, 1, 2), "padding": (0, 1, 1)}),
}


@pytest.mark.parametrize(
    ("name", "tiles"),
    [*((name, tiles) for name in FORWARD for tiles in ("halo", "cramped")), *((name, "wide") for name in FLOAT64)],
    indirect=["tiles"],
)
def test_forward(name, tiles):
    x_shape, w_shape, arguments = FORWARD[name]
    problem = ConvProblem.make(x_shape, w_shape, **arguments)
    check(problem, "forward", "float64" if tiles == "wide" else "float32", bias=tiles != "halo")


@pytest.mark.parametrize("tiles", ["cramped", "wide"], indirect=True)
@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed(name, tiles):
    y_shape, w_shape, arguments = TRANSPOSED[name]
    problem = ConvProblem.make_transposed(y_shape, w_shape, **arguments)
    check(problem, "transposed", "float64" if tiles == "wide" else "float32", bias=tiles != "cramped")


@pytest.mark.parametrize("tiles", ["cramped"], indirect=True)
@pytest.mark.parametrize("name", GRADIENTS)
def test_input_gradient(name, tiles):
    x_shape, w_shape, arguments = FORWARD[name]
    check(ConvProblem.make(x_shape, w_shape, **arguments), "input_gradient", "float32")


@pytest.mark.parametrize("tile", range(2))
@pytest.mark.parametrize("name", FORWARD)
def test_weight_gradient(name, tile, monkeypatch):
    monkeypatch.setattr(tuning_cuda, "CUDA_SIMULATOR_GRADIENT_TILES", (GRADIENT_TILES[tile],))
    monkeypatch.setattr(direct_gradient, "_SLICE_DEPTHS", 1)
    x_shape, w_shape, arguments = FORWARD[name]
    check(ConvProblem.make(x_shape, w_shape, **arguments), "weight_gradient", ("float32", "float64")[tile])


@pytest.mark.parametrize("tiles", ["cramped"], indirect=True)
def test_complex_numbers_staged_one_by_one(tiles):
    check(ConvProblem.make((1, 2, 49), (1, 2, 3), dilation=20, padding=4), "forward", "complex64")


def test_a_weight_gradient_has_slices_of_its_sum(monkeypatch):
    problem = ConvProblem.make(*FORWARD["2d"][:2])
    monkeypatch.setattr(direct_gradient, "_SLICE_DEPTHS", 1)
    slices, blocks = direct_gradient._cut(problem, GRADIENT_TILES[0], 1)
    assert (slices, blocks) == (2 * 2 * 4 // 3, 4)


@pytest.mark.filterwarnings("ignore:overflow encountered")  # NumPy's scalars warn of what wraps around on purpose
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(dtype, operation):
    names = [
        "2d groups",
        "2d channels last, stride",
        "1d stride, border wider than x",
        "2d constant border",
        "2d 1x1, stride 2",
    ]
    for i, name in enumerate(names):
        x_shape, w_shape, arguments = FORWARD[name]
        problem = ConvProblem.make(x_shape, w_shape, **arguments)
        if reachable(problem, operation):
            check(problem, operation, dtype, bias=i % 2 == 0, strided=i % 2 == 1)


def test_problems_reach_both_ways_of_staging_and_many_segments():
    seen = set()
    for name, tiles in TILES.items():
        for x_shape, w_shape, arguments in FORWARD.values():
            problem = ConvProblem.make(x_shape, w_shape, **arguments)
            strides = contiguous(problem.x_shape), contiguous(problem.y_shape)
            launches, numbers = direct._launches(problem, tiles, 1, *strides, False)
            for part in launches:
                _, channels, _, _, taps, segment = numbers[part.begin : part.begin + 6]
                seen.add((name, part.halo, bool(segment < channels * taps)))
    assert {("halo", True, False), ("cramped", True, True), ("cramped", False, True)} <= seen


def contiguous(shape):
    return tuple(int(stride) for stride in np.array(np.empty(shape, np.int8).strides))


def test_grid_in_slices(monkeypatch):
    monkeypatch.setattr(launch, "GRID_Y", 4)
    problem = ConvProblem.make((3, 10, 4), (5, 2, 2), groups=5)
    check(problem, "forward", "float32")
    check(problem, "weight_gradient", "float32")


def test_strided_arrays():
    problem = ConvProblem.make((1, 2, 5, 6), (2, 2, 3, 3))
    call = Call(problem, "forward", "float64")
    x, w, _ = inputs(call, "strided")
    x = np.asfortranarray(x)[..., ::-1]
    w = np.flip(w, axis=(0, 3))
    surroundings = np.zeros((1, 2, 6, 8))
    DIRECT.write(call, x, w, surroundings[:, :, 1:4, ::2])
    assert_close(surroundings[:, :, 1:4, ::2], reference.forward(problem, x, w), tolerance("float64", 18))
    assert not surroundings[:, :, 0].any()
    assert not surroundings[..., 1::2].any()


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_reach_their_receptive_fields_only(bad):
    x, w = np.ones((1, 2, 6, 7)), np.ones((3, 2, 3, 3))
    x[0, 1, 2, 3] = bad
    y = gpuconv.conv2d(x, w, padding=1, backend="cuda")
    reached = np.zeros(y.shape, bool)
    reached[:, :, 1:4, 2:5] = True
    np.testing.assert_array_equal(~np.isfinite(y), reached)


def test_plan_packs_weights_once(monkeypatch):
    rng = np.random.default_rng(3)
    w = rng.standard_normal((2, 2, 3))
    x = rng.standard_normal((1, 2, 6))
    plan = gpuconv.plan(gpuconv.conv1d, x.shape, w, padding=1, backend="cuda")
    monkeypatch.setattr(direct, "pack", None)
    problem = ConvProblem.make(x.shape, w.shape, padding=1)
    np.testing.assert_allclose(plan(x), reference.forward(problem, x, w), rtol=0, atol=1e-14)


def test_public_functions_choose_the_backend():
    rng = np.random.default_rng(5)
    x, w = rng.standard_normal((1, 2, 4, 4)), rng.standard_normal((2, 2, 3, 3))
    explanation = gpuconv.explain(gpuconv.conv2d, x, w, backend="cuda")
    assert (explanation.chosen.backend, explanation.chosen.algorithm) == ("cuda", "direct")
    y = gpuconv.conv_transpose2d(x, w, stride=2, backend="cuda", algorithm="direct")
    problem = ConvProblem.make_transposed(x.shape, w.shape, stride=2)
    np.testing.assert_allclose(y, reference.transposed(problem, x, w), rtol=0, atol=1e-13)


def test_threads_at_once():
    rng = np.random.default_rng(11)
    cases = [(rng.standard_normal((1, 2, 5 + i)), rng.standard_normal((2, 2, 2 + i % 3))) for i in range(6)]
    results = [None] * len(cases)

    def work(i):
        results[i] = gpuconv.conv1d(*cases[i], backend="cuda")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(cases))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for (x, w), y in zip(cases, results, strict=True):
        problem = ConvProblem.make(x.shape, w.shape)
        np.testing.assert_allclose(y, reference.forward(problem, x, w), rtol=0, atol=1e-13)


def test_reasons():
    problem = ConvProblem.make((1, 1, 4), (1, 1, 2), padding=1, padding_mode="wrap")
    assert "'zeros' border only" in direct.supports(Call(problem, "transposed", "float32"), device())
    assert direct.supports(Call(problem, "input_gradient", "bfloat16"), device()) is None
