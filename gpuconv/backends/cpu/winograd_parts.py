"""Where tiles and the parts of a kernel lie: what every stage of Winograd kernels asks."""

from __future__ import annotations

from typing import Any

from numba import njit

from gpuconv.backends.cpu.elements import read
from gpuconv.backends.cpu.winograd_tiles import most_tiles

__all__ = ["SECTION_FIELDS", "block_tiles", "origin", "panel_of", "part_tap", "run_of", "section_of", "taps_of"]

SECTION_FIELDS = 5
"""Of a section, parts of the same first y and x: products that are made along y and along x of a tile, weights that are
kept along y and along x, and all that are kept of the sections before. One is kept of an axis along which the part has
one tap of several of the form."""

_MOST = most_tiles()


@njit(error_model="numpy")
def origin(tile, dilation, m) -> Any:  # type: ignore[no-untyped-def]
    """Return the first output of a tile: `dilation` tiles are interleaved over dilation * m outputs."""
    return tile // dilation * (dilation * m) + tile % dilation


@njit(error_model="numpy")
def _tiles_before(p, unit):  # type: ignore[no-untyped-def]
    return unit // p.units_x * p.tiles_x + unit % p.units_x * p.unit


@njit(error_model="numpy")
def block_tiles(p, block) -> Any:  # type: ignore[no-untyped-def]
    """Return the first tile of a block and that of the next. Tiles are numbered image by image and row by row."""
    return _tiles_before(p, p.units * block // p.blocks), _tiles_before(p, p.units * (block + 1) // p.blocks)


@njit(error_model="numpy")
def run_of(p, tile, end) -> Any:  # type: ignore[no-untyped-def]
    """Return the longest rectangle from a tile on: image, first row, rows, first column, columns.

    It is whole rows of one image, or a share of one row.
    """
    row, q = tile // p.tiles_x, tile % p.tiles_x
    image, r = row // p.tiles_y, row % p.tiles_y
    if q == 0 and end - tile >= p.tiles_x:
        return image, r, min((end - tile) // p.tiles_x, p.tiles_y - r), 0, p.tiles_x
    return image, r, 1, q, min(p.tiles_x - q, end - tile)


@njit(error_model="numpy")
def panel_of(tile, tiles) -> Any:  # type: ignore[no-untyped-def]
    """Return the first tile and the number of tiles of the panel that a tile is in; panels differ by one at most."""
    panels = (tiles + _MOST - 1) // _MOST
    height, more = tiles // panels, tiles % panels
    if tile < more * (height + 1):
        return tile // (height + 1) * (height + 1), height + 1
    return tile - (tile - more * (height + 1)) % height, height


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
def taps_of(first, kernel, step, most) -> Any:  # type: ignore[no-untyped-def]
    """Return the taps of a part along an axis: every `step`-th from its first on."""
    return min(most, (kernel - first + step - 1) // step)
