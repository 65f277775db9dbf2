"""Cost constants and tile sizes by device class: data only, each with its provenance.

A cost is ``overhead + flops / rate + bytes / bandwidth`` seconds. Rates are per core for the
CPU (the device's thread count multiplies them) and per device for CUDA.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CPU_COSTS", "CUDA_COSTS", "Cost"]


class Cost(NamedTuple):
    """Constants of one algorithm on one class of device."""

    overhead: float
    """Seconds of a call that does nothing."""
    flops: float
    """Floating-point operations a second that a large problem reaches."""
    bandwidth: float
    """Bytes a second read and written by a problem that computes little."""


CPU_COSTS: dict[str, dict[int, Cost]] = {
    "direct": {
        # vector width in bits -> constants
        512: Cost(15e-6, 100e9, 4e9),
        256: Cost(15e-6, 50e9, 4e9),
        128: Cost(15e-6, 20e9, 3e9),
    },
}

CUDA_COSTS: dict[str, Cost] = {
    # Not measured: no GPU has run this backend yet. Orders of magnitude only, so that the order of the rows is sane.
    "direct": Cost(50e-6, 2e12, 300e9),
}
