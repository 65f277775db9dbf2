"""Depthwise layers with a stride of 2 along rows: ends of rows, tiles, kernels, what is chosen."""

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
from gpuconv.backends.cpu import depthwise_strided
from gpuconv.dispatch import Call
from gpuconv.problem import ConvProblem

ENGINE = Engine("cpu", "depthwise_strided")


def call_of(
    x: tuple[int, ...], w: tuple[int, ...], operation: str = "forward", dtype: str = "float32", **keywords: Any
) -> Call:
    keywords = {"groups": x[1], "stride": 2} | keywords
    return Call(ConvProblem.make(x, w, **keywords), operation, dtype)


def check(call: Call, what: str, **options: Any) -> None:
    assert depthwise_strided.supports(call, cpu.device()) is None
    limits = tolerance(call.dtype, reduction_length(call.problem, call.operation))
    assert_close(
        compute(ENGINE, call, what, **options), expected(call, what, bias=options.get("bias", False)), limits, what
    )


PROBLEMS = {
    "one row of outputs": ((2, 5, 3, 40), (5, 1, 3, 3), {}),
    "fewer rows than a tile": ((2, 5, 6, 40), (5, 1, 3, 3), {"padding": 1}),
    "tiles that overlap": ((2, 3, 13, 70), (3, 1, 3, 3), {"padding": 1}),
    "whole vectors inside": ((1, 2, 9, 200), (2, 1, 5, 5), {"padding": 2}),
    "odd columns": ((1, 2, 9, 67), (2, 1, 5, 5), {"padding": 2}),
    "even kernel": ((1, 2, 20, 66), (2, 1, 4, 4), {"padding": 1}),
    "kernel of 7": ((2, 2, 23, 75), (2, 1, 7, 7), {"padding": 3}),
    "kernel larger than x": ((2, 3, 4, 5), (3, 1, 7, 7), {"padding": 3}),
    "stride along rows only": ((1, 3, 17, 18), (3, 1, 3, 3), {"stride": (1, 2), "padding": (1, 3)}),
    "borders that differ": ((1, 5, 8, 90), (5, 1, 3, 3), {"padding": ((0, 3), (9, 0))}),
    "a border beyond the outputs": ((1, 3, 9, 9), (3, 1, 3, 3), {"padding": ((0, 2), (0, 40))}),
    "several outputs a channel": ((2, 3, 9, 10), (12, 1, 3, 3), {"padding": 1}),
    "few planes, in bands": ((1, 1, 233, 190), (1, 1, 3, 3), {"padding": 1}),
    "more channels than a task has": ((3, 150, 7, 7), (150, 1, 3, 3), {"padding": 1}),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_shapes(name: str, dtype: str) -> None:
    x, w, keywords = PROBLEMS[name]
    for strided in (False, True):
        check(call_of(x, w, dtype=dtype, **keywords), name, bias=strided, strided=strided)


@settings(deadline=None, max_examples=80)
@given(
    size=st.tuples(st.integers(1, 20), st.integers(1, 99)),
    kernel=st.sampled_from([(3, 3), (5, 5), (4, 4)]),
    padding=st.tuples(*[st.tuples(st.integers(0, 9), st.integers(0, 9))] * 2),
)
def test_any_geometry(size: Any, kernel: Any, padding: Any) -> None:
    if any(n + sum(p) < k for n, k, p in zip(size, kernel, padding, strict=True)):
        return
    check(call_of((1, 2, *size), (2, 1, *kernel), padding=padding), f"{size} {kernel} {padding}")


def test_unbatched() -> None:
    generator = np.random.default_rng(0)
    x, w = generator.random((4, 9, 11), np.float32), generator.random((4, 1, 3, 3), np.float32)
    options: dict[str, Any] = {"padding": 1, "stride": 2, "groups": 4, "algorithm": "depthwise_strided"}
    result = gpuconv.conv2d(x, w, backend="cpu", **options)
    np.testing.assert_array_equal(result, gpuconv.conv2d(x[None], w, backend="cpu", **options)[0])


def test_a_nan_reaches_its_receptive_field_only() -> None:
    x, w = np.ones((1, 2, 9, 81), np.float32), np.ones((2, 1, 3, 3), np.float32)
    x[0, 0, 4, [16, 80]] = np.nan
    result = gpuconv.conv2d(x, w, padding=1, stride=2, groups=2, algorithm="depthwise_strided", backend="cpu")
    touched = np.zeros((9, 81), bool)
    touched[3:6, 15:18] = touched[3:6, 79:] = True
    np.testing.assert_array_equal(np.isnan(result[0, 0]), touched[::2, ::2])
    assert np.isfinite(result[0, 1]).all()


def test_an_infinite_weight_meets_the_zeros_of_every_border() -> None:
    x, w = np.ones((1, 1, 9, 9), np.float32), np.ones((1, 1, 3, 3), np.float32)
    w[0, 0, 0, 0] = np.inf
    with np.errstate(invalid="ignore"):
        result = gpuconv.conv2d(x, w, padding=1, stride=2, algorithm="depthwise_strided", backend="cpu")[0, 0]
    assert np.isnan(result[0]).all()
    assert np.isnan(result[:, 0]).all()
    assert np.isposinf(result[1:, 1:]).all()


def test_few_planes_are_divided_among_the_threads() -> None:
    for threads in (1, 2, 5):
        problem = call_of((1, 1, 2000, 2000), (1, 1, 3, 3), padding=1).problem
        assert depthwise_strided._division(problem, 4, threads).tasks >= threads


def test_what_is_chosen() -> None:
    module = dispatch.choose(call_of((8, 96, 112, 112), (96, 1, 3, 3), padding=1), "cpu")
    assert module.__name__.endswith("depthwise_strided")


@pytest.mark.parametrize(
    ("reason", "call"),
    [
        ("not float16", call_of((1, 4, 9, 9), (4, 1, 3, 3), dtype="float16")),
        ("outputs only", call_of((1, 4, 9, 9), (4, 1, 3, 3), "input_gradient")),
        ("one input channel", call_of((1, 4, 9, 9), (4, 2, 3, 3), groups=2)),
        ("channels last", call_of((1, 9, 9, 4), (4, 1, 3, 3), groups=4, layout="channels_last")),
        ("borders of zeros", call_of((1, 4, 9, 9), (4, 1, 3, 3), padding=1, padding_mode="wrap")),
        ("borders of zeros", call_of((1, 4, 9, 9), (4, 1, 3, 3), padding=1, padding_value=2.0)),
        ("negative padding", call_of((1, 4, 9, 9), (4, 1, 3, 3), padding=-1)),
        ("strides of 2", call_of((1, 4, 9, 9), (4, 1, 3, 3), stride=1)),
        ("strides of 2", call_of((1, 4, 9, 9), (4, 1, 3, 3), stride=(3, 2))),
        ("no dilation", call_of((1, 4, 9, 9), (4, 1, 3, 3), dilation=2)),
        ("at most 7 taps", call_of((1, 4, 9, 9), (4, 1, 9, 9))),
        ("no empty arrays", call_of((0, 4, 9, 9), (4, 1, 3, 3))),
    ],
)
def test_what_it_refuses(reason: str, call: Call) -> None:
    assert reason in (depthwise_strided.supports(call, cpu.device()) or "")
