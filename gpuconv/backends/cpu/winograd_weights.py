"""The first stage of Winograd kernels: weights gathered into pixels of output channels and transformed."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import carray, cfunc, njit, types

from gpuconv.backends.cpu.winograd_call import call_at
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
from gpuconv.backends.cpu.winograd_tiles import forms, transform_weights, version_of

__all__ = ["MOST_SPAN", "weights"]

MOST_SPAN = 64
"""Numbers from the first to the last of a channel's taps in memory that are transposed at once, wanted or not."""


@njit(error_model="numpy")
def _span(p):  # type: ignore[no-untyped-def]
    """Return the bytes from a plane's first tap to the one that lies first in memory, and the numbers from there on."""
    down, across = (p.kernel_y - 1) * p.wy, (p.kernel_x - 1) * p.wx
    return min(down, 0) + min(across, 0), (abs(down) + abs(across)) // 4 + 1


@njit(error_model="numpy")
def _read_span(p, to, w, first, span, channels, outputs):  # type: ignore[no-untyped-def]
    """Transpose the plane of taps of some channels to pixels."""
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
def _pick_taps(p, to, plane, first, span, w, tap_y, tap_x, channels, outputs, ty, tx):  # type: ignore[no-untyped-def]
    """Copy the taps of a part, channel by channel, ty by tx; those that it lacks are 0."""
    high, wide = taps_of(tap_y, p.kernel_y, p.tap_step_y, ty), taps_of(tap_x, p.kernel_x, p.tap_step_x, tx)
    if high < ty or wide < tx or span > MOST_SPAN:
        fill_pixels(to, channels * ty * tx, np.float32(0))
    for c in range(channels):
        for i in range(high):
            for j in range(wide):
                place = to + ((c * ty + i) * tx + j) * VECTOR
                at = (tap_y + i * p.tap_step_y) * p.wy + (tap_x + j * p.tap_step_x) * p.wx
                if span <= MOST_SPAN:
                    copy_pixels(place, 0, plane + (c * span + (at - first) // 4) * VECTOR, 0, 1, LANES)
                else:
                    gather_pixel(place, w + c * p.wc + at, p.wo, outputs)


@njit(error_model="numpy")
def _transform(p, group, block, section, sections, first, vectors, u, u_step, taps, ty, tx, form):  # type: ignore[no-untyped-def]
    """Transform weights of some sections for one block of output channels.

    Of each section those of `vectors` vectors of input channels, from its `first` on. `u` is the first section's.
    """
    count = ty * tx
    first_number, span = _span(p)
    # A kernel of one part has its taps used where they are: backwards, if an adjoint's kernel is turned around.
    is_whole = p.parts == p.parts_together and span == count and abs(p.wx) == 4 and p.wy == tx * p.wx
    plane = taps if is_whole else taps + (count + 1) * LANES * VECTOR
    taps_step, first_tap = VECTOR, taps
    if is_whole and p.wx < 0:
        taps_step, first_tap = -VECTOR, taps + (count - 1) * VECTOR
    before = section_of(p, section)[4]
    for half in range(2):
        output = (2 * block + half) * LANES
        outputs = min(LANES, p.outputs - output)
        for vector in range(first, first + vectors):
            part, channel = vector // p.part_vectors, vector % p.part_vectors * LANES
            channels = min(LANES, p.channels - channel) if outputs > 0 else 0
            w = p.w + group * p.wg + output * p.wo + channel * p.wc + part_tap(p, part, 0) * p.wz
            if channels > 0 and span <= MOST_SPAN:
                _read_span(p, plane, w, first_number, span, channels, outputs)
            for s in range(section, section + sections):
                made_y, made_x, kept_y, kept_x, kept_before = section_of(p, s)
                to = u + (kept_before - before) * u_step + ((vector - first) * LANES * 2 + half) * VECTOR
                if channels > 0 and not is_whole:
                    tap_y, tap_x = part_tap(p, s * p.parts_together, 1), part_tap(p, s * p.parts_together, 2)
                    _pick_taps(p, taps, plane, first_number, span, w, tap_y, tap_x, channels, outputs, ty, tx)
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


@functools.cache
def weights(form: int) -> int:
    """Return the address of the function that transforms the weights of a block of output channels."""
    ty, tx = (len(m.weights[0]) for m in forms(form))
    return int(_weights(form, ty, tx, version_of(form)).address)


def _weights(form: int, ty: int, tx: int, version: int) -> Any:
    i64 = types.int64

    @cfunc(types.void(*[i64] * 10), cache=True, error_model="numpy")
    def weights_transform(call, group, block, section, sections, first, vectors, u, u_step, taps):  # type: ignore[no-untyped-def]  # pragma: no cover
        if version != 0:
            p = carray(call_at(call), 1)[0]
            _transform(p, group, block, section, sections, first, vectors, u, u_step, taps, ty, tx, form)

    return weights_transform
