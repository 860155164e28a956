"""The MLX backend: Apple Silicon, or MLX's CPU build on Linux.

On Linux the wheel brings a reference BLAS that computes float32 products some eighty times
slower than OpenBLAS. If the system has OpenBLAS it is loaded first, with its symbols global, so
that MLX's own calls reach it. And MLX evaluates a graph breadth first, up to 20 operations wide, so
that chunks of logits which could follow one another are alive together; on a CPU, which runs them
one by one, depth first takes up to half a gigabyte less and no longer. On a Mac nothing of this
happens.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

OPENBLAS = "libopenblas.so.0"

openblas_loaded = False
"""True when a system OpenBLAS serves MLX's matrix products."""

if sys.platform == "linux":
    os.environ.setdefault("MLX_BFS_MAX_WIDTH", "1")
    if "mlx.core" not in sys.modules:
        with contextlib.suppress(OSError):
            ctypes.CDLL(OPENBLAS, mode=ctypes.RTLD_GLOBAL)
            openblas_loaded = True
