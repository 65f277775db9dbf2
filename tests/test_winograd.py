"""The CPU's Winograd algorithm where the shared problems do not reach: its error, remainders, NaN, forms."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from support import (
    Engine,
    assert_close,
    assert_same_specials,
    compute,
    expected,
    makes,
    random_array,
    reduction_length,
    rng,
    tolerance,
)

import gpuconv
from gpuconv import dispatch
from gpuconv.backends import cpu
from gpuconv.backends.cpu import winograd, winograd_division, winograd_forms, winograd_geometry
from gpuconv.boundary import MODES
from gpuconv.dispatch import Call
from gpuconv.problem import ConvProblem

ENGINE = Engine("cpu", "winograd")

FORMS_2D = (4343, 4323, 3333, 2323)


def call_of(x: tuple[int, ...], w: tuple[int, ...], operation: str = "forward", **keywords: Any) -> Call:
    return Call(ConvProblem.make(x, w, **keywords), operation, "float32")


def limit_of(problem: ConvProblem, operation: str) -> tuple[float, float]:
    """Return tolerances twice as wide as a direct sum's: the tests force large tiles on few channels too."""
    return tolerance("float32", 2 * reduction_length(problem, operation))


def forget_choices() -> None:
    """Let the next call settle its form and its blocks anew."""
    winograd_geometry.geometry.cache_clear()
    winograd_geometry.is_worth_packing.cache_clear()
    winograd._ready.cache_clear()
    winograd._packed_sizes.cache_clear()


