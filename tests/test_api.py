"""The public functions: signatures, what arguments mean, known results; explain and plan."""

from __future__ import annotations

import inspect
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import gpuconv
from gpuconv import dispatch
from gpuconv.problem import ConvProblem

CONV = ("x", "w", "bias", "stride", "padding", "dilation", "groups")
TRANSPOSED = ("x", "w", "bias", "stride", "padding", "output_padding", "groups", "dilation")
BY_INPUT = ("x_shape", "w", "dy", "stride", "padding", "dilation", "groups")
BY_WEIGHT = ("x", "w_shape", "dy", "stride", "padding", "dilation", "groups")
KEYWORDS = {
    "padding_mode": "zeros", "layout": "channels_first", "precision": "high", "backend": "auto", "algorithm": "auto",
    "out": None,
}  # fmt: skip
DEFAULTS = {"bias": None, "stride": 1, "padding": 0, "output_padding": 0, "dilation": 1, "groups": 1}
FUNCTIONS = {
    f"{prefix}{rank}d{suffix}": order
    for rank in (1, 2, 3)
    for prefix, suffix, order in (
        ("conv", "", CONV), ("conv_transpose", "", TRANSPOSED), ("grad.conv", "_input", BY_INPUT),
        ("grad.conv", "_weight", BY_WEIGHT),
    )
}  # fmt: skip


def function(name: str) -> Any:
    home, _, last = name.rpartition(".")
    return getattr(gpuconv.grad if home else gpuconv, last)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signature(name: str) -> None:
    parameters = inspect.signature(function(name)).parameters
    positional = [p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    keyword = {p.name: p.default for p in parameters.values() if p.kind is p.KEYWORD_ONLY}
    assert tuple(positional) == FUNCTIONS[name]
    assert keyword == (KEYWORDS if name.startswith("grad") else KEYWORDS | {"activation": None})
    for i, parameter in enumerate(positional):
        required = i < (3 if name.startswith("grad") else 2)
        assert parameters[parameter].default is (inspect.Parameter.empty if required else DEFAULTS[parameter])
    assert len(parameters) == len(positional) + len(keyword)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstring_has_the_sections_of_numpydoc(name: str) -> None:
    text = function(name).__doc__
    for section in ("Parameters", "Returns", "Raises", "Notes", "Examples"):
        assert f"\n    {section}\n    {'-' * len(section)}\n" in text
    assert "{" not in text.split("Examples")[0].replace('{"', "")


def test_everything_public_is_there() -> None:
    for name in gpuconv.__all__:
        if name not in ("backends", "show_config", "ndimage"):
            assert getattr(gpuconv, name) is not None
            assert name in dir(gpuconv)
    assert gpuconv.ShapeError is gpuconv.errors.ShapeError
    assert issubclass(gpuconv.ShapeError, ValueError)
    assert issubclass(gpuconv.UnsupportedError, NotImplementedError)
    assert issubclass(gpuconv.BackendUnavailableError, RuntimeError)
    with pytest.raises(AttributeError, match="no attribute 'conv4d'"):
        _ = gpuconv.conv4d


# Known results


def test_corr2d() -> None:
    x, k = np.arange(9.0).reshape(1, 3, 3), np.arange(4.0).reshape(1, 1, 2, 2)
    np.testing.assert_array_equal(gpuconv.conv2d(x, k), [[[19, 25], [37, 43]]])
    np.testing.assert_array_equal(gpuconv.conv_transpose2d(k[0], k), [[[0, 0, 1], [0, 4, 6], [4, 12, 9]]])


def test_checkerboard() -> None:
    """A transposed convolution overlaps itself unevenly where the stride does not divide the kernel."""
    x = np.ones((1, 6))
    uneven = gpuconv.conv_transpose1d(x, np.ones((1, 1, 3)), stride=2)
    np.testing.assert_array_equal(uneven, [[1, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 1]])
    for stride in range(1, 6):
        for k in range(stride, 9):
            y = gpuconv.conv_transpose1d(np.ones((1, 12)), np.ones((1, 1, k)), stride=stride)[0]
            inside = y[k - 1 : len(y) - k + 1]
            assert (np.ptp(inside) == 0) == (k % stride == 0)
    even = gpuconv.conv_transpose1d(x, np.ones((1, 1, 4)), stride=2)[0]
    np.testing.assert_array_equal(even[2:-2], 2)


def test_even_kernels_are_anchored_as_torch_does() -> None:
    impulse = np.array([[0.0, 0.0, 1.0, 0.0, 0.0]])
    w = np.array([[[1.0, 2.0, 3.0, 4.0]]])
    np.testing.assert_array_equal(gpuconv.conv1d(impulse, w, padding="same"), [[4, 3, 2, 1, 0]])
    np.testing.assert_array_equal(gpuconv.conv1d(impulse, w, padding="same_lower"), [[0, 4, 3, 2, 1]])
    np.testing.assert_array_equal(gpuconv.conv1d(impulse, w, padding="causal"), [[0, 0, 4, 3, 2]])


@pytest.mark.parametrize(("dtype", "result"), [("int8", -(2**31)), ("int16", 0), ("int32", 0), ("int64", 0)])
def test_integers_wrap(dtype: str, result: int) -> None:
    least = np.iinfo(dtype).min
    count = 2**17 if dtype == "int8" else 2
    x, w = np.full((1, count), least, dtype), np.full((1, 1, count), least, dtype)
    y = gpuconv.conv1d(x, w)
    assert y.dtype == (np.int32 if dtype == "int8" else dtype)
    np.testing.assert_array_equal(y, [[result]])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "uint8", "int32"])
