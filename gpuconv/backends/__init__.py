"""One folder a backend, one file an algorithm.

The package is also the function `gpuconv.backends()`: importing a backend binds the package's
name in `gpuconv`, where the function of that name would otherwise be lost.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpuconv.config import Backends


class _CallablePackage(ModuleType):
    def __call__(self) -> Backends:
        """Return each backend: available here, or the reason why not (see `gpuconv.config.backends`)."""
        from gpuconv.config import backends

        return backends()


sys.modules[__name__].__class__ = _CallablePackage
