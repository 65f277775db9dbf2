"""How the Winograd kernel divides a call, settled once for each: form, blocks of tiles, stages and scratch memory."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv.backends.cpu import threads
from gpuconv.backends.cpu.simd import registers
from gpuconv.backends.cpu.winograd_kernels import CALL
from gpuconv.backends.cpu.winograd_parts import SECTION_FIELDS
from gpuconv.backends.cpu.winograd_pixels import LANES, VECTOR
from gpuconv.backends.cpu.winograd_tiles import forms, most_tiles
from gpuconv.backends.cpu.winograd_weights import MOST_SPAN
from gpuconv.tuning import CPU_WINOGRAD

if TYPE_CHECKING:
    from gpuconv.problem import ConvProblem

__all__ = [
    "OUTPUTS", "Geometry", "along_axes", "geometry", "is_worth_packing", "odd_lines", "operand", "parts_of",
    "possible_forms", "spans", "tiles_of",
]  # fmt: skip

OUTPUTS = {2: (5, 4, 3), 3: (4, 3, 2), 4: (3,), 5: (2,)}
"""Outputs along an axis that tiles may have, by the kernel's taps."""
_MIXED_FORM = 4323
"""Tiles of 4x2 outputs: half as many again transformed weights as 2x2 tiles have, and three quarters of their products,
where larger tiles would have more weights than they save products (512 channels at 7x7)."""
_LARGE_TILE_CHANNELS = 32
"""Channels below which the largest error of tiles with 36 products could pass that of a direct sum of the same
length."""
_RESTART = 64
"""Channels after which the sums of products start anew: the error then hardly grows with the channels."""
_INPUT_BYTES = {16: 1280 << 10, 32: 640 << 10}
"""Transformed inputs of a block that a second-level cache still holds with all else, by the number of registers: 1 MiB
and more where there are 32. With 16 none of half a MiB was seen to matter."""
_LARGE_INPUT_BYTES = 4 << 20
"""Those of a block that stay in a thread's share of a last-level cache."""
_PRODUCTS = 2016
"""Products of a block and one channel, at most, where more gain nothing: 56 tiles of F(4x4)."""
_SPLIT_BYTES = 32 << 20
"""Transformed inputs that may be kept in memory, for the sake of an even division among the threads."""
_WRITTEN_PIXELS = 256
_FEW_TASKS = 64
"""Tasks of unequal sizes that leave a worker idle for long enough to count."""
_CUTS = 0.3
"""What blocks that begin anywhere in a row add to the transforms."""
_TASK_FLOPS = 200e6


class Geometry(NamedTuple):
    """A call's record as plain integers, to be copied and completed, and its stages."""

    words: Any
    form: int
    split: bool
    weight_tasks: int
    weight_scratch_bytes: int
    input_tasks: int
    tasks: int
    scratch_bytes: int
    slice_tasks: int
    weight_bytes: int
    input_bytes: int
    """Of transformed inputs in memory, where the stages are split."""
    transforms_inside: bool
    """Whether each transformed weight would be used once, so that the tasks transform them."""
    seconds: float
    tables: Any
    """Kept alive: `words` holds their addresses."""


_PART_TAPS = {5: (5, 3)}
"""Taps of the parts that kernels may be divided into, by their longest axis: by default all, or the next for longer."""
_LONG_TAPS = (3, 4)
_MOST_PARTS = 64


def operand(problem: ConvProblem, strides: tuple[int, ...]) -> list[int]:
    """Return the bytes between neighbours of x or y: batch, channel, z, y, x."""
    batch, *rest = strides if problem.batched else (0, *strides)
    channel = rest.pop(0 if problem.layout == "channels_first" else -1)
    return [batch, channel, *(0,) * (3 - problem.rank), *rest]


def along_axes(problem: ConvProblem) -> tuple[tuple[int, int], ...]:
    """Return the kernel, the stride and the dilation along the last two axes, each (y, x)."""
    return tuple((1, *values)[-2:] for values in (problem.kernel, problem.stride, problem.dilation))  # type: ignore[misc]


