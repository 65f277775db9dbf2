"""A problem's arguments as its callers write them: each made one value an axis, or refused in words for the user."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from gpuconv.errors import ShapeError, UnsupportedError

__all__ = [
    "LAYOUTS",
    "Ints",
    "Pairs",
    "check_groups",
    "check_rank",
    "check_shape",
    "forward_padding",
    "is_batched",
    "per_axis",
    "split_shape",
    "transposed_padding",
]

LAYOUTS = ("channels_first", "channels_last")

Ints = tuple[int, ...]
Pairs = tuple[tuple[int, int], ...]


def check_shape(name: str, shape: Sequence[int]) -> Ints:
    """Return a shape as a tuple of ints."""
    try:
        result = tuple(operator.index(n) for n in shape)
    except TypeError:
        raise ShapeError(f"the shape of {name} is {shape!r}; it must be a sequence of integers") from None
    if any(n < 0 for n in result):
        raise ShapeError(f"{name} has shape {result}; sizes must not be negative")
    return result


def check_rank(w_shape: Ints, wanted: int | None) -> int:
    """Return the number of spatial axes that weights have, which must be the one wanted where one is."""
    rank = len(w_shape) - 2
    if wanted is not None and rank != wanted:
        raise ShapeError(f"w has shape {w_shape}; it must have {wanted + 2} axes: two of channels and {wanted} spatial")
    if not 1 <= rank <= 3:
        raise ShapeError(f"w has shape {w_shape}; it must have 3 to 5 axes: two of channels and 1 to 3 spatial")
    for axis, k in enumerate(w_shape[2:]):
        if k < 1:
            raise ShapeError(f"w has shape {w_shape}: the kernel's size on axis {axis} is {k}, and must be at least 1")
    return rank


def is_batched(name: str, shape: Ints, rank: int) -> bool:
    """Return whether an array of a shape has a batch axis."""
    if len(shape) not in (rank + 1, rank + 2):
        raise ShapeError(
            f"{name} has shape {shape}: with {rank} spatial axes it must have {rank + 1} axes "
            f"or, with a batch, {rank + 2}"
        )
    return len(shape) == rank + 2


def split_shape(shape: Ints, batched: bool, layout: str) -> tuple[int, int, Ints]:
    """Return the batch, the channels and the spatial sizes of an array; 1 for a batch that it lacks."""
    if layout not in LAYOUTS:
        raise UnsupportedError(f"layout={layout!r} is unknown; valid are {', '.join(map(repr, LAYOUTS))}")
    batch, rest = (shape[0], shape[1:]) if batched else (1, shape)
    channels, spatial = (rest[0], rest[1:]) if layout == "channels_first" else (rest[-1], rest[:-1])
    if any(n < 1 for n in spatial):
        raise ShapeError(f"x has shape {shape}: its spatial sizes {spatial} must be at least 1")
    return batch, channels, spatial


def _integer(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise ShapeError(f"{name}={value!r} must be an integer") from None


def check_groups(groups: Any, channels: int) -> int:
    """Return the number of groups, which must divide the channels."""
    count = _integer("groups", groups)
    if count < 1:
        raise ShapeError(f"groups={count} must be at least 1")
    if channels % count:
        raise ShapeError(f"groups={count} must divide the input's {channels} channels")
    return count


def _has_entries(value: Any) -> bool:
    """Whether it is a sequence of some kind; a NumPy array of no axes has a length only in name."""
    return hasattr(value, "__len__") and getattr(value, "shape", None) != ()


def per_axis(name: str, value: Any, rank: int, least: int) -> Ints:
    """Return an argument as one int for each spatial axis."""
    if _has_entries(value) and not isinstance(value, str):
        entries = tuple(_integer(name, v) for v in value)
        if len(entries) == 1:
            entries *= rank
    else:
        entries = (_integer(name, value),) * rank
    if len(entries) != rank:
        raise ShapeError(
            f"{name}={value!r} has {len(entries)} entries; it must be an int or have one per spatial axis: {rank}"
        )
    if any(v < least for v in entries):
        raise ShapeError(f"{name}={value!r} must be at least {least}")
    return entries


def _pairs(padding: Any, rank: int) -> Pairs:
    """Normalise numeric padding to one (before, after) an axis."""
    if not _has_entries(padding):
        p = _integer("padding", padding)
        return ((p, p),) * rank
    entries = tuple(padding)
    if len(entries) != rank:
        hint = ""
        if rank == 1 and len(entries) == 2 and not any(hasattr(e, "__len__") for e in entries):
            hint = f"; for {entries[0]} before and {entries[1]} after write padding=(({entries[0]}, {entries[1]}),)"
        raise ShapeError(
            f"padding={padding!r} has {len(entries)} entries; it must have one per spatial axis, {rank}, "
            f"each an int or a pair (before, after){hint}"
        )
    pairs = []
    for entry in entries:
        if _has_entries(entry):
            if isinstance(entry, str) or len(entry) != 2:
                raise ShapeError(f"padding={padding!r}: {entry!r} must be an int or a pair (before, after)")
            pairs.append((_integer("padding", entry[0]), _integer("padding", entry[1])))
        else:
            p = _integer("padding", entry)
            pairs.append((p, p))
    return tuple(pairs)


def forward_padding(padding: Any, dilated: Ints, extent: Ints, stride: Ints) -> Pairs:
    """Return the (before, after) of each axis that a convolution's `padding` means."""
    rank = len(dilated)
    if not isinstance(padding, str):
        return _pairs(padding, rank)
    word = padding.lower()
    if word == "valid":
        return ((0, 0),) * rank
    if word == "causal":
        return tuple((e - 1, 0) for e in extent)
    if word in ("same", "same_lower"):
        pairs = []
        for n, e, s in zip(dilated, extent, stride, strict=True):
            total = max((-(-n // s) - 1) * s + e - n, 0)
            small, large = total // 2, total - total // 2
            pairs.append((small, large) if word == "same" else (large, small))
        return tuple(pairs)
    raise ShapeError(
        f"padding={padding!r} is unknown; valid are an int, one int or pair (before, after) per axis, "
        "'valid', 'same', 'same_lower' and 'causal'"
    )


def transposed_padding(padding: Any, extent: Ints, stride: Ints, extra: Ints) -> Pairs:
    """Return the (before, after) of each axis that a transposed convolution's `padding` cuts."""
    if isinstance(padding, str):
        word = padding.lower()
        if word == "valid":
            return ((0, 0),) * len(extent)
        if word == "same":
            if any(extra):
                raise ShapeError(
                    f"output_padding={extra} must be 0 with padding='same', which settles the output's size"
                )
            # The transpose of a forward "same": where the kernel is shorter than the stride the output ends in zeros,
            # which a negative padding at the end adds.
            return tuple((max(e - s, 0) // 2, e - s - max(e - s, 0) // 2) for e, s in zip(extent, stride, strict=True))
        raise ShapeError(
            f"padding={padding!r} is unknown for a transposed convolution; valid are an int, "
            "one int or pair (before, after) per axis, 'valid' and 'same'"
        )
    pairs = _pairs(padding, len(extent))
    if any(p < 0 or q < 0 for p, q in pairs):
        raise ShapeError(f"padding={padding!r} must not be negative for a transposed convolution")
    return pairs
