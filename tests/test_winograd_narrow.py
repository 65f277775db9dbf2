"""Winograd for few channels where the shared problems do not reach: its error, remainders, parts, borders, NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import (
    Engine,
    assert_close,
    assert_same_specials,
    compute,
    expected,
    random_array,
    reduction_length,
    rng,
    tolerance,
)

import gpuconv
from gpuconv import dispatch
from gpuconv.backends import cpu
from gpuconv.backends.cpu import gemm, threads, winograd_narrow, winograd_narrow_geometry
from gpuconv.boundary import MODES
from gpuconv.dispatch import Call
from gpuconv.problem import ConvProblem

ENGINE = Engine("cpu", "winograd_narrow")


def call_of(x: tuple[int, ...], w: tuple[int, ...], **keywords: Any) -> Call:
    return Call(ConvProblem.make(x, w, **keywords), "forward", "float32")


def check(call: Call, what: str, **options: Any) -> None:
    limits = tolerance("float32", reduction_length(call.problem, "forward"))
    assert_close(
        compute(ENGINE, call, what, **options), expected(call, what, bias=options.get("bias", False)), limits, what
    )


PROBLEMS = {
    "no tile is full": ((1, 3, 3, 5), (5, 3, 3, 3), {"padding": 1}),
    "several blocks along both axes": ((2, 3, 45, 300), (3, 3, 3, 3), {"padding": (1, 2)}),
    "several chunks of outputs": ((1, 4, 20, 70), (37, 4, 3, 3), {}),
    "7x7 with stride 2": ((2, 3, 37, 51), (19, 3, 7, 7), {"stride": 2, "padding": 3}),
    "11x11 with stride 4": ((1, 3, 64, 71), (9, 3, 11, 11), {"stride": 4, "padding": 2}),
    "7x7": ((1, 3, 20, 33), (4, 3, 7, 7), {"padding": 3}),
    "5x5": ((1, 5, 20, 33), (4, 5, 5, 5), {"padding": 2}),
    "two taps down, three across": ((1, 3, 20, 33), (4, 3, 2, 3), {}),
    "strides that differ": ((1, 6, 40, 33), (4, 6, 3, 8), {"stride": (1, 3), "padding": (0, 4)}),
    "groups": ((2, 12, 19, 40), (10, 6, 3, 3), {"padding": 1, "groups": 2}),
    "planes": ((2, 3, 5, 17, 40), (6, 3, 3, 7, 7), {"stride": (2, 2, 2), "padding": (1, 3, 3)}),
    "planes far apart": ((1, 3, 7, 17, 40), (6, 3, 2, 3, 3), {"dilation": (3, 1, 1), "padding": 1}),
    "cropped": ((1, 3, 30, 40), (6, 3, 3, 3), {"padding": ((-2, 3), (1, -4))}),
    "filled": ((1, 3, 30, 40), (6, 3, 3, 3), {"padding": 4, "padding_value": 1.5}),
    "outputs of one image only": ((1, 3, 4, 4), (1, 3, 3, 3), {}),
}


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_shapes(name: str, layout: str) -> None:
    x, w, keywords = PROBLEMS[name]
    if layout == "channels_last":
        x = (x[0], *x[2:], x[1])
    call = call_of(x, w, layout=layout, **keywords)
    assert winograd_narrow.supports(call, cpu.device()) is None
    for strided in (False, True):
        check(call, f"{name} {layout}", bias=strided, strided=strided)


@pytest.mark.parametrize("mode", MODES)
def test_borders(mode: str) -> None:
    check(call_of((1, 3, 10, 9), (4, 3, 3, 3), padding=5, padding_mode=mode), mode)
    check(call_of((1, 3, 12, 10), (4, 3, 7, 7), padding=(3, 4), stride=2, padding_mode=mode), f"{mode}, stride 2")


@settings(deadline=None, max_examples=60)
@given(
    size=st.tuples(st.integers(1, 24), st.integers(1, 80)),
    kernel=st.tuples(st.integers(2, 9), st.integers(3, 9)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    channels=st.integers(3, 5),
    outputs=st.integers(1, 5),
)
def test_any_geometry(
    size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], channels: int,
    outputs: int,
) -> None:  # fmt: skip
    if any(n + 2 * p < k for n, p, k in zip(size, padding, kernel, strict=True)):
        return
    call = call_of((1, channels, *size), (outputs, channels, *kernel), stride=stride, padding=padding)
    if winograd_narrow.supports(call, cpu.device()) is None:
        check(call, f"{size} {kernel} {stride} {padding}")


@pytest.mark.parametrize(
    ("channels", "kernel", "keywords"),
    [(3, 3, {"padding": 1}), (12, 3, {"padding": 1}), (3, 7, {"stride": 2, "padding": 3}), (8, 7, {"padding": 3}),
     (3, 11, {"stride": 4}), (8, 5, {"padding": 2})],
)  # fmt: skip
def test_the_error_is_within_its_bound(channels: int, kernel: int, keywords: dict[str, Any]) -> None:
    generator = rng(f"error {channels} {kernel}")
    x = generator.standard_normal((2, channels, 60, 90)).astype("f")
    w = generator.standard_normal((24, channels, kernel, kernel)).astype("f")
    exact = gpuconv.conv2d(x.astype("d"), w.astype("d"), **keywords)
    result = gpuconv.conv2d(x, w, algorithm="winograd_narrow", backend="cpu", **keywords)
    assert np.linalg.norm(result - exact) <= 7e-7 * np.linalg.norm(exact)


@pytest.mark.parametrize("array", ["x", "w"])
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_special_values_reach_their_receptive_field_only(array: str, special: float) -> None:
    x, w = (random_array(shape, "float32", rng(array)) for shape in ((2, 3, 21, 40), (5, 3, 7, 7)))
    {"x": x, "w": w}[array][(1, 2, 3, 4)] = special
    keywords: dict[str, Any] = {"stride": 2, "padding": 3, "backend": "cpu"}
    result = gpuconv.conv2d(x, w, algorithm="winograd_narrow", **keywords)
    wanted = gpuconv.conv2d(x, w, algorithm="direct", **keywords)
    assert_same_specials(result, wanted, f"{special} in {array}")
    finite = np.isfinite(wanted)
    np.testing.assert_allclose(result[finite], wanted[finite], rtol=1e-4, atol=1e-5)


def test_numbers_that_only_the_transform_overflows() -> None:
    x, w = np.full((1, 3, 16, 40), 1e38, np.float32), np.zeros((2, 3, 3, 3), np.float32)
    w[:, :, 1, 1] = 1
    x[:, 1:] = 0
    result = gpuconv.conv2d(x, w, padding=1, algorithm="winograd_narrow", backend="cpu")
    np.testing.assert_array_equal(result, np.full((1, 2, 16, 40), np.float32(1e38)))


@pytest.mark.parametrize("width", [5, 9, 64, 70, 131, 260])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (7, 2)])
def test_lanes_between_rows_of_tiles(width: int, kernel: int, stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors that hold the tiles of several rows: what scratch memory holds between them does no harm."""
    generator = rng(f"rows {width} {kernel}")
    w = random_array((11, 3, kernel, kernel), "float32", generator)
    keywords: dict[str, Any] = {"stride": stride, "padding": kernel // 2, "backend": "cpu"}
    nothing = np.full((1, 3, 61, width), np.nan, np.float32)
    gpuconv.conv2d(nothing, w, algorithm="winograd_narrow", **keywords)
    x = random_array(nothing.shape, "float32", generator)
    wanted = gpuconv.conv2d(x, w, algorithm="direct", **keywords)

    def again(*arguments: Any) -> None:
        raise AssertionError("finite inputs were taken for special ones")

    monkeypatch.setattr(gemm, "run", again)
    result = gpuconv.conv2d(x, w, algorithm="winograd_narrow", **keywords)
    np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=1e-4)


