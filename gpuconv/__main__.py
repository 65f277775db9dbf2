"""`python -m gpuconv` is the command `gpuconv`."""

from __future__ import annotations

import sys

from gpuconv.cli import main

if __name__ == "__main__":
    sys.exit(main())
