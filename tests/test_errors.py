"""Bad input gets an error before any work: every message, and that nothing was written or allocated."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support import within

import gpuconv
from gpuconv import DtypeError, ShapeError, UnsupportedError
from gpuconv.dispatch import backend

X1, W1 = np.ones((1, 2, 9)), np.ones((4, 2, 3))
X2, W2 = np.ones((1, 64, 8, 8), np.float32), np.ones((4, 64, 3, 3), np.float32)
W3 = np.ones((2, 2, 3))
CONV1, CONV2, CONV3, BACK1 = gpuconv.conv1d, gpuconv.conv2d, gpuconv.conv3d, gpuconv.conv_transpose1d

CASES: dict[str, tuple[type[Exception], Callable[..., Any], tuple[Any, ...], dict[str, Any], str]] = {
    "groups": (ShapeError, CONV2, (X2, W2), {"groups": 3}, "groups=3 must divide the input's 64 channels"),
    "groups of w": (
        ShapeError, CONV1, (np.ones((4, 9)), np.ones((6, 1, 3))), {"groups": 4},
        "groups=4 must divide the 6 output channels of w",
    ),
    "groups 0": (ShapeError, CONV1, (X1, W1), {"groups": 0}, "groups=0 must be at least 1"),
    "groups negative": (ShapeError, CONV1, (X1, W1), {"groups": -2}, "groups=-2 must be at least 1"),
    "groups tuple": (ShapeError, CONV1, (X1, W1), {"groups": (1,)}, "groups=(1,) must be an integer"),
    "channels": (
        ShapeError, CONV1, (X1, np.ones((4, 3, 3))), {},
        "w has shape (4, 3, 3): with groups=1 and 2 input channels w.shape[1] must be 2, not 3",
    ),
    "channels transposed": (ShapeError, BACK1, (X1, W1), {}, "w.shape[0] must be x's 2 channels, not 4"),
    "pair for one axis": (
        ShapeError, CONV1, (X1, W1), {"padding": (1, 2)},
        "padding=(1, 2) has 2 entries; it must have one per spatial axis, 1, each an int or a pair (before, "
        "after); for 1 before and 2 after write padding=((1, 2),)",
    ),
    "padding entries": (
        ShapeError, CONV2, (X2, W2), {"padding": (1, 2, 3)},
        "padding=(1, 2, 3) has 3 entries; it must have one per spatial axis, 2",
    ),
    "padding triple": (ShapeError, CONV1, (X1, W1), {"padding": ((1, 2, 3),)}, "(1, 2, 3) must be an int or a pair"),
    "padding word": (
        ShapeError, CONV1, (X1, W1), {"padding": "full"},
        "padding='full' is unknown; valid are an int, one int or pair (before, after) per axis, 'valid', 'same', "
        "'same_lower' and 'causal'",
    ),
    "padding word per axis": (ShapeError, CONV1, (X1, W1), {"padding": ("same",)}, "'same' must be an int or a pair"),
    "padding None": (ShapeError, CONV1, (X1, W1), {"padding": None}, "padding=None must be an integer"),
    "padding float": (ShapeError, CONV1, (X1, W1), {"padding": 0.5}, "padding=0.5 must be an integer"),
    "stride 0": (ShapeError, CONV1, (X1, W1), {"stride": 0}, "stride=0 must be at least 1"),
    "stride negative": (ShapeError, CONV2, (X2, W2), {"stride": (1, -1)}, "stride=(1, -1) must be at least 1"),
    "stride entries": (
        ShapeError, CONV2, (X2, W2), {"stride": (1, 2, 3)},
        "stride=(1, 2, 3) has 3 entries; it must be an int or have one per spatial axis: 2",
    ),
    "stride empty": (ShapeError, CONV2, (X2, W2), {"stride": ()}, "stride=() has 0 entries"),
    "stride str": (ShapeError, CONV1, (X1, W1), {"stride": "2"}, "stride='2' must be an integer"),
    "stride float": (ShapeError, CONV1, (X1, W1), {"stride": 2.0}, "stride=2.0 must be an integer"),
    "dilation 0": (ShapeError, CONV1, (X1, W1), {"dilation": 0}, "dilation=0 must be at least 1"),
    "kernel size 0": (
        ShapeError, CONV1, (X1, np.ones((4, 2, 0))), {},
        "w has shape (4, 2, 0): the kernel's size on axis 0 is 0, and must be at least 1",
    ),
    "kernel size 0 transposed": (ShapeError, BACK1, (X1, np.ones((2, 2, 0))), {}, "the kernel's size on axis 0 is 0"),
    "kernel too large": (
        ShapeError, CONV1, (X1, W1), {"dilation": 5},
        "the kernel spans 11 elements on axis 0 (size 3, dilation 5), more than the padded input's 9",
    ),
    "kernel too large in depth": (
        ShapeError, CONV2, (np.ones((1, 5, 2)), np.ones((1, 1, 3, 3))), {},
        "the kernel spans 3 elements on axis 1 (size 3, dilation 1), more than the padded input's 2",
    ),
    "crop": (
        ShapeError, CONV1, (X1, W1), {"padding": ((-5, -4),)},
        "padding=(-5, -4) on axis 0 crops all of an input of size 9",
    ),
    "crop, then border": (
        ShapeError, CONV1, (X1, W1), {"padding": ((-9, 20),), "padding_mode": "wrap"},
        "padding=(-9, 20) on axis 0 crops all",
    ),
    "spatial size 0": (
        ShapeError, CONV1, (np.ones((1, 2, 0)), W1), {"padding": 5},
        "its spatial sizes (0,) must be at least 1",
    ),
    "rank of w": (
        ShapeError, CONV2, (X1[None], W1), {},
        "w has shape (4, 2, 3); it must have 4 axes: two of channels and 2 spatial",
    ),
    "rank of x": (
        ShapeError, CONV1, (np.ones(9), W1), {},
        "x has shape (9,): with 1 spatial axes it must have 2 axes or, with a batch, 3",
    ),
    "rank of x above": (
        ShapeError, CONV3, (np.ones((1,) * 6), np.ones((1,) * 5)), {},
        "x has shape (1, 1, 1, 1, 1, 1)",
    ),
    "output padding": (
        ShapeError, BACK1, (X1, W3), {"stride": 2, "output_padding": 2},
        "output_padding=2 on axis 0 must be less than the larger of stride=2 and dilation=1",
    ),
    "output padding negative": (
        ShapeError, BACK1, (X1, W3), {"output_padding": -1},
        "output_padding=-1 must be at least 0",
    ),
    "output padding same": (
        ShapeError, BACK1, (X1, W3), {"stride": 2, "output_padding": 1, "padding": "same"},
        "output_padding=(1,) must be 0 with padding='same'",
    ),
    "transposed padding negative": (
        ShapeError, BACK1, (X1, W3), {"padding": -1},
        "padding=-1 must not be negative for a transposed convolution",
    ),
    "transposed padding word": (
        ShapeError, BACK1, (X1, W3), {"padding": "causal"},
        "padding='causal' is unknown for a transposed convolution; valid are an int, one int or pair (before, "
        "after) per axis, 'valid' and 'same'",
    ),
    "transposed padding too large": (
        ShapeError, BACK1, (X1, W3), {"padding": 6},
        "padding=(6, 6) on axis 0 leaves an output of size -1: the unpadded output has only 11",
    ),
    "transposed border": (
        UnsupportedError, BACK1, (X1, W3), {"padding_mode": "wrap"},
        "padding_mode='wrap': a transposed convolution has the 'zeros' border only",
    ),
    "border": (
        UnsupportedError, CONV1, (X1, W1), {"padding_mode": "mirrored"},
        "padding_mode='mirrored' is not a border mode; valid are ",
    ),
    "layout": (
        UnsupportedError, CONV1, (X1, W1), {"layout": "NCHW"},
        "layout='NCHW' is unknown; valid are 'channels_first', 'channels_last'",
    ),
    "precision": (
        UnsupportedError, CONV1, (X1, W1), {"precision": "low"},
        "precision='low' is unknown; valid are 'highest', 'high', 'tf32'",
    ),
    "backend": (
        UnsupportedError, CONV1, (X1, W1), {"backend": "gpu"},
        "backend='gpu' is unknown; valid are 'auto', 'cpu', 'cuda'",
    ),
    "algorithm": (
        UnsupportedError, CONV1, (X1, W1), {"algorithm": "magic"},
        "algorithm='magic' is unknown to backend 'cpu'; valid are 'auto', 'direct'",
    ),
    "mixed widths": (
        DtypeError, CONV1, (X1, W1.astype(np.float32)), {},
        "x has dtype float64 and w has dtype float32; both must have the same dtype: convert one, for example "
        "w.astype('float64')",
    ),
    "integer with float": (
        DtypeError, CONV1, (X1.astype(np.int32), W1), {},
        "x has dtype int32 and w has dtype float64",
    ),
    "signed with unsigned": (
        DtypeError, CONV1, (X1.astype(np.int8), W1.astype(np.uint8)), {},
        "x has dtype int8 and w has dtype uint8",
    ),
    "real with complex": (DtypeError, CONV1, (X1 * 1j, W1), {}, "x has dtype complex128 and w has dtype float64"),
    "bool": (DtypeError, CONV1, (X1 > 0, W1 > 0), {}, "x has dtype bool; supported are float16, bfloat16, float32"),
    "bool weights": (DtypeError, CONV1, (X1, W1 > 0), {}, "w has dtype bool; supported are"),
    "object": (DtypeError, CONV1, (X1.astype(object), W1), {}, "x has dtype object; supported are"),
    "string": (DtypeError, CONV1, (X1.astype(str), W1), {}, "x has dtype str"),
    "long double": (
        DtypeError, CONV1, (X1.astype(np.longdouble), W1), {},
        f"x has dtype {np.dtype(np.longdouble).name}; supported are",
    ),
    "bias shape": (
        ShapeError, CONV1, (X1, W1, np.ones(3)), {},
        "bias has shape (3,); it must be (4,), one entry per output channel",
    ),
    "bias rank": (ShapeError, CONV1, (X1, W1, np.ones((1, 4))), {}, "bias has shape (1, 4); it must be (4,)"),
    "bias scalar": (ShapeError, CONV1, (X1, W1, 1.0), {}, "bias has shape (); it must be (4,)"),
    "bias dtype": (
        DtypeError, CONV1, (X1, W1, np.ones(4, np.float32)), {},
        "bias has dtype float32; it must have the result's: float64",
    ),
    "bias of 8 bits": (
        DtypeError, CONV1, (X1.astype(np.int8), W1.astype(np.int8), np.ones(4, np.int8)), {},
        "bias has dtype int8; it must have the result's: int32",
    ),
    "bias transposed": (ShapeError, BACK1, (X1, W3, np.ones(3)), {}, "bias has shape (3,); it must be (2,)"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_message(name: str) -> None:
    error, function, arrays, keywords, message = CASES[name]
    # Twice: a call that failed may not be remembered as one that works.
    for _ in range(2):
        with pytest.raises(error, match=re.escape(message)) as caught:
            function(*arrays, **keywords)
        assert type(caught.value) is error


def outs() -> dict[str, tuple[type[Exception], str, Callable[[np.ndarray, np.ndarray, np.ndarray], Any]]]:
    def frozen(shape: tuple[int, ...]) -> np.ndarray:
        out = np.full(shape, 7.0)
        out.flags.writeable = False
        return out

    shape, overlap = (1, 4, 7), "out overlaps an input in memory"
    return {
        "shape": (ShapeError, "out has shape (1, 4, 8); it must be (1, 4, 7)", lambda *_: np.full((1, 4, 8), 7.0)),
        "rank": (ShapeError, "out has shape (4, 7); it must be (1, 4, 7)", lambda *_: np.full((4, 7), 7.0)),
        "dtype": (DtypeError, "out has dtype float32; it must be float64", lambda *_: np.full(shape, 7, np.float32)),
        "byte order": (DtypeError, "out has dtype >f8; it must be float64", lambda *_: np.full(shape, 7, ">f8")),
        "read-only": (ValueError, "out is read-only; it must be writable", lambda *_: frozen(shape)),
        "list": (DtypeError, "out has type list; it must be a NumPy array", lambda *_: np.full(shape, 7.0).tolist()),
        "repeated memory": (
            ValueError, "repeats memory; every element must have its own",
            lambda *_: np.lib.stride_tricks.as_strided(np.full((1, 1, 7), 7.0), shape, (56, 0, 8)),
        ),
        "overlaps x": (ValueError, overlap, lambda x, _w, _b: x.reshape(-1)[8:36].reshape(shape)),
        "overlaps w": (ValueError, overlap, lambda _x, w, _b: w.base.reshape(-1)[:28].reshape(shape)),
        "overlaps bias": (ValueError, overlap, lambda _x, _w, b: b.base[3:31].reshape(shape)),
    }  # fmt: skip


@pytest.mark.parametrize("name", outs())
def test_out_is_refused_and_unchanged(name: str) -> None:
    error, message, make = outs()[name]
    x, w, bias = np.full((1, 4, 9), 7.0), np.full((4, 4, 4), 7.0)[..., :3], np.full(40, 7.0)[2:6]
    out = make(x, w, bias)
    with pytest.raises(error, match=re.escape(message)):
        gpuconv.conv1d(x, w, bias, out=out)
    for array in (out, x, w.base, bias.base):
        assert (np.asarray(array) == 7).all()


def test_interleaved_output_does_not_overlap() -> None:
    """The memory of x and out is interleaved but shares no element, which is no reason to refuse it."""
    both = np.ones((1, 1, 12))
    out = both[..., 1::2][..., :5]
    assert gpuconv.conv1d(both[..., ::2], np.ones((1, 1, 2)), out=out) is out
    np.testing.assert_array_equal(both, [[[1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 1]]])


def test_an_error_leaves_out_alone() -> None:
    out = np.full((1, 4, 7), 7.0)
    for _, function, arrays, keywords, _ in CASES.values():
        with pytest.raises((ValueError, NotImplementedError)):
            function(*arrays, **keywords, out=out)
    assert (out == 7).all()


def zeros(*shape: int) -> np.ndarray:
    """Return an array of any size that takes four bytes."""
    return np.broadcast_to(np.float32(0), shape)


@pytest.mark.parametrize(
    "call",
    [
        lambda: CONV2(zeros(1, 1, 2**19, 2**19), zeros(1, 1, 1, 1)),
        lambda: CONV1(zeros(1, 1, 4), zeros(1, 1, 1), padding=2**39),
        lambda: CONV1(zeros(1, 1, 4), zeros(2**40, 1, 1)),
        lambda: CONV3(zeros(2**20, 1, 1, 1, 1), zeros(2**20, 1, 1, 1, 1)),
        lambda: CONV1(zeros(1, 4), zeros(1, 1, 1), padding=2**70),
        lambda: BACK1(zeros(1, 1, 2), zeros(1, 1, 1), stride=2**40),
        lambda: BACK1(zeros(1, 1, 4), zeros(1, 1, 3), dilation=2**62),
        lambda: gpuconv.grad.conv1d_input((1, 1, 2**40), zeros(1, 1, 1), zeros(1, 1, 2**40)),
        lambda: gpuconv.grad.conv1d_input((1, 1, 2**40), zeros(1, 1, 1), zeros(1, 1, 1), stride=2**41),
        lambda: gpuconv.grad.conv1d_weight(zeros(1, 2**20, 1), (2**20, 2**20, 1), zeros(1, 2**20, 1)),
    ],
)
def test_a_result_beyond_memory_is_refused_at_once(call: Callable[[], Any]) -> None:
    tracemalloc.start()
    try:
        with within(5), pytest.raises(MemoryError, match=r"a result of shape .* needs .* GiB; this machine has .* GiB"):
            call()
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_cuda_without_a_gpu() -> None:
    if backend("cuda").unavailable() is None:
        pytest.skip("the CUDA backend is available here")
    for arguments in ({}, {"algorithm": "direct"}):
        with pytest.raises(gpuconv.BackendUnavailableError, match=r"(?s)backend='cuda' is not available: .*install"):
            CONV1(X1, W1, backend="cuda", **arguments)
    e = gpuconv.explain(CONV1, X1, W1, backend="cuda")
    assert e.chosen is None
    assert all(row.reason for row in e.rows if row.backend == "cuda")
    assert e.chosen != gpuconv.explain(CONV1, X1, W1).chosen


def test_the_cpu_refuses_arrays_on_a_gpu() -> None:
    class OnGpu:
        __cuda_array_interface__: dict[str, Any] = {}

    with pytest.raises(UnsupportedError, match="type OnGpu lies in a GPU's memory"):
        CONV1(OnGpu(), W1, backend="cpu")
