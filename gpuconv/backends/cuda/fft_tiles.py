"""How a convolution is cut into transforms: lengths by a cost model, and where the tiles read."""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

from gpuconv import tuning_cuda
from gpuconv.boundary import source_indices

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gpuconv.problem import ConvProblem

__all__ = ["Tiling", "cut", "index", "tiling"]

_LONGEST = 1 << 24
"""Elements of a transform at most."""
_ONE_PASS = 4096
"""Length up to which a transform goes over its data once. An estimate: not measured."""


class Tiling(NamedTuple):
    """A cut of the outputs into tiles, each the valid part of one transform."""

    sizes: tuple[int, ...]
    """Length of a transform along each axis."""
    steps: tuple[int, ...]
    """Outputs of a tile along each axis."""
    tiles: tuple[int, ...]
    traffic: float
    """Bytes to and from memory of a call."""
    flops: float


_NONE = Tiling((), (), (), math.inf, math.inf)


def _smooth(least: int) -> int:
    """Return the next length at or above one that has no prime factor above 7, which cuFFT has fast code for.

    Examples
    --------
    >>> _smooth(121), _smooth(128), _smooth(1)
    (125, 128, 1)
    """
    n = least
    while True:
        rest = n
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1


@functools.cache
def _lengths() -> tuple[int, ...]:
    return tuple(sorted(f << e for e in range(25) for f in (1, 3, 5) if f << e <= _LONGEST))


def _candidates(extent: int, outputs: int) -> list[int]:
    """Return the transform lengths that are worth a look along an axis, that of a single tile among them."""
    if extent == 1:
        return [1]
    whole = _smooth(outputs + extent - 1)
    return [n for n in _lengths() if extent + extent // 4 <= n < min(whole, 32 * extent)] + [whole]


@functools.lru_cache(maxsize=1024)
def tiling(p: ConvProblem, is_complex: bool, itemsize: int) -> Tiling:
    """Return the cheapest cut of a problem; where no transform is large enough, one of infinite traffic.

    `itemsize` is that of a real number of the sums.
    """
    choices = [_candidates(e, n) for e, n in zip(p.extent, p.output, strict=True)]
    found = (
        cut(p, sizes, is_complex, itemsize) for sizes in itertools.product(*choices) if math.prod(sizes) <= _LONGEST
    )
    return min(found, key=lambda one: one.traffic + one.flops / tuning_cuda.CUDA_BALANCE, default=_NONE)


def cut(p: ConvProblem, sizes: tuple[int, ...], is_complex: bool, itemsize: int) -> Tiling:
    """Return the cut of a problem into transforms of some lengths."""
    steps = tuple(n - e + 1 for n, e in zip(sizes, p.extent, strict=True))
    tiles = tuple(-(-o // step) for o, step in zip(p.output, steps, strict=True))
    channels, outputs = p.in_channels // p.groups, p.out_channels // p.groups
    points = math.prod(sizes) * (2 if is_complex else 1)
    count = p.batch * math.prod(tiles)
    passes = sum(1 if n <= _ONE_PASS else 2 for n in sizes if n > 1)
    # A pass reads and writes; so does the gathering of tiles, and of results, and the product of spectra.
    each = points * 2 * itemsize
    transforms = count * (p.in_channels + p.out_channels) + p.out_channels * channels
    traffic = transforms * each * (passes + 1)
    traffic += count * each * (p.in_channels + p.out_channels) * (1 if channels == 1 else 2)
    flops = transforms * 2.5 * points * math.log2(max(points, 2))
    flops += 4 * points * count * p.groups * channels * outputs
    return Tiling(sizes, steps, tiles, traffic, flops)


@functools.lru_cache(maxsize=256)
def index(p: ConvProblem, axis: int) -> NDArray[np.int64]:
    """Return for each position of the padded input which input stands there along an axis, or -1 for the fill value."""
    (before, after), (low, high) = p.padding[axis], p.cropped[axis]
    found = source_indices(p.mode_code, -max(before, 0), high - low + max(after, 0), high - low)
    found[found >= 0] += low
    return found
