"""Where the tiles of an axis and the parts of a kernel lie: what every stage of Winograd kernels asks."""

from __future__ import annotations

from typing import Any

from numba import njit

from gpuconv.backends.cpu.elements import read

__all__ = ["SECTION_FIELDS", "origin", "part_tap", "section_of", "taps_of"]

SECTION_FIELDS = 5
"""Of a section, parts of the same first y and x: products that are made along y and along x of a tile, weights that are
kept along y and along x, and all that are kept of the sections before. One is kept of an axis along which the part has
one tap of several of the form."""


@njit(error_model="numpy")
def origin(tile, dilation, m) -> Any:  # type: ignore[no-untyped-def]
    """Return the first output of a tile: `dilation` tiles are interleaved over dilation * m outputs."""
    return tile // dilation * (dilation * m) + tile % dilation


@njit(error_model="numpy")
def part_tap(p, part, axis) -> Any:  # type: ignore[no-untyped-def]
    """Return the first tap of a part along axis 0 to 2: z, y or x."""
    return read(p.first_taps + (3 * part + axis) * 8)


@njit(error_model="numpy")
def section_of(p, section) -> Any:  # type: ignore[no-untyped-def]
    """Return the `SECTION_FIELDS` of a section."""
    at = p.sections + section * SECTION_FIELDS * 8
    return read(at), read(at + 8), read(at + 16), read(at + 24), read(at + 32)


@njit(error_model="numpy")
def taps_of(first, kernel, stride, most) -> Any:  # type: ignore[no-untyped-def]
    """Return the taps of a part along an axis: every `stride`-th from its first on."""
    return min(most, (kernel - first + stride - 1) // stride)