def test_empty_sums_are_the_bias(dtype: str) -> None:
    kind = np.dtype("int32" if dtype == "uint8" else dtype)
    bias = np.arange(3).astype(kind)
    x, w = np.ones((2, 0, 5), dtype), np.ones((3, 0, 2), dtype)
    np.testing.assert_array_equal(gpuconv.conv1d(x, w, bias), np.broadcast_to(bias[:, None], (2, 3, 4)))
    np.testing.assert_array_equal(gpuconv.conv1d(x, w), np.zeros((2, 3, 4)))


# What arguments mean


def test_arguments_may_be_lists_and_numpy_integers() -> None:
    x, w = np.arange(98.0).reshape(1, 2, 7, 7), np.arange(36.0).reshape(2, 2, 3, 3)
    wanted = gpuconv.conv2d(x, w, stride=(2, 1), padding=(1, 2), dilation=(1, 2))
    for kind in (list, np.array, lambda pair: tuple(map(np.int64, pair))):
        result = gpuconv.conv2d(x, w, stride=kind((2, 1)), padding=kind((1, 2)), dilation=kind((1, 2)))
        np.testing.assert_array_equal(result, wanted)
    np.testing.assert_array_equal(
        gpuconv.conv2d(x, w, padding=[[1, 1], [2, 2]], stride=[2, 1], dilation=[1, 2]), wanted
    )
    wanted = gpuconv.conv2d(x, w, stride=2)
    for stride in (np.int64(2), np.uint8(2), np.array(2), [2], (2,), np.array([2])):
        np.testing.assert_array_equal(gpuconv.conv2d(x, w, stride=stride), wanted)
    np.testing.assert_array_equal(gpuconv.conv2d(x, w, padding=np.array(1)), gpuconv.conv2d(x, w, padding=1))
    assert gpuconv.conv2d(x, w[:, :1], groups=np.int32(2)).shape == (1, 2, 5, 5)


def test_a_float_is_no_integer_even_where_it_equals_a_cached_one() -> None:
    x, w = np.ones((1, 1, 8)), np.ones((1, 1, 3))
    wanted = gpuconv.conv1d(x, w, None, 1, 1, 1, 1)
    for position in range(4):
        arguments: list[Any] = [1, 1, 1, 1]
        arguments[position] = 1.0
        with pytest.raises(gpuconv.ShapeError, match=r"1\.0 must be an integer"):
            gpuconv.conv1d(x, w, None, *arguments)
    with pytest.raises(gpuconv.ShapeError, match=r"1\.0 must be an integer"):
        gpuconv.conv1d(x, w, None, (1.0,))
    # Python's True is the integer 1, and stays so whatever was asked before.
    np.testing.assert_array_equal(gpuconv.conv1d(x, w, None, True, True), wanted)


