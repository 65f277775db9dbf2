"""Device code of the direct algorithm: a tiled convolution kernel.

Numbers that vary with the shape come in one int64 array, `meta`, whose fields are named below, so that a kernel is
compiled once for a dtype and a tile and serves every shape. Flat indices are unsigned: a signed index makes Numba test
for negative ones. A mixture of unsigned and signed integers would become a float, hence the casts and the constants.
"""

# mypy: disable-error-code="attr-defined"
# numba.cuda puts its names together when it is imported, where mypy does not see them.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from numba import cuda

from gpuconv.backends.cuda import activation_kernels, launch, ndarray_kernels, scalars
from gpuconv.boundary import source_index

if TYPE_CHECKING:
    from gpuconv.tuning_cuda import CudaTile

__all__ = ["AXIS", "AXIS_FIELDS", "FIELDS", "TABLE", "TAP_FIELDS", "convolution"]

u32, u64, i64 = np.uint32, np.uint64, np.int64

FIELDS = (
    "groups", "channels", "outputs", "output_tiles", "taps", "segment", "pitch", "lanes", "mode", "biased",
    "in_start", "in_batch", "in_group", "in_channel", "out_start", "out_batch", "out_channel", "weights_start",
)  # fmt: skip
"""The head of `meta`. Channels and outputs are those of a group; all count real numbers, two in a complex one."""
(
    GROUPS, CHANNELS, OUTPUTS, OUTPUT_TILES, TAPS, SEGMENT, PITCH, LANES, MODE, BIASED,
    IN_START, IN_BATCH, IN_GROUP, IN_CHANNEL, OUT_START, OUT_BATCH, OUT_CHANNEL, WEIGHTS_START,
) = range(len(FIELDS))  # fmt: skip

AXIS_FIELDS = ("count", "tile", "tiles", "advance", "first", "halo", "length", "in_stride", "out_stride")
"""Then for each of three axes: output q of a tile reads inputs from advance*q + first on; `halo` of them a tile."""
COUNT, TILE, TILES, ADVANCE, FIRST, HALO, LENGTH, IN_STRIDE, OUT_STRIDE = range(len(AXIS_FIELDS))
AXIS = len(FIELDS)
AXIS1, AXIS2 = AXIS + len(AXIS_FIELDS), AXIS + 2 * len(AXIS_FIELDS)
TABLE = AXIS + 3 * len(AXIS_FIELDS)

TAP_FIELDS = 4
"""Then for each tap: its offset in the staged halo, and on each axis its distance from `first`."""

_source = launch.compile_device_function(source_index)


