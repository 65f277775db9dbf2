"""Memory that a call needs for its own time. It is kept for later calls: the first touch of a new page is slow."""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np

from gpuconv.arrays import address_of

__all__ = ["LINE", "address_of", "aligned", "first_line", "forget", "give_back", "take"]

Block = tuple[np.ndarray[Any, Any], int]
"""Bytes that begin on a cache line, and their address."""

LINE = 64
_KEPT_BYTES = 128 << 20
_KEPT_BLOCKS = 32
_kept: list[tuple[int, Block]] = []
"""Blocks and their sizes, the one given back last at the end."""
_held = [0]
"""Their bytes."""
_SMALL_BYTES = 32 << 10
_small: list[Block] = []
"""Blocks of `_SMALL_BYTES`: a small call has no time to look for the block that fits it best, nor for a lock."""
_lock = [threading.Lock()]


def first_line(array: np.ndarray[Any, Any]) -> int:
    """Return the address of the first cache line that begins within an array."""
    return -(-address_of(array) // LINE) * LINE


def aligned(size: int) -> Block:
    """Return new memory of `size` bytes."""
    memory = np.empty(size + LINE, np.uint8)
    address = address_of(memory)
    skipped = -address % LINE
    return memory[skipped : skipped + size], address + skipped


def take(size: int) -> Block:
    """Return at least `size` bytes: the smallest block kept that is large enough, or a new one."""
    if size <= _SMALL_BYTES:
        try:
            return _small.pop()
        except IndexError:
            return aligned(_SMALL_BYTES)
    with _lock[0]:
        best, least = -1, 0
        # A call like the last one finds its own blocks at once.
        for i in range(len(_kept) - 1, -1, -1):
            held = _kept[i][0]
            if held >= size and (best < 0 or held < least):
                best, least = i, held
                if held == size:
                    break
        if best >= 0:
            _held[0] -= least
            return _kept.pop(best)[1]
    return aligned(size)


def give_back(*blocks: Block) -> None:
    """Keep blocks that are no longer used; the oldest kept make room for them."""
    for block in blocks:
        size = block[0].nbytes
        if size > _SMALL_BYTES:
            with _lock[0]:
                _kept.append((size, block))
                _held[0] += size
                while _held[0] > _KEPT_BYTES or len(_kept) > _KEPT_BLOCKS:
                    _held[0] -= _kept.pop(0)[0]
        elif len(_small) < _KEPT_BLOCKS:
            _small.append(block)


def forget() -> None:
    """Let go of all that is kept."""
    _small.clear()
    with _lock[0]:
        _kept.clear()
        _held[0] = 0


def _in_child() -> None:
    """After a fork nobody here holds the lock, whatever its state and that of what it guards."""
    _lock[0] = threading.Lock()
    _held[0] = sum(size for size, _ in _kept)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
