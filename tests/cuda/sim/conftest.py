"""The tests of this folder run in Numba's simulator, in the process that `tests/cuda/test_simulator.py` starts."""

import sys
from pathlib import Path

import numba

collect_ignore_glob = [] if numba.config.ENABLE_CUDASIM else ["*.py"]

if numba.config.ENABLE_CUDASIM:
    sys.path.insert(0, str(Path(__file__).parent))
    import strict

    strict.install()
