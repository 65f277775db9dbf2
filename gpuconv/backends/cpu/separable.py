"""Separable filters: two 1-d passes over an image, both on the rows of a block while they are in the cache.

Serves calls whose weights are given as factors: a sum of products of two vectors. See docs/kernels_separable.md.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv.backends.cpu import byte_tiles, simd, threads
from gpuconv.backends.cpu import separable_kernels as kernels
from gpuconv.backends.cpu.axes import odd_lines
from gpuconv.backends.cpu.memory import address_of
from gpuconv.backends.cpu.row_sums import MOST_BYTES, MOST_ROWS, add_rows, slide, sum_along, whole_divisor
from gpuconv.backends.cpu.simd import BYTES, CODES
from gpuconv.backends.cpu.stencil_kernels import row_packing, row_writing
from gpuconv.backends.cpu.stencil_tiles import block, divisor_record
from gpuconv.boundary import MODES
from gpuconv.factors import Factored
from gpuconv.tuning import CPU_COSTS

if TYPE_CHECKING:
    from gpuconv.backends.cpu import Device
    from gpuconv.dispatch import Call
    from gpuconv.factors import Factors
    from gpuconv.problem import ConvProblem

    Array = np.ndarray[Any, Any]

__all__ = ["TAKES", "cost", "pack", "run", "supports", "workspace"]

TAKES = ("factors", "other dtypes")
_TYPES = ("float16", "bfloat16", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32")
_SCRATCH_BYTES = 384 << 10
_TASK_FLOPS = 100e6
_LEAST_MEAN = 12
"""Weights along an axis from which on a mean is had from its neighbours."""
_MOST_STEPS = {"uint16": 2, "float32": 3, "float64": 3}
"""Steps of a sum along a row that take no longer than to go over it there and back, or to run on with integers."""
_MEAN_TAPS = 10
"""What such a mean takes along an axis, in products of a filter."""


def supports(call: Call, device: Device) -> str | None:
    """Return why the call cannot be served, or None."""
    problem = call.problem
    if call.factored is None:
        return "the weights are not given as factors"
    if call.operation != "forward":
        return "only the forward operation runs in passes"
    if call.sums:
        if call.dtype not in _TYPES or call.result not in _TYPES or call.result in ("float16", "bfloat16"):
            return f"passes do not turn {call.dtype} into {call.result}"
    elif call.dtype not in ("float32", "float64"):
        return f"passes compute float32 and float64, not {call.dtype}"
    if problem.rank != 2 or problem.in_channels != 1 or problem.out_channels != 1:
        return "passes take images of one channel"
    if any(s != 1 for s in (*problem.stride, problem.dilation[0], *problem.input_dilation)):
        return "passes take neither strides nor dilation, but along rows"
    if _geometry_of(call).scratch_bytes > 32 * _SCRATCH_BYTES:
        return "the rows that a block of outputs reads do not fit in the cache"
    return None


def cost(call: Call, device: Device) -> float:
    """Return the estimated seconds."""
    constants = CPU_COSTS["separable"][device.vector_bits]
    factored = _factored(call)
    high, wide = call.problem.kernel
    # A load along a row feeds one product, so the pass along rows takes twice its share.
    sums = _sums(call)
    taps = 3 * _MEAN_TAPS if _runs_on(call.problem, factored, sums) else (2 * wide + high) * factored.terms
    flops = 2.0 * call.problem.batch * math.prod(call.problem.output) * taps
    rate = constants.flops * device.threads * 4 / np.dtype(sums).itemsize
    return constants.overhead + flops / rate + call.bytes / constants.bandwidth


def _runs_on(problem: ConvProblem, factored: Factored, sums: str) -> bool:
    """Whether the sums are means long enough to be had from their neighbours."""
    return factored.is_mean and (max(problem.kernel) >= _LEAST_MEAN or sums == "uint16")


def _sums(call: Call) -> str:
    """Return the type of what lies between the passes: of 16 bits for means of bytes, whole numbers in between too."""
    factored, longest = _factored(call), max(call.problem.kernel)
    if factored.is_whole and factored.terms == 1 and call.dtype == call.result == "uint8":
        if factored.is_mean and min(call.problem.kernel) > 1 and longest <= MOST_BYTES:
            return "uint16"
        if not factored.is_mean and longest <= byte_tiles.MOST_TAPS and call.accumulator == "float64":
            return "uint16"
    return call.accumulator


def workspace(call: Call) -> int:
    """Return the bytes of packed weights and of all threads' scratch memory."""
    g = _geometry_of(call)
    weights = _factored(call).terms * sum(call.problem.kernel) * np.dtype(_sums(call)).itemsize
    return weights + g.scratch_bytes * min(g.tasks, threads.count())


