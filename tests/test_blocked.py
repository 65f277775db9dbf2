"""Direct convolution by blocks of output channels where the shared problems do not reach: tiles, strips, inputs."""

import numpy as np
import pytest

import gpuconv
from gpuconv.backends.cpu import (
    blocked,
    blocked_blocks,
    blocked_geometry,
    blocked_tiles,
    device,
    gemm,
    simd,
    tasks,
    winograd,
)
from gpuconv.dispatch import Call
from gpuconv.problem import ConvProblem

RNG = np.random.default_rng(11)


def arrays(*shapes, dtype="float32"):
    # Small integers: every sum is exact in float32, so results are compared bit by bit.
    return [RNG.integers(-3, 4, shape).astype(dtype) for shape in shapes]


def check(function, x, w, bias=None, **arguments):
    """Compare with `direct`, into an output whose every element must be written."""
    want = function(x, w, bias, algorithm="direct", backend="cpu", **arguments)
    got = np.full_like(want, np.nan)
    function(x, w, bias, algorithm="blocked", backend="cpu", out=got, **arguments)
    np.testing.assert_array_equal(got, want)
    return got


@pytest.fixture(params=["in place", "packed"])
def place(request, monkeypatch):
    """Read x where it lies, or from a copy as when it is too large for the caches."""
    if request.param == "packed":
        monkeypatch.setattr(blocked, "_NEAR_BYTES", dict.fromkeys(blocked._NEAR_BYTES, -1))
    blocked._ready.cache_clear()
    small = ConvProblem.make((1, 4, 9, 9), (8, 4, 3, 3))
    assert blocked._geometry(Call(small, "forward", "float32")).inside == (request.param == "in place")
    yield request.param
    blocked._ready.cache_clear()


@pytest.mark.parametrize("places", range(1, 2 * blocked_tiles.tile_places() + 3))
@pytest.mark.parametrize("outputs", [1, 16, 21, 40])
def test_every_tile(places, outputs, place):
    x, w, bias = arrays((1, 5, places), (outputs, 5, 1), (outputs,))
    got = check(gpuconv.conv1d, x, w, bias)
    np.testing.assert_array_equal(got[0], np.einsum("oc,cp->op", w[..., 0], x[0]) + bias[:, None])


@pytest.mark.parametrize("channels", [1, 2, 3, 130])
def test_odd_and_even_numbers_of_terms(channels):
    check(gpuconv.conv2d, *arrays((2, channels, 9, 15), (33, channels, 3, 3)), padding=1)


@pytest.mark.parametrize("lines", [1, 2, 5, 17])
@pytest.mark.parametrize("columns", [3, 13, 50, 97, 200])
def test_strips_of_lines_and_of_parts_of_lines(lines, columns, place):
    x, w, bias = arrays((1, 3, lines + 2, columns + 2), (37, 3, 3, 3), (37,))
    check(gpuconv.conv2d, x, w, bias)


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
@pytest.mark.parametrize("padding", [0, 1])
def test_strides_that_leave_inputs_out_and_that_do_not(stride, kernel, padding, place):
    x, w = arrays((2, 4, 19, 23), (18, 4, kernel, kernel))
    check(gpuconv.conv2d, x, w, stride=stride, padding=padding)


@pytest.mark.parametrize("mode", ["nearest", "reflect", "mirror", "wrap"])
def test_borders(mode):
    check(gpuconv.conv2d, *arrays((1, 3, 9, 20), (20, 3, 5, 3)), stride=(2, 1), padding=2, padding_mode=mode)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("outputs", [5, 48])
def test_phases_of_transposed_convolutions(stride, kernel, outputs, place):
    x, w, bias = arrays((2, 7, 9, 30), (7, outputs, kernel, kernel), (outputs,))
    check(gpuconv.conv_transpose2d, x, w, bias, stride=stride)


def test_three_axes():
    check(gpuconv.conv3d, *arrays((2, 6, 7, 8, 9), (20, 3, 3, 2, 3)), stride=(2, 1, 2), padding=1, groups=2)
    check(gpuconv.conv_transpose3d, *arrays((1, 6, 4, 5, 6), (6, 20, 3, 2, 3)), stride=(2, 1, 2), padding=1)


@pytest.mark.parametrize("outputs", [32, 21])
@pytest.mark.parametrize("padding", [0, 1])
def test_channels_last(outputs, padding, place):
    x, w, bias = arrays((2, 9, 30, 8), (outputs, 8, 3, 3), (outputs,))
    check(gpuconv.conv2d, x, w, bias, padding=padding, stride=(1, 2), layout="channels_last")


def test_strided_arrays(place):
    x, w = arrays((2, 12, 10, 36), (22, 6, 3, 1))
    x = x[:, ::2, :, ::-2]
    big = np.full((2, 44, 8, 36), 7, np.float32)
    y = big[:, ::2, :, ::2]
    gpuconv.conv2d(x, w, algorithm="blocked", backend="cpu", out=y)
    np.testing.assert_array_equal(y, gpuconv.conv2d(x.copy(), w, algorithm="direct", backend="cpu"))
    assert (big[:, 1::2] == 7).all()
    assert (big[:, :, :, 1::2] == 7).all()


def test_groups_whose_vectors_are_padded():
    x, w, bias = arrays((1, 8, 6, 50), (42, 4, 3, 3), (42,))
    want = check(gpuconv.conv2d, x, w, bias, groups=2, padding=1)
    plan = gpuconv.plan(
        gpuconv.conv2d, x.shape, w, bias=bias, groups=2, padding=1, algorithm="blocked", backend="cpu"
    )  # fmt: skip
    np.testing.assert_array_equal(plan(x), want)


