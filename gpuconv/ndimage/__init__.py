"""SciPy's linear filters: the names, signatures and semantics of `scipy.ndimage`, gpuconv's kernels below.

Differences from SciPy:

- Filters of single precision are summed in float32 where that stays within a bound: `gpuconv.ndimage.precision` is the
  policy. float16 and bfloat16 are taken; by `gpuconv.ndimage.gaussian_filter` with ``dtype="same"`` only.
- Zero weights multiply too, so a NaN or infinity reaches every output whose weights lie over it.
- Floats that an integer output cannot hold wrap around; in SciPy the processor decides. An integer result whose exact
  value is whole may be one less in SciPy or here: rounding differs, and the fraction is cut. Gaussians are never less.

Arrays in a GPU's memory (CuPy's, torch's, Numba's) are filtered there, and results are of their kind.

Keyword-only additions, whose defaults are SciPy's behaviour: `step`, `bank`, `nan` and `mask`, `dtype`, `precision`,
`backend`, `out`; and the mode "valid".

The border "reflect" is SciPy's here: d c b a | a b c d. (In `gpuconv.conv2d` it is torch's: d c b | a b c d.)
"""

from __future__ import annotations

from gpuconv.ndimage.correlation import convolve, convolve1d, correlate, correlate1d
from gpuconv.ndimage.derivatives import (
    gaussian_gradient_magnitude,
    generic_gradient_magnitude,
    prewitt,
    sobel,
)
from gpuconv.ndimage.laplacians import gaussian_laplace, generic_laplace, laplace
from gpuconv.ndimage.smoothing import gaussian_filter, gaussian_filter1d, uniform_filter, uniform_filter1d

__all__ = [
    "convolve",
    "convolve1d",
    "correlate",
    "correlate1d",
    "gaussian_filter",
    "gaussian_filter1d",
    "gaussian_gradient_magnitude",
    "gaussian_laplace",
    "generic_gradient_magnitude",
    "generic_laplace",
    "laplace",
    "prewitt",
    "sobel",
    "uniform_filter",
    "uniform_filter1d",
]