def test_inputs_may_be_lists() -> None:
    np.testing.assert_array_equal(gpuconv.conv1d([[1.0, 2.0, 3.0]], [[[1.0, 1.0]]]), [[3, 5]])


def test_subclasses_of_ndarray(tmp_path: Any) -> None:
    x = np.memmap(tmp_path / "x", np.float32, "w+", shape=(1, 5))
    out = np.memmap(tmp_path / "y", np.float32, "w+", shape=(1, 4))
    x[...] = 1
    assert gpuconv.conv1d(x, np.ones((1, 1, 2), np.float32), out=out) is out
    np.testing.assert_array_equal(out, [[2, 2, 2, 2]])


@pytest.mark.parametrize("word", ["same", "Same", "SAME"])
def test_names_are_case_insensitive(word: str) -> None:
    x, w = np.arange(5.0)[None], np.ones((1, 1, 3))
    mode = {"same": "circular", "Same": "Circular", "SAME": "WRAP"}[word]
    np.testing.assert_array_equal(gpuconv.conv1d(x, w, padding=word, padding_mode=mode), [[5, 3, 6, 9, 7]])


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_layouts_and_unbatched_inputs_agree(name: str) -> None:
    generator = np.random.default_rng(3)
    x = generator.integers(-9, 9, (3, 2, 6, 5)).astype(float)
    w = generator.integers(-9, 9, (2, 2, 3, 2)).astype(float)
    bias = np.array([100.0, -100.0])
    y = function(name)(x, w, bias, stride=2)
    last = function(name)(np.moveaxis(x, 1, -1), w, bias, stride=2, layout="channels_last")
    np.testing.assert_array_equal(np.moveaxis(last, -1, 1), y)
    np.testing.assert_array_equal(function(name)(x[1], w, bias, stride=2), y[1])
    np.testing.assert_array_equal(
        function(name)(np.moveaxis(x[2], 0, -1), w, bias, stride=2, layout="channels_last"), np.moveaxis(y[2], 0, -1)
    )


@pytest.mark.parametrize("precision", ["highest", "high", "tf32"])
def test_precisions_are_accepted(precision: str) -> None:
    assert gpuconv.conv1d(np.ones((1, 4)), np.ones((1, 1, 4)), precision=precision) == 4


# explain and plan


def test_explain() -> None:
    x, w = np.ones((2, 6, 9, 9), np.float32), np.ones((4, 3, 3, 3), np.float32)
    e = gpuconv.explain(gpuconv.conv2d, x, w, groups=2, padding=1, stride=2)
    assert e.problem == ConvProblem.make(x.shape, w.shape, groups=2, padding=1, stride=2)
    assert e.flops == 2 * 2 * 4 * 5 * 5 * 3 * 9
    assert e.bytes == 4 * (x.size + w.size + 2 * 4 * 5 * 5)
    assert e.chosen in e.rows
    assert {row.backend for row in e.rows} == {"cpu", "cuda"}
    for row in e.rows:
        assert isinstance(row.algorithm, str)
        assert (row.reason is None) == (row.seconds is not None)
        assert row.reason is None or row.reason.strip()
        assert row.algorithm in str(e)
    able = [row for row in e.rows if row.backend == "cpu" and row.reason is None]
    assert e.chosen == min(able, key=lambda row: row.seconds)
    lines = str(e).splitlines()
    assert sum(row.algorithm in line for row in e.rows for line in lines) >= len(e.rows)
    assert sum("->" in line for line in lines) == 1