class _Geometry(NamedTuple):
    """A call's tables; `words`, the record as plain integers, is copied and completed for each run."""

    words: Array
    tasks: int
    scratch_bytes: int
    slice_tasks: int
    steps: Array
    """Kept alive: `words` holds its address."""


def _round(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _mean_steps(wide: int, row_bytes: int, step: int, apart: int = 1) -> list[tuple[int, ...]]:
    """Return the steps that add up `wide` neighbours, and leave a last row for what is not yet the whole sum.

    Neighbours are `apart` elements from each other, and `step` bytes.

    Level k holds the sums of 4**k neighbours, each of four of the level before. The sum is taken from the levels by the
    digits of its length, so that its rounding error grows with the digits, not the length.
    """

    def places(levels: int) -> list[int]:
        found, begin = [], 0
        for level in range(levels, -1, -1):
            length = 4**level
            while wide - begin >= length:
                found.append(level * row_bytes + begin * step)
                begin += length
        return found

    def steps_of(levels: int) -> list[tuple[int, ...]]:
        steps = [
            (
                level * row_bytes,
                *((level - 1) * row_bytes + t * 4 ** (level - 1) * step for t in range(4)),
                (wide - 4**level) * apart,
            )
            for level in range(1, levels + 1)
        ]
        left, partial = places(levels), (levels + 1) * row_bytes
        while True:
            some, left = left[:MOST_ROWS], left[MOST_ROWS:]
            some += [-1] * (MOST_ROWS - len(some))
            steps.append((partial if left else -1, *some, 0))
            if not left:
                return steps
            left = [partial, *left]

    return min((steps_of(levels) for levels in range(int(math.log(wide, 4) + 1e-9) + 1)), key=len)


def _geometry_of(call: Call) -> _Geometry:
    return _geometry(call.problem, _sums(call), _factored(call))


def _factored(call: Call) -> Factored:
    return Factored() if call.factored is None else call.factored


@functools.lru_cache(maxsize=1024)
def _geometry(problem: ConvProblem, sums: str, factored: Factored) -> _Geometry:
    size = np.dtype(sums).itemsize
    lanes = simd.vector_bits() // 8 // size
    (oy, ox), (high, wide), apart = problem.output, problem.kernel, problem.dilation[1]
    reach_x = (wide - 1) * apart
    runs_on = _runs_on(problem, factored, sums)
    each = 6.0 * _MEAN_TAPS if runs_on else 2.0 * (high + wide) * factored.terms
    rows = 1 if runs_on else 8 if high >= 8 and simd.registers() == 32 else 4
    fewer = 4
    if sums == "uint16" and not runs_on:
        rows, fewer = byte_tiles.rows_down(), 1
    wanted = 1 if each * problem.batch * oy * ox < threads.SMALL_FLOPS else 4 * threads.count()
    # Blocks high enough that the rows above and below them, packed twice, are few; as wide as the cache allows then.
    block_y = min(oy, max(64, _round(4 * (high - 1), rows)))
    memory = _SCRATCH_BYTES * (2 if runs_on else 1)
    block_x = max(memory // size // (high if runs_on else block_y + high - 1), 16 * lanes, 2 * reach_x)
    block_x = min(ox, _round(-(-ox // -(-ox // block_x)), lanes))
    while True:
        block_y = min(_round(-(-oy // -(-oy // block_y)), rows), oy)
        tasks = problem.batch * -(-oy // block_y) * -(-ox // block_x)
        # More tasks than threads even out what slows one of them; but the rows beyond the ends of blocks are a cost.
        least = max((4 if runs_on and tasks >= threads.count() else 2) * high, 2 * rows)
        if tasks >= wanted or block_y <= least:
            break
        block_y = max(_round(block_y // 2, rows), rows)
    while block_y * block_x * each > _TASK_FLOPS and block_y > rows:
        block_y = max(_round(block_y // 2, rows), rows)
    used = _round(block_x, lanes) + reach_x
    row_bytes = odd_lines((used + 2 * lanes) * size)
    steps = np.array(_mean_steps(wide, row_bytes, apart * size, apart), np.int64)
    band_rows = block_y + high - 1 if not runs_on else high + 1 if sums == "uint16" else high
    columns_offset = band_rows * row_bytes
    # Of a mean also the rows that `row_sums.sum_along` takes.
    levels = max(2 + int(math.log(wide, 4) + 1e-9), 3)
    prefix_offset = columns_offset + max(rows * factored.terms, levels) * row_bytes
    call = np.zeros((), kernels.CALL)
    counts = -(-oy // block_y), -(-ox // block_x)
    for name, value in (
        ("mode", MODES.index(problem.padding_mode)), ("offset_y", -problem.padding[0][0]),
        ("offset_x", -problem.padding[1][0]), ("count_y", oy), ("count_x", ox), ("block_y", block_y),
        ("block_x", block_x), ("blocks_y", counts[0]), ("blocks_x", counts[1]), ("reach_y", high - 1),
        ("reach_x", reach_x), ("tap_step", apart * size), ("pixel", factored.pixel), ("rows", rows), ("fewer", fewer),
        ("terms", factored.terms), ("is_mean", runs_on), ("steps", address_of(steps)), ("step_count", len(steps)),
        ("band_rows", band_rows), ("used", used), ("row_bytes", row_bytes), ("columns_offset", columns_offset),
        ("column_step", row_bytes), ("term_step", rows * row_bytes), ("prefix_offset", prefix_offset),
        ("sums_offset", prefix_offset + row_bytes),
    ):  # fmt: skip
        call[name] = value
    for name, (low, end) in zip("yx", problem.cropped, strict=True):
        call[f"low_{name}"], call[f"high_{name}"] = low, end
    scratch = prefix_offset + 2 * row_bytes + 16 * lanes * size
    slice_tasks = max(1, int(2 * _TASK_FLOPS / (block_y * block_x * each)))
    tasks = problem.batch * math.prod(counts)
    return _Geometry(call.reshape(1).view(np.int64), tasks, _round(scratch, 64), slice_tasks, steps)


class _Packed(NamedTuple):
    """A call's record but for the arrays, and what it holds the addresses of.

    Those are the weights of the passes, their parts (see `stencil_tiles`), a few numbers and the steps of means.
    """

    words: Array
    kept: tuple[Array, ...]


def pack(call: Call, w: Factors) -> _Packed:
    """Return the record with the weights of the two passes; zeros that a vector begins or ends with are left out."""
    g, sums = _geometry_of(call), np.dtype(_sums(call))
    is_fixed = sums == np.uint16 and not _factored(call).is_mean
    if is_fixed:
        by = w.divisors or (1.0, 1.0)
        weights = [byte_tiles.fixed_weights(vector / part) for vector, part in zip(w.terms[0], by, strict=True)]
    else:
        weights = _weights_and_parts(call, w)
    numbers = np.zeros(8, sums)
    numbers[0] = call.problem.padding_value
    first, size = address_of(numbers), sums.itemsize
    dividing = [0, 0]
    if w.is_whole and not is_fixed:
        for axis, divisor in enumerate(w.divisors or (1.0, 1.0)):
            is_first = axis == 0
            by = whole_divisor(int(divisor)) if sums == np.uint16 else divisor_record(divisor, sums, is_whole=is_first)
            numbers[2 + 3 * axis : 5 + 3 * axis] = by
            dividing[axis] = first + (2 + 3 * axis) * size
    elif w.divisor != 1.0:
        numbers[5:] = divisor_record(w.divisor, sums)
        dividing[1] = first + 5 * size
    words = g.words.copy()
    for name, array in zip(_WEIGHTS, weights, strict=False):
        words[_index(name)] = address_of(array)
    words[_NUMBERS] = first, first + size, *dividing, *_functions(call)
    return _Packed(words, (numbers, g.steps, *weights))


def _weights_and_parts(call: Call, w: Factors) -> list[Array]:
    """Return the weights of the passes down columns and along rows, and the parts of each."""
    words, dtype = _geometry_of(call).words, np.dtype(_sums(call))
    row_bytes, term_step, tap_step = (int(words[_index(name)]) for name in ("row_bytes", "term_step", "tap_step"))
    ends, weights, tables = _factored(call).ends, [], []
    for axis, step in enumerate((row_bytes, tap_step)):
        vectors, parts, begin = [], [], 0
        for index, term in enumerate(w.terms):
            vector = term[axis]
            first, end = ends[index][axis] if ends else (0, vector.size)
            count, offset, at = end - first, first * step + axis * index * term_step, begin * dtype.itemsize
            parts.append((offset, 1, count, at) if axis else (offset, count, 1, at))
            vectors.append(vector[first:end])
            begin += count
        weights.append(np.ascontiguousarray(np.concatenate(vectors), dtype))
        tables.append(np.array(parts, np.int64))
    return weights + tables


@functools.lru_cache(maxsize=1024)
def _functions(call: Call) -> tuple[int, ...]:
    """Return the addresses of what the kernel calls, and the bytes of an element of sums and of results."""
    source, sums, result = (CODES[name] for name in (call.dtype, _sums(call), call.result or call.dtype))
    words = _geometry_of(call).words
    adding, is_bytes, is_dense = (0, 0, 0), sums == CODES["uint16"], call.problem.dilation[1] == 1
    if words[_index("is_mean")]:
        tiles = (0, 0, 0, 0)
        along = is_dense and words[_index("step_count")] > _MOST_STEPS[_sums(call)]
        adding = add_rows(sums), slide() if is_bytes else 0, sum_along(sums) if along else 0
    elif is_bytes:
        one = byte_tiles.down(1)
        tiles = (byte_tiles.down(byte_tiles.rows_down()), 0, one, byte_tiles.across() if is_dense else one)
    else:
        tiles = (block(int(words[_index("rows")]), sums), block(4, sums), block(1, sums), block(1, sums))
    write = 0 if sums == result else row_writing(sums, result)
    return row_packing(source, sums), *tiles, *adding, write, BYTES[sums], BYTES[result]


def _index(name: str) -> int:
    return (kernels.CALL.names or ()).index(name)


_WEIGHTS = "column_weights", "row_weights", "column_parts", "row_parts"
_ARRAYS, _NUMBERS = slice(0, _index("yy") + 1), slice(_index("fill"), _index("y_size") + 1)


def run(call: Call, x: Array, w: Factors, y: Array, bias: Array | None = None, packed: _Packed | None = None) -> None:
    """Write the filtered x into y; see `gpuconv.dispatch`."""
    if y.strides[-1] != y.itemsize and y.size:
        dense = np.empty(y.shape, y.dtype)
        run(call, x, w, dense, bias, packed)
        y[...] = dense
        return
    g = _geometry_of(call)
    kept = pack(call, w) if packed is None else packed
    words = kept.words.copy()
    xn, yn = (x.strides[0], y.strides[0]) if call.problem.batched else (0, 0)
    words[_ARRAYS] = address_of(x), xn, *x.strides[-2:], address_of(y), yn, y.strides[-2]
    threads.run(kernels.passes(), words, g.tasks, g.scratch_bytes, g.slice_tasks)
