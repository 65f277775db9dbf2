"""Depthwise planes where the shared problems do not reach: every tile, strides, dilations, what is chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Engine, assert_close, compute, expected, reduction_length, tolerance

import gpuconv
from gpuconv import dispatch
from gpuconv.backends import cpu
from gpuconv.backends.cpu import depthwise
from gpuconv.dispatch import Call
from gpuconv.problem import ConvProblem

ENGINE = Engine("cpu", "depthwise")


def call_of(
    x: tuple[int, ...], w: tuple[int, ...], operation: str = "forward", dtype: str = "float32", **keywords: Any
) -> Call:
    keywords.setdefault("groups", x[1])
    return Call(ConvProblem.make(x, w, **keywords), operation, dtype)


def check(call: Call, what: str, **options: Any) -> None:
    assert depthwise.supports(call, cpu.device()) is None
    limits = tolerance(call.dtype, reduction_length(call.problem, call.operation))
    assert_close(
        compute(ENGINE, call, what, **options), expected(call, what, bias=options.get("bias", False)), limits, what
    )


PROBLEMS = {
    "one row of outputs": ((2, 5, 3, 40), (5, 1, 3, 3), {}),
    "tiles of 4": ((1, 5, 12, 9), (5, 1, 3, 3), {"padding": 1}),
    "tiles of 7": ((2, 6, 7, 7), (6, 1, 7, 7), {"padding": 3}),
    "tiles of 7 that overlap": ((1, 3, 13, 13), (3, 1, 5, 5), {"padding": 2}),
    "tiles of 8": ((1, 3, 16, 17), (3, 1, 3, 3), {"padding": 1}),
    "several vectors of columns": ((1, 3, 9, 50), (3, 1, 5, 3), {"padding": (2, 1)}),
    "kernel of four rows": ((1, 3, 10, 11), (3, 1, 4, 2), {"padding": 2}),
    "kernel larger than x": ((2, 3, 4, 5), (3, 1, 9, 9), {"padding": 6}),
    "stride 2, even padding": ((1, 5, 14, 14), (5, 1, 5, 5), {"padding": 2, "stride": 2}),
    "stride 2, odd padding": ((1, 5, 14, 15), (5, 1, 3, 3), {"padding": 1, "stride": 2}),
    "stride 2 without padding": ((1, 5, 33, 34), (5, 1, 3, 3), {"stride": 2}),
    "strides that differ": ((1, 5, 17, 18), (5, 1, 3, 4), {"stride": (3, 2), "padding": (1, 3)}),
    "stride along rows only": ((1, 5, 17, 18), (5, 1, 7, 3), {"stride": (2, 1), "padding": (3, 1)}),
    "dilated": ((1, 5, 14, 15), (5, 1, 3, 3), {"padding": (2, 3), "dilation": (2, 3)}),
    "dilated with stride": ((1, 5, 14, 15), (5, 1, 3, 3), {"padding": 3, "dilation": 3, "stride": 2}),
    "borders that differ": ((1, 5, 8, 9), (5, 1, 3, 3), {"padding": ((0, 3), (2, 0))}),
    "a border beyond the outputs": ((1, 3, 9, 9), (3, 1, 1, 1), {"padding": ((0, 2), (0, 3)), "stride": 2}),
    "several outputs a channel": ((2, 3, 9, 10), (12, 1, 3, 3), {"padding": 1}),
    "more channels than a task has": ((3, 150, 7, 7), (150, 1, 3, 3), {"padding": 1}),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_shapes(name: str, dtype: str) -> None:
    x, w, keywords = PROBLEMS[name]
    for strided in (False, True):
        check(call_of(x, w, dtype=dtype, **keywords), name, bias=strided, strided=strided)


@pytest.mark.parametrize("operation", ["transposed", "input_gradient"])
@pytest.mark.parametrize("kernel", [3, 4, 7])
def test_the_other_direction(kernel: int, operation: str) -> None:
    check(call_of((2, 9, 9, 14), (9, 1, kernel, 3), operation, padding=1), f"{operation} {kernel}", strided=True)


@settings(deadline=None, max_examples=80)
@given(
    size=st.tuples(st.integers(1, 20), st.integers(1, 40)),
    kernel=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(*[st.tuples(st.integers(0, 9), st.integers(0, 9))] * 2),
)
def test_any_geometry(size: Any, kernel: Any, stride: Any, dilation: Any, padding: Any) -> None:
    axes = zip(size, kernel, dilation, padding, strict=True)
    if any(n + sum(p) < (k - 1) * d + 1 for n, k, d, p in axes):
        return
    keywords = {"stride": stride, "dilation": dilation, "padding": padding}
    check(call_of((1, 2, *size), (2, 1, *kernel), **keywords), str(keywords))


def test_unbatched() -> None:
    generator = np.random.default_rng(0)
    x, w = generator.random((4, 9, 11), np.float32), generator.random((4, 1, 3, 3), np.float32)
    result = gpuconv.conv2d(x, w, padding=1, groups=4, algorithm="depthwise", backend="cpu")
    np.testing.assert_array_equal(
        result, gpuconv.conv2d(x[None], w, padding=1, groups=4, algorithm="depthwise", backend="cpu")[0]
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_a_nan_reaches_its_receptive_field_only(stride: int) -> None:
    x, w = np.ones((1, 2, 9, 17), np.float32), np.ones((2, 1, 3, 3), np.float32)
    x[0, 0, 4, 16] = np.nan
    result = gpuconv.conv2d(x, w, padding=1, stride=stride, groups=2, algorithm="depthwise", backend="cpu")
    touched = np.zeros((9, 17), bool)
    touched[3:6, 15:17] = True
    np.testing.assert_array_equal(np.isnan(result[0, 0]), touched[::stride, ::stride])
    assert np.isfinite(result[0, 1]).all()


def test_what_is_chosen() -> None:
    def chosen(x: tuple[int, ...], kernel: int, **keywords: Any) -> str:
        module = dispatch.choose(call_of(x, (x[1], 1, kernel, kernel), padding=kernel // 2, **keywords), "cpu")
        return module.__name__.rsplit(".", 1)[1]

    assert chosen((1, 960, 7, 7), 3) == "depthwise"
    assert chosen((1, 672, 14, 14), 5, stride=2) == "depthwise"
    assert chosen((1, 128, 112, 112), 3) == "stencil"


@pytest.mark.parametrize(
    ("reason", "call"),
    [
        ("not float16", call_of((1, 4, 9, 9), (4, 1, 3, 3), dtype="float16")),
        ("outputs and input gradients", call_of((1, 4, 9, 9), (4, 1, 3, 3), "weight_gradient")),
        ("strided convolution", call_of((1, 4, 9, 9), (4, 1, 3, 3), "input_gradient", stride=2)),
        ("one input channel", call_of((1, 4, 9, 9), (4, 2, 3, 3), groups=2)),
        ("channels last", call_of((1, 9, 9, 4), (4, 1, 3, 3), groups=4, layout="channels_last")),
        ("borders of zeros", call_of((1, 4, 9, 9), (4, 1, 3, 3), padding=1, padding_mode="wrap")),
        ("borders of zeros", call_of((1, 4, 9, 9), (4, 1, 3, 3), padding=1, padding_value=2.0)),
        ("negative padding", call_of((1, 4, 9, 9), (4, 1, 3, 3), padding=-1)),
        ("strides of 1 and 2", call_of((1, 4, 9, 9), (4, 1, 3, 3), stride=3)),
        ("no empty arrays", call_of((0, 4, 9, 9), (4, 1, 3, 3))),
        ("bytes", call_of((1, 4, 90, 90), (4, 1, 3, 3))),
    ],
)
def test_what_it_refuses(reason: str, call: Call) -> None:
    assert reason in (depthwise.supports(call, cpu.device()) or "")