@pytest.fixture(params=FORMS_2D)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Every 2-d form in turn, whichever the estimates prefer."""
    chosen: int = request.param
    monkeypatch.setattr(winograd_geometry, "possible_forms", lambda _problem: (chosen,))
    forget_choices()
    yield chosen
    forget_choices()


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("channels", [16, 64, 200, 512])
def test_the_error_is_within_its_bound_for_any_number_of_channels(channels: int) -> None:
    generator = rng(f"error {channels}")
    x = generator.standard_normal((1, channels, 14, 21)).astype("f")
    w = generator.standard_normal((40, channels, 3, 3)).astype("f")
    exact = gpuconv.conv2d(x.astype("d"), w.astype("d"), padding=1)
    result = gpuconv.conv2d(x, w, padding=1, algorithm="winograd", backend="cpu")
    assert np.linalg.norm(result - exact) <= 1e-6 * np.linalg.norm(exact)


PROBLEMS = (
    # channels and outputs that fill no vector, maps that fill no tile, several blocks of rows, columns and images
    ((2, 17, 5, 6), (33, 17, 3, 3), {"padding": 1}),
    ((1, 16, 3, 3), (1, 16, 3, 3), {}),
    ((3, 31, 7, 7), (15, 31, 3, 3), {"padding": 1}),
    ((20, 16, 7, 9), (48, 16, 3, 3), {"padding": (2, 1)}),
    ((1, 16, 67, 31), (17, 16, 3, 3), {"padding": ((0, 3), (-2, 4))}),
    ((1, 18, 6, 500), (16, 18, 3, 3), {"padding": 1}),
    ((1, 16, 40, 41), (16, 16, 3, 3), {"padding": (3, 2), "dilation": (3, 2)}),
    ((2, 24, 17, 60), (16, 24, 3, 3), {"padding": 6, "dilation": (1, 6)}),
    ((2, 64, 11, 13), (64, 32, 3, 3), {"padding": 1, "groups": 2}),
    ((1, 70, 9, 12), (20, 70, 3, 3), {"padding": 1}),
)


@pytest.mark.parametrize("operation", ["forward", "transposed", "input_gradient"])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("number", range(len(PROBLEMS)))
def test_shapes(form: int, number: int, layout: str, operation: str) -> None:
    x, w, keywords = PROBLEMS[number]
    if layout == "channels_last":
        x = (x[0], *x[2:], x[1])
    call = call_of(x, w, operation, layout=layout, **keywords)
    if not ENGINE.takes(call):
        pytest.skip(str(ENGINE.reason(call)))
    limit = limit_of(call.problem, operation)
    for strided in (False, True):
        actual = compute(ENGINE, call, "shapes", bias=strided, strided=strided)
        assert_close(actual, expected(call, "shapes", bias=strided), limit, f"form {form}")


@pytest.mark.parametrize("mode", MODES)
def test_borders(form: int, mode: str) -> None:
    for shape, padding in (
        ((1, 16, 9, 11), (2, 3)),
        ((1, 16, 2, 3), ((5, 4), (7, 2))),
        ((1, 16, 20, 37), ((-1, 3), (4, -6))),
    ):
        call = call_of(shape, (17, 16, 3, 3), padding=padding, padding_mode=mode)
        limit = limit_of(call.problem, "forward")
        assert_close(compute(ENGINE, call, mode), expected(call, mode), limit, f"form {form}")


def test_fill_values(form: int) -> None:
    call = call_of((1, 16, 9, 11), (17, 16, 3, 3), padding=2, padding_value=3.0)
    limit = tuple(3 * t for t in limit_of(call.problem, "forward"))
    assert_close(compute(ENGINE, call, "fill"), expected(call, "fill"), limit, f"form {form}")


@pytest.mark.parametrize("kernel", [(3,), (1, 3), (3, 1), (2,), (4,), (5,), (2, 2), (4, 4), (5, 5)], ids=str)
def test_other_kernels(kernel: tuple[int, ...]) -> None:
    for keywords in ({"padding": "same"}, {"dilation": 3}, {"padding": "causal", "dilation": 2}):
        for operation in ("forward", "input_gradient"):
            call = call_of((2, 33, *(19, 45)[-len(kernel) :]), (40, 33, *kernel), operation, **keywords)
            limit = limit_of(call.problem, operation)
            assert_close(compute(ENGINE, call, "other"), expected(call, "other"), limit, str(kernel))
    generator = rng(f"error {kernel}")
    x = generator.standard_normal((1, 200, *(14, 21)[-len(kernel) :])).astype("f")
    w = generator.standard_normal((40, 200, *kernel)).astype("f")
    convolve = getattr(gpuconv, f"conv{len(kernel)}d")
    exact = convolve(x.astype("d"), w.astype("d"))
    result = convolve(x, w, algorithm="winograd", backend="cpu")
    assert np.linalg.norm(result - exact) <= 1e-6 * np.linalg.norm(exact)


PARTS = (
    # a sum of parts: strides, kernels of many taps, depth; and transposed, phases of the outputs
    ((2, 18, 10, 13), (33, 18, 3, 3), {"padding": 1, "stride": 2}),
    ((1, 17, 12, 40), (20, 17, 5, 6), {"padding": (2, 1), "stride": (1, 2)}),
    ((1, 66, 11, 9), (34, 66, 7, 7), {"padding": 3, "stride": 2}),
    ((1, 17, 9, 12), (20, 17, 7, 6), {"padding": 2}),
    ((1, 17, 9, 20), (20, 17, 3, 5), {"padding": 2, "dilation": (2, 1)}),
    ((2, 17, 50), (20, 17, 9), {"padding": ((7, 1),), "stride": 3}),
    ((2, 20, 37), (36, 20, 7), {"padding": 9, "dilation": 3}),
    ((2, 17, 40), (18, 17, 16), {"padding": 4, "stride": 8}),
    ((2, 18, 4, 7, 9), (20, 18, 3, 3, 3), {"padding": 1}),
    ((1, 40, 5, 6, 8), (34, 20, 2, 3, 3), {"padding": 1, "stride": (2, 1, 2), "dilation": (2, 1, 1), "groups": 2}),
    ((1, 17, 3, 8, 20), (20, 17, 3, 1, 3), {"padding": (1, 0, 1), "stride": (1, 2, 1)}),
    # phases along y of a result of one column, or of columns that are all phases of their own
    ((2, 20, 12, 1), (17, 20, 4, 1), {"padding": (1, 0), "stride": 2}),
    ((1, 17, 11, 1), (20, 17, 3, 1), {"padding": (1, 0), "stride": 2}),
    ((1, 17, 12, 2), (20, 17, 5, 2), {"padding": (2, 1), "stride": (2, 4)}),
    # phases that lack taps, and borders of every size
    ((1, 18, 13, 17), (20, 18, 5, 7), {"padding": ((4, 0), (1, 6)), "stride": (2, 3)}),
    ((1, 18, 20, 23), (20, 18, 4, 3), {"padding": ((-2, 1), (3, -1)), "stride": (3, 2)}),
    ((1, 18, 9, 20), (20, 18, 3, 4), {"padding": 2, "stride": (1, 2), "dilation": (2, 1)}),
    ((1, 34, 12, 40), (34, 34, 13, 12), {"padding": 5, "stride": 4}),
)


@pytest.mark.parametrize("operation", ["forward", "transposed", "input_gradient"])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("number", range(len(PARTS)))
def test_parts_and_phases(number: int, layout: str, operation: str) -> None:
    x, w, keywords = PARTS[number]
    if layout == "channels_last":
        x = (x[0], *x[2:], x[1])
    call = call_of(x, w, operation, layout=layout, **keywords)
    assert ENGINE.takes(call), ENGINE.reason(call)
    limit = limit_of(call.problem, operation)
    for strided in (False, True):
        actual = compute(ENGINE, call, "parts", bias=strided, strided=strided)
        assert_close(actual, expected(call, "parts", bias=strided), limit, str(keywords))


@pytest.mark.parametrize("mode", MODES)
def test_borders_of_parts(mode: str) -> None:
    for x, w, keywords in (
        ((1, 16, 9, 12), (17, 16, 3, 5), {"padding": (2, 3), "stride": 2}),
        ((1, 16, 20, 15), (17, 16, 3, 3), {"padding": ((-1, 3), (4, -6)), "stride": (2, 1)}),
        ((1, 16, 3, 4, 7), (17, 16, 3, 3, 3), {"padding": (2, 1, 3)}),
    ):
        call = call_of(x, w, padding_mode=mode, **keywords)
        limit = limit_of(call.problem, "forward")
        assert_close(compute(ENGINE, call, mode), expected(call, mode), limit, mode)


@pytest.mark.parametrize("number", range(len(PARTS)))
def test_special_values_in_parts(number: int) -> None:
    x_shape, w_shape, keywords = PARTS[number]
    for operation in ("forward", "transposed"):
        call = call_of(x_shape, w_shape, operation, **keywords)
        generator = rng(f"parts {number}")
        x, w = (random_array(shape, "float32", generator) for shape in call.problem.shapes(operation)[:2])
        for place, value in zip(generator.integers(0, x.size, 2), (math.nan, math.inf), strict=True):
            x.reshape(-1)[place] = value
        with np.errstate(all="ignore"):
            wanted = makes(call, x, w)
        out = np.zeros(wanted.shape, "f")
        ENGINE.write(call, x, w, out)
        assert_same_specials(out, wanted, operation)


@pytest.mark.parametrize(
    ("kernel", "keywords"),
    [((3, 3), {"stride": 2}), ((7,), {}), ((7, 7), {}), ((3, 3, 3), {}), ((5, 5), {"stride": 2})],
    ids=str,
)
def test_the_error_of_parts(kernel: tuple[int, ...], keywords: dict[str, Any]) -> None:
    generator = rng(f"error {kernel}")
    x = generator.standard_normal((1, 200, *(9, 14, 21)[-len(kernel) :])).astype("f")
    w = generator.standard_normal((40, 200, *kernel)).astype("f")
    convolve = getattr(gpuconv, f"conv{len(kernel)}d")
    exact = convolve(x.astype("d"), w.astype("d"), **keywords)
    result = convolve(x, w, algorithm="winograd", backend="cpu", **keywords)
    assert np.linalg.norm(result - exact) <= 1e-6 * np.linalg.norm(exact)


@pytest.fixture
def one_form(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The first form of each problem, though another may be preferred where weights are transformed beforehand."""
    forms = winograd_geometry.possible_forms
    monkeypatch.setattr(winograd_geometry, "possible_forms", lambda problem: forms(problem)[:1])
    forget_choices()
    yield
    forget_choices()


