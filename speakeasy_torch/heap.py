"""Keeping freed memory between the operations of a step, on the CPU.

glibc hands a large block back to the system when it is freed, and the next operation's output costs
a page fault for every 4 kB: a quarter of a step's time on the starter model. So blocks stay on the
heap. Rows have segments of ever different lengths, each step asks for blocks of other sizes than
the last one left free, and the heap would grow by what fits nowhere: so its free pages are handed
back together when the process has grown; what it takes in the step after that is its new measure.
"""

from __future__ import annotations

import psutil

from speakeasy.training.glibc import glibc, share_one_heap

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # malloc.h
_NEVER = 2**31 - 1
_TOP_PAD_BYTES = 64 * 2**20
GROWTH = 1.1
"""How much larger than after its first step, or the first since a trim, the process may become
before its heap is trimmed."""


class Heap:
    """The C library's heap, where that is glibc; else it does nothing."""

    def __init__(self) -> None:
        self._library, self._process, self._first = glibc(), psutil.Process(), 0
        if self._library:
            self._library.mallopt(_MMAP_MAX, 0)
            share_one_heap()
            self._library.mallopt(_TRIM_THRESHOLD, _NEVER)
            self._library.mallopt(_TOP_PAD, _TOP_PAD_BYTES)

    def end_step(self) -> None:
        """Hand free pages back to the system if there are many more than after the first step."""
        if not self._library:
            return
        size = self._process.memory_info().rss
        self._first = self._first or size
        if size > GROWTH * self._first:
            self._library.malloc_trim(0)
            self._first = 0
