"""Peak memory of the process: a kernel that copies or unrolls its input shows here."""

from __future__ import annotations

from .common import ALGORITHMS, IMAGES, NETWORKS, VOLUMES, OverProblems


class Memory(OverProblems):
    """Peak resident memory with the arrays made and the kernel compiled."""

    problems = NETWORKS | IMAGES | VOLUMES
    params = (
        ALGORITHMS,
        ["stem 7x7 stride 2", "3x3, batch 8", "3x3 on 2048x2048", "15x15 on 1024x1024", "3x3x3 on 128x128x128"],
    )

    def peakmem_call(self, *_: str) -> None:
        self.call()
