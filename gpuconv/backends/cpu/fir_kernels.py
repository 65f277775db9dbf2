"""The compiled kernel of the fir algorithm, one for each dtype; sizes are run-time values."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import carray, cfunc, from_dtype, njit, types

from gpuconv.backends.cpu import simd
from gpuconv.backends.cpu.elements import copy_run, fill_run, load, store, zero
from gpuconv.backends.cpu.tiles import accumulate
from gpuconv.boundary import source_index

__all__ = ["CALL", "CHUNK", "filtering"]

CHUNK = 2048
"""Outputs that are begun with the bias and summed while they stay in the first-level cache."""

CALL = np.dtype(
    [
        (name, np.int64)
        for name in (
            *("x", "xn", "xc", "y", "yn", "yc", "w", "bias", "groups", "taps", "offsets", "fill", "extent", "out"),
            *("before", "low", "high", "first", "last", "block", "blocks", "mode"),
        )
    ]
)
"""One call: addresses, bytes between lines, and the range of outputs that meet no border."""

_CALL_POINTER = types.CPointer(from_dtype(CALL))
_source_index = njit(source_index, error_model="numpy")


@njit
def _edge(p, x, y, w, start, stop, bias, scratch, code, size, lanes):  # type: ignore[no-untyped-def]
    """Compute outputs near an end from a copy of what they read, border included."""
    count = stop - start
    if count <= 0:
        return
    whole = (count + lanes - 1) // lanes * lanes
    fill = load(p.fill, code, code)
    length = p.high - p.low
    for i in range(count + p.extent - 1):
        at = _source_index(p.mode, start + i - p.before - p.low, length)
        store(scratch + i * size, fill if at < 0 else load(x + (at + p.low) * size, code, code), code, code)
    fill_run(scratch + (count + p.extent - 1) * size, whole - count, zero(code), code)
    sums = scratch + (whole + p.extent + lanes) * size
    fill_run(sums, whole, bias, code)
    accumulate(sums, 0, scratch, whole, 0, 1, p.offsets, p.taps, w, 0, 1, code)
    copy_run(y + start * size, sums, count, size, code, code)


@functools.cache
def filtering(code: int) -> int:
    """Return the address of the kernel; a task is a block of outputs of one line."""
    return int(_filtering(code, simd.BYTES[code], simd.lanes_of(code), CHUNK, simd.source_version()).address)


def _filtering(code: int, size: int, lanes: int, chunk: int, version: int) -> Any:
    @cfunc(types.void(_CALL_POINTER, types.int64, types.int64), cache=True, error_model="numpy")
    def filter_block(pointer, task, scratch):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        if version == 0:
            return
        p = carray(pointer, 1)[0]
        block, line = task % p.blocks, task // p.blocks
        group, image = line % p.groups, line // p.groups
        x, y = p.x + image * p.xn + group * p.xc, p.y + image * p.yn + group * p.yc
        w = p.w + group * p.taps * size
        bias = zero(code)
        if p.bias != 0:
            bias = load(p.bias + group * size, code, code)
        begin, end = block * p.block, min((block + 1) * p.block, p.out)
        first, last = min(max(begin, p.first), end), max(min(end, p.last), begin)
        if last - first < lanes:
            first = last = end
        for start in range(begin, first, chunk):
            _edge(p, x, y, w, start, min(start + chunk, first), bias, scratch, code, size, lanes)
        while first < last:
            # Whole vectors only; what is left at the end is computed again with some of its neighbours.
            count = min(chunk, (last - first) // lanes * lanes)
            if count == 0:
                count, first = lanes, last - lanes
            to, fresh = y + first * size, p.bias == 0
            if not fresh:
                fill_run(to, count, bias, code)
            accumulate(to, 0, x + (first - p.before) * size, count, 0, 1, p.offsets, p.taps, w, fresh, 1, code)
            first += count
        for start in range(last, end, chunk):
            _edge(p, x, y, w, start, min(start + chunk, end), bias, scratch, code, size, lanes)

    return filter_block
