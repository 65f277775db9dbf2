"""What a new process pays: the import, and the first call with and without kernels on disk."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

_FIRST_CALL = """
import numpy as np, gpuconv
gpuconv.conv2d(np.ones((1, 3, 16, 16), np.float32), np.ones((4, 3, 3, 3), np.float32), padding=1)
"""


class Import:
    """The import, beside NumPy's."""

    def timeraw_gpuconv(self) -> str:
        return "import gpuconv"

    def timeraw_numpy(self) -> str:
        return "import numpy"


class ColdStart:
    """The import and the first call where no kernel was compiled before."""

    timeout = 600
    number = 1

    def timeraw_first_call(self) -> str:
        fresh = "import os, tempfile\nkept = tempfile.TemporaryDirectory()\nos.environ['NUMBA_CACHE_DIR'] = kept.name\n"
        return fresh + _FIRST_CALL


class WarmStart:
    """The same where an earlier process left its kernels on disk."""

    timeout = 600
    number = 1

    def setup(self) -> None:
        """Let another process compile the kernels."""
        self.cache = tempfile.TemporaryDirectory()
        environment = {**os.environ, "NUMBA_CACHE_DIR": self.cache.name}
        subprocess.run([sys.executable, "-c", _FIRST_CALL], env=environment, check=True)

    def teardown(self) -> None:
        """Remove the kernels."""
        self.cache.cleanup()

    def timeraw_first_call(self) -> str:
        return f"import os\nos.environ['NUMBA_CACHE_DIR'] = {self.cache.name!r}\n" + _FIRST_CALL
