"""The PyTorch backend: CUDA, or the CPU where there is none."""

from __future__ import annotations

import logging

# On some CPUs bitsandbytes, which PEFT imports, recommends a package that would fetch kernels.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
