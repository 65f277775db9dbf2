"""The compiled kernel that packs weights for `direct`, `gemm` and `blocked`."""

from __future__ import annotations

import functools
from typing import Any

from numba import carray, cfunc, from_dtype, njit, types

from gpuconv.backends.cpu import simd
from gpuconv.backends.cpu.direct_kernels import block_rows, phase_pointer
from gpuconv.backends.cpu.elements import load, read, store, zero
from gpuconv.backends.cpu.records import record
from gpuconv.backends.cpu.weight_tiles import collect_rows, pack_rows, split_taps

__all__ = ["PACKING", "weight_packing"]

PACKING = record(
    "w wg wo wc w_half packed tap_bytes is_complex conjugate channels outputs groups phases phase_count blocks"
)
"""The packing of weights; `tap_bytes` is the address of each phase's tap offsets in w."""

_PACKING_POINTER = types.CPointer(from_dtype(PACKING))
_PACKED_CHANNELS = 8
"""Channels whose weights are packed in all phases before the next: their lines stay in a first-level cache of 8 ways
where channels lie 4 KiB apart."""


@njit(error_model="numpy")
def _order_of_taps(p, phases, size):  # type: ignore[no-untyped-def]
    """Return which phase has each tap (see `split_taps`), or -1 where phases have more taps, or taps lie apart."""
    count, order, found = p.phase_count, 0, 0
    if (count not in (2, 4, 8)) or p.wo != count * size:
        return -1
    for number in range(count):
        if phases[number].tap_count != 1:
            return -1
        tap = read(read(p.tap_bytes + 8 * number))
        if tap < 0 or tap >= count * size or tap % size != 0:
            return -1
        order |= number << (4 * (tap // size))
        found |= 1 << (tap // size)
    return order if found == (1 << count) - 1 else -1


@functools.cache
def weight_packing(source: int, accumulator: int, height: int, is_padded: bool) -> int:
    """Return the address of the kernel that packs weights as [phase][group][row block][channel][tap][row].

    A task is one group and block of `height` rows, in all phases. The last block is padded to that height, or, of
    `direct_kernels.ROWS` rows, as `block_rows` has it.
    """
    lanes, version = simd.lanes_of(accumulator), simd.source_version()
    size = simd.BYTES[accumulator]
    return int(_weight_packing(source, accumulator, height, int(is_padded), size, lanes, version).address)


def _weight_packing(
    source: int, accumulator: int, height: int, is_padded: int, size: int, lanes: int, version: int
) -> Any:
    @cfunc(types.void(_PACKING_POINTER, types.int64, types.int64), cache=True, error_model="numpy")
    def pack_weights(pointer, task, scratch):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        if version == 0:
            return
        p = carray(pointer, 1)[0]
        block, group = task % p.blocks, task // p.blocks
        rows, channels = height if is_padded else block_rows(block, p.outputs), p.channels
        phases = carray(phase_pointer(p.phases), p.phase_count)
        start = p.w + group * p.wg + block * height * p.wo
        if source == accumulator and rows == height and not p.is_complex and block * height + rows <= p.outputs:
            f, table = phases[0], read(p.tap_bytes)
            order = _order_of_taps(p, phases, size)
            if order >= 0:
                to = p.packed + f.w_offset + group * f.w_group_bytes + block * height * channels * size
                step, count = phases[1].w_offset - f.w_offset, p.phase_count
                if count == 2:
                    split_taps(to, step, order, start, channels, p.wc, 2, height, accumulator)
                elif count == 4:
                    split_taps(to, step, order, start, channels, p.wc, 4, height, accumulator)
                else:
                    split_taps(to, step, order, start, channels, p.wc, 8, height, accumulator)
                return
            terms = channels * f.tap_count
            to = p.packed + f.w_offset + group * f.w_group_bytes + block * height * terms * size
            in_order = p.phase_count == 1 and p.wc == f.tap_count * size
            for t in range(f.tap_count):
                in_order = in_order and read(table + 8 * t) == t * size
            if in_order:
                full = terms // lanes * lanes
                pack_rows(to, start, p.wo, full, height, accumulator)
                for k in range(full, terms):
                    for r in range(rows):
                        value = load(start + r * p.wo + k * size, source, accumulator)
                        store(to + (k * rows + r) * size, value, accumulator, accumulator)
                return
            # A few channels at a time: all phases read them while they are in a first-level cache.
            for channel in range(0, channels, _PACKED_CHANNELS):
                count = min(_PACKED_CHANNELS, channels - channel)
                for number in range(p.phase_count):
                    f = phases[number]
                    to = p.packed + f.w_offset + group * f.w_group_bytes
                    to += (block * channels + channel) * height * f.tap_count * size
                    table = read(p.tap_bytes + 8 * number)
                    collect_rows(
                        to, start + channel * p.wc, p.wo, count, p.wc, table, f.tap_count, height, accumulator
                    )  # fmt: skip
            return
        for number in range(p.phase_count):
            f = phases[number]
            table, tap_count = read(p.tap_bytes + 8 * number), f.tap_count
            to = p.packed + f.w_offset + group * f.w_group_bytes + block * height * channels * tap_count * size
            for r in range(rows):
                output = block * height + r
                for channel in range(channels):
                    place = to + (channel * tap_count * rows + r) * size
                    if output >= p.outputs:
                        for t in range(tap_count):
                            store(place + t * rows * size, zero(accumulator), accumulator, accumulator)
                    elif p.is_complex:
                        # (a + bi)(c + di) as two real outputs of two real channels: [[a, -b], [b, a]].
                        imaginary = (output ^ channel) & 1
                        negative = imaginary & (channel & 1 ^ p.conjugate)
                        start = p.w + group * p.wg + (output >> 1) * p.wo + (channel >> 1) * p.wc + imaginary * p.w_half
                        for t in range(tap_count):
                            value = load(start + read(table + 8 * t), source, accumulator)
                            store(place + t * rows * size, -value if negative else value, accumulator, accumulator)
                    else:
                        start = p.w + group * p.wg + output * p.wo + channel * p.wc
                        for t in range(tap_count):
                            value = load(start + read(table + 8 * t), source, accumulator)
                            store(place + t * rows * size, value, accumulator, accumulator)

    return pack_weights
