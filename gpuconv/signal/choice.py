"""Which method a convolution takes, and the lags of a correlation."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gpuconv import arrays, dispatch
from gpuconv.api import make_call
from gpuconv.signal.engine import adopt, is_foreign, outputs_of

if TYPE_CHECKING:
    from gpuconv.signal.engine import Array

__all__ = ["choose_conv_method", "correlation_lags", "least_time"]


def correlation_lags(in1_len: int, in2_len: int, mode: str = "full") -> Array:
    """Return the lag that each element of a 1-d correlation stands for.

    Parameters
    ----------
    in1_len, in2_len : int
        Lengths of the two signals.
    mode : {"full", "same", "valid"}
        That of the call of `correlate`.

    Returns
    -------
    array of int

    Raises
    ------
    ValueError
        For another mode.

    Examples
    --------
    >>> from gpuconv import signal
    >>> signal.correlation_lags(4, 3)
    array([-2, -1,  0,  1,  2,  3])
    """
    if mode == "full":
        return np.arange(-in2_len + 1, in1_len)
    if mode == "same":
        middle = (in1_len + in2_len - 1) // 2 - in2_len + 1
        return np.arange(middle - in1_len // 2, middle + (in1_len + 1) // 2)
    if mode == "valid":
        bound = in1_len - in2_len
        return np.arange(bound + 1) if bound >= 0 else np.arange(bound, 1)
    raise ValueError(f"Mode {mode} is invalid; valid are 'full', 'same' and 'valid'")


def choose_conv_method(in1: Any, in2: Any, mode: str = "full", measure: bool = False) -> Any:
    """Return the method that `convolve` and `correlate` would take for ``method="auto"``.

    Parameters
    ----------
    in1, in2 : array_like
        Of equal rank.
    mode : {"full", "same", "valid"}
    measure : bool
        Time both methods instead of asking the cost model.

    Returns
    -------
    method : {"fft", "direct"}
        "fft" where a transform-domain algorithm is cheapest.
    times : dict
        Seconds of each method, only with `measure`.

    Raises
    ------
    ValueError
        For an unknown `mode` or an empty array.

    Examples
    --------
    >>> import numpy as np
    >>> from gpuconv import signal
    >>> signal.choose_conv_method(np.ones(100), np.ones(5))
    'direct'
    """
    volume, kernel = adopt(in1, in2)
    if mode not in ("full", "same", "valid"):
        raise ValueError(f"mode={mode!r}: Acceptable mode flags are 'valid', 'same', or 'full'")
    if not volume.size or not kernel.size:
        raise ValueError(f"in1 has shape {volume.shape} and in2 {kernel.shape}; neither may be empty")
    if measure:
        from gpuconv.signal.convolution import convolve

        def timed(method: str) -> float:
            return least_time(lambda: convolve(volume, kernel, mode=mode, method=method))

        times = {"fft": timed("fft"), "direct": timed("direct")}
        return min(times, key=lambda name: times[name]), times
    return _cheapest(volume, kernel, mode)


def _cheapest(a: Array, b: Array, mode: str) -> Literal["fft", "direct"]:
    dtype = np.result_type(a, b)
    if is_foreign(a, b) or dtype.kind not in "fc" or a.ndim != b.ndim or not 1 <= a.ndim <= 3:
        return "direct"
    x, w = (a, b) if a.size >= b.size else (b, a)
    pairs = []
    for n, k, s1, s2 in zip(x.shape, w.shape, a.shape, b.shape, strict=True):
        output = outputs_of(mode, s1, s2)
        before = k - 1 - output.start
        pairs.append((before, output.size - n - before + k - 1))
    geometry = (1, tuple(pairs), 0, 1, 1, "zeros", "channels_first")
    call = make_call("forward", a.ndim, (1, 1, *x.shape), (1, 1, *w.shape), None, dtype.name, geometry, "high")
    chosen = dispatch.choose(call, arrays.home(a)).__name__.rpartition(".")[2]
    return "fft" if chosen == "fft" else "direct"


def least_time(function: Callable[[], object]) -> float:
    """Return the seconds of the fastest of a few calls; of one alone where that takes long."""
    best, spent = float("inf"), 0.0
    while spent < 20e-3:
        start = time.perf_counter()
        function()
        elapsed = time.perf_counter() - start
        best, spent = min(best, elapsed), spent + elapsed
    return best
