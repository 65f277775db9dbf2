"""The record that tells the Winograd kernels of a call, and how one compiled function calls another of them."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from gpuconv.backends.cpu.records import record, record_at

__all__ = ["CALL", "FUSED", "INPUTS", "PRODUCTS", "WEIGHTS", "call_at", "run_at"]

CALL = record(
    # the arrays, the bytes between neighbours along each of their axes, and the transformed weights and inputs
    "x xn xc xz xy xx y yn yc yz yy yx w wg wo wc wz wy wx bias fill u v stage "
    # functions: products of any form, and the transforms of one
    "multiply transform_weights transform_inputs write_outputs "
    # products of a tile along y and x; channels and outputs of one group; vectors of channels, in all parts, in one and
    # in a chunk that is summed apart
    "products_y products_x channels outputs vectors part_vectors chunk groups "
    # the kernel's parts: their number and the address of their first taps (z, y, x); parts that share y and x are a
    # section: how many, and the address of what is made of each
    "parts first_taps parts_together sections kernel_z kernel_y kernel_x "
    "tap_step_y tap_step_x stride_z stride_y stride_x "
    # border: mode, the range of inputs that negative padding leaves, the padding before
    "mode low_z low_y low_x size_z size_y size_x pad_z pad_y pad_x dilation_z dilation_y dilation_x "
    # outputs: runs that begin to read at the same input, outputs of a run, those in all, those of the first run to skip
    "out_z out_y out_x runs_y runs_x wide_y wide_x skipped_y skipped_x "
    # tiles of runs along an image; blocks of tiles, of which each has whole units of neighbours in a row
    "tiles_y tiles_x blocks units unit units_x "
    # tile rows whose outputs are written together
    "written "
    # bytes: of scratch parts, of what is repeated
    "in_pitch columns_offset columns_pitch v_offset m_offset pixels_offset edge_offset u_offset taps_offset "
    "v_step v_block m_step m_phase u_step u_block u_group u_scratch_step"
)
"""One call; the fields up to `stage` belong to the caller's arrays and the stage.

An image is a plane of outputs: each depth has its own."""

WEIGHTS, INPUTS, PRODUCTS, FUSED = range(4)

call_at = record_at(CALL)


@intrinsic
def run_at(typingctx: Any, function: Any, arguments: Any) -> Any:
    """Call the compiled function at an address with integers.

    What is called so is compiled once by itself, and not again into each of its callers.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = ir.IntType(64)
        kind = ir.FunctionType(ir.VoidType(), [number] * len(arguments))
        values = [
            context.cast(builder, value, of, types.int64)
            for value, of in zip(cgutils.unpack_tuple(builder, args[1]), arguments, strict=True)
        ]
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), values)
        return context.get_dummy_value()

    return types.void(types.int64, arguments), codegen
