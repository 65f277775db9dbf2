"""SciPy's linear filters: the names, signatures and semantics of `scipy.ndimage`, gpuconv's kernels below.

Differences from SciPy, all in precision: float32 input with float32 output is computed in float32 (SciPy converts
to float64), float16 and bfloat16 are taken, and computed in float32; everything else is computed in float64. Zero
weights multiply too, so a NaN or infinity reaches every output whose weights lie over it.

The border "reflect" is SciPy's here: d c b a | a b c d. (In `gpuconv.conv2d` it is torch's: d c b | a b c d.)
"""

from __future__ import annotations

from gpuconv.ndimage.correlation import convolve, convolve1d, correlate, correlate1d
from gpuconv.ndimage.derivatives import (
    gaussian_gradient_magnitude,
    gaussian_laplace,
    generic_gradient_magnitude,
    generic_laplace,
    laplace,
    prewitt,
    sobel,
)
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