@pytest.mark.parametrize("groups", [1, 2])
def test_input_gradients(groups):
    dy, w = arrays((2, 24, 6, 7), (24, 10 // groups, 3, 3))
    arguments = {"stride": 2, "padding": 1, "groups": groups, "backend": "cpu"}
    want = gpuconv.grad.conv2d_input((2, 10, 11, 14), w, dy, algorithm="direct", **arguments)
    np.testing.assert_array_equal(
        gpuconv.grad.conv2d_input((2, 10, 11, 14), w, dy, algorithm="blocked", **arguments), want
    )


def test_double_precision(place):
    check(gpuconv.conv2d, *arrays((2, 5, 9, 31), (19, 5, 3, 3), (19,), dtype="float64"), stride=2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_nan_reaches_its_receptive_field_only(dtype, place):
    x, w = arrays((1, 4, 20, 21), (9, 4, 3, 3), dtype=dtype)
    w[w == 0] = 1
    x[0, 2, 7, 15] = np.nan
    for padding in (0, 1):
        got = np.isnan(gpuconv.conv2d(x, w, padding=padding, algorithm="blocked", backend="cpu"))
        want = np.zeros_like(got)
        want[:, :, 5 + padding : 8 + padding, 13 + padding : 16 + padding] = True
        np.testing.assert_array_equal(got, want)


def test_long_sums_are_divided_among_tasks():
    problem = ConvProblem.make((1, 512, 60, 60), (512, 512, 3, 3), padding=1)
    g = blocked._geometry(Call(problem, "forward", "float32"))
    assert problem.flops / g.tasks < 2 * tasks.TASK_FLOPS
    assert g.scratch_bytes < 1 << 20
    assert g.packed_elements == 512 * 512 * 9


def test_a_sum_so_long_that_its_smallest_task_is_a_long_one():
    problem = ConvProblem.make((1, 1024, 5, 6, 18), (1024, 1024, 5, 5, 5))
    lanes = simd.vector_bits() // 32
    g = blocked._geometry(Call(problem, "forward", "float32"))
    assert g.tasks >= 1024 // (blocked_tiles.VECTORS * lanes)
    assert g.packed_elements == 1024 * 1024 * 125


@pytest.mark.parametrize("shape", [(1, 1, 100_000, 1), (1, 1, 3000, 3000), (1, 3, 500, 20, 20)])
def test_maps_of_many_lines_are_divided_into_few_kinds_of_blocks(shape, monkeypatch):
    kinds = []
    monkeypatch.setattr(blocked_blocks.Work, "cycles", lambda self, block, vectors: kinds.append(block) or 1.0)
    blocked_geometry.geometry.cache_clear()
    rank = len(shape) - 2
    problem = ConvProblem.make(shape, (1, shape[1], *(3, 1, 1)[:rank]))
    blocked_geometry.geometry(problem, "float32", True)
    blocked_geometry.geometry.cache_clear()
    assert 0 < len(kinds) < 1000


@pytest.mark.parametrize("algorithm", [blocked, gemm, winograd])
def test_planned_weights_cost_no_packing(algorithm):
    problem = ConvProblem.make((1, 256, 30, 30), (320, 256, 3, 3), stride=2, padding=1)
    called, planned = (Call(problem, "forward", "float32", planned=p) for p in (False, True))
    assert algorithm.cost(planned, device()) < algorithm.cost(called, device())


def test_plans_are_chosen_as_planned():
    w = np.zeros((320, 256, 3, 3), np.float32)
    plan = gpuconv.plan(gpuconv.conv2d, (1, 256, 30, 30), w, stride=2, padding=1, backend="cpu")
    rows = {row.algorithm: row for row in plan.explanation.rows if row.backend == "cpu"}
    problem = ConvProblem.make((1, 256, 30, 30), w.shape, stride=2, padding=1)
    call = Call(problem, "forward", "float32", planned=True)
    assert rows["blocked"].tabulated == blocked.cost(call, device())
    assert plan.explanation.chosen.seconds == min(row.seconds for row in rows.values() if row.seconds is not None)


def test_vectors_are_the_hosts():
    problem = ConvProblem.make((1, 8, 20, 20), (21, 8, 3, 3), padding=1)
    lanes = simd.vector_bits() // 32
    assert blocked._geometry(Call(problem, "forward", "float32")).packed_elements == -(-21 // lanes) * lanes * 72


def test_what_it_does_not_serve():
    x, w = arrays((1, 4, 9, 9), (8, 4, 3, 3))
    with pytest.raises(gpuconv.UnsupportedError, match="weight gradients"):
        gpuconv.grad.conv2d_weight(x, w.shape, x[:, :, 2:, 2:].repeat(2, 1), algorithm="blocked", backend="cpu")
    with pytest.raises(gpuconv.UnsupportedError, match="'zeros' border only"):
        gpuconv.grad.conv2d_input(
            x.shape, w, x[:, :, 2:, 2:].repeat(2, 1), padding_mode="wrap", algorithm="blocked", backend="cpu"
        )  # fmt: skip
    with pytest.raises(gpuconv.UnsupportedError, match="no empty arrays"):
        gpuconv.conv2d(x[:0], w, algorithm="blocked", backend="cpu")
    with pytest.raises(gpuconv.UnsupportedError, match="not complex64"):
        gpuconv.conv2d(x.astype("complex64"), w.astype("complex64"), algorithm="blocked", backend="cpu")