@pytest.mark.usefixtures("one_form")
def test_a_plan_of_phases_gives_the_same_numbers() -> None:
    for kernel in ((4, 4), (3, 3), (1, 3)):
        call = call_of((1, 40, 15, 15), (24, 40, *kernel), "transposed", stride=2)
        generator = rng("plan of phases")
        y, w = (random_array(shape, "float32", generator) for shape in call.problem.shapes("transposed")[:2])
        first, second = (np.full(call.problem.x_shape, np.nan, "f") for _ in range(2))
        winograd.run(call, first, w, y)
        winograd.run(call, second, w, y, None, winograd.pack(call, w))
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("array", ["x", "w"])
@pytest.mark.parametrize("dilation", [1, 2])
def test_special_values_reach_their_receptive_field_only(form: int, array: str, dilation: int) -> None:
    call = call_of((2, 17, 13, 22), (35, 17, 3, 3), padding=1, dilation=dilation, padding_mode="mirror")
    for value in (math.nan, math.inf, -math.inf):
        generator = rng(f"{array} {value}")
        x, w = (random_array(shape, "float32", generator) for shape in call.problem.shapes("forward")[:2])
        target = x if array == "x" else w
        for place in generator.integers(0, target.size, 3):
            target.reshape(-1)[place] = value
        with np.errstate(all="ignore"):
            wanted = makes(call, x, w)
        out = np.zeros(wanted.shape, "f")
        ENGINE.write(call, x, w, out)
        assert not np.isfinite(wanted).all()
        assert np.isfinite(wanted).any()
        assert_same_specials(out, wanted, f"form {form} {value}")


