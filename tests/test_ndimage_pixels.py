"""Filters of images whose channels lie together: the last axes of the input are not filtered, and are short."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv import ndimage
from gpuconv.ndimage.fold import fold_of

sp = pytest.importorskip("scipy.ndimage")

MODES = ("constant", "nearest", "reflect", "mirror", "wrap")
WEIGHTS = np.arange(15.0).reshape(3, 5) - 6


def image(shape, dtype):
    values = np.random.default_rng(0).integers(0, 200, shape)
    return (values if np.dtype(dtype).kind in "iu" else values / 7 - 11).astype(dtype)


def plane_by_plane(function, x, **arguments):
    """Return what SciPy makes of each channel alone."""
    return np.stack([function(x[..., c], **arguments) for c in range(x.shape[-1])], axis=-1)


FILTERS = {
    "correlate": (lambda h, x, **k: h.correlate(x, WEIGHTS, **k), True),
    "even, shifted": (lambda h, x, **k: h.correlate(x, WEIGHTS[:2, :4], origin=(0, -1), **k), True),
    "uniform": (lambda h, x, **k: h.uniform_filter(x, (3, 4), **k), True),
    "Gaussian": (lambda h, x, **k: h.gaussian_filter(x, (0.6, 1.1), **k), True),
    "along columns": (lambda h, x, axes=None, **k: h.correlate1d(x, WEIGHTS[0], axis=0, **k), False),
    "along rows": (lambda h, x, axes=None, **k: h.gaussian_filter1d(x, 1.3, axis=1, **k), False),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize(("width", "channels"), [(70, 3), (70, 2), (9, 3), (70, 1), (70, 17)])
def test_pixels_are_filtered_as_planes_are(mode, name, width, channels):
    function, takes_axes = FILTERS[name]
    how = {"mode": mode, "cval": 3} if mode == "constant" else {"mode": mode}
    for dtype in ("f4", "f8", "u1"):
        x = image((21, width, channels), dtype)
        axes = {"axes": (0, 1)} if takes_axes else {}
        ours = function(ndimage, x, **axes, **how)
        wanted = plane_by_plane(lambda plane, **k: function(sp, plane, **k), x, **how)
        assert ours.dtype == wanted.dtype
        scale = 0 if dtype == "u1" else {"f4": 4e-6, "f8": 1e-13}[dtype] * max(np.abs(wanted).max(), 1)
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=scale)
        out = np.full((21, 2 * width, channels), 99, dtype)
        function(ndimage, x, **axes, **how, out=out[:, ::2])
        np.testing.assert_array_equal(out[:, ::2], ours)
        assert (out[:, 1::2] == 99).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("step", [(2, 1), (1, 3)])
def test_steps_over_pixels(mode, step):
    x = image((31, 64, 3), "f4")
    stepped = ndimage.correlate(x, WEIGHTS, axes=(0, 1), mode=mode, step=step)
    every = ndimage.correlate(x, WEIGHTS, axes=(0, 1), mode=mode)
    np.testing.assert_allclose(stepped, every[:: step[0], :: step[1]], rtol=0, atol=4e-6 * np.abs(every).max())


def test_pixels_in_place_and_of_volumes():
    x = image((9, 40, 50, 3), "f4")
    wanted = plane_by_plane(sp.gaussian_filter, x, sigma=1)
    np.testing.assert_allclose(ndimage.gaussian_filter(x, 1, axes=(0, 1, 2)), wanted, rtol=0, atol=1e-4)
    flat = x[0].copy()
    ndimage.uniform_filter(flat, 3, output=flat, axes=(0, 1))
    np.testing.assert_allclose(flat, plane_by_plane(sp.uniform_filter, x[0], size=3), rtol=0, atol=1e-4)


def test_a_bad_pixel_spoils_its_own_channel_and_neighbours_alone():
    x = image((30, 60, 3), "f4")
    x[10, 20, 1] = np.nan
    ours = ndimage.correlate(x, np.ones((3, 3)), axes=(0, 1))
    spoiled = np.zeros(x.shape, bool)
    spoiled[9:12, 19:22, 1] = True
    np.testing.assert_array_equal(np.isnan(ours), spoiled)


def test_what_a_fold_makes_of_pixels():
    flat = fold_of((3, 3, 1), (40, 50, 3), (1, 1, 1))
    assert (flat.shape((40, 50, 3)), flat.dilation) == ((1, 1, 40, 150), (1, 3))
    assert flat.spread(((1, 1), (2, 0))) == ((1, 1), (6, 0))
    apart = fold_of((3, 3, 1), (40, 50, 3), (1, 2, 1))
    assert (apart.shape((40, 50, 3)), apart.dilation) == ((3, 1, 40, 50), (1, 1))
    wide = fold_of((3, 3, 1), (40, 50, 64), (1, 1, 1))
    assert (wide.shape((40, 50, 64)), wide.dilation) == ((1, 1, 40, 50, 64), (1, 1, 1))
