"""Memory that a call needs for its own time. It is kept for later calls: the first touch of a new page is slow."""

from __future__ import annotations

import ctypes
import os
import threading
from typing import Any

import numpy as np

__all__ = ["LINE", "address_of", "aligned", "first_line", "forget", "give_back", "take"]

Block = tuple[np.ndarray[Any, Any], int]
"""Bytes that begin on a cache line, and their address."""

LINE = 64
_KEPT_BYTES = 128 << 20
_KEPT_BLOCKS = 32
_kept: list[Block] = []
_SMALL_BYTES = 32 << 10
_small: list[Block] = []
"""Blocks of `_SMALL_BYTES`: a small call has no time to look for the block that fits it best, nor for a lock."""
_lock = [threading.Lock()]


_HEAD = object.__basicsize__
"""An array's memory address follows the head that every object begins with: `PyArrayObject_fields` of NumPy's ABI."""


def address_of(array: np.ndarray[Any, Any]) -> int:
    """Return the address of an array's first element; ``ctypes.data`` and the like build an object of many parts."""
    return ctypes.c_int64.from_address(id(array) + _HEAD).value


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
        fitting = [(block[0].nbytes, i) for i, block in enumerate(_kept) if block[0].nbytes >= size]
        if fitting:
            return _kept.pop(min(fitting)[1])
    return aligned(size)


def give_back(*blocks: Block) -> None:
    """Keep blocks that are no longer used; the oldest kept make room for them."""
    large = []
    for block in blocks:
        if block[0].nbytes > _SMALL_BYTES:
            large.append(block)
        elif len(_small) < _KEPT_BLOCKS:
            _small.append(block)
    if not large:
        return
    with _lock[0]:
        _kept.extend(large)
        held = sum(block[0].nbytes for block in _kept)
        while held > _KEPT_BYTES or len(_kept) > _KEPT_BLOCKS:
            held -= _kept.pop(0)[0].nbytes


def forget() -> None:
    """Let go of all that is kept."""
    _small.clear()
    with _lock[0]:
        _kept.clear()


def _in_child() -> None:
    """After a fork nobody here holds the lock, whatever its state."""
    _lock[0] = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
