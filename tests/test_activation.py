"""Activations: every algorithm's results, the pass over a result, and agreement with PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from problems import CASES
from support import Engine, assert_activated, inputs, makes, poisoned, reduction_length, rng, tolerance

import gpuconv
from gpuconv import activation, reference
from gpuconv.backends.cpu.activation import apply
from gpuconv.dispatch import Call
from gpuconv.dtypes import to_numpy

FLOATS = ("float16", "bfloat16", "float32", "float64")


def cases(engine: Engine, dtype: str, count: int) -> list[Any]:
    """Return a few of the problems that an engine serves and a public function poses, of different ranks if it can."""
    served: list[Any] = []
    for case in CASES:
        problem = case.problem()
        call = Call(problem, "transposed" if case.transposed else "forward", dtype)
        if not (case.public and 0 < problem.flops < 2e6 and np.prod(problem.y_shape) and engine.takes(call)):
            continue
        if (case.transposed, case.rank) not in {(other.transposed, other.rank) for other, _ in served}:
            served.append((case, call))
    return served[:count]


@pytest.mark.parametrize("name", activation.NAMES)
def test_every_algorithm(name: str, engine: Engine) -> None:
    dtype = "bfloat16" if name == "silu" and engine.algorithm == "direct" else "float32"
    found = cases(engine, dtype, 2)
    if not found:
        pytest.skip(f"{engine} serves none of the calls that its tests give it")
    for i, (case, call) in enumerate(found):
        first, w, bias = inputs(call, f"{case} activation", bias=i % 2 == 0)
        function = getattr(gpuconv, case.function)
        keywords = {**case.keywords, "backend": engine.backend, "algorithm": engine.algorithm}
        result = function(first, w, bias, activation=name, **keywords)
        limit = tolerance(dtype, reduction_length(call.problem, call.operation))
        assert_activated(result, makes(call, first, w, bias), name, limit)


SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-30, -1e30, 3e38, -104.0, -17.5)


def values(dtype: str, shape: tuple[int, ...] = (3, 5, 7, 23)) -> Any:
    a = rng(f"activation {dtype}").normal(0, 4, shape)
    a.reshape(-1)[: len(SPECIAL)] = SPECIAL
    with np.errstate(all="ignore"):
        return a.astype(to_numpy(dtype))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", activation.NAMES)
def test_the_pass(name: str, dtype: str) -> None:
    a = values(dtype)
    result = a.copy()
    apply(result, name)
    assert_activated(result, a, name, tolerance(dtype, 0))
    np.testing.assert_array_equal(np.isinf(result.astype(float)), np.isinf(reference.activated(name, a)))


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a.transpose(2, 0, 3, 1),
        lambda a: a[:, ::2, ::-1],
        lambda a: a[..., ::3],
        lambda a: a[::-1, 2, ::2, 1::2],
        lambda a: a[1:, 2:3],
        lambda a: a[0, 0, 0, :1],
    ],
)
def test_the_pass_keeps_to_its_elements(view: Any) -> None:
    memory = values("float32")
    wanted = memory.copy()
    view(wanted)[...] = reference.activated("relu", view(memory))
    apply(view(memory), "relu")
    np.testing.assert_array_equal(memory, wanted)


def test_long_results_are_shared_among_threads() -> None:
    a = rng("long").normal(size=(3, 50_000)).astype(np.float32)
    wide = np.full((3, 50_004), 9, np.float32)
    wide[:, 2:-2] = a
    apply(wide[:, 2:-2], "relu")
    np.testing.assert_array_equal(wide[:, 2:-2], np.maximum(a, 0))
    assert (wide[:, :2] == 9).all()
    assert (wide[:, -2:] == 9).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", activation.NAMES)
def test_agreement_with_torch(name: str, dtype: str, torch: Any) -> None:
    functional = torch.nn.functional
    theirs = {"gelu_tanh": lambda z: functional.gelu(z, approximate="tanh")}.get(name, getattr(functional, name, None))
    x, w = values(dtype, (2, 3, 9, 9)), rng("w").normal(size=(4, 3, 3, 3)).astype(dtype)
    z = functional.conv2d(torch.from_numpy(x), torch.from_numpy(w), padding=1)
    wanted = theirs(z).numpy()
    result = gpuconv.conv2d(x, w, padding=1, activation=name, algorithm="direct")
    # In float32 torch makes NaN of gelu's infinity on processors with AVX-512.
    special = theirs(z.double()).numpy()
    finite = np.isfinite(special)
    np.testing.assert_array_equal(np.isnan(result), np.isnan(special))
    np.testing.assert_array_equal(result[np.isinf(special)], special[np.isinf(special)])
    moderate = finite & (np.abs(z.numpy()) < 1e4)
    assert moderate.mean() > 0.5
    np.testing.assert_allclose(result[moderate], wanted[moderate], rtol=1e-4, atol=200 * np.finfo(dtype).eps)


def test_out_plan_layout_and_explain() -> None:
    generator = rng("out")
    x, w = (generator.normal(size=shape).astype(np.float32) for shape in ((2, 9, 8, 3), (5, 3, 3, 3)))
    bias = generator.normal(size=5).astype(np.float32)
    arguments = {"padding": 1, "layout": "channels_last", "activation": "gelu"}
    wanted = gpuconv.conv2d(x, w, bias, **arguments)
    assert_activated(
        wanted, gpuconv.conv2d(x, w, bias, padding=1, layout="channels_last"), "gelu", tolerance("float32", 27)
    )
    out, intact = poisoned(wanted.shape, np.float32, strided=True)
    assert gpuconv.conv2d(x, w, bias, out=out, **arguments) is out
    intact()
    np.testing.assert_array_equal(out, wanted)
    plan = gpuconv.plan(gpuconv.conv2d, x.shape, w, bias=bias, **arguments)
    np.testing.assert_allclose(plan(x), wanted, rtol=1e-5, atol=1e-6)
    assert "then gelu" in str(gpuconv.explain(gpuconv.conv2d, x, w, **arguments))
    assert plan.explanation.activation == "gelu"
    assert gpuconv.conv2d(np.ones((0, 3, 4, 4)), np.ones((2, 3, 3, 3)), activation="relu").size == 0
    # No input channels: the result is the bias.
    empty = gpuconv.conv1d(np.ones((1, 0, 4)), np.ones((2, 0, 1)), np.array([-1.0, 2.0]), activation="relu")
    np.testing.assert_array_equal(empty, [[[0] * 4, [2] * 4]])


def test_the_oracle_rounds_once() -> None:
    x, w = np.full((1, 1, 1), 1.0, np.float16), np.full((1, 1, 1), 1.0, np.float16)
    bias = np.array([2.0**-11], np.float16)
    problem = gpuconv.explain(gpuconv.conv1d, x, w).problem
    assert reference.forward(problem, x, w, bias, "silu").item() == np.float16(
        reference.activated("silu", np.array(1 + 2.0**-11)).item()
    )


@pytest.mark.parametrize("value", ["tanh", "", "ReLU", 1, True, ["relu"]])
def test_unknown_names(value: Any) -> None:
    with pytest.raises(gpuconv.UnsupportedError, match=r"activation=.* is unknown; valid are None, 'relu', 'gelu'"):
        gpuconv.conv1d(np.ones((1, 4)), np.ones((1, 1, 3)), activation=value)


@pytest.mark.parametrize("dtype", ["complex64", "int8", "int64"])
def test_dtypes_without_activations(dtype: str) -> None:
    x, w = np.ones((1, 4), dtype), np.ones((1, 1, 3), dtype)
    with pytest.raises(gpuconv.DtypeError, match=f"activation='relu' takes float16, .*, not {dtype}"):
        gpuconv.conv_transpose1d(x, w, activation="relu")


def test_gradients_have_none() -> None:
    with pytest.raises(TypeError, match="activation"):
        gpuconv.grad.conv1d_input((1, 4), np.ones((1, 1, 3)), np.ones((1, 2)), activation="relu")