def test_explain_measures(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_MEASURED_FOR", 0.0)
    x, w = np.ones((2, 6, 9, 9), np.float32), np.ones((4, 3, 3, 3), np.float32)
    out = np.zeros((2, 4, 9, 9), np.float32)
    e = gpuconv.explain(gpuconv.conv2d, x, w, groups=2, padding=1, out=out, measure=True)
    able = [row for row in e.rows if row.backend == "cpu" and row.reason is None]
    assert able
    assert all(row.measured > 0 for row in able)
    assert all(row.measured is None for row in e.rows if row not in able)
    assert e.chosen in able
    assert "measured" in str(e)
    assert f"{e.chosen.measured * 1e3:.3f} ms" in str(e)
    assert not out.any()
    assert f"{len(able)}/{len(able)} {len(able)} algorithms" in capsys.readouterr().err
    by_weight = gpuconv.explain(gpuconv.grad.conv2d_weight, x, w.shape, out, padding=1, groups=2, measure=True)
    assert by_weight.chosen.measured > 0
    with pytest.raises(gpuconv.UnsupportedError, match="measure=True"):
        gpuconv.explain(gpuconv.conv2d, x, w, groups=2, device="h200", measure=True)


def test_explain_every_function() -> None:
    x, w = np.ones((1, 2, 6)), np.ones((2, 2, 3))
    assert gpuconv.explain(gpuconv.conv_transpose1d, x, w, stride=2).problem.x_shape == (1, 2, 13)
    by_input = gpuconv.explain(gpuconv.grad.conv1d_input, x.shape, w, np.ones((1, 2, 4)))
    by_weight = gpuconv.explain(gpuconv.grad.conv1d_weight, x, w.shape, np.ones((1, 2, 4)))
    assert by_input.problem == by_weight.problem == ConvProblem.make(x.shape, w.shape)
    assert (by_input.operation, by_weight.operation) == ("input_gradient", "weight_gradient")
    assert gpuconv.explain(gpuconv.conv1d, x, w, algorithm="direct").chosen.algorithm == "direct"
    with pytest.raises(TypeError, match=r"must be one of gpuconv's: .*conv_transpose3d"):
        gpuconv.explain(np.convolve, x, w)
    with pytest.raises(gpuconv.ShapeError, match=r"groups=3 must divide"):
        gpuconv.explain(gpuconv.conv1d, x, w, groups=3)


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_plan_equals_the_call(name: str) -> None:
    generator = np.random.default_rng(5)
    x, w = generator.random((2, 4, 8, 7), np.float32), generator.random((4, 4, 3, 3), np.float32)
    keywords: dict[str, Any] = {"bias": generator.random(4, np.float32), "stride": 2, "padding": 1}
    wanted = function(name)(x, w, **keywords)
    plan = gpuconv.plan(function(name), x.shape, w.copy(), **keywords)
    copy = pickle.loads(pickle.dumps(plan))
    out = np.full_like(wanted, np.nan)
    assert plan(x, out=out) is out
    for result in (plan(x), plan(x), copy(x), out, gpuconv.plan(function(name), list(x.shape), w, **keywords)(x)):
        assert result.tobytes() == wanted.tobytes()
    assert plan.explanation.chosen.backend == "cpu"
    assert name in repr(plan)


def test_plan_keeps_its_weights() -> None:
    x, w, bias = np.ones((1, 4)), np.ones((1, 1, 2)), np.ones(1)
    plan = gpuconv.plan(gpuconv.conv1d, x.shape, w, bias=bias)
    w[...] = bias[...] = 50
    for smooth in (plan, pickle.loads(pickle.dumps(plan))):
        np.testing.assert_array_equal(smooth(x), [[3, 3, 3]])


def test_plan_errors() -> None:
    w = np.ones((1, 1, 2))
    plan = gpuconv.plan(gpuconv.conv1d, (1, 5), w)
    with pytest.raises(gpuconv.ShapeError, match=r"x has shape \(1, 6\); this plan takes \(1, 5\)"):
        plan(np.ones((1, 6)))
    with pytest.raises(gpuconv.DtypeError, match="x has dtype float32 and w has dtype float64"):
        plan(np.ones((1, 5), np.float32))
    with pytest.raises(TypeError, match="out= is an argument of the plan's call"):
        gpuconv.plan(gpuconv.conv1d, (1, 5), w, out=np.ones((1, 4)))
    with pytest.raises(gpuconv.UnsupportedError, match=r"plan takes conv1d \.\.\. conv_transpose3d, not conv1d_weight"):
        gpuconv.plan(gpuconv.grad.conv1d_weight, (1, 5), (1, 1, 2), dy=w)
    with pytest.raises(gpuconv.ShapeError, match=r"bias has shape \(3,\); it must be \(1,\)"):
        gpuconv.plan(gpuconv.conv1d, (1, 5), w, bias=np.ones(3))
    with pytest.raises(gpuconv.ShapeError, match="the kernel spans 2"):
        gpuconv.plan(gpuconv.conv1d, (1, 1), w)


def test_plan_states_its_workspace() -> None:
    """Weights packed in whole blocks of outputs take at least what the weights take, and scratch memory more."""
    w = np.ones((8, 4, 3, 3), np.float32)
    plan = gpuconv.plan(gpuconv.conv2d, (1, 4, 9, 9), w, algorithm="direct")
    assert isinstance(plan.workspace_bytes, int)
    assert w.nbytes < plan.workspace_bytes < 64 << 20
    wide = gpuconv.plan(gpuconv.conv2d, (1, 4, 9, 9), np.ones((512, 4, 3, 3), np.float32), algorithm="direct")
    assert wide.workspace_bytes > plan.workspace_bytes + 500 * 4 * 9 * 4


def test_plan_keeps_within_max_workspace() -> None:
    x, w = np.ones((1, 4, 9, 9), np.float32), np.ones((8, 4, 3, 3), np.float32)
    needed = gpuconv.plan(gpuconv.conv2d, x.shape, w, algorithm="direct").workspace_bytes
    for arguments in ({}, {"algorithm": "direct"}):
        plan = gpuconv.plan(gpuconv.conv2d, x.shape, w, max_workspace=needed, **arguments)
        assert plan.workspace_bytes <= needed
        assert pickle.loads(pickle.dumps(plan)).explanation.chosen == plan.explanation.chosen
        np.testing.assert_array_equal(plan(x), np.full((1, 8, 7, 7), 36.0))
    with pytest.raises(
        gpuconv.UnsupportedError, match=rf"max_workspace={needed - 1}: the least .* is {needed} bytes, for 'direct'"
    ):
        gpuconv.plan(gpuconv.conv2d, x.shape, w, algorithm="direct", max_workspace=needed - 1)
    with pytest.raises(gpuconv.UnsupportedError, match=r"max_workspace=0: the least that this call needs is [1-9]"):
        gpuconv.plan(gpuconv.conv2d, x.shape, w, max_workspace=0)
    with pytest.raises(TypeError, match=r"max_workspace='1 MB' must be a number of bytes"):
        gpuconv.plan(gpuconv.conv2d, x.shape, w, max_workspace="1 MB")


def test_max_workspace_chooses_among_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cheapest algorithm takes too much here, the next one does not say, and the third fits."""
    sizes, costs = {"gemm": 1000, "direct": 10}, {"gemm": 1e-9, "stencil": 1e-8}
    for name in dispatch.backend("cpu").ALGORITHMS:
        module = dispatch.algorithm("cpu", name)
        monkeypatch.delattr(module, "workspace", raising=False)
        if name in sizes:
            monkeypatch.setattr(module, "workspace", lambda call, name=name: sizes[name], raising=False)
        if name in costs:
            monkeypatch.setattr(module, "cost", lambda call, device, name=name: costs[name])
    dispatch.choose.cache_clear()
    arguments: Any = gpuconv.conv1d, (1, 9), np.ones((1, 1, 3))
    for limit, chosen in ((1000, "gemm"), (999, "direct")):
        plan = gpuconv.plan(*arguments, max_workspace=limit)
        assert (plan.explanation.chosen.algorithm, plan.workspace_bytes) == (chosen, sizes[chosen])
    with pytest.raises(gpuconv.UnsupportedError, match=r"max_workspace=9: .* is 10 bytes, for 'direct'"):
        gpuconv.plan(*arguments, max_workspace=9)
    with pytest.raises(gpuconv.UnsupportedError, match=r"\(stencil\) states its workspace"):
        gpuconv.plan(*arguments, algorithm="stencil", max_workspace=9)
    assert gpuconv.plan(*arguments, algorithm="stencil").workspace_bytes is None
    dispatch.choose.cache_clear()


def test_plan_from_threads() -> None:
    generator = np.random.default_rng(6)
    w, xs = generator.random((6, 3, 3, 3)), generator.random((8, 2, 3, 12, 13))
    plan, barrier = gpuconv.plan(gpuconv.conv2d, xs[0].shape, w), threading.Barrier(8)

    def work(x: np.ndarray) -> list[np.ndarray]:
        barrier.wait(30)
        return [plan(x) for _ in range(10)]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, xs))
    for x, found in zip(xs, results, strict=True):
        wanted = gpuconv.conv2d(x, w).tobytes()
        assert all(y.tobytes() == wanted for y in found)
