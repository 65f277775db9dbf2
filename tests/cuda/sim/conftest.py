"""The tests of this folder run in Numba's simulator, in the process that `tests/cuda/test_simulator.py` starts."""

import numba

collect_ignore_glob = [] if numba.config.ENABLE_CUDASIM else ["test_*.py"]
