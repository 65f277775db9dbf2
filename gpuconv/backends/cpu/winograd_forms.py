"""Forms of Winograd correlations: tiles, the parts of strided and long kernels, and what each part needs of a tile."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gpuconv.backends.cpu.winograd_pixels import LANES, VECTOR
from gpuconv.backends.cpu.winograd_tiles import forms

if TYPE_CHECKING:
    from gpuconv.problem import ConvProblem

__all__ = [
    "OUTPUTS", "Sizes", "along_axes", "first_output", "parts_of", "parts_of_form", "possible_forms", "sizes_of",
    "tiles_of",
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
    return tuple(form for form in found if len(parts_of_form(problem, form)) <= _MOST_PARTS)


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
    out_z, out_y, out_x = (1, 1, *problem.output)[-3:]
    # A kernel of one row or column has no inputs between it and the next.
    dy, dx = (d if k > 1 else 1 for d, k in zip((1, *problem.dilation)[-2:], (1, *problem.kernel)[-2:], strict=True))
    parts = parts_of_form(problem, form)
    return Sizes(
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
