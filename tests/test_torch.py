"""Agreement with PyTorch: shapes and float64 values over random geometries, and tensors in, tensors out."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import random_array

import gpuconv

MODES = {"zeros": "constant", "replicate": "replicate", "reflect": "reflect", "circular": "circular"}


@functools.cache
def installed() -> Any:
    return pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")


@st.composite
def geometries(draw: st.DrawFn, *, transposed: bool = False) -> dict[str, Any]:
    """Draw the arguments of one convolution that PyTorch can also do."""
    rank = draw(st.sampled_from((1, 1, 2, 2, 3)))
    per_axis = functools.partial(st.lists, min_size=rank, max_size=rank)
    groups = draw(st.sampled_from((1, 1, 2, 3, 4)))
    per_in, per_out = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    kernel = draw(per_axis(st.integers(1, 5 if rank < 3 else 3)))
    stride = draw(per_axis(st.integers(1, 4)))
    dilation = draw(per_axis(st.integers(1, 3)))
    padding = draw(per_axis(st.integers(0, 4)))
    more = draw(per_axis(st.integers(0, 11 if rank < 3 else 4)))
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    arguments: dict[str, Any] = {"stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation)}
    if transposed:
        extra = [draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)]
        least = [max(1, -(-(2 * p + 1 - e) // s) + 1) for p, e, s in zip(padding, extent, stride, strict=True)]
        arguments["output_padding"] = tuple(extra)
        w = (groups * per_in, per_out, *kernel)
    else:
        least = [max(1, e - 2 * p) for p, e in zip(padding, extent, strict=True)]
        w = (groups * per_out, per_in, *kernel)
    spatial = [a + b for a, b in zip(least, more, strict=True)]
    batch = draw(st.sampled_from(((), (1,), (2,), (3,))))
    return {
        "rank": rank, "x": (*batch, groups * per_in, *spatial), "w": w, "outputs": groups * per_out,
        "arguments": {**arguments, "groups": groups}, "bias": draw(st.booleans()), "seed": draw(st.integers(0, 999)),
    }  # fmt: skip


def data(g: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    generator = np.random.default_rng(g["seed"])
    x, w = random_array(g["x"], "float64", generator), random_array(g["w"], "float64", generator)
    return x, w, random_array((g["outputs"],), "float64", generator) if g["bias"] else None


def agree(mine: np.ndarray, theirs: Any) -> None:
    theirs = theirs.detach().numpy()
    assert mine.shape == theirs.shape
    scale = max(1.0, float(np.abs(theirs).max(initial=0)))
    assert np.abs(mine - theirs).max(initial=0) <= 1e-12 * scale


def tensor(a: np.ndarray | None) -> Any:
    return None if a is None else installed().from_numpy(a)


@settings(max_examples=400)
@given(geometries())
def test_conv(g: dict[str, Any]) -> None:
    x, w, bias = data(g)
    name = f"conv{g['rank']}d"
    theirs = getattr(installed().nn.functional, name)(tensor(x), tensor(w), tensor(bias), **g["arguments"])
    agree(getattr(gpuconv, name)(x, w, bias, **g["arguments"]), theirs)


@settings(max_examples=400)
@given(geometries(transposed=True))
def test_conv_transpose(g: dict[str, Any]) -> None:
    x, w, bias = data(g)
    name = f"conv_transpose{g['rank']}d"
    theirs = getattr(installed().nn.functional, name)(tensor(x), tensor(w), tensor(bias), **g["arguments"])
    agree(getattr(gpuconv, name)(x, w, bias, **g["arguments"]), theirs)


@settings(max_examples=300)
@given(geometries())
def test_gradients(g: dict[str, Any]) -> None:
    x, w, _ = data(g)
    name, arguments = f"conv{g['rank']}d", g["arguments"]
    a, b = tensor(x).requires_grad_(), tensor(w).requires_grad_()
    y = getattr(installed().nn.functional, name)(a, b, **arguments)
    dy = random_array(tuple(y.shape), "float64", np.random.default_rng(g["seed"] + 1))
    y.backward(tensor(dy))
    agree(getattr(gpuconv.grad, f"{name}_input")(x.shape, w, dy, **arguments), a.grad)
    agree(getattr(gpuconv.grad, f"{name}_weight")(x, w.shape, dy, **arguments), b.grad)


@settings(max_examples=150)
@given(geometries())
def test_gradients_of_torch_nn_grad_in_positional_order(g: dict[str, Any]) -> None:
    x, w, _ = data(g)
    if len(g["x"]) == g["rank"] + 1:
        x = x[None]
    name, a = f"conv{g['rank']}d", g["arguments"]
    order = (a["stride"], a["padding"], a["dilation"], a["groups"])
    theirs = installed().nn.grad
    dy = np.ones_like(getattr(gpuconv, name)(x, w, None, *order))
    mine = getattr(gpuconv.grad, f"{name}_input")(x.shape, w, dy, *order)
    agree(mine, getattr(theirs, f"{name}_input")(x.shape, tensor(w), tensor(dy), *order))
    mine = getattr(gpuconv.grad, f"{name}_weight")(x, w.shape, dy, *order)
    agree(mine, getattr(theirs, f"{name}_weight")(tensor(x), w.shape, tensor(dy), *order))


@settings(max_examples=200)
@given(geometries(), st.sampled_from(sorted(MODES)))
def test_borders_are_torchs_pad(g: dict[str, Any], mode: str) -> None:
    x, w, bias = data(g)
    x = x if len(g["x"]) == g["rank"] + 2 else x[None]
    arguments = dict(g["arguments"])
    # torch pads no further than the input reaches.
    limit = {"reflect": -1, "circular": 0}.get(mode, 99)
    arguments["padding"] = tuple(min(p, n + limit) for p, n in zip(arguments["padding"], x.shape[2:], strict=True))
    extents = (d * (k - 1) + 1 for k, d in zip(w.shape[2:], arguments["dilation"], strict=True))
    if any(n + 2 * p < e for n, p, e in zip(x.shape[2:], arguments["padding"], extents, strict=True)):
        return
    name = f"conv{g['rank']}d"
    mine = getattr(gpuconv, name)(x, w, bias, **arguments, padding_mode=mode)
    ends = [p for p in reversed(arguments.pop("padding")) for _ in range(2)]
    padded = installed().nn.functional.pad(tensor(x), ends, mode=MODES[mode])
    agree(mine, getattr(installed().nn.functional, name)(padded, tensor(w), tensor(bias), **arguments))


@pytest.mark.filterwarnings("ignore:Using padding=.same.:UserWarning")
@settings(max_examples=100)
@given(geometries())
def test_same_at_stride_1(g: dict[str, Any]) -> None:
    x, w, bias = data(g)
    arguments = {**g["arguments"], "padding": "same", "stride": 1}
    name = f"conv{g['rank']}d"
    theirs = getattr(installed().nn.functional, name)(tensor(x), tensor(w), tensor(bias), **arguments)
    agree(getattr(gpuconv, name)(x, w, bias, **arguments), theirs)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "complex64", "int32", "uint8"])
def test_tensors_in_tensors_out(torch: Any, dtype: str) -> None:
    kind = getattr(torch, dtype)
    x, w = torch.arange(12).reshape(1, 3, 4).to(kind), torch.arange(6).reshape(2, 3, 1).to(kind)
    wanted = gpuconv.conv1d(np.arange(12).reshape(1, 3, 4), np.arange(6).reshape(2, 3, 1))
    y = gpuconv.conv1d(x, w)
    assert isinstance(y, torch.Tensor)
    assert y.dtype == (torch.int32 if dtype == "uint8" else kind)
    np.testing.assert_array_equal(y.to(torch.complex128).numpy(), wanted)
    dx = gpuconv.grad.conv1d_input((1, 3, 4), w, torch.ones_like(y).to(kind))
    assert isinstance(dx, torch.Tensor)


def test_tensor_memory_is_shared_not_copied(torch: Any) -> None:
    x, w, out = torch.rand(1, 2, 9), torch.rand(3, 2, 3), torch.full((1, 3, 7), torch.nan)
    assert gpuconv.conv1d(x, w, out=out) is out
    np.testing.assert_array_equal(out.numpy(), gpuconv.conv1d(x.numpy(), w.numpy()))
    with pytest.raises(ValueError, match="overlaps an input"):
        gpuconv.conv1d(x, w[:2, :, :1], out=x)


def test_awkward_tensors(torch: Any) -> None:
    x = torch.rand(2, 3, 6, 7, dtype=torch.float64)
    w = torch.rand(4, 3, 3, 3, dtype=torch.float64)
    wanted = gpuconv.conv2d(x.numpy(), w.numpy())
    for first in (x.contiguous(memory_format=torch.channels_last), x.mT.contiguous().mT, x.clone().requires_grad_()):
        np.testing.assert_allclose(gpuconv.conv2d(first, w).numpy(), wanted, rtol=1e-13)
    z = torch.complex(x, x + 1)
    mine = gpuconv.conv2d(z.conj(), torch.complex(w, w)).numpy()
    np.testing.assert_allclose(mine, gpuconv.conv2d(z.numpy().conj(), (1 + 1j) * w.numpy()), rtol=1e-13)


def test_mixed_kinds_give_the_kind_of_x(torch: Any) -> None:
    x, w = np.ones((1, 4)), torch.ones(1, 1, 2, dtype=torch.float64)
    assert type(gpuconv.conv1d(x, w)) is np.ndarray
    assert isinstance(gpuconv.conv1d(torch.from_numpy(x), w.numpy()), torch.Tensor)
