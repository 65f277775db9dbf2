"""What the implicit matrix product copies before it multiplies: runs of inputs into panels, rows of weights."""

from __future__ import annotations

from typing import Any

from numba import njit

from gpuconv.backends.cpu.direct_kernels import ROWS
from gpuconv.backends.cpu.elements import fill_run, load, read, store, zero
from gpuconv.backends.cpu.gemm_tiles import WIDTH, pack_run
from gpuconv.backends.cpu.squares import transpose_square
from gpuconv.backends.cpu.weight_tiles import pack_rows

__all__ = ["TERMS", "TILE_BYTES", "fill_panel", "find_runs", "find_tiles", "first_vector", "pack_weights"]

TERMS = 32
"""Terms that a panel takes at a time."""


TILE_BYTES = 40
"""A tile is five int64: the bytes to its inputs, to its outputs and to its sums, its vectors, and whether all of their
lanes are outputs."""


@njit
def first_vector(tile, tiles, vectors) -> Any:  # type: ignore[no-untyped-def]
    """Return where a tile begins: full ones, then those a vector narrower, so that no tile is a single vector."""
    full = max(vectors - (WIDTH - 1) * tiles, 0)
    return min(WIDTH * min(tile, full) + (WIDTH - 1) * max(tile - full, 0), vectors)


@njit(error_model="numpy")
def find_runs(table, nz, ny, nx, line_z, line_y, pixel_bytes, size, lanes) -> Any:  # type: ignore[no-untyped-def]
    """Write (source, tile, place in the tile, count) of every run of a block's outputs that one copy can serve.

    Outputs are numbered through the block; lines that follow each other in memory are one.
    """
    pixels = nz * ny * nx
    if line_y == nx * pixel_bytes or ny == 1:
        line_y, nx, ny = ny * line_y, ny * nx, 1
        if line_z == nx * pixel_bytes:
            nx, nz = nz * nx, 1
    vectors = -((-pixels) // lanes)
    tiles = -((-vectors) // WIDTH)
    tile, number, pixel = 0, 0, 0
    start, end = 0, first_vector(1, tiles, vectors) * lanes
    for z in range(nz):
        for y in range(ny):
            done = 0
            while done < nx:
                if pixel == end:
                    tile += 1
                    start, end = end, first_vector(tile + 1, tiles, vectors) * lanes
                count = min(nx - done, end - pixel)
                at = table + 32 * number
                store(at, z * line_z + y * line_y + done * pixel_bytes, 3, 3)
                store(at + 8, tile, 3, 3)
                store(at + 16, (pixel - start) * size, 3, 3)
                store(at + 24, count, 3, 3)
                number += 1
                done += count
                pixel += count
    store(table + 32 * number + 8, -1, 3, 3)
    return number


@njit(error_model="numpy")
def find_tiles(table, planes, lines, pixels, source_z, source_y, yz, yy, size, lanes) -> Any:  # type: ignore[no-untyped-def]
    """Write the tiles of `planes` times `lines` runs of `pixels` outputs each: see `TILE_BYTES`. Return their number.

    Inputs and outputs of neighbouring planes and lines lie as many bytes apart as is said; sums of each run begin with
    a whole vector.
    """
    vectors = -((-pixels) // lanes)
    tiles = -((-vectors) // WIDTH)
    at = table
    for z in range(planes):
        for y in range(lines):
            for tile in range(tiles):
                begin, end = first_vector(tile, tiles, vectors), first_vector(tile + 1, tiles, vectors)
                store(at, z * source_z + y * source_y + begin * lanes * size, 3, 3)
                store(at + 8, z * yz + y * yy + begin * lanes * size, 3, 3)
                store(at + 16, ((z * lines + y) * vectors + begin) * lanes * size, 3, 3)
                store(at + 24, end - begin, 3, 3)
                store(at + 32, end * lanes <= pixels, 3, 3)
                at += TILE_BYTES
    return planes * lines * tiles


@njit(error_model="numpy")
def _fill_patches(to, pitch, address, pixel, count, size, lanes, accumulator):  # type: ignore[no-untyped-def]
    """Transpose `count` outputs' inputs of a vector of neighbouring taps into as many terms of a panel."""
    if count < lanes:
        for i in range(count):
            for k in range(lanes):
                value = load(address + i * pixel + k * size, accumulator, accumulator)
                store(to + k * pitch + i * size, value, accumulator, accumulator)
        return
    i = 0
    while i < count:
        i = min(i, count - lanes)
        transpose_square(
            to + i * size, pitch, address + i * pixel, pixel, accumulator, accumulator, accumulator
        )  # fmt: skip
        i += lanes


@njit(error_model="numpy")
def fill_panel(panel, cut, runs, first, tile, base, offsets, depth, pixel, patches, size, lanes, accumulator) -> Any:  # type: ignore[no-untyped-def]
    """Copy a tile's inputs for a number of terms; `first` and `tile` name its runs. Return the next tile's.

    A tile that is `cut` off by the block's end has zeros beyond it.
    """
    pitch = WIDTH * lanes * size
    run = first
    if cut:
        fill_run(panel, depth * WIDTH * lanes, zero(accumulator), accumulator)
    while read(runs + 32 * run + 8) == tile:
        here = runs + 32 * run
        source, place, count = base + read(here), panel + read(here + 16), read(here + 24)
        if patches:
            for k in range(0, depth, lanes):
                _fill_patches(
                    place + k * pitch, pitch, source + read(offsets + 8 * k), pixel, count, size, lanes, accumulator
                )  # fmt: skip
        else:
            pack_run(place, pitch, source, offsets, depth, count, accumulator)
        run += 1
    return run


@njit(error_model="numpy")
def pack_weights(to, w, w_row, rows, depth, size, accumulator) -> None:  # type: ignore[no-untyped-def]
    """Pack rows of weights, block of rows by block: within one [term][row]."""
    row, height = 0, ROWS
    while row < rows:
        while height > rows - row:
            height >>= 1
        at, place = w + row * w_row, to + row * depth * size
        if height == 8:
            pack_rows(place, at, w_row, depth, 8, accumulator)
        elif height == 4:
            pack_rows(place, at, w_row, depth, 4, accumulator)
        elif height == 2:
            pack_rows(place, at, w_row, depth, 2, accumulator)
        else:
            pack_rows(place, at, w_row, depth, 1, accumulator)
        row += height
