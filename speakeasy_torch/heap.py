"""Giving memory back to the system between steps, on the CPU.

Rows have segments of ever different lengths, so each step asks for blocks of other sizes than the
last one left free, and glibc's heap grows by what fits nowhere: half as much again within six steps
of the starter model in bfloat16. Trimmed after each step it stays as it was after the first.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache


def trim_heap() -> None:
    """Return free pages to the system, where the C library can (glibc; Linux alone has it)."""
    if trim := _malloc_trim():
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