@pytest.mark.usefixtures("form")
def test_numbers_that_only_the_transform_overflows() -> None:
    call = call_of((1, 16, 8, 8), (16, 16, 3, 3), padding=1)
    x, w = np.full((1, 16, 8, 8), 1.5e37, "f"), np.zeros((16, 16, 3, 3), "f")
    w[:, 0, 1, 1] = 16
    out = np.zeros((1, 16, 8, 8), "f")
    ENGINE.write(call, x, w, out)
    np.testing.assert_allclose(out, 2.4e38, rtol=1e-5)


@pytest.mark.usefixtures("form")
def test_a_plan_gives_the_same_numbers() -> None:
    call = call_of((1, 48, 15, 15), (70, 48, 3, 3), padding=1)
    generator = rng("plan")
    x, w = (random_array(shape, "float32", generator) for shape in call.problem.shapes("forward")[:2])
    first, second = (np.zeros(call.problem.y_shape, "f") for _ in range(2))
    winograd.run(call, x, w, first)
    winograd.run(call, x, w, second, None, winograd.pack(call, w))
    np.testing.assert_array_equal(first, second)


def same_on_threads(call: Call, workers: int) -> None:
    results = []
    for number in (1, workers):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(winograd_geometry.threads, "count", lambda number=number: number)
            forget_choices()
            results.append(compute(ENGINE, call, "threads"))
    forget_choices()
    np.testing.assert_array_equal(*results)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_the_division_among_threads_changes_no_number(workers: int) -> None:
    for shape, operation, keywords in (
        ((1, 32, 14, 14), "forward", {}), ((3, 100, 30, 33), "forward", {"dilation": 2}),
        ((1, 64, 9, 200), "forward", {}),
    ):  # fmt: skip
        same_on_threads(call_of(shape, (72, shape[1], 3, 3), operation, padding=2, **keywords), workers)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_division_of_phases_among_threads_changes_no_number(workers: int) -> None:
    for kernel in (3, 4, 5):
        same_on_threads(call_of((2, 48, 40, 37), (72, 48, kernel, kernel), "transposed", padding=1, stride=2), workers)


CUTS = {
    "two images": ((2, 32, 15, 19), (40, 32, 3, 3), {"padding": 1}),
    "stride 2": ((1, 32, 30, 41), (40, 32, 3, 3), {"padding": 1, "stride": 2}),
    "dilated": ((2, 32, 15, 37), (40, 32, 3, 3), {"padding": 2, "dilation": 3}),
    "5x5/2": ((1, 32, 21, 33), (40, 32, 5, 5), {"padding": 2, "stride": 2}),
    "depth": ((1, 16, 5, 13, 18), (24, 16, 3, 3, 3), {"padding": 1}),
    "one row": ((2, 16, 200), (24, 16, 3), {"padding": 1}),
    "phases": ((2, 24, 31, 38), (40, 24, 3, 4), {"padding": 1, "stride": 2}),
    "phases of a signal": ((2, 24, 200), (40, 24, 7), {"padding": 2, "stride": 3}),
}


