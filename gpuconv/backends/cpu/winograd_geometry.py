"""How the Winograd kernel divides a call: form, blocks of tiles, stages and scratch memory, settled once for each call."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv.backends.cpu import threads
from gpuconv.backends.cpu.winograd_kernels import CALL
from gpuconv.backends.cpu.winograd_tiles import LANES, VECTOR, forms, most_tiles
from gpuconv.tuning import CPU_WINOGRAD

if TYPE_CHECKING:
    from gpuconv.problem import ConvProblem

__all__ = ["Geometry", "geometry", "possible_forms"]

_LARGE_TILE_CHANNELS = 32
"""Channels below which the largest error of F(4x4) could pass that of a direct sum of the same length."""
_RESTART = 64
"""Channels after which the sums of products start anew: the error then hardly grows with the channels."""
_INPUT_BYTES = 1280 << 10
"""Transformed inputs of a block: with a block of sums they stay in a second-level cache of 2 MiB."""
_PRODUCTS = 2016
"""Products of a block and one channel, at most: 56 tiles of F(4x4)."""
_SPLIT_BYTES = 32 << 20
"""Transformed inputs that may be kept in memory, for the sake of an even division among the threads."""
_WRITTEN_PIXELS = 256
_TASK_FLOPS = 200e6


class Geometry(NamedTuple):
    """A call's record as plain integers, to be copied and completed, and its stages."""

    words: Any
    form: int
    split: bool
    weight_tasks: int
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


def possible_forms(problem: ConvProblem) -> tuple[int, ...]:
    """Return the forms that compute a correlation; empty where none does."""
    kernel = (1, *problem.kernel)[-2:]
    if problem.rank > 2 or kernel not in ((1, 3), (3, 1), (3, 3)):
        return ()
    if kernel != (3, 3):
        return (1143 if kernel == (1, 3) else 4311,)
    is_long = problem.in_channels // problem.groups >= _LARGE_TILE_CHANNELS
    return (4343, 3333, 2323) if is_long else (3333, 2323)


def _tiles(outputs: int, dilation: int, m: int) -> int:
    """Return the tiles of an axis: one for each m outputs of each of `dilation` interleaved convolutions."""
    return outputs // (dilation * m) * dilation + min(dilation, outputs % (dilation * m))


def _origin(tile: int, dilation: int, m: int) -> int:
    return tile // dilation * (dilation * m) + tile % dilation


def _spans(tiles: int, block: int, dilation: int, m: int, n: int) -> int:
    """Return the most inputs along an axis that a block of tiles reads."""
    return max(
        _origin(min(first + block, tiles) - 1, dilation, m) - _origin(first, dilation, m) + dilation * (n - 1) + 1
        for first in range(0, tiles, block)
    )


