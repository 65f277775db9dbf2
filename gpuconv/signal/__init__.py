"""SciPy's convolution functions: the names, signatures and semantics of `scipy.signal`, gpuconv's kernels below.

Differences from SciPy:

- ``method="direct"`` rules out transform-domain algorithms; ``"fft"`` and ``"auto"``, and `fftconvolve` and
  `oaconvolve`, leave the choice to the cost model, which takes a direct sum where that is sooner.
- Integers are exact whatever the method, wrapping around as NumPy's do.
- A NaN or infinity reaches only the outputs whose sum holds it.
- float32 is computed in float32, float16 and bfloat16 too.
- ``boundary="reflect"``, which SciPy takes and treats as "fill", is an error.

Keyword-only additions, whose defaults are SciPy's behaviour: `axes`, with broadcasting along the others, `step`,
`precision` (for `convolve` and `correlate` that is `method`), `backend` and `out`.
"""

from __future__ import annotations

from gpuconv.signal.choice import choose_conv_method, correlation_lags
from gpuconv.signal.convolution import convolve, correlate, fftconvolve, oaconvolve
from gpuconv.signal.planes import convolve2d, correlate2d

__all__ = [
    "choose_conv_method",
    "convolve",
    "convolve2d",
    "correlate",
    "correlate2d",
    "correlation_lags",
    "fftconvolve",
    "oaconvolve",
]
