"""The public functions, `plan` and `explain`; one `run` for all of them."""

from gpuconv.api.convolution import conv1d, conv2d, conv3d
from gpuconv.api.engine import make_call, run
from gpuconv.api.families import public
from gpuconv.api.planning import Plan, explain, plan
from gpuconv.api.transposed import conv_transpose1d, conv_transpose2d, conv_transpose3d

__all__ = [
    "Plan",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "explain",
    "make_call",
    "plan",
    "public",
    "run",
]
