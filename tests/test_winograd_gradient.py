"""Winograd's weight gradients where the shared problems do not reach: forms, remainders, passes, error, NaN."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from support import Engine, assert_close, assert_same_specials, compute, expected, reduction_length, rng, tolerance

import gpuconv
from gpuconv.backends import cpu
from gpuconv.backends.cpu import winograd, winograd_gradient
from gpuconv.boundary import MODES
from gpuconv.dispatch import Call
from gpuconv.problem import ConvProblem

ENGINE = Engine("cpu", "winograd")


def call_of(x: tuple[int, ...], w: tuple[int, ...], **keywords: Any) -> Call:
    return Call(ConvProblem.make(x, w, **keywords), "weight_gradient", "float32")


def limit_of(problem: ConvProblem) -> tuple[float, float]:
    """Return tolerances twice as wide as a direct sum's, as for the other operations of this algorithm."""
    return tolerance("float32", 2 * reduction_length(problem, "weight_gradient"))


def forget() -> None:
    winograd_gradient._best.cache_clear()
    winograd_gradient._geometry.cache_clear()


@pytest.fixture(params=[3434, 3333, 3232])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Every form for 3x3 in turn, whichever the estimates prefer."""
    chosen: int = request.param
    monkeypatch.setattr(winograd_gradient, "possible", lambda _problem: (chosen,))
    forget()
    yield chosen
    forget()


PROBLEMS = (
    # channels and outputs that fill no vector, maps that fill no tile, several images
    ((2, 17, 5, 6), (33, 17, 3, 3), {"padding": 1}),
    ((3, 16, 6, 6), (16, 16, 3, 3), {}),
    ((5, 31, 7, 7), (19, 31, 3, 3), {"padding": 1}),
    ((1, 16, 67, 31), (17, 16, 3, 3), {"padding": ((0, 3), (-2, 4))}),
    ((1, 16, 40, 41), (16, 16, 3, 3), {"padding": (3, 2), "dilation": (3, 2)}),
    ((2, 24, 17, 30), (16, 24, 3, 3), {"padding": 6, "dilation": (1, 6)}),
    ((2, 66, 11, 13), (64, 33, 3, 3), {"padding": 1, "groups": 2}),
)


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("number", range(len(PROBLEMS)))
def test_shapes(form: int, number: int, layout: str) -> None:
    x, w, keywords = PROBLEMS[number]
    if layout == "channels_last":
        x = (x[0], *x[2:], x[1])
    call = call_of(x, w, layout=layout, **keywords)
    for strided in (False, True):
        actual = compute(ENGINE, call, "shapes", bias=False, strided=strided)
        assert_close(actual, expected(call, "shapes"), limit_of(call.problem), f"form {form}")


@pytest.mark.parametrize("mode", MODES)
def test_borders(form: int, mode: str) -> None:
    for shape, padding in (
        ((1, 16, 9, 11), (2, 3)),
        ((1, 16, 2, 3), ((5, 4), (7, 2))),
        ((1, 16, 12, 17), (-1, (4, -6))),
    ):
        call = call_of(shape, (17, 16, 3, 3), padding=padding, padding_mode=mode)
        assert_close(compute(ENGINE, call, mode), expected(call, mode), limit_of(call.problem), f"form {form}")


OTHERS = (
    ((2, 33, 45), (40, 33, 3), {"padding": 1}),
    ((2, 17, 80), (20, 17, 9), {"padding": ((7, 1),), "stride": 3}),
    ((2, 20, 37), (36, 20, 7), {"padding": 9, "dilation": 3}),
    ((2, 17, 19, 21), (40, 17, 3, 1), {"dilation": 2}),
    ((2, 17, 19, 21), (40, 17, 2, 2), {"padding": "same"}),
    ((1, 17, 19, 21), (20, 17, 4, 4), {"padding": 1}),
    ((1, 17, 19, 21), (20, 17, 5, 5), {"padding": 2, "padding_mode": "mirror"}),
    ((2, 18, 10, 13), (33, 18, 3, 3), {"padding": 1, "stride": 2}),
    ((1, 17, 12, 40), (20, 17, 5, 6), {"padding": (2, 1), "stride": (1, 2)}),
    ((1, 17, 9, 12), (20, 17, 7, 6), {"padding": 2}),
    ((2, 17, 5, 8, 9), (20, 17, 3, 3, 3), {"padding": 1, "stride": (2, 1, 1), "dilation": (1, 2, 1)}),
)


@pytest.mark.parametrize("number", range(len(OTHERS)))
def test_other_kernels(number: int) -> None:
    x, w, keywords = OTHERS[number]
    call = call_of(x, w, **keywords)
    assert ENGINE.takes(call)
    assert_close(compute(ENGINE, call, "other"), expected(call, "other"), limit_of(call.problem), str(w))


def test_passes_and_bands_give_the_same_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    call = call_of((3, 20, 37, 30), (24, 20, 3, 3), padding=1)
    wanted = expected(call, "passes")
    seen = set()
    for window, together in ((1 << 30, 1 << 30), (20 << 10, 1 << 30), (20 << 10, 400 << 10), (1, 1)):
        monkeypatch.setattr(winograd_gradient, "_WINDOW_BYTES", window)
        monkeypatch.setattr(winograd_gradient, "_PASS_BYTES", together)
        forget()
        seen.add(winograd_gradient._geometry(call.problem).passes)
        assert_close(compute(ENGINE, call, "passes"), wanted, limit_of(call.problem), f"{window} {together}")
    forget()
    assert {len(passes) for passes in seen} >= {1, 30}


@pytest.mark.parametrize(
    ("maps", "bound"), [((1, 32, 14, 21), 1e-6), ((4, 40, 28, 28), 1e-6), ((2, 16, 150, 160), 1.5e-6)]
)
def test_the_error_is_within_its_bound(form: int, maps: tuple[int, ...], bound: float) -> None:
    generator = rng(f"error {maps}")
    x = generator.standard_normal(maps).astype("f")
    dy = generator.standard_normal((maps[0], 48, *maps[2:])).astype("f")
    shape = (48, maps[1], 3, 3)
    exact = gpuconv.grad.conv2d_weight(x.astype("d"), shape, dy.astype("d"), padding=1)
    result = gpuconv.grad.conv2d_weight(x, shape, dy, padding=1, algorithm="winograd", backend="cpu")
    assert np.linalg.norm(result - exact) <= bound * np.linalg.norm(exact), f"form {form}"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_reaches_its_taps_only(value: float) -> None:
    call = call_of((2, 17, 9, 12), (20, 17, 3, 3), padding=1)
    generator = rng("specials")
    x = generator.standard_normal(call.problem.x_shape).astype("f")
    dy = generator.standard_normal(call.problem.y_shape).astype("f")
    # A corner meets four taps, in an image of gradients that is 0 around it.
    x[1, 3, 0, 0] = value
    dw, wanted = np.empty(call.problem.w_shape, "f"), np.empty(call.problem.w_shape, "f")
    winograd.run(call, x, dw, dy)
    Engine("cpu", "direct").module.run(call, x, wanted, dy)
    assert np.isfinite(wanted[:, 3]).any()
    assert not np.isfinite(wanted[:, 3]).all()
    assert_same_specials(dw, wanted, str(value))


def test_reasons() -> None:
    device = cpu.device()
    for call, words in (
        (call_of((1, 8, 9, 9), (32, 8, 3, 3)), "channels"),
        (call_of((1, 32, 9, 9), (8, 32, 3, 3)), "outputs"),
        (call_of((2, 32, 6, 6), (32, 32, 3, 3)), "positions"),
        (call_of((1, 32, 9, 9), (32, 32, 1, 1)), "taps"),
        (call_of((1, 32, 29, 29), (32, 32, 3, 3), stride=3), "taps"),
        (call_of((1, 32, 19, 19), (32, 32, 3, 3), stride=2, dilation=2), "taps"),
        (Call(ConvProblem.make((1, 32, 9, 9), (32, 32, 3, 3)), "weight_gradient", "float32", "highest"), "precision"),
    ):
        assert words in str(winograd.supports(call, device))
