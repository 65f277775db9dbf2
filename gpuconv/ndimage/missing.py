"""Missing elements: NaN and masks, left out of a filter's sums by selection."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv import arrays
from gpuconv.ndimage.engine import store

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpuconv.ndimage.precision import How

    Array = NDArray[Any]

__all__ = ["check_missing", "present", "run_present"]

_ZERO_SUM = 1e-8
"""Sum of weights, beside the sum of their magnitudes, from which on down it is taken for zero."""


def check_missing(nan: Any, mask: Any, x: Array, weight_sums: Callable[[], tuple[Any, Any]]) -> Array | None:
    """Return the mask as an array where the input lies, or None; raise for arguments that do not fit.

    Parameters
    ----------
    nan, mask : see the public functions
    x : array
    weight_sums : callable
        Returns the sum of the filter's weights and of their magnitudes, or one of each for the filters of a bank.

    Raises
    ------
    ValueError
        For an unknown `nan`, a mask of another shape than the input's, or weights that sum to zero and cannot be
        renormalised.
    """
    if nan not in (None, "interpolate", "zero"):
        raise ValueError(f"nan={nan!r} is unknown; valid are None, 'interpolate' and 'zero'")
    found: Array | None = None
    if mask is not None:
        if arrays.home(mask) == "cuda":
            arrays.check_same_memory("mask", mask, x)
        found = arrays.workable(mask, x)
        if found.shape != x.shape:
            raise ValueError(f"mask has shape {found.shape}; it must have the input's: {x.shape}")
    if nan == "interpolate" or (nan is None and mask is not None):
        total, magnitude = weight_sums()
        if np.any(np.abs(total) <= _ZERO_SUM * magnitude):
            raise ValueError(
                f"{'mask' if nan is None else f'nan={nan!r}'}: the weights sum to {total}, so sums of a part of them "
                "cannot be scaled to the whole; nan='zero' takes missing elements for 0"
            )
    return found


def present(x: Array, nan: str | None, mask: Array | None, cval: Any) -> Array | None:
    """Return which elements of the input are there, or None where all are, and the outside `cval` is no NaN."""
    if nan is None and mask is None:
        return None
    there = np.ones(x.shape, bool, like=x) if nan is None or x.dtype.kind not in "fcV" else ~np.isnan(x)
    if mask is not None:
        there &= ~mask.astype(bool)
    return None if there.all() and not np.isnan(cval) else there


def run_present(
    x: Array, there: Array, total: Any, nan: str | None, cval: Any, output: Array, how: How,
    run: Callable[[Array, Array, Any, How], Any],
) -> None:  # fmt: skip
    """Run a filter on the elements that are there.

    ``nan="zero"`` takes the others for 0. Otherwise each sum is divided by the same sum over ones where an element is
    there, and multiplied by the weights' total: a mean over what is there. Both are summed without a transform, whose
    error would show where few elements are. Where none is, the result is NaN, or 0 in integers.

    `run` runs the filter on an array into an array, given `cval` and how.
    """
    # An outside of NaN is missing too.
    outside_is_there = not np.isnan(cval)
    cval = cval if outside_is_there else 0.0
    filled = np.where(there, x, np.zeros((), x.dtype))
    if nan == "zero":
        run(filled, output, cval, how)
        return
    part = how.sums(x.dtype, output.dtype, is_long=True)
    how = how._replace(dtype=part.name, precision="highest")
    wide = np.result_type(part, np.complex64)
    sums = np.empty(output.shape, wide if output.dtype.kind == "c" else part, like=x)
    weights = np.empty(output.shape, wide if np.iscomplexobj(total) else part, like=x)
    source = wide if x.dtype.kind == "c" else part
    run(filled.astype(source), sums, cval, how)
    run(there.astype(part), weights, float(outside_is_there), how)
    with np.errstate(divide="ignore", invalid="ignore"):
        result = sums / weights * total
    np.copyto(result, np.nan if output.dtype.kind in "fcV" else 0, where=weights == 0)
    store(output, result)
