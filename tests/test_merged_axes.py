"""Volumes with two axes merged: each pair of axes, every operation, layouts, strided arrays, what is chosen."""

from __future__ import annotations

from typing import Any

import pytest
from support import Engine, assert_close, compute, expected, reachable, reduction_length, tolerance

from gpuconv import dispatch
from gpuconv.backends import cpu
from gpuconv.backends.cpu import merged_axes
from gpuconv.dispatch import Call
from gpuconv.problem import ConvProblem

ENGINE = Engine("cpu", "merged_axes")
OPERATIONS = ("forward", "transposed", "input_gradient", "weight_gradient")
PROBLEMS = {
    "last two": ((2, 5, 7, 4, 6), (6, 5, 3, 1, 1), {"padding": (1, 0, 0), "stride": (2, 1, 1)}),
    "first two": ((2, 5, 4, 6, 17), (6, 5, 1, 1, 4), {"padding": (0, 0, 2), "dilation": (1, 1, 2)}),
    "all three": ((1, 5, 3, 4, 5), (6, 5, 1, 1, 1), {}),
    "depthwise": ((1, 4, 6, 5, 5), (8, 1, 3, 1, 1), {"groups": 4, "padding": ((2, 1), 0, 0)}),
    "channels last": ((2, 7, 4, 6, 5), (6, 5, 3, 1, 1), {"padding": (1, 0, 0), "layout": "channels_last"}),
    "border": ((1, 5, 7, 4, 6), (6, 5, 3, 1, 1), {"padding": (2, 0, 0), "padding_mode": "mirror"}),
    "unbatched": ((5, 7, 4, 6), (6, 5, 3, 1, 1), {"padding": (1, 0, 0)}),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_every_operation(name: str, operation: str) -> None:
    x, w, keywords = PROBLEMS[name]
    problem = ConvProblem.make(x, w, **keywords)
    if not reachable(problem, operation):
        pytest.skip("no public function asks for it")
    for dtype in ("float32", "float64", "complex64"):
        call = Call(problem, operation, dtype)
        assert merged_axes.supports(call, cpu.device()) is None
        limit = tolerance(dtype, reduction_length(problem, operation))
        for strided in (False, True):
            bias = strided and operation in ("forward", "transposed")
            actual = compute(ENGINE, call, name, bias=bias, strided=strided)
            assert_close(actual, expected(call, name, bias=bias), limit, f"{name} {operation} {dtype}")


def test_what_is_chosen() -> None:
    def chosen(kernel: tuple[int, ...], **keywords: Any) -> str:
        problem = ConvProblem.make((1, 64, 8, 56, 56), (64, 64, *kernel), **keywords)
        return dispatch.choose(Call(problem, "forward", "float32"), "cpu").__name__.rsplit(".", 1)[1]

    assert chosen((3, 1, 1), padding=(1, 0, 0)) == "merged_axes"
    assert chosen((3, 3, 3), padding=1) != "merged_axes"


@pytest.mark.parametrize(
    ("x", "w", "keywords"),
    [
        ((1, 5, 7, 4, 6), (6, 5, 1, 3, 1), {}),
        ((1, 5, 7, 4, 6), (6, 5, 3, 1, 1), {"stride": 2}),
        ((1, 5, 7, 4, 6), (6, 5, 3, 1, 1), {"padding": 1}),
        ((1, 5, 4, 6), (6, 5, 1, 1), {}),
    ],
)
def test_what_it_refuses(x: tuple[int, ...], w: tuple[int, ...], keywords: dict[str, Any]) -> None:
    call = Call(ConvProblem.make(x, w, **keywords), "forward", "float32")
    assert "no two neighbouring axes" in (merged_axes.supports(call, cpu.device()) or "")
