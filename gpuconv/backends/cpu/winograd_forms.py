"""Forms of Winograd correlations: tiles, the parts of strided and long kernels, and what each part needs of a tile."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from gpuconv.backends.cpu.winograd_pixels import LANES, VECTOR
from gpuconv.backends.cpu.winograd_tiles import forms

if TYPE_CHECKING:
    from gpuconv.problem import ConvProblem

__all__ = [
    "OUTPUTS", "Runs", "Sizes", "along_axes", "are_joined", "first_output", "parts_of", "parts_of_form",
    "possible_forms", "runs_of", "sizes_of", "tap_steps", "tiles_of",
]  # fmt: skip

OUTPUTS = {2: (5, 4, 3), 3: (4, 3, 2), 4: (3,), 5: (2,)}
"""Outputs along an axis that tiles may have, by the kernel's taps."""
_MIXED_FORM = 4323
"""Tiles of 4x2 outputs: half as many again transformed weights as 2x2 tiles have, and three quarters of their products,
where larger tiles would have more weights than they save products (512 channels at 7x7)."""
_LARGE_TILE_CHANNELS = 32
"""Channels below which the largest error of tiles with 36 products could pass that of a direct sum of the same
length."""
_PART_TAPS = {5: (5, 3)}
"""Taps of the parts that kernels may be divided into, by their longest axis: by default all, or the next for longer."""
_LONG_TAPS = (3, 4)
_MOST_PARTS = 64
_MOST_JOINED = 8
"""Phases of an axis, at most, that a task computes together: it keeps the products of as many."""


def along_axes(problem: ConvProblem) -> tuple[tuple[int, int], ...]:
    """Return the kernel, the stride and the dilation along the last two axes, each (y, x)."""
    return tuple((1, *values)[-2:] for values in (problem.kernel, problem.stride, problem.dilation))  # type: ignore[misc]


class Runs(NamedTuple):
    """An axis of outputs in runs of as many as its input dilation, which begin to read at the same input.

    They are the phases of a transposed convolution: output a of a run of n has the taps n - 1 - a, 2n - 1 - a, and so
    on, of neighbouring inputs. Without input dilation a run is an output.
    """

    length: int
    number: int
    """Of runs."""
    skipped: int
    """Outputs of the first run that lie before the result."""
    before: int
    """Inputs before the first that the first run begins to read at; below 0 where it begins at a later one."""


