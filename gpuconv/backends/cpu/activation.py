"""Activations on the CPU: one pass of vectors over a finished result, whatever its strides."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.activation import NAMES
from gpuconv.backends.cpu import activation_kernels as kernels
from gpuconv.backends.cpu import simd, threads
from gpuconv.backends.cpu.memory import address_of
from gpuconv.dtypes import name_of

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]

__all__ = ["apply"]

_BLOCK = 32768
"""Elements of a task."""
_ALONE = 1 << 15
"""Elements that one thread does sooner than it wakes another."""
_SLICE = 1024
"""Tasks between two looks for signals: a tenth of a second's worth."""


def apply(array: Array, name: str) -> None:
    """Replace the elements of an array of floats by their activation."""
    words, shift, tasks, kernel = _plan(name, name_of(array.dtype), array.shape, array.strides)
    words = words.copy()
    words[:2] = address_of(array) + shift
    threads.run(kernel, words, tasks, 0, _SLICE, alone=array.size <= _ALONE)


@functools.lru_cache(maxsize=1024)
def _plan(name: str, dtype: str, shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[Array, int, int, int]:
    """Return what the kernel is told, where the first element lies from the array's address, tasks, and the kernel."""
    # The order of elements does not matter: axes go by their steps, forwards, and such that continue one another are
    # one.
    axes = sorted(((abs(s), n) for s, n in zip(strides, shape, strict=True) if n > 1), reverse=True)
    merged: list[tuple[int, int]] = []
    for step, n in axes:
        if merged and merged[-1][0] == step * n:
            merged[-1] = (step, merged[-1][1] * n)
        else:
            merged.append((step, n))
    shift = sum(s * (n - 1) for s, n in zip(strides, shape, strict=True) if s < 0)
    code = simd.CODES[dtype]
    step, count = merged.pop() if merged else (simd.BYTES[code], 1)
    lines = math.prod(n for _, n in merged)
    block = min(count, _BLOCK)
    blocks = -(-count // block)
    lines_of_task = max(_BLOCK // count, 1)
    record = np.zeros((), kernels.PASS)
    values = {"count": count, "step": step, "block": block, "blocks": blocks, "lines": lines, "of_task": lines_of_task}
    outer = [(0, 1)] * (4 - len(merged)) + merged
    values |= {f"n{i}": n for i, (_, n) in enumerate(outer)} | {f"s{i}": s for i, (s, _) in enumerate(outer)}
    for field, value in values.items():
        record[field] = value
    kernel = kernels.activating(NAMES.index(name), code)
    return record.reshape(1).view(np.int64), shift, blocks * -(-lines // lines_of_task), kernel
