"""The weights of a call, packed for `direct`, `gemm` and `blocked`: what the compiled kernel is told."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.backends.cpu import direct_weights, threads
from gpuconv.backends.cpu.memory import address_of

if TYPE_CHECKING:
    from gpuconv.dispatch import Call

    Array = np.ndarray[Any, Any]

__all__ = ["PACK_CYCLES", "Packing"]

PACK_CYCLES = 0.8
"""To pack a weight: a line from a last-level cache and one back are sixteen."""
_ALONE = 20_000
"""Elements that are packed sooner than a second thread hears of them."""
_SLICE = 10**8
"""Elements that are packed between two moments at which a call can be interrupted."""


class Packing:
    """How a call's weights become [phase][group][block of rows][channel][tap][row].

    Parameters
    ----------
    call : Call
    record : numpy record
        Has the real `channels` and `outputs` of a group and `groups`.
    phases : array of `direct_kernels.PHASE`
        Their `w_offset`, `w_group_bytes` and `tap_count` place the packed weights.
    elements : int
        Of the packed weights.
    codes : tuple of int
        Of the real weights and of the packed ones.
    rows : int
        Of a block.
    is_padded : bool
        Whether the last block has as many rows as the others; if not, blocks are `direct_kernels.block_rows`'s, of
        `direct_kernels.ROWS`.
    """

    def __init__(
        self,
        call: Call,
        record: Any,
        phases: Array,
        elements: int,
        codes: tuple[int, int],
        rows: int,
        is_padded: bool,
    ) -> None:
        self.forward, self.is_forward = call.problem, call.operation == "forward"
        self.problem = problem = call.problem if self.is_forward else call.problem.adjoint()
        self.phases = phases  # which the record points to
        self.elements, self.kind = elements, (*codes, rows, is_padded)
        combinations = [list(itertools.product(*(axis.taps for axis in phase))) for phase in problem.all_phases]
        # Kernel positions of all phases' taps, one phase after the other.
        self.taps = np.array([[t for t, _ in taps] for phase in combinations for taps in phase], np.int64)
        self.taps.shape = (-1, problem.rank)
        self.first_taps = 8 * np.cumsum([0, *map(len, combinations[:-1])])
        blocks = -(-int(record["outputs"]) // rows)
        self.tasks = problem.groups * blocks
        self.slice_tasks = max(1, _SLICE * self.tasks // max(elements, 1))
        self._tap_tables: dict[tuple[int, ...], tuple[Array, Array, int]] = {}
        packing = np.zeros((), direct_weights.PACKING)
        for name in ("channels", "outputs", "groups"):
            packing[name] = record[name]
        packing["is_complex"], packing["conjugate"] = call.is_complex, call.operation == "input_gradient"
        packing["phases"], packing["phase_count"] = address_of(phases), len(phases)
        packing["blocks"] = blocks
        self.words = packing.reshape(1).view(np.int64)

    def pack(self, w: Array, to: Array) -> Array:
        """Return the bytes `to` with the packed weights in them."""
        outputs, channels, *spatial = w.strides
        address, group = address_of(w), outputs * (self.forward.out_channels // self.forward.groups)
        if not self.is_forward:
            # The adjoint exchanges the channel axes within a group and turns the kernel around.
            outputs, channels = channels, outputs
            address += sum((k - 1) * stride for k, stride in zip(self.problem.kernel, spatial, strict=True))
            spatial = [-stride for stride in spatial]
        table = self._tap_table(tuple(spatial))
        words = self.words.copy()
        words[:7] = (address, group, outputs, channels, w.itemsize // 2, address_of(to), table[2])
        kernel = direct_weights.weight_packing(*self.kind)
        threads.run(kernel, words, self.tasks, 64, self.slice_tasks, alone=self.elements < _ALONE)
        return to

    def _tap_table(self, strides: tuple[int, ...]) -> tuple[Array, Array, int]:
        """Return all phases' tap offsets in weights of these strides, the phases' addresses, and the address of those.

        Kept for the strides of earlier calls; the caller holds the tuple for as long as it uses the address.
        """
        found = self._tap_tables.get(strides)
        if found is None:
            offsets = self.taps @ np.array(strides, np.int64)
            tables = self.first_taps + address_of(offsets)
            found = (offsets, tables, address_of(tables))
            if len(self._tap_tables) < 8:
                self._tap_tables[strides] = found
        return found