def runs_of(problem: ConvProblem, axis: int) -> Runs:
    """Return the runs of outputs of an axis."""
    length, size = problem.input_dilation[axis], problem.output[axis]
    first = problem.padding[axis][0] - length + 1
    run = -first // length
    skipped = -(length * run + first)
    return Runs(length, -(-(size + skipped) // length), skipped, -run)


def are_joined(problem: ConvProblem, axis: int) -> bool:
    """Whether an axis' phases are computed together: each has a tap, taps are neighbours, and no stride intervenes."""
    length = problem.input_dilation[axis]
    if not 1 < length <= min(problem.kernel[axis], _MOST_JOINED) or problem.dilation[axis] > 1:
        return False
    return axis >= problem.rank - 2 and all(s == 1 for s in problem.stride[-2:])


def tap_steps(problem: ConvProblem) -> tuple[int, int]:
    """Return the distance between neighbouring taps of a part or a phase, along y and x."""
    _, (sy, sx), _ = along_axes(problem)
    by, bx = (1, *problem.input_dilation)[-2:]
    return sy * by, sx * bx


def possible_forms(problem: ConvProblem) -> tuple[int, ...]:
    """Return the forms that compute a correlation; empty where none does."""
    kernel, strides, dilations = along_axes(problem)
    if any(k > 1 and s > 1 and d > 1 for k, s, d in zip(kernel, strides, dilations, strict=True)):
        return ()
    dilated = [axis for axis, b in enumerate(problem.input_dilation) if b > 1]
    if not all(are_joined(problem, axis) for axis in dilated):
        return ()
    high, wide = (-(-k // step) for k, step in zip(kernel, tap_steps(problem), strict=True))
    longest = max(high, wide)
    found: list[int] = []
    whole = (longest,) if longest in OUTPUTS else _LONG_TAPS if longest > 1 else ()
    for taps in _PART_TAPS.get(longest, whole):
        if dilated and taps < longest:
            continue
        if high == 1:
            found += (1100 + 10 * m + taps for m in OUTPUTS[taps])
        elif wide == 1:
            found += (1000 * m + 100 * taps + 11 for m in OUTPUTS[taps])
        else:
            is_long = problem.in_channels // problem.groups >= _LARGE_TILE_CHANNELS
            found += (1010 * m + 101 * taps for m in OUTPUTS[taps] if is_long or m + taps <= 6)
            if taps == 3 and is_long:
                found.append(_MIXED_FORM)
    return tuple(form for form in found if len(parts_of_form(problem, form)) <= _MOST_PARTS)


def parts_of(problem: ConvProblem, taps_y: int, taps_x: int) -> list[tuple[int, int, int]]:
    """Return the first taps (z, y, x) of the parts of a kernel, those of the same y and x together.

    With a stride, every stride-th tap of a plane's axis meets every stride-th input, which makes a part of stride 1;
    one of more than `taps_y` by `taps_x` taps is divided again. Each part is a correlation of its own, and their sum is
    taken of the products: to the kernel they are further input channels. With an input dilation, the taps of each phase
    of the outputs are a part.
    """
    kz, ky, kx = (1, 1, *problem.kernel)[-3:]

    def first(kernel: int, stride: int, taps: int) -> list[int]:
        return [t for phase in range(min(stride, kernel)) for t in range(phase, kernel, stride * taps)]

    sy, sx = tap_steps(problem)
    return [(z, y, x) for y in first(ky, sy, taps_y) for x in first(kx, sx, taps_x) for z in range(kz)]


def parts_of_form(problem: ConvProblem, form: int) -> list[tuple[int, int, int]]:
    """Return the parts of a kernel for the taps of a form."""
    return parts_of(problem, form // 100 % 10, form % 10)


def tiles_of(outputs: int, dilation: int, m: int) -> int:
    """Return the tiles of an axis: one for each m outputs of each of `dilation` interleaved convolutions."""
    return outputs // (dilation * m) * dilation + min(dilation, outputs % (dilation * m))


def first_output(tile: int, dilation: int, m: int) -> int:
    """Return the first output of a tile along an axis; `winograd_parts.origin` is the same, compiled."""
    return tile // dilation * (dilation * m) + tile % dilation


class Sizes(NamedTuple):
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
    runs_y: int
    runs_x: int
    """Phases of the outputs that are computed together."""
    taps: int
    """Taps of one depth of the kernel."""

    @property
    def phases(self) -> int:
        """Outputs of a run along y and one along x: tiles are of runs."""
        return self.runs_y * self.runs_x

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


def sizes_of(problem: ConvProblem, form: int) -> Sizes:
    """Return what a correlation is in tiles of a form."""
    down, across = forms(form)
    my, mx, ny, nx = len(down.output), len(across.output), len(down.input), len(across.input)
    ty, tx = len(down.weights[0]), len(across.weights[0])
    out_z = (1, 1, *problem.output)[-3]
    along_y, along_x = runs_of(problem, -2) if problem.rank > 1 else Runs(1, 1, 0, 0), runs_of(problem, -1)
    # A kernel of one row or column has no inputs between it and the next.
    dy, dx = (d if k > 1 else 1 for d, k in zip((1, *problem.dilation)[-2:], (1, *problem.kernel)[-2:], strict=True))
    parts = parts_of_form(problem, form)
    return Sizes(
        my, mx, ny, nx, ty, tx, along_y.number, along_x.number, dy, dx,
        problem.batch * out_z, problem.groups, tiles_of(along_y.number, dy, my), tiles_of(along_x.number, dx, mx),
        len(parts) // (along_y.length * along_x.length) * -(-problem.in_channels // problem.groups // LANES),
        _sections(problem, parts, (my, ty, ny), (mx, tx, nx)),
        -(-problem.out_channels // problem.groups // (2 * LANES)), along_y.length, along_x.length,
        math.prod(along_axes(problem)[0]),
    )  # fmt: skip


def _sections(
    problem: ConvProblem, parts: list[tuple[int, int, int]], down: tuple[int, int, int], across: tuple[int, int, int]
) -> tuple[tuple[int, ...], ...]:
    """Return the `SECTION_FIELDS` of the sections, from outputs, taps and products of a tile along y and along x."""
    (ky, kx), _, _ = along_axes(problem)
    sy, sx = tap_steps(problem)
    shares_inputs = any(b > 1 for b in problem.input_dilation)

    def of_axis(sizes: tuple[int, int, int], taps: int) -> tuple[int, int]:
        outputs, most, products = sizes
        if taps >= most:
            return products, products
        # Fewer taps need no product at infinity, where their weights are 0; one tap as many as there are outputs, and
        # one weight, if its inputs are transformed for it alone.
        return (outputs, 1) if taps == 1 and not shares_inputs else (products - 1, products)

    found: list[tuple[int, ...]] = []
    before = 0
    for _, y, x in parts[:: (1, 1, *problem.kernel)[-3]]:
        is_first = not found
        made_y, kept_y = of_axis(down, down[1] if is_first else -(-(ky - y) // sy))
        made_x, kept_x = of_axis(across, across[1] if is_first else -(-(kx - x) // sx))
        found.append((made_y, made_x, kept_y, kept_x, before))
        before += kept_y * kept_x
    return tuple(found)