def _even(total: int, most: int, multiple: int = 1) -> int:
    """Return a block of at most `most`, so that all blocks are about the same; a multiple of `multiple`."""
    units, most = -(-total // multiple), max(most // multiple, 1)
    parts = -(-units // most)
    return min(-(-units // parts) * multiple, total)


def _round(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _odd_lines(n: int) -> int:
    """Return at least n bytes that are an odd number of cache lines, or of vectors beyond a line."""
    line = max(64, VECTOR)
    return (-(-n // line) | 1) * line


def _blocks(batch: int, tiles_y: int, tiles_x: int, dilation_x: int, most: int) -> tuple[int, int, int]:
    """Return the images, tile rows and tile columns of a block of at most about `most` tiles."""
    if tiles_y * tiles_x <= most:
        return _even(batch, max(most // (tiles_y * tiles_x), 1)), tiles_y, tiles_x
    if tiles_x <= most:
        return 1, _even(tiles_y, most // tiles_x), tiles_x
    return 1, 1, _even(tiles_x, most, dilation_x)


def _make(problem: ConvProblem, form: int, packed: bool, workers: int) -> Geometry:
    down, across = forms(form)
    my, mx, ny, nx = len(down.output), len(across.output), len(down.input), len(across.input)
    ty, tx = len(down.weights[0]), len(across.weights[0])
    products = ny * nx
    out_y, out_x = (1, *problem.output)[-2:]
    dy, dx = (1, *problem.dilation)[-2:]
    channels, outputs = problem.in_channels // problem.groups, problem.out_channels // problem.groups
    vectors, blocks_k = -(-channels // LANES), -(-outputs // (2 * LANES))
    tiles_y, tiles_x = _tiles(out_y, dy, my), _tiles(out_x, dx, mx)
    total = problem.batch * tiles_y * tiles_x
    per_tile = products * vectors * VECTOR
    most = max(min(_PRODUCTS // products, _INPUT_BYTES // per_tile), 2 * most_tiles())
    block = _blocks(problem.batch, tiles_y, tiles_x, dx, most)

    def count(block: tuple[int, int, int]) -> tuple[int, int, int]:
        return -(-problem.batch // block[0]), -(-tiles_y // block[1]), -(-tiles_x // block[2])

    def load(block: tuple[int, int, int]) -> float:
        """Return how much longer the busiest thread works than an even share."""
        number = int(np.prod(count(block))) * problem.groups
        return -(-number // workers) * workers * int(np.prod(block)) / max(total * problem.groups, 1)

    number = int(np.prod(count(block))) * problem.groups
    split = workers > 1 and (number < workers or load(block) > 1.12) and total * problem.groups * per_tile <= _SPLIT_BYTES
    if split:
        most = max(_PRODUCTS // products, 2 * most_tiles())
        block = _blocks(problem.batch, tiles_y, tiles_x, dx, most)
        number = int(np.prod(count(block))) * problem.groups
    inside = not packed and number == problem.groups
    c = np.zeros((), CALL)
    tiles = int(np.prod(block))
    for name, value in zip(("n", "y", "x"), block, strict=True):
        c[f"block_{name}"] = value
    for name, value in zip(("n", "y", "x"), count(block), strict=True):
        c[f"blocks_{name}"] = value
    chunk = min(vectors, _RESTART // LANES)
    fields = {
        "channels": channels, "outputs": outputs, "vectors": vectors, "chunk": chunk, "groups": problem.groups,
        "batch": problem.batch, "mode": problem.mode_code, "dilation_y": dy, "dilation_x": dx, "out_y": out_y,
        "out_x": out_x, "tiles_y": tiles_y, "tiles_x": tiles_x, "size_y": 1,
    }  # fmt: skip
    for name, (low, high), (before, _) in zip("xy", reversed(problem.cropped), reversed(problem.padding), strict=False):
        fields |= {f"low_{name}": low, f"size_{name}": high - low}
        # Negative padding has cropped already.
        fields[f"pad_{name}"] = max(before, 0)
    height, width = _spans(tiles_y, block[1], dy, my, ny), _spans(tiles_x, block[2], dx, mx, nx)
    written = 1 if dy > 1 else max(1, min(block[1], _WRITTEN_PIXELS // (my * out_x)))
    pixels = written * my * (_spans(tiles_x, block[2], dx, mx, mx))
    fields |= {"written": written, "in_pitch": _odd_lines(width * VECTOR), "columns_pitch": _odd_lines(width * VECTOR)}
    offset = 0

    def place(size: int) -> int:
        nonlocal offset
        start = offset
        offset += _round(size + LANES * VECTOR, 64)
        return start

    place(height * fields["in_pitch"])
    fields["columns_offset"] = place(ny * fields["columns_pitch"])
    fields["v_step"] = _odd_lines(tiles * vectors * VECTOR)
    fields["v_block"] = products * fields["v_step"]
    fields["v_offset"] = place(0 if split else fields["v_block"])
    fields["m_step"] = _odd_lines(tiles * 2 * VECTOR)
    fields["m_offset"] = place(products * fields["m_step"])
    fields["pixels_offset"] = place(pixels * VECTOR)
    fields["edge_offset"] = place((my * mx + 2) * VECTOR)
    fields["taps_offset"] = place(ty * tx * LANES * VECTOR)
    fields["u_step"] = _odd_lines(vectors * LANES * 2 * VECTOR)
    fields["u_block"] = products * fields["u_step"]
    fields["u_group"] = blocks_k * fields["u_block"]
    fields["u_scratch_step"] = _odd_lines(chunk * LANES * 2 * VECTOR)
    fields["u_offset"] = place(products * fields["u_scratch_step"] if inside else 0)
    for name, value in fields.items():
        c[name] = value
    tasks = number * (blocks_k if split else 1)
    flops = 2.0 * products * tiles * vectors * LANES * 2 * LANES * (1 if split else blocks_k)
    rates = CPU_WINOGRAD[8 * VECTOR]
    work = (
        2.0 * products * total * problem.groups * vectors * LANES * blocks_k * 2 * LANES / rates.flops
        + products * total * problem.groups * (vectors * LANES + blocks_k * 2 * LANES) * rates.transform
        + (0 if packed else products * problem.groups * vectors * LANES * blocks_k * 2 * LANES * rates.weights)
    )
    seconds = rates.overhead + work / workers
    return Geometry(
        c.reshape(1).view(np.int64), form, split, problem.groups * blocks_k * -(-vectors // chunk),
        number * vectors if split else 0, tasks, _round(offset, 64), max(1, int(_TASK_FLOPS / max(flops, 1))),
        problem.groups * fields["u_group"], number * fields["v_block"] if split else 0, inside, seconds,
    )  # fmt: skip


@functools.lru_cache(maxsize=1024)
def geometry(problem: ConvProblem, packed: bool) -> Geometry:
    """Return the tables of a correlation, of the form that is the fastest by estimate."""
    found = [_make(problem, form, packed, threads.count()) for form in possible_forms(problem)]
    return min(found, key=lambda g: g.seconds)


