"""What the fft kernels are told of a call: tile sizes by a cost model, passes and twiddles, tables of a call."""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpuconv.backends.cpu import simd
from gpuconv.backends.cpu.fft_kernels import CALL, STAGE_WORDS
from gpuconv.backends.cpu.fft_tiles import group_of, largest_radix
from gpuconv.boundary import MODES

if TYPE_CHECKING:
    from gpuconv.problem import ConvProblem

    Array = np.ndarray[Any, Any]

__all__ = ["Geometry", "TileSize", "empty_aligned", "geometry", "three", "tile_size", "tiles_of"]

_NEAR_CACHE = 32 << 10
"""Bytes of a first-level cache that a strip or chunk may fill."""
_FAR_CACHE = 1 << 20
"""Bytes of a core's second-level cache that a tile may fill before its passes slow down."""
_SLOWER = ((4 << 20, 2.2), (3 << 19, 1.6), (3 << 18, 1.3), (1 << 18, 1.15), (1 << 15, 1.07))
"""Sizes of a tile in bytes, and how much slower its passes are beyond them."""
_ROW = 40e-9
"""Seconds that a row of a tile takes to be read or written, besides."""
_LARGEST = 1 << 22
"""Elements of a tile at most."""


class TileSize(NamedTuple):
    """Sizes of a tile along z, y, x, tiles along them, and what a call takes with them."""

    sizes: tuple[int, int, int]
    tiles: tuple[int, int, int]
    tasks: int = 1
    task_seconds: float = math.inf
    weight_tasks: int = 1
    weight_seconds: float = 0.0
    """Of a task."""

    def seconds(self, threads: int) -> float:
        """Return the time of the call."""
        waves = -(-self.tasks // threads) if self.tasks < 4 * threads else self.tasks / threads
        return waves * self.task_seconds + -(-self.weight_tasks // threads) * self.weight_seconds


class Geometry(NamedTuple):
    """A call's tables."""

    record: Array
    words: Array
    tasks: int
    weight_tasks: int
    scratch_bytes: int
    spectrum: int
    """Numbers of the transformed weights."""
    slice_tasks: int
    keep: tuple[Any, ...]


def three(values: tuple[int, ...], missing: int) -> tuple[int, int, int]:
    """Return one value for each of z, y and x."""
    return (missing,) * (3 - len(values)) + tuple(values)  # type: ignore[return-value]


@functools.cache
def _lengths(least: int) -> tuple[int, ...]:
    """Return the lengths of transforms, all multiples of `least`."""
    powers = (least << e for e in range(23))
    return tuple(sorted(n for p in powers for n in (p, 3 * p) if n != 3 and n <= _LARGEST))


def _candidates(kernel: int, outputs: int, least: int) -> list[int]:
    """Return the transform lengths worth a look along one axis."""
    if kernel == 1 and least == 1:
        return [1]
    whole = outputs + kernel - 1
    found = []
    for n in _lengths(least):
        if n >= kernel + (kernel >> 2) or n >= whole:
            found.append(n)
        if n >= whole or n > 32 * kernel * max(1, least // 8):
            break
    return found


@functools.lru_cache(maxsize=4096)
def tile_size(problem: ConvProblem, code: int, is_complex: bool, point: float, fixed: float) -> TileSize:
    """Return the cheapest tile for two threads, whatever their number: rounding follows the tiles.

    Parameters
    ----------
    point : float
        Seconds of one pass of radix 2 over one complex number in cache.
    fixed : float
        Seconds of a tile besides.
    """
    kernel, out = three(problem.kernel, 1), three(problem.output, 1)
    channels, outputs = problem.in_channels // problem.groups, problem.out_channels // problem.groups
    least = simd.lanes_of(code) * group_of(code)
    number_size = 2 * simd.BYTES[code]
    choices = [
        _candidates(k, o, least if axis == 2 else 1) for axis, (k, o) in enumerate(zip(kernel, out, strict=True))
    ]
    best, least_seconds = TileSize((1, 1, 1), (1, 1, 1)), math.inf
    for sizes in itertools.product(choices[0], choices[1], choices[2]):
        points = math.prod(sizes)
        if points > _LARGEST:
            continue
        tiles = tiles_of(problem, sizes)
        items = problem.batch * math.prod(tiles)
        tasks = (items if is_complex else -(-items // 2)) * problem.groups
        depth = math.log2(max(points, 2))
        transform = points * (depth + 6) * point
        size = points * number_size
        transform *= next((factor for bytes_, factor in _SLOWER if size > bytes_), 1.0)
        rows = sizes[0] * sizes[1] * (1 if is_complex else 2)
        task = (channels + outputs) * (transform + fixed + rows * _ROW)
        if channels * outputs > 1:
            # Spectra of weights that no cache holds come from memory once a tile.
            near = max(channels, channels * outputs * problem.groups) * size <= _FAR_CACHE
            task += channels * outputs * points * point * (2.5 if near else 12.0)
        found = TileSize(
            sizes,
            tiles,
            tasks,
            task,
            problem.groups * channels * outputs,
            transform / 2 + fixed,
        )
        if found.seconds(2) < least_seconds:
            best, least_seconds = found, found.seconds(2)
    return best


def tiles_of(problem: ConvProblem, sizes: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return the tiles of these sizes along z, y and x that the outputs take."""
    kernel, out = three(problem.kernel, 1), three(problem.output, 1)
    z, y, x = (-(-o // (n - k + 1)) for o, n, k in zip(out, sizes, kernel, strict=True))
    return z, y, x


def _radices(length: int) -> list[int]:
    """Factor a length into the radices of its passes, in their order forward."""
    threes = 0
    while length % 3 == 0:
        length, threes = length // 3, threes + 1
    bits = length.bit_length() - 1
    if largest_radix() == 8:
        eights, rest = divmod(bits, 3)
        last = {0: [], 1: [2], 2: [4]}[rest]
        if rest == 1 and eights:
            eights, last = eights - 1, [4, 4]
        found = [8] * eights + last
    else:
        found = [4] * (bits // 2) + [2] * (bits % 2)
    return [3] * threes + found


class _Passes(NamedTuple):
    radices: tuple[int, ...]
    twiddles: tuple[Array | None, ...]
    frequencies: Array
    """The frequency that ends at each place."""


@functools.lru_cache(maxsize=128)
def _passes(length: int, dtype: str) -> _Passes:
    """Return the passes of a transform: twiddles [place][leg - 1][part]."""
    left = length
    twiddles: list[Array | None] = []
    frequencies, weight = np.zeros(1, np.int64), 1
    radices = _radices(length)
    for r in radices:
        leg = left // r
        if leg > 1:
            # The products stay integers, so that large angles lose nothing.
            angles = np.arange(leg)[:, None] * np.arange(1, r)[None] % left * (-2 * np.pi / left)
            twiddles.append(np.stack([np.cos(angles), np.sin(angles)], -1).astype(dtype))
        else:
            twiddles.append(None)
        frequencies = (frequencies[:, None] + weight * np.arange(r)[None]).ravel()
        weight, left = weight * r, leg
    return _Passes(tuple(radices), tuple(twiddles), frequencies)


@functools.lru_cache(maxsize=32)
def _lane_table(vectors: int, lanes: int, dtype: str) -> Array:
    """Return the twiddles between the transforms across and inside vectors: [place][part][lane]."""
    n = vectors * lanes
    angles = _passes(vectors, dtype).frequencies[:, None] * np.arange(lanes)[None] % n * (-2 * np.pi / n)
    return np.stack([np.cos(angles), np.sin(angles)], 1).astype(dtype)


def _table(length: int, dtype: str, unit: int, keep: list[Any]) -> tuple[Array, int]:
    """Return the table of the passes over places `unit` bytes apart, and their number."""
    passes = _passes(length, dtype)
    rows, left = [], length
    for radix, twiddles in zip(passes.radices, passes.twiddles, strict=True):
        leg = left // radix
        address = 0 if twiddles is None else twiddles.ctypes.data
        rows.append((radix, address, length // left, left * unit, leg * unit, leg))
        left = leg
    table = np.array(rows, np.int64).reshape(-1, STAGE_WORDS)
    keep += [passes, table]
    return table, len(rows)


@functools.lru_cache(maxsize=1024)
def geometry(problem: ConvProblem, code: int, is_complex: bool, chosen: TileSize) -> Geometry:
    """Return the tables of a forward problem of stride 1."""
    dtype, size, lanes = ("float32", "float64")[code], simd.BYTES[code], simd.lanes_of(code)
    vector = lanes * size
    sizes, kernel, out = chosen.sizes, three(problem.kernel, 1), three(problem.output, 1)
    before = three(tuple(p for p, _ in problem.padding), 0)
    keep: list[Any] = []
    p = np.zeros((), CALL)
    p["is_complex"], p["groups"], p["batch"] = is_complex, problem.groups, problem.batch
    p["channels"] = channels = problem.in_channels // problem.groups
    p["outputs"] = outputs = problem.out_channels // problem.groups
    p["mode"] = MODES.index(problem.padding_mode)
    cropped = ((0, 1),) * (3 - problem.rank) + problem.cropped
    for axis, name in enumerate("zyx"):
        p[f"low_{name}"], p[f"high_{name}"] = cropped[axis]
        p[f"before_{name}"], p[f"out_{name}"], p[f"taps_{name}"] = before[axis], out[axis], kernel[axis]
        p[f"span_{name}"] = out[axis] + kernel[axis] - 1
        p[f"step_{name}"] = sizes[axis] - kernel[axis] + 1
        p[f"size_{name}"], p[f"tiles_{name}"] = sizes[axis], chosen.tiles[axis]
    # Rows are an odd number of vectors apart, so that neighbours in a column do not share cache sets.
    p["vectors"] = vectors = sizes[2] // lanes
    pitch = (vectors + (1 - vectors % 2 if sizes[1] > 1 or sizes[0] > 1 else 0)) * vector
    p["pitch"] = pitch
    lines = -(-sizes[0] * sizes[1] * pitch // 64)
    p["plane"] = plane = (lines + 1 - lines % 2) * 64
    for name, length, unit in (("z", sizes[0], sizes[1] * pitch), ("y", sizes[1], pitch)):
        table, count = _table(length, dtype, unit, keep)
        p[f"stages_{name}"], p[f"count_{name}"] = table.ctypes.data, count
        p[f"strip_{name}"] = max(1, _NEAR_CACHE // (2 * length * vector))
    table, count = _table(vectors, dtype, vector, keep)
    first, chunk = 0, vectors
    while chunk * 2 * vector > _NEAR_CACHE and first < count - 1:
        chunk //= int(table[first, 0])
        first += 1
    inner = table[first:].copy()
    inner[:, 2] //= vectors // chunk
    keep.append(inner)
    p["outer"], p["outer_count"] = table.ctypes.data, first
    p["inner"], p["inner_count"], p["chunk"] = inner.ctypes.data, count - first, chunk
    p["rows_x"] = max(1, _NEAR_CACHE // 2 // (2 * pitch))
    p["group"] = group_of(code)
    lane_table = _aligned(_lane_table(vectors, lanes, dtype))
    keep.append(lane_table)
    p["lanes_table"] = lane_table.ctypes.data
    p["items"] = items = problem.batch * math.prod(chosen.tiles)
    tasks = (items if is_complex else -(-items // 2)) * problem.groups
    tile_bytes = 2 * plane
    scratch = tile_bytes * (channels + (channels != 1 or outputs != 1)) + 64
    work = math.prod(sizes) * 60.0 * (channels + outputs) + math.prod(sizes) * 8.0 * channels * outputs
    weight_tasks = problem.groups * channels * outputs
    return Geometry(
        p,
        p.reshape(1).view(np.int64),
        tasks,
        weight_tasks,
        -(-scratch // 64) * 64,
        weight_tasks * tile_bytes // size,
        max(1, int(200e6 / work)),
        tuple(keep),
    )


def _aligned(array: Array) -> Array:
    """Return a copy that begins at a cache line."""
    copy = empty_aligned(array.size, array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def empty_aligned(number: int, dtype: Any) -> Array:
    """Return an uninitialised 1-d array that begins at a cache line."""
    size = np.dtype(dtype).itemsize
    whole = np.empty(number + 64 // size, dtype)
    skip = -whole.ctypes.data % 64 // size
    return whole[skip : skip + number]