def possible_forms(problem: ConvProblem) -> tuple[int, ...]:
    """Return the forms that compute a correlation; empty where none does."""
    (ky, kx), (sy, sx), (dy, dx) = along_axes(problem)
    if any(k > 1 and s > 1 and d > 1 for k, s, d in ((ky, sy, dy), (kx, sx, dx))):
        return ()
    longest = max(-(-ky // sy), -(-kx // sx))
    found: list[int] = []
    whole = (longest,) if longest in OUTPUTS else _LONG_TAPS if longest > 1 else ()
    for taps in _PART_TAPS.get(longest, whole):
        if ky == 1:
            found += (1100 + 10 * m + taps for m in OUTPUTS[taps])
        elif kx == 1:
            found += (1000 * m + 100 * taps + 11 for m in OUTPUTS[taps])
        else:
            is_long = problem.in_channels // problem.groups >= _LARGE_TILE_CHANNELS
            found += (1010 * m + 101 * taps for m in OUTPUTS[taps] if is_long or m + taps <= 6)
            if taps == 3 and is_long:
                found.append(_MIXED_FORM)
    return tuple(form for form in found if len(_parts(problem, form)) <= _MOST_PARTS)


def parts_of(problem: ConvProblem, taps_y: int, taps_x: int) -> list[tuple[int, int, int]]:
    """Return the first taps (z, y, x) of the parts of a kernel, those of the same y and x together.

    With a stride, every stride-th tap of a plane's axis meets every stride-th input, which makes a part of stride 1;
    one of more than `taps_y` by `taps_x` taps is divided again. Each part is a correlation of its own, and their sum is
    taken of the products: to the kernel they are further input channels.
    """
    kz, ky, kx = (1, 1, *problem.kernel)[-3:]

    def first(kernel: int, stride: int, taps: int) -> list[int]:
        return [t for phase in range(min(stride, kernel)) for t in range(phase, kernel, stride * taps)]

    _, (sy, sx), _ = along_axes(problem)
    return [(z, y, x) for y in first(ky, sy, taps_y) for x in first(kx, sx, taps_x) for z in range(kz)]


def _parts(problem: ConvProblem, form: int) -> list[tuple[int, int, int]]:
    return parts_of(problem, form // 100 % 10, form % 10)


def tiles_of(outputs: int, dilation: int, m: int) -> int:
    """Return the tiles of an axis: one for each m outputs of each of `dilation` interleaved convolutions."""
    return outputs // (dilation * m) * dilation + min(dilation, outputs % (dilation * m))


def _origin(tile: int, dilation: int, m: int) -> int:
    return tile // dilation * (dilation * m) + tile % dilation


def spans(tiles: int, block: int, dilation: int, m: int, n: int) -> int:
    """Return the most inputs along an axis that a block of neighbouring tiles reads."""
    block = min(block, tiles)
    starts = range(min(dilation, tiles - block + 1))
    ends = max(_origin(first + block - 1, dilation, m) - _origin(first, dilation, m) for first in starts)
    return ends + dilation * (n - 1) + 1


def _round(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def odd_lines(n: int) -> int:
    """Return at least n bytes that are an odd number of cache lines, or of vectors beyond a line."""
    line = max(64, VECTOR)
    return (-(-n // line) | 1) * line


class _Sizes(NamedTuple):
    """A correlation in tiles of one form."""

    my: int
    mx: int
    ny: int
    nx: int
    ty: int
    tx: int
    out_y: int
    out_x: int
    dilation_y: int
    dilation_x: int
    batch: int
    groups: int
    tiles_y: int
    tiles_x: int
    vectors: int
    """Vectors of a group's input channels in all parts."""
    sections: tuple[tuple[int, ...], ...]
    """The `SECTION_FIELDS` of each."""
    blocks: int
    """Blocks of a group's output channels, two vectors each."""

    @property
    def products(self) -> int:
        """Products of a tile, a channel and an output channel."""
        return self.ny * self.nx

    @property
    def made(self) -> float:
        """Products of a tile, a channel of a part and an output channel, on average."""
        return sum(y * x for y, x, *_ in self.sections) / len(self.sections)

    @property
    def kept(self) -> int:
        """Transformed weights of a channel of one depth and an output channel."""
        *_, (_, _, y, x, before) = self.sections
        return before + y * x

    @property
    def tile_bytes(self) -> int:
        """Bytes of a transformed tile."""
        return self.products * self.vectors * VECTOR

    @property
    def tiles(self) -> int:
        """All tiles of a group."""
        return self.batch * self.tiles_y * self.tiles_x

    def units(self, unit: int) -> int:
        """Return how many units of so many neighbours in a row there are, the last of a row perhaps smaller."""
        return self.batch * self.tiles_y * -(-self.tiles_x // unit)


def _sizes(problem: ConvProblem, form: int) -> _Sizes:
    down, across = forms(form)
    my, mx, ny, nx = len(down.output), len(across.output), len(down.input), len(across.input)
    ty, tx = len(down.weights[0]), len(across.weights[0])
    out_z, out_y, out_x = (1, 1, *problem.output)[-3:]
    # A kernel of one row or column has no inputs between it and the next.
    dy, dx = (d if k > 1 else 1 for d, k in zip((1, *problem.dilation)[-2:], (1, *problem.kernel)[-2:], strict=True))
    parts = _parts(problem, form)
    return _Sizes(
        my, mx, ny, nx, ty, tx, out_y, out_x, dy, dx,
        problem.batch * out_z, problem.groups, tiles_of(out_y, dy, my), tiles_of(out_x, dx, mx),
        len(parts) * -(-problem.in_channels // problem.groups // LANES),
        _sections(problem, parts, (my, ty, ny), (mx, tx, nx)),
        -(-problem.out_channels // problem.groups // (2 * LANES)),
    )  # fmt: skip


def _sections(
    problem: ConvProblem, parts: list[tuple[int, int, int]], down: tuple[int, int, int], across: tuple[int, int, int]
) -> tuple[tuple[int, ...], ...]:
    """Return the `SECTION_FIELDS` of the sections, from outputs, taps and products of a tile along y and along x."""
    (ky, kx), (sy, sx), _ = along_axes(problem)

    def of_axis(sizes: tuple[int, int, int], taps: int) -> tuple[int, int]:
        outputs, most, products = sizes
        if taps >= most:
            return products, products
        # Fewer taps need no product at infinity, where their weights are 0; one tap as many as there are outputs.
        return (outputs, 1) if taps == 1 else (products - 1, products)

    found: list[tuple[int, ...]] = []
    before = 0
    for _, y, x in parts[:: (1, 1, *problem.kernel)[-3]]:
        is_first = not found
        made_y, kept_y = of_axis(down, down[1] if is_first else -(-(ky - y) // sy))
        made_x, kept_x = of_axis(across, across[1] if is_first else -(-(kx - x) // sx))
        found.append((made_y, made_x, kept_y, kept_x, before))
        before += kept_y * kept_x
    return tuple(found)


class _Division(NamedTuple):
    """One way to divide the work: blocks of tiles, of whole units of so many neighbours in a row."""

    seconds: float
    unit: int
    blocks: int
    split: bool
    inside: bool

    def tiles(self, s: _Sizes) -> int:
        """Return the most tiles of a block."""
        return -(-s.units(self.unit) // self.blocks) * self.unit


@functools.lru_cache(maxsize=4096)
def _busiest_share(units: int, blocks: int, groups: int, workers: int) -> float:
    """Return the share of all tiles that is the busiest worker's, where each takes one block after the other."""
    if blocks * groups > _FEW_TASKS:
        return max(-(-blocks * groups // workers) / (blocks * groups), 1 / workers)
    busy = [0] * workers
    for task in range(blocks * groups):
        block = task % blocks
        busy[busy.index(min(busy))] += units * (block + 1) // blocks - units * block // blocks
    return max(busy) / (units * groups)


def _division(s: _Sizes, unit: int, blocks: int, split: bool, packed: bool, workers: int) -> _Division:
    """Return the division with its estimated seconds."""
    number, total = s.groups * blocks, s.tiles * s.groups
    # Where each transformed weight would be used once, the tasks transform them.
    inside = not packed and blocks == 1
    tiles = _Division(0.0, unit, blocks, split, inside).tiles(s)
    rates = CPU_WINOGRAD[8 * VECTOR]
    inputs, outputs = s.vectors * LANES, s.blocks * 2 * LANES
    weights = s.kept / len(s.sections) * s.groups * inputs * outputs
    # Blocks that begin within a row are cut into more and shorter runs.
    transform = rates.transform
    if s.dilation_x == unit < s.tiles_x:
        transform *= 1 + _CUTS * min(2 * blocks / (s.batch * s.tiles_y), 1.0)
    first = s.made * total * inputs * transform
    then = 2.0 * s.made * inputs * outputs * total / rates.flops + s.products * total * outputs * transform
    if inside:
        then += weights * rates.weights
    else:
        traffic = rates.traffic if 4 * weights <= rates.cached else rates.traffic / 2
        then += 4 * weights * number / s.groups / traffic
    if split:
        first += total * s.tile_bytes / rates.exchange
    held = 0.0 if split else min(_INPUT_BYTES[registers()] / (tiles * s.tile_bytes), 1.0)
    then += (1 - held) * total * s.tile_bytes * s.blocks / rates.inputs
    before = 0.0 if packed or inside else weights * rates.kept_weights
    if split:
        busiest = -(-number * s.blocks // workers) / (number * s.blocks)
    else:
        busiest = _busiest_share(s.units(unit), blocks, s.groups, workers)
    if split:
        before, first = before + first, 0.0
    return _Division(rates.overhead + before / workers + (first + then) * busiest, unit, blocks, split, inside)


def _best_division(s: _Sizes, packed: bool, workers: int) -> _Division:
    large = max(_PRODUCTS // s.products, 2 * most_tiles())
    small = max(min(large, _INPUT_BYTES[registers()] // s.tile_bytes), 2 * most_tiles())
    # Weights are read once for a block: fewer blocks pay where they are many.
    larger = max(min(4 * large, _LARGE_INPUT_BYTES // s.tile_bytes), large)
    found, sizes = set(), (small, large, larger)
    # Tiles of a dilated row are interleaved: those of one offset each stay together.
    least = min(s.dilation_x, s.tiles_x)
    shares = {min(_round(-(-s.tiles_x // -(-s.tiles_x // most)), s.dilation_x), s.tiles_x) for most in sizes}
    for unit in {s.tiles_x, least} | shares:
        units = s.units(unit)
        for most in (most for most in sizes if unit <= max(most, least)):
            blocks = -(-units // max(most // unit, 1))
            # As many blocks for each worker are an even division.
            even = min(-(-blocks // workers) * workers, units)
            found |= {(unit, blocks, False), (unit, even, False)}
        if workers > 1 and unit <= max(large, least) and s.tiles * s.groups * s.tile_bytes <= _SPLIT_BYTES:
            found.add((unit, -(-units // max(large // unit, 1)), True))
    return min(_division(s, *division, packed, workers) for division in sorted(found))


def _make(problem: ConvProblem, form: int, packed: bool, workers: int) -> Geometry:
    s = _sizes(problem, form)
    my, mx, ny, nx, ty, tx, out_y, out_x, dy, dx = s[:10]
    products, vectors, blocks_k, tiles_y, tiles_x = s.products, s.vectors, s.blocks, s.tiles_y, s.tiles_x
    channels, outputs = problem.in_channels // problem.groups, problem.out_channels // problem.groups
    division = _best_division(s, packed, workers)
    seconds, unit, blocks, split, inside = division
    number, tiles = s.groups * blocks, division.tiles(s)
    c = np.zeros((), CALL)
    parts = _parts(problem, form)
    kz, ky, kx = (1, 1, *problem.kernel)[-3:]
    together = kz * vectors // len(parts)
    # Parts that lack some products are not summed together with others.
    chunk = next(n for n in range(min(vectors, _RESTART // LANES), 0, -1) if together == vectors or together % n == 0)
    first_taps, sections = np.array(parts, np.int64), np.array(s.sections, np.int64).reshape(-1, SECTION_FIELDS)
    fields = {
        "channels": channels, "outputs": outputs, "vectors": vectors, "part_vectors": vectors // len(parts),
        "chunk": chunk, "groups": problem.groups, "parts": len(parts),
        "first_taps": first_taps.ctypes.data, "parts_together": kz,
        "sections": sections.ctypes.data, "kernel_z": kz, "kernel_y": ky, "kernel_x": kx,
        "mode": problem.mode_code, "dilation_y": dy, "dilation_x": dx, "out_y": out_y, "out_x": out_x,
        "tiles_y": tiles_y, "tiles_x": tiles_x, "blocks": blocks, "units": s.units(unit), "unit": unit,
        "units_x": -(-tiles_x // unit), "size_y": 1, "size_z": 1,
    }  # fmt: skip
    for name, size, stride, dilation in zip(
        "zyx", (1, 1, *problem.output)[-3:], (1, 1, *problem.stride)[-3:], (1, 1, *problem.dilation)[-3:], strict=True
    ):
        fields |= {f"out_{name}": size, f"stride_{name}": stride}
        if name == "z":
            fields["dilation_z"] = dilation
    for name, (low, high), (before, _) in zip(
        "xyz", reversed(problem.cropped), reversed(problem.padding), strict=False
    ):
        fields |= {f"low_{name}": low, f"size_{name}": high - low}
        # Negative padding has cropped already.
        fields[f"pad_{name}"] = max(before, 0)
    # The largest rectangles of a block: whole rows, or a share of one.
    rows, columns = max(min(tiles // tiles_x, tiles_y), 1), min(tiles, tiles_x)
    height, width = spans(tiles_y, rows, dy, my, ny), spans(tiles_x, columns, dx, mx, nx)
    written = 1 if dy > 1 else max(1, min(rows, _WRITTEN_PIXELS // (my * out_x)))
    pixels = written * my * spans(tiles_x, columns, dx, mx, mx)
    fields |= {"written": written, "in_pitch": odd_lines(width * VECTOR), "columns_pitch": odd_lines(width * VECTOR)}
    offset = 0

    def place(size: int) -> int:
        nonlocal offset
        start = offset
        offset += _round(size + LANES * VECTOR, 64)
        return start

    place(height * fields["in_pitch"])
    fields["columns_offset"] = place(ny * fields["columns_pitch"])
    fields["v_step"] = odd_lines(tiles * vectors * VECTOR)
    fields["v_block"] = products * fields["v_step"]
    fields["v_offset"] = place(0 if split else fields["v_block"])
    fields["m_step"] = odd_lines(tiles * 2 * VECTOR)
    fields["m_offset"] = place(products * fields["m_step"])
    fields["pixels_offset"] = place(pixels * VECTOR)
    fields["edge_offset"] = place((my * mx + 2) * VECTOR)
    taps_bytes = (ty * tx + 1 + MOST_SPAN + 1) * LANES * VECTOR
    fields["taps_offset"] = place(taps_bytes)
    fields["u_step"] = odd_lines(together * LANES * 2 * VECTOR)
    fields["u_block"] = s.kept * fields["u_step"]
    fields["u_group"] = blocks_k * fields["u_block"]
    fields["u_scratch_step"] = odd_lines(chunk * LANES * 2 * VECTOR)
    fields["u_offset"] = place(products * fields["u_scratch_step"] if inside else 0)
    for name, value in fields.items():
        c[name] = value
    tasks = number * (blocks_k if split else 1)
    flops = 2.0 * s.made * tiles * vectors * LANES * 2 * LANES * (1 if split else blocks_k)
    return Geometry(
        c.reshape(1).view(np.int64), form, split, problem.groups * blocks_k * -(-together // chunk), taps_bytes,
        number * vectors if split else 0, tasks, _round(offset, 64), max(1, int(_TASK_FLOPS / max(flops, 1))),
        problem.groups * fields["u_group"], number * fields["v_block"] if split else 0, inside, seconds,
        (first_taps, sections),
    )  # fmt: skip


@functools.lru_cache(maxsize=1024)
def is_worth_packing(problem: ConvProblem) -> bool:
    """Whether transformed weights, which are larger, are read sooner than the plain ones are transformed in a call.

    It is judged on two threads, as the form is.
    """
    packed, plain = (
        min(_best_division(_sizes(problem, form), packed, 2).seconds for form in possible_forms(problem))
        for packed in (True, False)
    )
    return packed < plain


@functools.lru_cache(maxsize=1024)
def geometry(problem: ConvProblem, packed: bool) -> Geometry:
    """Return the tables of a correlation, of the form that is the fastest by estimate on two threads.

    The number of threads at hand divides the work but does not choose the form: results have the same bits on any.
    """
    form = min(possible_forms(problem), key=lambda f: _best_division(_sizes(problem, f), packed, 2).seconds)
    return _make(problem, form, packed, threads.count())
