"""The PyTorch backend: CUDA, or the CPU where there is none."""

from __future__ import annotations

import logging
import os
import sys

# On some CPUs bitsandbytes, which PEFT imports, recommends a package that would fetch kernels.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def _import_peft() -> None:
    """Import PEFT, and with it bitsandbytes, without torch's compiler.

    bitsandbytes hands torch.compile the functions that it has no kernels for; no more than that
    imports the compiler, a fifth of the time from the command to the first step. So they stay as
    they are, which is what bitsandbytes does where they cannot be compiled.
    """
    switch = "TORCHDYNAMO_DISABLE"  # read by torch._dynamo.optimize
    if "bitsandbytes" in sys.modules or switch in os.environ:
        return
    os.environ[switch] = "1"
    try:
        import peft  # noqa: F401
    finally:
        del os.environ[switch]


_import_peft()