def test_a_plan_gives_the_same_numbers() -> None:
    x, w = random_array((2, 3, 40, 60), "float32", rng("x")), random_array((20, 3, 7, 7), "float32", rng("w"))
    keywords: dict[str, Any] = {"stride": 2, "padding": 3, "algorithm": "winograd_narrow", "backend": "cpu"}
    plan = gpuconv.plan(gpuconv.conv2d, x.shape, w, **keywords)
    np.testing.assert_array_equal(plan(x), gpuconv.conv2d(x, w, **keywords))


@pytest.mark.parametrize("workers", [1, 3])
def test_the_division_among_threads_changes_no_number(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def forget() -> None:
        winograd_narrow_geometry.geometry.cache_clear()
        winograd_narrow._geometry.cache_clear()
        winograd_narrow._ready.cache_clear()

    x, w = random_array((1, 3, 90, 200), "float32", rng("x")), random_array((20, 3, 3, 3), "float32", rng("w"))
    wanted = gpuconv.conv2d(x, w, algorithm="winograd_narrow", backend="cpu")
    monkeypatch.setattr(threads, "count", lambda: workers)
    forget()
    try:
        call = call_of(x.shape, w.shape)
        result = np.full(call.problem.y_shape, np.nan, np.float32)
        winograd_narrow.run(call, x, w, result)
    finally:
        monkeypatch.undo()
        forget()
    np.testing.assert_array_equal(result, wanted)


def test_reasons() -> None:
    def reason(x: tuple[int, ...], w: tuple[int, ...], **keywords: Any) -> str:
        return winograd_narrow.supports(call_of(x, w, **keywords), cpu.device()) or ""

    assert "at least 3 channels" in reason((1, 2, 9, 9), (4, 2, 3, 3))
    assert "2 by 3 taps" in reason((1, 3, 9, 9), (4, 3, 3, 3), stride=2)
    assert "2 by 3 taps" in reason((1, 3, 9), (4, 3, 3))
    assert "dilation" in reason((1, 3, 9, 9), (4, 3, 3, 3), dilation=2)
    assert "at most 128 channels" in reason((1, 200, 9, 9), (4, 200, 3, 3))
    assert "forward" in (
        winograd_narrow.supports(
            Call(call_of((1, 3, 9, 9), (4, 3, 3, 3)).problem, "input_gradient", "float32"), cpu.device()
        )
        or ""
    )


def test_it_is_chosen_for_the_first_layer_of_a_network_and_not_for_a_few_pixels() -> None:
    def chosen(x: tuple[int, ...], w: tuple[int, ...], **keywords: Any) -> str:
        return dispatch.choose(call_of(x, w, **keywords), "cpu").__name__.rpartition(".")[2]

    assert chosen((1, 3, 224, 224), (64, 3, 7, 7), stride=2, padding=3) == "winograd_narrow"
    assert chosen((1, 3, 12, 12), (4, 3, 3, 3)) != "winograd_narrow"