@launch.specialise
def convolution(
    kind: str, tile: CudaTile, halo: bool, parts: int = 1, wide: bool = False, activation: str = "",
    others: tuple[str, str] | None = None,
) -> Any:  # fmt: skip
    """Return the kernel ``(x, w, bias, y, fill, meta, first)`` of one kind of number, tile and way of staging.

    `kind` and `parts` are those of `scalars.Scalars`. With `wide`, y keeps the sums as they are. `others`
    are the dtypes of x and y where they are not those of `kind`.

    A block computes `tile.positions` output positions of `tile.outputs` channels of one image and group: the grid's
    first axis counts tiles, its second images times groups from `first` on. The inputs that it reads go through shared
    memory. With `halo` it stages whole channels of the tile with its halo, as many as fit; without, one element for
    each position, channel and tap, which is what a halo that is sparse or too large for shared memory needs.
    """
    seen = scalars.of(kind)
    shared_type = scalars.numba_type(seen.sums)
    zero = seen.sums.type(0)
    load, load_bias = scalars.loader(kind), scalars.loader(seen.result)
    store = activation_kernels.storer(activation, seen.sums.name if wide else seen.result)
    if others is not None:
        load = ndarray_kernels.loader(others[0], seen.sums.name)
        store = ndarray_kernels.storer(scalars.of(others[1]).kind, seen.sums.name)
    pairs = parts == 2
    positions, outputs = u32(tile.positions), u32(tile.outputs)
    per_thread, out_per_thread = tile.positions_per_thread, tile.outputs_per_thread
    across = u32(tile.positions // per_thread)
    own_outputs = u32(out_per_thread)
    threads, depth = u32(tile.threads), u32(tile.depth)
    staged_size, weights_size, axis_size = tile.staged, tile.depth * tile.outputs, tile.axis_table
    depth_size, sums = tile.depth, per_thread * out_per_thread
    none, one, two = u32(0), u32(1), u64(2)

    def kernel(x, w, bias, y, fill, meta, first):  # type: ignore[no-untyped-def]
        staged = cuda.shared.array(staged_size, shared_type)
        weights = cuda.shared.array(weights_size, shared_type)
        offsets = cuda.shared.array(depth_size, numba.uint32)
        sources = cuda.shared.array(axis_size, numba.int64)
        total = cuda.local.array(sums, shared_type)
        values = cuda.local.array(per_thread, shared_type)
        base = cuda.local.array(per_thread, numba.uint64)

        thread = u32(cuda.threadIdx.x)
        tx = u32(thread % across)
        ty = u32(thread // across)

        # The tile of this block.
        rest = u32(cuda.blockIdx.x)
        output_tiles = u32(meta[OUTPUT_TILES])
        o0 = u32(u32(rest % output_tiles) * outputs)
        rest = u32(rest // output_tiles)
        tiles = u32(meta[AXIS2 + TILES])
        q2 = i64(u32(rest % tiles)) * meta[AXIS2 + TILE]
        rest = u32(rest // tiles)
        tiles = u32(meta[AXIS1 + TILES])
        q1 = i64(u32(rest % tiles)) * meta[AXIS1 + TILE]
        q0 = i64(u32(rest // tiles)) * meta[AXIS + TILE]
        image = u64(first) + u64(cuda.blockIdx.y)
        n = u64(image // u64(meta[GROUPS]))
        g = u64(image % u64(meta[GROUPS]))

        tile1 = u32(meta[AXIS1 + TILE])
        tile2 = u32(meta[AXIS2 + TILE])
        in_tile = u32(u32(meta[AXIS + TILE]) * u32(tile1 * tile2))
        halo0 = u32(meta[AXIS + HALO])
        halo1 = u32(meta[AXIS1 + HALO])
        halo2 = u32(meta[AXIS2 + HALO])
        advance0, advance1, advance2 = meta[AXIS + ADVANCE], meta[AXIS1 + ADVANCE], meta[AXIS2 + ADVANCE]
        length0, length1, length2 = meta[AXIS + LENGTH], meta[AXIS1 + LENGTH], meta[AXIS2 + LENGTH]
        start0 = q0 * advance0 + meta[AXIS + FIRST]
        start1 = q1 * advance1 + meta[AXIS1 + FIRST]
        start2 = q2 * advance2 + meta[AXIS2 + FIRST]
        mode = meta[MODE]
        taps = u32(meta[TAPS])
        pitch = u32(meta[PITCH])
        channels = u64(meta[CHANNELS])
        in_channel = u64(meta[IN_CHANNEL])
        in_base = u64(meta[IN_START]) + n * u64(meta[IN_BATCH]) + g * u64(meta[IN_GROUP])

        # Where in the staged inputs each of this thread's positions begins.
        for r in range(per_thread):
            p = u32(tx + u32(r) * across)
            if not halo:
                base[r] = u64(p)
            elif p < in_tile:
                row = u32(p // tile2)
                i0 = u32(u32(row // tile1) * u32(advance0))
                i1 = u32(u32(row % tile1) * u32(advance1))
                i2 = u32(u32(p % tile2) * u32(advance2))
                base[r] = u64(u32(u32(i0 * halo1 + i1) * halo2 + i2))
            else:
                base[r] = u64(0)
        for r in range(sums):
            total[r] = zero

        if halo:
            # The element that each row of the halo shows, as an offset into x; -1 for the fill value.
            i = thread
            rows = u32(halo0 + halo1 + halo2)
            while i < rows:
                if i < halo0:
                    source = _source(mode, start0 + i64(i), length0)
                    stride = meta[AXIS + IN_STRIDE]
                elif i < u32(halo0 + halo1):
                    source = _source(mode, start1 + i64(u32(i - halo0)), length1)
                    stride = meta[AXIS1 + IN_STRIDE]
                else:
                    source = _source(mode, start2 + i64(u32(i - u32(halo0 + halo1))), length2)
                    stride = meta[AXIS2 + IN_STRIDE]
                sources[i] = source * stride if source >= 0 else i64(-1)
                i = u32(i + threads)
            cuda.syncthreads()

        volume = u32(u32(halo0 * halo1) * halo2)
        lanes = u32(meta[LANES])
        group_outputs = u32(meta[OUTPUTS])
        reduction = u64(channels * u64(taps))
        weights_base = u64(meta[WEIGHTS_START]) + g * reduction * u64(group_outputs)
        begin = u64(0)
        while begin < reduction:
            end = u64(begin + u64(meta[SEGMENT]))
            if end > reduction:  # noqa: PLR1730 - Numba's CUDA target cannot compile min() where there is no device
                end = reduction
            if halo:
                # Whole channels: neighbouring threads take neighbouring channels or positions, as `lanes` says.
                c_first = u64(begin // u64(taps))
                count = u32(u64(end - begin) // u64(taps))
                i = u32(thread // lanes)
                while i < volume:
                    row = u32(i // halo2)
                    s0 = sources[u32(row // halo1)]
                    s1 = sources[u32(halo0 + u32(row % halo1))]
                    s2 = sources[u32(u32(halo0 + halo1) + u32(i % halo2))]
                    inside = s0 >= 0 and s1 >= 0 and s2 >= 0
                    place = in_base
                    if inside:
                        place = u64(in_base + u64(s0 + s1 + s2))
                    c = u32(thread % lanes)
                    while c < count:
                        channel = u64(c_first + u64(c))
                        value = zero
                        if inside:
                            if pairs:
                                value = load(x[u64(place + u64(channel // two) * in_channel + u64(channel % two))])
                            else:
                                value = load(x[u64(place + channel * in_channel)])
                        elif not pairs or u64(channel % two) == u64(0):
                            value = fill
                        staged[u32(c * pitch + i)] = value
                        c = u32(c + lanes)
                    i = u32(i + u32(threads // lanes))
            k0 = begin
            while k0 < end:
                count = depth
                if u64(end - k0) < u64(depth):
                    count = u32(u64(end - k0))
                if not halo:
                    p = thread
                    while p < in_tile:
                        row = u32(p // tile2)
                        p0 = start0 + i64(u32(row // tile1)) * advance0
                        p1 = start1 + i64(u32(row % tile1)) * advance1
                        p2 = start2 + i64(u32(p % tile2)) * advance2
                        c_in = u64(k0 // u64(taps))
                        t = u32(u64(k0 % u64(taps)))
                        k = none
                        while k < count:
                            at = u64(TABLE) + u64(t) * u64(TAP_FIELDS)
                            s0 = _source(mode, p0 + meta[u64(at + u64(1))], length0)
                            s1 = _source(mode, p1 + meta[u64(at + u64(2))], length1)
                            s2 = _source(mode, p2 + meta[u64(at + u64(3))], length2)
                            value = zero
                            if s0 >= 0 and s1 >= 0 and s2 >= 0:
                                place = (
                                    s0 * meta[AXIS + IN_STRIDE]
                                    + s1 * meta[AXIS1 + IN_STRIDE]
                                    + s2 * meta[AXIS2 + IN_STRIDE]
                                )
                                first_in = u64(in_base + u64(place))
                                if pairs:
                                    at_c = u64(u64(c_in // two) * in_channel + u64(c_in % two))
                                    value = load(x[u64(first_in + at_c)])
                                else:
                                    value = load(x[u64(first_in + c_in * in_channel)])
                            elif not pairs or u64(c_in % two) == u64(0):
                                value = fill
                            staged[u32(k * positions + p)] = value
                            t = u32(t + one)
                            if t == taps:
                                t = none
                                c_in = u64(c_in + u64(1))
                            k = u32(k + one)
                        p = u32(p + threads)
                k = thread
                while k < count:
                    if halo:
                        inner = u64(u64(k0 - begin) + u64(k))
                        at = u64(TABLE) + u64(inner % u64(taps)) * u64(TAP_FIELDS)
                        offsets[k] = u32(u32(u64(inner // u64(taps))) * pitch + u32(meta[at]))
                    else:
                        offsets[k] = u32(k * positions)
                    k = u32(k + threads)
                i = thread
                while i < u32(count * outputs):
                    o = u32(o0 + u32(i % outputs))
                    weight = zero
                    if o < group_outputs:
                        weight = w[u64(weights_base + u64(k0 + u64(u32(i // outputs))) * u64(group_outputs) + u64(o))]
                    weights[i] = weight
                    i = u32(i + threads)
                cuda.syncthreads()

                k = none
                while k < count:
                    offset = u64(offsets[k])
                    for r in range(per_thread):
                        values[r] = staged[u64(offset + base[r])]
                    at_w = u64(u64(k * outputs) + u64(ty * own_outputs))
                    for j in range(out_per_thread):
                        weight = weights[u64(at_w + u64(j))]
                        for r in range(per_thread):
                            total[j * per_thread + r] += weight * values[r]
                    k = u32(k + one)
                cuda.syncthreads()
                k0 = u64(k0 + u64(count))
            begin = end

        out_channel = u64(meta[OUT_CHANNEL])
        o_first = u64(o0 + u32(ty * own_outputs))
        out_base = u64(meta[OUT_START]) + n * u64(meta[OUT_BATCH])
        for r in range(per_thread):
            p = u32(tx + u32(r) * across)
            row = u32(p // tile2)
            p0 = q0 + i64(u32(row // tile1))
            p1 = q1 + i64(u32(row % tile1))
            p2 = q2 + i64(u32(p % tile2))
            if p < in_tile and p0 < meta[AXIS + COUNT] and p1 < meta[AXIS1 + COUNT] and p2 < meta[AXIS2 + COUNT]:
                place = u64(
                    p0 * meta[AXIS + OUT_STRIDE] + p1 * meta[AXIS1 + OUT_STRIDE] + p2 * meta[AXIS2 + OUT_STRIDE]
                )
                for j in range(out_per_thread):
                    o_in = u64(o_first + u64(j))
                    if o_in < u64(group_outputs):
                        channel = u64(g * u64(group_outputs) + o_in)
                        value = total[j * per_thread + r]
                        if meta[BIASED] != 0:
                            value = value + load_bias(bias[channel])
                        if pairs:
                            at_o = u64(u64(channel // two) * out_channel + u64(channel % two))
                            y[u64(out_base + place + at_o)] = store(value)
                        else:
                            y[u64(out_base + place + channel * out_channel)] = store(value)

    return launch.compile_kernel(kernel)
