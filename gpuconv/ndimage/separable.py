"""What every filter that works axis by axis does, once its passes are known."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.ndimage.arguments import check_cval, finish, prepare_output
from gpuconv.ndimage.missing import check_missing, present, run_present
from gpuconv.ndimage.passes import Passes, passes_shape, run_passes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpuconv.ndimage.precision import How

    Array = NDArray[Any]

__all__ = ["filter_passes"]


def filter_passes(
    input: Any, x: Array, whole: Passes, output: Any, cval: Any, nan: str | None, mask: Any, how: How,
    out: Any, *, promotes: int = 0,
) -> Array:  # fmt: skip
    """Check what is left to check, run the passes on the adopted input `x`, and return the result."""
    passes = whole.each
    weights = passes[0].weights if passes else None
    check_cval(cval, x, weights)
    is_complex = "c" in (x.dtype.kind, "" if weights is None else weights.dtype.kind)

    def sums() -> tuple[Any, Any]:
        parts = [(step.weights.sum(), np.abs(step.weights).sum()) for step in passes]
        return math.prod(part for part, _ in parts), math.prod(size for _, size in parts)

    mask = check_missing(nan, mask, x, sums)
    result = prepare_output(
        output, x, passes_shape(whole, x.shape), is_complex=is_complex and bool(passes or promotes), promotes=promotes,
        out=out,
    )  # fmt: skip
    there = present(x, nan, mask, cval)
    if there is None:
        run_passes(x, whole, cval, result, how)
    else:
        total = sums()[0] / math.prod(step.divisor for step in passes)
        run_present(x, there, total, nan, cval, result, how, lambda a, y, c, h: run_passes(a, whole, c, y, h))
    return finish(result, output, out, input)
