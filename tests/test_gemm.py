"""The implicit matrix product where the shared problems do not reach: blocks, remainders, strides and plans."""

import itertools

import numpy as np
import pytest

import gpuconv
from gpuconv.backends.cpu import gemm, gemm_blocks, gemm_geometry
from gpuconv.dispatch import Call
from gpuconv.problem import ConvProblem

RNG = np.random.default_rng(5)


def arrays(x_shape, w_shape, dtype="float32"):
    # Small integers: every sum is exact in float32, so results are compared bit by bit.
    return (RNG.integers(-3, 4, shape).astype(dtype) for shape in (x_shape, w_shape))


def run(function, x, w, algorithm, **arguments):
    return function(x, w, algorithm=algorithm, backend="cpu", **arguments)


@pytest.mark.parametrize(
    ("pixels", "outputs"),
    list(itertools.product((1, 15, 16, 17, 31, 33, 47, 49, 65, 97), (1, 3, 8, 13))),
)
def test_every_remainder_of_a_tile(pixels, outputs):
    x, w = arrays((1, 5, pixels), (outputs, 5, 1))
    want = np.einsum("oc,ncp->nop", w[..., 0], x)
    np.testing.assert_array_equal(run(gpuconv.conv1d, x, w, "gemm"), want)


@pytest.mark.parametrize("channels", [1, 129, 700])
@pytest.mark.parametrize("kernel", [1, 3])
def test_sums_longer_than_a_panel(channels, kernel):
    x, w = arrays((2, channels, 9, 11), (21, channels, kernel, kernel))
    want = run(gpuconv.conv2d, x, w, "direct", padding=kernel // 2)
    np.testing.assert_array_equal(run(gpuconv.conv2d, x, w, "gemm", padding=kernel // 2), want)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("patch", [8, 16, 32])
@pytest.mark.parametrize(("lines", "columns"), [(1, 1), (3, 5), (2, 9), (5, 14), (1, 70)])
def test_patches_that_share_no_input(patch, lines, columns, dtype):
    """A kernel as wide as its stride: panels are made by transposes, of runs that fill a vector and that do not."""
    x, w = arrays((2, 6, 2 * lines + 1, columns * patch + 3), (10, 3, 2, patch), dtype)
    windows = np.lib.stride_tricks.sliding_window_view(x, (2, patch), axis=(2, 3))[:, :, ::2, ::patch]
    halves = [np.einsum("ncijab,ocab->noij", windows[:, 3 * g : 3 * g + 3], w[5 * g : 5 * g + 5]) for g in (0, 1)]
    result = run(gpuconv.conv2d, x, w, "gemm", stride=(2, patch), groups=2)
    np.testing.assert_array_equal(result, np.concatenate(halves, axis=1))
    np.testing.assert_array_equal(
        run(gpuconv.conv2d, x[:, :, :, ::-1], w, "gemm", stride=(2, patch), groups=2),
        run(gpuconv.conv2d, x[:, :, :, ::-1].copy(), w, "direct", stride=(2, patch), groups=2),
    )


@pytest.mark.parametrize("stride", [2, 3, 5])
def test_strides_of_every_way_of_copying(stride):
    x, w = arrays((1, 3, 40, 83), (9, 3, 5, 5))
    want = run(gpuconv.conv2d, x, w, "direct", stride=stride, padding=2)
    np.testing.assert_array_equal(run(gpuconv.conv2d, x, w, "gemm", stride=stride, padding=2), want)


@pytest.mark.parametrize(
    ("depth", "kernel", "outputs", "geometry"),
    [
        (4, (3, 7, 7), 20, {"padding": (1, 3, 3)}),
        (3, (5, 6, 5), 21, {"padding": (4, 2, 2), "stride": (1, 2, 1)}),
        (5, (5, 7, 5), 22, {"padding": (6, 2, 2), "stride": (2, 1, 2), "groups": 2}),
        (4, (3, 7, 5), 9, {"padding": (6, 2, 2), "dilation": (3, 1, 1)}),
        (1, (5, 7, 5), 8, {"padding": (7, 2, 2), "stride": (3, 1, 1)}),
        (5, (3, 7, 7), 8, {"padding": ((1, -1), (3, 3), (3, 3))}),
    ],
)
def test_planes_of_the_kernel_that_meet_the_border_only(depth, kernel, outputs, geometry):
    channels = 4 // geometry.get("groups", 1)
    x, w = arrays((2, 4, depth, 30, 31), (outputs, channels, *kernel))
    want = run(gpuconv.conv3d, x, w, "direct", **geometry)
    np.testing.assert_array_equal(run(gpuconv.conv3d, x, w, "gemm", **geometry), want)
    plan = gpuconv.plan(gpuconv.conv3d, x.shape, w, algorithm="gemm", backend="cpu", **geometry)
    np.testing.assert_array_equal(plan(x), want)


def test_a_single_phase_of_a_transposed_convolution():
    """Padding leaves one plane of outputs: its phase has every second plane of the kernel, and one of them meets x."""
    x, w = arrays((1, 4, 3, 30, 31), (4, 9, 7, 11, 11))
    geometry = {"stride": (2, 1, 1), "padding": (5, 5, 5)}
    want = run(gpuconv.conv_transpose3d, x, w, "direct", **geometry)
    assert want.shape[2] == 1
    np.testing.assert_array_equal(run(gpuconv.conv_transpose3d, x, w, "gemm", **geometry), want)


def test_products_with_planes_of_the_border_are_not_made():
    x, w = arrays((1, 3, 4, 30, 31), (8, 3, 3, 7, 7))
    w[:, :, 0] = np.inf
    y = run(gpuconv.conv3d, x, w, "gemm", padding=(1, 3, 3))
    assert np.isfinite(y[:, :, 0]).all()
    assert not np.isfinite(y[:, :, 1]).any()


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("outputs", [5, 16])
def test_phases_of_a_transposed_convolution(stride, outputs):
    x, w = arrays((2, 7, 9, 50), (7, outputs, 4, 4))
    want = run(gpuconv.conv_transpose2d, x, w, "direct", stride=stride, padding=1)
    np.testing.assert_array_equal(run(gpuconv.conv_transpose2d, x, w, "gemm", stride=stride, padding=1), want)


@pytest.mark.parametrize(("size", "in_rows"), [(31, True), (32, False), (64, False)])
def test_channels_that_meet_in_few_sets_of_a_cache_go_through_panels(size, in_rows):
    x, w = arrays((1, 12, size, size), (21, 12, 1, 1))
    assert gemm_geometry.reads_rows(ConvProblem.make(x.shape, w.shape)) == in_rows
    np.testing.assert_array_equal(
        run(gpuconv.conv2d, x, w, "gemm"), np.einsum("oc,nchw->nohw", w[..., 0, 0], x)
    )  # fmt: skip


def test_strided_arrays():
    x, w = arrays((2, 12, 10, 18), (11, 6, 1, 1))
    x = x[:, ::2, :, ::3]
    big = np.full((2, 22, 10, 12), 7, np.float32)
    y = big[:, ::2, :, ::2]
    run(gpuconv.conv2d, x, w, "gemm", out=y)
    np.testing.assert_array_equal(y, np.einsum("oc,nchw->nohw", w[..., 0, 0], x))
    assert (big[:, 1::2] == 7).all()
    assert (big[:, :, :, 1::2] == 7).all()


def test_groups_with_rows_that_are_padded_when_packed():
    x, w = arrays((1, 8, 6, 50), (10, 4, 3, 3))
    want = run(gpuconv.conv2d, x, w, "direct", groups=2, padding=1)
    plan = gpuconv.plan(gpuconv.conv2d, x.shape, w, groups=2, padding=1, algorithm="gemm", backend="cpu")
    np.testing.assert_array_equal(plan(x), want)
    np.testing.assert_array_equal(run(gpuconv.conv2d, x, w, "gemm", groups=2, padding=1), want)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_nan_reaches_its_receptive_field_only(dtype):
    x, w = arrays((1, 4, 20, 21), (9, 4, 3, 3), dtype)
    w[w == 0] = 1
    x[0, 2, 7, 15] = np.nan
    got = np.isnan(run(gpuconv.conv2d, x, w, "gemm", padding=1))
    want = np.zeros_like(got)
    want[:, :, 6:9, 14:17] = True
    np.testing.assert_array_equal(got, want)


def test_a_bias_is_added_once():
    x, w = arrays((1, 500, 8, 8), (10, 500, 1, 1))
    bias = np.arange(10, dtype=np.float32)
    want = np.einsum("oc,nchw->nohw", w[..., 0, 0], x) + bias[:, None, None]
    np.testing.assert_array_equal(run(gpuconv.conv2d, x, w, "gemm", bias=bias), want)


def test_reasons():
    x, w = arrays((1, 4, 8, 8), (4, 4, 3, 3))
    rows = gpuconv.explain(gpuconv.conv2d, x.astype(np.float16), w.astype(np.float16)).rows
    assert "float16" in next(row.reason for row in rows if row.algorithm == "gemm")


@pytest.fixture(params=[gemm_blocks.PANELS, gemm_blocks.LINES, gemm_blocks.PLANES], ids=["panels", "lines", "planes"])
def what_tiles_read(request, monkeypatch):
    def choose(work):
        chosen = gemm_blocks.choose(work)
        # Blocks of several planes, lines and tasks, whatever the estimates say.
        block = tuple(min(axis.outputs, n) for axis, n in zip(work.axes, (2, 5, 40), strict=True))
        return chosen if work.inside else chosen._replace(runs_of=request.param, block=block)

    def forget():
        gemm_geometry.geometry.cache_clear()
        gemm._ready.cache_clear()

    monkeypatch.setattr(gemm_geometry, "choose", choose)
    forget()
    yield request.param
    forget()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("width", [3, 7, 16, 33, 90])
def test_what_tiles_read_changes_no_number(what_tiles_read, width, dtype):
    for keywords in (
        {"padding": 1},
        {"padding": 1, "stride": 2},
        {"padding": 2, "dilation": 2},
        {"padding": (0, 2, 1)},
    ):
        # Channels of a larger array: x's strides are not those of a contiguous one.
        x, w = arrays((2, 6, 4, 11, width), (13, 3, 2, 3, 3), dtype)
        want = run(gpuconv.conv3d, x[:, :3], w, "direct", **keywords)
        np.testing.assert_array_equal(run(gpuconv.conv3d, x[:, :3], w, "gemm", **keywords), want)
    x, w = arrays((1, 9, 8, width), (9, 12, 3, 3), dtype)
    keywords = {"stride": 2, "padding": 1, "output_padding": 1}
    want = run(gpuconv.conv_transpose2d, x, w, "direct", **keywords)
    np.testing.assert_array_equal(run(gpuconv.conv_transpose2d, x, w, "gemm", **keywords), want)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("rank", "groups", "outputs"), [(1, 1, 24), (1, 2, 9), (2, 1, 16), (2, 2, 20), (3, 1, 8)])
def test_kernels_as_wide_as_their_stride(rank, groups, outputs, dtype):
    """Weights whose taps are a phase each, in order, backwards and with gaps between them."""
    x, w = arrays((2, 6 * groups, *(5,) * rank), (6 * groups, outputs, *(4,) * rank), dtype)
    function = getattr(gpuconv, f"conv_transpose{rank}d")
    for step in (slice(0, 2), slice(1, None, -1), slice(None, None, 2)):
        kernel = w[(slice(None), slice(None), *(step,) * rank)]
        want = np.zeros((2, outputs * groups, *(10,) * rank), dtype)
        for group in range(groups):
            mine, theirs = slice(6 * group, 6 * group + 6), slice(outputs * group, outputs * (group + 1))
            for tap in itertools.product((0, 1), repeat=rank):
                part = np.einsum("nc...,co->no...", x[:, mine], kernel[(mine, slice(None), *tap)])
                want[(slice(None), theirs, *(slice(t, None, 2) for t in tap))] = part
        for algorithm in ("gemm", "direct"):
            result = run(function, x, kernel, algorithm, stride=2, groups=groups)
            np.testing.assert_array_equal(result, want)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("images", "size"), [(4, 7), (3, 5), (8, 14), (7, 1), (2, 30)])
def test_images_as_lines_of_one_map(images, size, dtype):
    x, w = arrays((images, 20, size, size), (50, 20, 1, 1), dtype)
    bias = np.arange(50, dtype=dtype)
    want = np.einsum("oc,nchw->nohw", w[..., 0, 0], x) + bias[:, None, None]
    np.testing.assert_array_equal(run(gpuconv.conv2d, x, w, "gemm", bias=bias), want)
    wider = np.zeros((images, 20, size, 2 * size), dtype)
    wider[..., ::2] = x
    np.testing.assert_array_equal(run(gpuconv.conv2d, wider[..., ::2], w, "gemm", bias=bias), want)
    out = np.full((images, 50, size, size + 3), np.nan, dtype)
    run(gpuconv.conv2d, x, w, "gemm", bias=bias, out=out[..., :size])
    np.testing.assert_array_equal(out[..., :size], want)
    assert np.isnan(out[..., size:]).all()
    plan = gpuconv.plan(gpuconv.conv2d, x.shape, w, bias=bias, algorithm="gemm", backend="cpu")
    np.testing.assert_array_equal(plan(x), want)
    dx = run(gpuconv.grad.conv2d_input, x.shape, w, "gemm", dy=want)
    np.testing.assert_array_equal(dx, np.einsum("oc,nohw->nchw", w[..., 0, 0], want))


def test_vectors_hold_places_of_several_images():
    problem = ConvProblem.make((4, 512, 7, 7), (2048, 512, 1, 1))
    assert gemm._problems(Call(problem, "forward", "float32"))[1].spatial == (4, 49)
    alone = ConvProblem.make((1, 512, 7, 7), (2048, 512, 1, 1))
    assert gemm._problems(Call(alone, "forward", "float32"))[1].spatial == (49,)