@pytest.mark.parametrize("name", CUTS)
def test_where_blocks_begin_changes_no_number(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x_shape, w_shape, keywords = CUTS[name]
    call = call_of(x_shape, w_shape, "transposed" if name.startswith("phases") else "forward", **keywords)
    (phase,) = winograd._phases(call)
    form = winograd_geometry.geometry(phase.problem, False).form
    monkeypatch.setattr(winograd_geometry, "possible_forms", lambda _problem: (form,))
    first = None
    for split, inside, blocks in itertools.product((False, True), (False, True), (1, 2, 3, 5)):

        def division(s: Any, packed: bool, workers: int, chosen: Any = (blocks, split, inside)) -> Any:
            blocks, split, inside = chosen
            found = winograd_division.division(s, min(s.dilation_x, s.tiles_x), blocks, split, packed, workers)
            return found._replace(inside=inside)

        monkeypatch.setattr(winograd_geometry, "best_division", division)
        forget_choices()
        out = compute(ENGINE, call, name)
        if first is None:
            first = out
            assert_close(out, expected(call, name), (1e-4, 1e-4), name)
        np.testing.assert_array_equal(out, first)
    monkeypatch.undo()
    forget_choices()


@pytest.mark.parametrize(
    ("x", "w", "keywords"),
    [
        ((1, 512, 8, 20000), (512, 512, 3, 3), {"padding": 1}),
        ((2, 1024, 50000), (1024, 1024, 3), {}),
        ((1, 512, 4, 30000), (512, 512, 7, 7), {"stride": 2, "padding": 3}),
        ((1, 64, 3000, 3000), (64, 64, 3, 3), {"padding": 2, "dilation": 2}),
    ],
    ids=str,
)
def test_long_rows_are_cut(x: tuple[int, ...], w: tuple[int, ...], keywords: dict[str, Any]) -> None:
    scratch_is_bounded(ConvProblem.make(x, w, **keywords))


@pytest.mark.parametrize(
    ("x", "w", "keywords"),
    [
        ((1, 512, 1792, 1792), (16, 512, 16, 16), {"padding": 4, "stride": 8}),
        ((1, 256, 896, 896), (32, 256, 8, 8), {"padding": 2, "stride": 4}),
        ((2, 64, 80000), (512, 64, 16), {"padding": 4, "stride": 8}),
    ],
    ids=str,
)
def test_the_products_of_phases_are_bounded(x: tuple[int, ...], w: tuple[int, ...], keywords: dict[str, Any]) -> None:
    scratch_is_bounded(ConvProblem.make(x, w, **keywords).adjoint())


def scratch_is_bounded(problem: ConvProblem) -> None:
    forms = winograd_geometry.possible_forms(problem)
    for form, packed, workers in itertools.product(forms, (False, True), (1, 2, 16)):
        g = winograd_geometry._make(problem, form, packed, workers)
        # What is kept of a few tiles is more than 4 MiB where channels and parts are many.
        s = winograd_forms.sizes_of(problem, form)
        least = max(28, winograd_division.PRODUCTS // s.products) * s.tile_bytes
        assert g.scratch_bytes <= max(4 << 20, least) + (8 << 20), (form, packed, workers)


def test_reasons() -> None:
    device = cpu.device()
    square = ConvProblem.make((1, 32, 9, 9), (32, 32, 3, 3), padding=1)
    assert winograd.supports(Call(square, "forward", "float32"), device) is None
    for call, words in (
        (Call(square, "forward", "float32", "highest"), "precision"),
        (Call(square, "forward", "float64"), "float32"),
        (Call(ConvProblem.make((1, 32, 9, 9), (32, 32, 3, 3), stride=3), "forward", "float32"), "kernel"),
        (Call(ConvProblem.make((1, 32, 99, 99), (32, 32, 40, 40)), "forward", "float32"), "kernel"),
        (Call(ConvProblem.make((1, 32, 9, 9), (32, 32, 2, 2), stride=2), "transposed", "float32"), "kernel"),
        (Call(ConvProblem.make((0, 32, 9, 9), (32, 32, 3, 3)), "forward", "float32"), "empty"),
        (Call(ConvProblem.make((1, 32, 9, 9), (0, 32, 3, 3)), "input_gradient", "float32"), "channels"),
        (Call(ConvProblem.make((1, 8, 9, 9), (32, 8, 3, 3)), "forward", "float32"), "channels"),
    ):
        assert words in str(winograd.supports(call, device))


def test_it_is_chosen_for_the_body_of_a_network_and_not_for_a_few_pixels() -> None:
    def chosen(x: tuple[int, ...], w: tuple[int, ...]) -> str:
        module = dispatch.choose(call_of(x, w, padding=1), "cpu")
        return module.__name__.rsplit(".", 1)[1]

    assert chosen((1, 128, 28, 28), (128, 128, 3, 3)) == "winograd"
    assert chosen((1, 16, 3, 3), (4, 16, 3, 3)) != "winograd"
