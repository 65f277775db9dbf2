"""The first stage of Winograd kernels: weights gathered into pixels of output channels and transformed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from gpuconv.backends.cpu.winograd_parts import part_tap, section_of, taps_of
from gpuconv.backends.cpu.winograd_pixels import (
    LANES,
    VECTOR,
    copy_pixels,
    fill_pixels,
    gather_pixel,
    transpose,
    transpose_part,
)
from gpuconv.backends.cpu.winograd_tiles import transform_weights

__all__ = ["MOST_SPAN", "transform"]

MOST_SPAN = 64
"""Numbers from a channel's first tap to its last that are transposed at once, whether or not all are wanted."""


@njit(error_model="numpy")
def _read_span(p, to, w, first, span, channels, outputs):  # type: ignore[no-untyped-def]
    """Transpose `span` neighbouring numbers of some channels, from `first` bytes beyond w on, to pixels."""
    if p.wc == 4 * span and first == 0:
        numbers = channels * span
        whole = numbers // LANES if outputs == LANES else 0
        transpose(to, w, p.wo, whole, LANES * span * 4)
        for i in range(whole * LANES, numbers, LANES):
            transpose_part(to + i * VECTOR, w + 4 * i, p.wo, outputs, min(LANES, numbers - i))
        return
    for c in range(channels):
        for i in range(0, span, LANES):
            at = to + (c * span + i) * VECTOR
            transpose_part(at, w + c * p.wc + first + 4 * i, p.wo, outputs, min(LANES, span - i))


@njit(error_model="numpy")
def _read_taps(p, to, span_to, w, tap_y, tap_x, channels, outputs, ty, tx):  # type: ignore[no-untyped-def]
    """Copy the taps of a part to pixels, channel by channel, ty by tx; those that it lacks are 0."""
    high, wide = taps_of(tap_y, p.kernel_y, p.stride_y, ty), taps_of(tap_x, p.kernel_x, p.stride_x, tx)
    down, across = p.stride_y * p.wy, p.stride_x * p.wx
    if high < ty or wide < tx:
        fill_pixels(to, channels * ty * tx, np.float32(0))
    at = tap_y * p.wy + tap_x * p.wx
    first, last = at + min((high - 1) * down, 0) + min((wide - 1) * across, 0), at
    last += max((high - 1) * down, 0) + max((wide - 1) * across, 0)
    if p.kernel_z == 1 and min(p.wy, p.wx) > 0 and p.wc == 4 * p.kernel_y * p.kernel_x:
        # Kernels that follow each other in memory are transposed without a gap.
        first, last = 0, p.wc - 4
    span = (last - first) // 4 + 1
    if span <= MOST_SPAN:
        _read_span(p, span_to, w, first, span, channels, outputs)
    for c in range(channels):
        for i in range(high):
            for j in range(wide):
                place, source = to + ((c * ty + i) * tx + j) * VECTOR, at + i * down + j * across
                if span <= MOST_SPAN:
                    copy_pixels(place, 0, span_to + (c * span + (source - first) // 4) * VECTOR, 0, 1, LANES)
                else:
                    fill_pixels(place, 1, np.float32(0))
                    gather_pixel(place, w + c * p.wc + source, p.wo, outputs)


@njit(error_model="numpy")
def transform(p, group, block, first, vectors, u, u_step, taps, ty, tx, form) -> Any:  # type: ignore[no-untyped-def]
    """Transform the weights of some vectors of input channels of one section for one block of output channels."""
    count, taps_step, first_tap = ty * tx, VECTOR, taps
    is_whole = p.stride_y == 1 and p.stride_x == 1 and p.kernel_y == ty and p.kernel_x == tx
    are_taps_dense = is_whole and abs(p.wx) == 4 and p.wy == tx * p.wx
    if are_taps_dense and p.wx < 0:
        # The adjoint's kernel is turned around: its taps are read forwards, and used backwards.
        taps_step, first_tap = -VECTOR, taps + (count - 1) * VECTOR
    made_y, made_x, kept_y, kept_x, _ = section_of(p, first // (p.parts_together * p.part_vectors))
    for half in range(2):
        output = (2 * block + half) * LANES
        outputs = min(LANES, p.outputs - output)
        for vector in range(vectors):
            part, channel = (first + vector) // p.part_vectors, (first + vector) % p.part_vectors * LANES
            channels = min(LANES, p.channels - channel) if outputs > 0 else 0
            to = u + (vector * LANES * 2 + half) * VECTOR
            w = p.w + group * p.wg + output * p.wo + channel * p.wc + part_tap(p, part, 0) * p.wz
            if channels > 0 and are_taps_dense:
                _read_span(p, taps, w, min((count - 1) * p.wx, 0), count, channels, outputs)
            elif channels > 0:
                span_to = taps + (count + 1) * LANES * VECTOR
                _read_taps(
                    p, taps, span_to, w, part_tap(p, part, 1), part_tap(p, part, 2), channels, outputs, ty, tx
                )  # fmt: skip
            if kept_y < made_y and kept_x < made_x:
                transform_weights(to, u_step, first_tap, taps_step, channels, 2 * VECTOR, form, 3)
            elif kept_y < made_y:
                transform_weights(to, u_step, first_tap, taps_step, channels, 2 * VECTOR, form, 2)
            elif kept_x < made_x:
                transform_weights(to, u_step, first_tap, taps_step, channels, 2 * VECTOR, form, 1)
            else:
                transform_weights(to, u_step, first_tap, taps_step, channels, 2 * VECTOR, form, 0)
            for c in range(max(channels, 0), LANES):
                for kept in range(kept_y * kept_x):
                    fill_pixels(to + c * 2 * VECTOR + kept * u_step, 1, np.float32(0))
