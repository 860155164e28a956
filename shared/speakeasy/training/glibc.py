"""The C library's heap, where that is glibc: Linux, and not musl."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

ARENA_MAX = -8
"""``M_ARENA_MAX`` of malloc.h."""


@cache
def glibc() -> Any:
    """The library; None where another one allocates."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None


def share_one_heap() -> None:
    """Have threads that are started from now on allocate from one heap: of their own ones each
    would keep what only it can use again."""
    if library := glibc():
        library.mallopt(ARENA_MAX, 1)
