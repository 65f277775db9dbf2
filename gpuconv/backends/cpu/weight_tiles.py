"""The vector code that puts weights in the order of the kernels, as Numba intrinsics: [term][rows of a tile]."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from gpuconv.backends.cpu.rows import prefetch_lines
from gpuconv.backends.cpu.simd import (
    BYTES,
    I32,
    constant,
    element_type,
    first_lanes,
    interleaved,
    lanes_of,
    load_masked,
    load_vector,
    store_vector,
)

__all__ = ["collect_rows", "pack_rows", "split_taps"]

_CHANNELS_AHEAD = 16


@intrinsic(prefer_literal=True)
def pack_rows(typingctx: Any, to: Any, w: Any, w_stride: Any, depth: Any, rows: Any, code: Any) -> Any:
    """Transpose weights: to[k, r] = w[r * w_stride + k], for k in range(depth) and r in range(rows).

    `to` must be writable up to the next multiple of a vector's lanes in k.
    """
    height, a = rows.literal_value, code.literal_value
    n, size = lanes_of(a), BYTES[a]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, w, w_stride, depth = args[:4]

        def square(k: Any, mask: Any) -> None:
            vectors = []
            for r in range(height):
                at = builder.add(w, builder.add(builder.mul(k, constant(size)), builder.mul(w_stride, constant(r))))
                vectors.append(load_vector(builder, at, a, n) if mask is None else load_masked(builder, at, mask, a, n))
            # Interleaving the first half of the numbers with the second, once for each doubling of the rows.
            for _ in range(height.bit_length() - 1):
                pairs = zip(vectors[: height // 2], vectors[height // 2 :], strict=True)
                vectors = [v for pair in pairs for v in interleaved(builder, *pair)]
            for i, v in enumerate(vectors):
                place = builder.add(to, builder.mul(k, constant(height * size)))
                store_vector(builder, v, builder.add(place, constant(i * n * size)), a)

        full, left = builder.sdiv(depth, constant(n)), builder.srem(depth, constant(n))
        with cgutils.for_range(builder, full) as loop:
            square(builder.mul(loop.index, constant(n)), None)
        with builder.if_then(builder.icmp_signed(">", left, constant(0))):
            square(builder.mul(full, constant(n)), first_lanes(builder, left, n))
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(*[i64] * 4, rows, code), codegen


@intrinsic(prefer_literal=True)
def collect_rows(
    typingctx: Any,
    to: Any,
    w: Any,
    w_stride: Any,
    channels: Any,
    channel_stride: Any,
    taps: Any,
    tap_count: Any,
    rows: Any,
    code: Any,
) -> Any:
    """Collect weights: to[c, t, r] = w[c * channel_stride + taps[t] + r * w_stride], all strides in bytes.

    One by one: a gather of four takes twelve cycles (Zen 3).
    """
    height, a = rows.literal_value, code.literal_value
    size = BYTES[a]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, w, w_stride, channels, channel_stride, taps, tap_count = args[:7]
        shifts = [builder.mul(w_stride, constant(r)) for r in range(height)]
        with cgutils.for_range(builder, channels) as channel:
            base = builder.add(w, builder.mul(channel.index, channel_stride))
            place = builder.add(to, builder.mul(builder.mul(channel.index, tap_count), constant(height * size)))
            with cgutils.for_range(builder, tap_count) as tap:
                offset = load_vector(builder, builder.add(taps, builder.mul(tap.index, constant(8))), 3, 1)
                at = builder.add(base, offset)
                collected = ir.Constant(ir.VectorType(element_type(a), height), ir.Undefined)
                for r, shift in enumerate(shifts):
                    value = load_vector(builder, builder.add(at, shift), a, 1)
                    collected = builder.insert_element(collected, value, ir.Constant(I32, r))
                store_vector(builder, collected, builder.add(place, builder.mul(tap.index, constant(height * size))), a)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(*[i64] * 7, rows, code), codegen


@intrinsic(prefer_literal=True)
def split_taps(
    typingctx: Any,
    to: Any,
    tap_step: Any,
    order: Any,
    w: Any,
    channels: Any,
    channel_stride: Any,
    tap_count: Any,
    rows: Any,
    code: Any,
) -> Any:
    """Take apart kernels whose taps are neighbours: to[place of t, c, r] = w[c * channel_stride + r * tap_count + t].

    Places are `tap_step` bytes apart; the four bits of `order` from bit 4 * t on are tap t's. `tap_count` is a literal.
    """
    taps, height, a = tap_count.literal_value, rows.literal_value, code.literal_value
    size = BYTES[a]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, tap_step, order, w, channels, channel_stride = args[:6]
        places = [builder.and_(builder.lshr(order, constant(4 * t)), constant(15)) for t in range(taps)]
        targets = [builder.add(to, builder.mul(place, tap_step)) for place in places]
        with cgutils.for_range(builder, channels) as channel:
            at = builder.add(w, builder.mul(channel.index, channel_stride))
            # Channels lie pages apart, which no processor foresees; what lies beyond the last one harms nothing.
            ahead = builder.add(at, builder.mul(channel_stride, constant(_CHANNELS_AHEAD)))
            prefetch_lines(builder, ahead, constant(taps * height * size))
            kernels = load_vector(builder, at, a, taps * height)
            shift = builder.mul(channel.index, constant(height * size))
            for t, target in enumerate(targets):
                lanes = ir.Constant(ir.VectorType(I32, height), [r * taps + t for r in range(height)])
                store_vector(builder, builder.shuffle_vector(kernels, kernels, lanes), builder.add(target, shift), a)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(*[i64] * 6, tap_count, rows, code), codegen
