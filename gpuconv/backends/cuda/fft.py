"""Convolution by Fourier transforms of overlapping tiles (overlap-save), by cuFFT and cuBLAS through CuPy.

For large kernels of stride 1. A NaN or an infinity spoils all outputs of its tile: tiles that are not finite are
computed again by `direct`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv import tuning_cuda
from gpuconv.backends.cuda import batches, cublas, cupy_work, direct, fft_tiles
from gpuconv.backends.cuda.cupy_work import grouped
from gpuconv.backends.cuda.geometry import bytes_of_a_sum, computed
from gpuconv.dtypes import to_numpy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpuconv.backends.cuda import Device
    from gpuconv.backends.cuda.cupy_work import Work
    from gpuconv.backends.cuda.fft_tiles import Tiling
    from gpuconv.dispatch import Call
    from gpuconv.problem import ConvProblem

__all__ = ["cost", "pack", "run", "supports", "temporary", "workspace"]

_DTYPES = ("float16", "float32", "float64", "complex64", "complex128")
_FEWEST = 24
"""Products of a sum below which rounding would show beside a direct sum's, and nothing is gained."""


def supports(call: Call, device: Device) -> str | None:
    """Return None, or the reason why this algorithm cannot serve the call."""
    p = call.problem
    if call.precision == "highest":
        return "precision='highest' allows no transforms"
    if call.operation == "weight_gradient":
        return "it computes no gradient by the weights"
    if call.dtype not in _DTYPES:
        return f"it does not take {call.dtype}"
    if any(s != 1 for s in (*p.stride, *p.input_dilation)):
        return f"stride={p.stride}, input_dilation={p.input_dilation}: it takes 1"
    if call.operation != "forward" and p.padding_mode != "zeros":
        return f"padding_mode={p.padding_mode!r}: it computes input gradients for the 'zeros' border only"
    q = computed(call)
    if q.in_channels // q.groups * math.prod(q.kernel) < _FEWEST:
        return f"sums of fewer than {_FEWEST} products are sooner, and more exactly, direct"
    cut = _tiling(call)
    if math.isinf(cut.traffic):
        return f"the kernel spans {q.extent} elements, too many for one transform"
    spectrum = 2 * bytes_of_a_sum(call) * math.prod(cut.sizes) * q.out_channels * (q.in_channels // q.groups)
    if spectrum > tuning_cuda.CUDA_FFT_TEMPORARY:
        return f"transformed weights of {spectrum} bytes: it takes up to {tuning_cuda.CUDA_FFT_TEMPORARY}"
    return cupy_work.missing(device)


def cost(call: Call, device: Device) -> float:
    """Return estimated seconds."""
    cut = _tiling(call)
    traffic = call.bytes + cut.traffic
    return tuning_cuda.cuda_cost("fft", call.dtype, cut.flops, traffic, device.flops, device.bandwidth)


def _tiling(call: Call) -> Tiling:
    return fft_tiles.tiling(computed(call), call.is_complex, bytes_of_a_sum(call))


def pack(call: Call, w: Any) -> Any:
    """Return the weights on the GPU, as they are and transformed."""
    with cupy_work.Work(w) as work:
        return _packed(call, work, w)


def _packed(call: Call, work: Work, w: Any) -> tuple[tuple[int, ...], Any, Any]:
    """Return the lengths of the transforms, the weights of the problem that is computed, and their spectra.

    Weights are (groups, outputs, inputs, taps...). They serve every problem that differs in its images and rows only.
    """
    xp, p, q, cut = work.xp, call.problem, computed(call), _tiling(call)
    weights = work.read(w).reshape(p.groups, p.out_channels // p.groups, *p.w_shape[1:])
    if call.operation != "forward":
        weights = xp.flip(weights.swapaxes(1, 2), axis=tuple(range(3, 3 + p.rank)))
    if call.operation == "input_gradient" and call.is_complex:
        weights = weights.conj()
    weights = weights.copy()
    spread = xp.zeros((*weights.shape[:3], *cut.sizes), _numbers(call))
    taps = tuple(slice(0, e, d) for e, d in zip(q.extent, q.dilation, strict=True))
    # The spectrum of a correlation's weights is the conjugate of that of their conjugates.
    spread[(..., *taps)] = weights.conj() if call.is_complex else weights
    return cut.sizes, weights, _transformed(xp, spread, p.rank, call.is_complex).conj()


def _numbers(call: Call) -> np.dtype[Any]:
    """Return the dtype that is transformed."""
    return np.dtype(np.float32) if call.dtype == "float16" else to_numpy(call.dtype)


def _transformed(xp: Any, array: Any, rank: int, is_complex: bool) -> Any:
    axes = tuple(range(array.ndim - rank, array.ndim))
    return xp.fft.fftn(array, axes=axes) if is_complex else xp.fft.rfftn(array, axes=axes)


def temporary(call: Call) -> int:
    """Return the bytes that a call takes on the GPU besides its arrays: for transforms, those of the weights too."""
    q, cut = computed(call), _tiling(call)
    weights = q.out_channels * (q.in_channels // q.groups) * math.prod(cut.sizes) * 2 * bytes_of_a_sum(call)
    row = _row_bytes(call, q, cut)
    return weights + min(max(row, tuning_cuda.CUDA_FFT_TEMPORARY), row * cut.tiles[0] * q.batch)


def workspace(call: Call) -> int:
    """Return the bytes of the weights on the GPU, transformed, and of the transforms."""
    return temporary(call) + math.prod(call.problem.w_shape) * to_numpy(call.dtype).itemsize


@batches.split(temporary=temporary)
def run(call: Call, x: Any, w: Any, y: Any, bias: Any, packed: Any = None) -> None:
    """Write y (forward) or x (transposed, input_gradient), every element of it."""
    read, written = (x, y) if call.operation == "forward" else (y, x)
    if written.size == 0:
        return
    with cupy_work.Work(read, w, written, bias) as work:
        sizes, weights, spectra = _packed(call, work, w) if packed is None else packed
        cut = fft_tiles.cut(computed(call), sizes, call.is_complex, bytes_of_a_sum(call))
        source, target = work.read(read), work.write(written)
        offset = None if bias is None else work.read(bias)
        _convolve(call, work, cut, source, weights, spectra, target, offset)


def _convolve(
    call: Call, work: Work, cut: Tiling, source: Any, weights: Any, spectra: Any, target: Any, bias: Any
) -> None:
    """Compute part after part, as many tiles at a time as `tuning_cuda.CUDA_FFT_TEMPORARY` holds."""
    xp, q = work.xp, computed(call)
    inputs, outputs = grouped(xp, q, source), grouped(xp, q, target)
    for image, image_end, row, row_end in _parts(call, q, cut):
        padded = _padded(xp, q, cut, inputs[image:image_end], row, row_end, _numbers(call))
        sums = _tiles_of(xp, call, cut, padded, spectra)
        valid = (..., *(slice(None, step) for step in cut.steps))
        sums = sums[valid]
        channels = tuple(range(1, 3))
        within = tuple(range(sums.ndim - q.rank, sums.ndim))
        finite = xp.asnumpy(xp.isfinite(sums).all(axis=channels + within))
        if bias is not None:
            sums = sums + bias.astype(sums.dtype).reshape(1, q.groups, -1, *(1,) * (2 * q.rank))
        first = row * cut.steps[0]
        place = outputs[image:image_end, :, :, first : first + (row_end - row) * cut.steps[0]]
        _join(xp, sums, place, q.rank)
        for tile in np.argwhere(~finite):
            where = (image + int(tile[0]), row + int(tile[1]), *map(int, tile[2:]))
            _repair(call, work, q, cut, where, source, weights, target, bias)


def _row_bytes(call: Call, q: ConvProblem, cut: Tiling) -> int:
    """Return the bytes that a row of tiles of an image takes while it is transformed."""
    numbers = 3 * math.prod(cut.sizes) * (q.in_channels + q.out_channels) * (2 if call.is_complex else 1)
    return max(math.prod(cut.tiles[1:]) * numbers * bytes_of_a_sum(call), 1)


def _parts(call: Call, q: ConvProblem, cut: Tiling) -> Iterator[tuple[int, int, int, int]]:
    """Yield ranges of images and of rows of tiles, along the first axis."""
    rows = max(tuning_cuda.CUDA_FFT_TEMPORARY // _row_bytes(call, q, cut), 1)
    images = max(rows // cut.tiles[0], 1)
    rows = min(rows, cut.tiles[0])
    for image, first in itertools.product(range(0, q.batch, images), range(0, cut.tiles[0], rows)):
        yield image, min(image + images, q.batch), first, min(first + rows, cut.tiles[0])


def _padded(xp: Any, q: ConvProblem, cut: Tiling, x: Any, row: int, row_end: int, dtype: np.dtype[Any]) -> Any:
    """Return what some rows of tiles read, border and all, long enough for whole tiles."""
    tiles = (row_end - row, *cut.tiles[1:])
    shape = tuple((t - 1) * step + n for t, step, n in zip(tiles, cut.steps, cut.sizes, strict=True))
    result = xp.full((*x.shape[:3], *shape), q.padding_value, dtype)
    inside = []
    for axis in range(q.rank):
        index = fft_tiles.index(q, axis)
        start = row * cut.steps[0] if axis == 0 else 0
        index = index[start : start + shape[axis]]
        there = np.flatnonzero(index >= 0)
        if not there.size:
            return result
        # Of a border of zeros only a middle part is there; of others, all.
        begin, end = int(there[0]), int(there[-1]) + 1
        inside.append(slice(begin, end))
        index, at = index[begin:end], 3 + axis
        if (np.diff(index) == 1).all():
            x = x[(slice(None),) * at + (slice(int(index[0]), int(index[-1]) + 1),)]
        else:
            x = xp.take(x, xp.asarray(index), axis=at)
    result[(..., *inside)] = x
    return result


def _tiles_of(xp: Any, call: Call, cut: Tiling, padded: Any, spectra: Any) -> Any:
    """Return (images, groups, outputs, tiles..., positions...) of all sums, those that wrapped around too."""
    rank = len(cut.sizes)
    steps = padded.strides[3:]
    tiles = tuple((n - size) // step + 1 for n, size, step in zip(padded.shape[3:], cut.sizes, cut.steps, strict=True))
    strides = (*padded.strides[:3], *(s * step for s, step in zip(steps, cut.steps, strict=True)), *steps)
    tiled = xp.lib.stride_tricks.as_strided(padded, (*padded.shape[:3], *tiles, *cut.sizes), strides)
    spectrum = _transformed(xp, xp.ascontiguousarray(tiled), rank, call.is_complex)
    products = _products(xp, spectrum, spectra, rank)
    axes = tuple(range(products.ndim - rank, products.ndim))
    if call.is_complex:
        return xp.fft.ifftn(products, axes=axes)
    return xp.fft.irfftn(products, s=cut.sizes, axes=axes)


def _products(xp: Any, x: Any, w: Any, rank: int) -> Any:
    """Return the sums over the channels of a group of products of spectra.

    x is (images, groups, inputs, tiles..., frequencies...), w (groups, outputs, inputs, frequencies...).
    """
    images, groups, channels = x.shape[:3]
    tiles, frequencies = x.shape[3 : 3 + rank], x.shape[3 + rank :]
    if channels == 1:
        return x * w.reshape(1, *w.shape[:2], *(1,) * rank, *frequencies)
    count, places = math.prod(frequencies), images * math.prod(tiles)
    columns = x.reshape(images, groups, channels, -1, count).transpose(1, 4, 2, 0, 3)
    columns = xp.ascontiguousarray(columns).reshape(groups * count, channels, places)
    rows = xp.ascontiguousarray(w.reshape(groups, *w.shape[1:3], count).transpose(0, 3, 1, 2))
    rows = rows.reshape(groups * count, *rows.shape[2:])
    result = xp.empty((groups * count, rows.shape[1], places), x.dtype)
    cublas.product(xp, rows, columns, result, x.dtype.name)
    result = result.reshape(groups, count, rows.shape[1], images, -1).transpose(3, 0, 2, 4, 1)
    return xp.ascontiguousarray(result).reshape(images, groups, rows.shape[1], *tiles, *frequencies)


def _join(xp: Any, sums: Any, target: Any, rank: int) -> None:
    """Write tiles (..., tiles..., positions...) side by side; the last ones may hang over the end."""
    axes = [axis for i in range(rank) for axis in (3 + i, 3 + rank + i)]
    side_by_side = sums.transpose(0, 1, 2, *axes)
    shape = tuple(side_by_side.shape[3 + 2 * i] * side_by_side.shape[4 + 2 * i] for i in range(rank))
    whole = side_by_side.reshape(*sums.shape[:3], *shape)
    target[...] = whole[(..., *(slice(None, n) for n in target.shape[3:]))]


def _repair(
    call: Call, work: Work, q: ConvProblem, cut: Tiling, where: tuple[int, ...], source: Any, weights: Any,
    target: Any, bias: Any,
) -> None:  # fmt: skip
    """Compute a tile of an image again, by the definition."""
    xp, image, tile = work.xp, where[0], where[1:]
    starts = tuple(t * step for t, step in zip(tile, cut.steps, strict=True))
    ends = tuple(min(start + step, n) for start, step, n in zip(starts, cut.steps, q.output, strict=True))
    first = q.batched + (q.layout == "channels_first")
    patch, part = (source[image : image + 1], target[image : image + 1]) if q.batched else (source, target)
    for axis, (start, end) in enumerate(zip(starts, ends, strict=True)):
        index = fft_tiles.index(q, axis)[start : end + q.extent[axis] - 1]
        at = (slice(None),) * (first + axis)
        patch = xp.take(patch, xp.asarray(np.maximum(index, 0)), axis=first + axis)
        patch[(*at, xp.asarray(np.flatnonzero(index < 0)))] = q.padding_value
        part = part[(*at, slice(start, end))]
    spatial = tuple(patch.shape[first + axis] for axis in range(q.rank))
    problem = dataclasses.replace(
        q, batch=1, spatial=spatial, padding=((0, 0),) * q.rank, padding_mode="zeros", padding_value=0.0
    )
    again = dataclasses.replace(call, problem=problem, operation="forward", precision="highest", activation="")
    arrays = (xp.ascontiguousarray(patch), weights.reshape(q.w_shape), part)
    direct.run(again, *(work.other(a) for a in arrays), None if bias is None else work.other(bias))
