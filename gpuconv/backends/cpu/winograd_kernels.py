"""The compiled kernel of the Winograd algorithm: one for all forms and shapes.

It runs in stages, each a set of independent tasks: the transform of weights, and either whole blocks of tiles (fused),
or first the inputs' transforms and then products by blocks of output channels (split). Every tile's sums are the same
in both, and whatever the block, so results do not depend on the number of threads. The transforms, which are compiled
for each form, and the products are called at the addresses in its record.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import carray, cfunc, njit, types

from gpuconv.backends.cpu import simd
from gpuconv.backends.cpu.winograd_call import call_at, run_at
from gpuconv.backends.cpu.winograd_inputs import inputs
from gpuconv.backends.cpu.winograd_outputs import outputs
from gpuconv.backends.cpu.winograd_parts import block_tiles, panel_of, section_of
from gpuconv.backends.cpu.winograd_pixels import LANES, VECTOR, fill_pixels
from gpuconv.backends.cpu.winograd_tiles import most_tiles, multiply
from gpuconv.backends.cpu.winograd_weights import weights

__all__ = ["functions", "kernel"]

_MOST = most_tiles()


@njit(error_model="numpy")
def _multiply_all(p, call, tiles, group, block, phase, m, v, scratch):  # type: ignore[no-untyped-def]
    """Sum the products of a block of tiles, a block of output channels and a phase of the outputs."""
    nx = p.products_x
    panels = (tiles + _MOST - 1) // _MOST
    lines = (7 + panels) // panels
    together = p.parts_together * p.part_vectors
    for first in range(0, p.vectors, p.chunk):
        vectors = min(p.chunk, p.vectors - first)
        # Parts of the kernel are further channels, unless they are phases.
        section = phase + first // together
        made_y, made_x, kept_y, kept_x, kept_before = section_of(p, section)
        if first == 0:
            for product in range(p.products_y * nx):
                if product // nx >= made_y or product % nx >= made_x:
                    fill_pixels(m + product * p.m_step, 2 * tiles, np.float32(0))
        if p.u == 0:
            u, u_step = scratch + p.u_offset, p.u_scratch_step
            run_at(
                p.transform_weights,
                (call, group, block, section, 1, first % together, vectors, u, u_step, scratch + p.taps_offset),
            )
        else:
            u_step = p.u_step
            u = p.u + group * p.u_group + block * p.u_block + kept_before * u_step
            u += first % together * LANES * 2 * VECTOR
        # The same weights serve an axis of which one is kept.
        down, across = kept_x * (kept_y > 1), int(kept_x > 1)
        for made in range(made_y * made_x):
            i, j = made // made_x, made % made_x
            product, weights = i * nx + j, u + (i * down + j * across) * u_step
            ahead = u + ((i + (j + 1) // made_x) * down + (j + 1) % made_x * across) * u_step
            tile = 0
            while tile < tiles:
                start, height = panel_of(tile, tiles)
                after = start + height
                if after == tiles:
                    ahead_v = v + ((i + (j + 1) // made_x) * nx + (j + 1) % made_x) * p.v_step + first * height * VECTOR
                else:
                    ahead_v = v + product * p.v_step + (after * p.vectors + first * height) * VECTOR
                to = m + product * p.m_step + start * 2 * VECTOR
                inputs = v + product * p.v_step + (start * p.vectors + first * height) * VECTOR
                run_at(p.multiply, (height, to, inputs, weights, vectors, int(first == 0), ahead, lines, ahead_v))
                tile += height


def functions(form: int) -> tuple[int, int, int, int]:
    """Return the addresses that a call's record has: of the products, and a form's transforms in order."""
    return _products(), weights(form), inputs(form), outputs(form)


@functools.cache
def _products() -> int:
    return int(_compiled_products(simd.source_version()).address)


def _compiled_products(version: int) -> Any:
    i64 = types.int64

    @cfunc(types.void(*[i64] * 9), cache=True, error_model="numpy")
    def multiply_panel(tiles, to, v, u, groups, is_first, ahead, lines, ahead_v):  # type: ignore[no-untyped-def]  # pragma: no cover
        if version != 0:
            multiply(tiles, to, v, u, groups, is_first, ahead, lines, ahead_v)

    return multiply_panel


@functools.cache
def kernel() -> int:
    """Return the address of the kernel."""
    return int(_compiled(simd.source_version()).address)


def _compiled(version: int) -> Any:
    i64 = types.int64

    @cfunc(types.void(i64, i64, i64), cache=True, error_model="numpy")
    def convolve(call, task, scratch):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
        if version == 0:
            return
        p = carray(call_at(call), 1)[0]
        if p.stage == 0:
            together = p.parts_together * p.part_vectors
            chunks = (together + p.chunk - 1) // p.chunk
            first, task = task % chunks * p.chunk, task // chunks
            blocks = (p.outputs + 2 * LANES - 1) // (2 * LANES)
            block, group = task % blocks, task // blocks
            u = p.u + group * p.u_group + block * p.u_block + first * LANES * 2 * VECTOR
            sections, vectors = p.parts // p.parts_together, min(p.chunk, together - first)
            run_at(p.transform_weights, (call, group, block, 0, sections, first, vectors, u, p.u_step, scratch))
            return
        if p.stage == 1:
            vector, task = task % p.vectors, task // p.vectors
            first, last = block_tiles(p, task % p.blocks)
            v = p.v + task * p.v_block
            run_at(p.transform_inputs, (call, first, last, task // p.blocks, vector, v, scratch))
            return
        # Blocks of output channels and phases along y; those along x are interleaved when they are written.
        blocks = (p.outputs + 2 * LANES - 1) // (2 * LANES) * p.runs_y
        begin, end, v = 0, blocks, scratch + p.v_offset
        if p.stage == 2:
            begin, task = task % blocks, task // blocks
            end, v = begin + 1, p.v + task * p.v_block
        first, last = block_tiles(p, task % p.blocks)
        group = task // p.blocks
        if p.stage == 3:
            for vector in range(p.vectors):
                run_at(p.transform_inputs, (call, first, last, group, vector, v, scratch))
        for line in range(begin, end):
            block, phase_y = line // p.runs_y, line % p.runs_y
            for phase_x in range(p.runs_x):
                phase, m = phase_y * p.runs_x + phase_x, scratch + p.m_offset + phase_x * p.m_phase
                _multiply_all(p, call, last - first, group, block, phase, m, v, scratch)
            run_at(p.write_outputs, (call, first, last, group, block, phase_y, scratch))

    return convolve
