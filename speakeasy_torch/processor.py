"""What suits this machine's CPU: how many threads, and whether bfloat16. Measured, once a process.

torch takes a thread for every core that it sees. In a container whose share of the machine is
smaller, or beside another busy program, fewer threads are faster. And float32 is the fastest type
of most CPUs, but not of those that multiply bfloat16 in hardware (AVX-512 BF16, AMX, some ARM).
"""

from __future__ import annotations

import os
from functools import cache

import torch

from speakeasy.training.rate import best_rate
from speakeasy_torch.products import product

SHAPE = (512, 576, 1536)
"""Rows, inputs, outputs of the product that is timed: one of a small model's step."""
SECONDS = 0.06
"""How long a product goes on, each of the two times that it is timed."""
THREADS_GAIN = 1.2
"""How many times faster another number of threads must be before it is taken."""
BFLOAT16_GAIN = 1.3
"""How many times faster bfloat16 must be: it costs digits."""


@cache
def settle_threads() -> int:
    """Set torch's number of threads to the fastest found, unless OMP_NUM_THREADS says it.

    Tried are torch's own number, its half, and so on. Every number is timed twice, in turns.
    """
    most = torch.get_num_threads()
    if most == 1 or "OMP_NUM_THREADS" in os.environ:
        return most
    counts = [most >> halvings for halvings in range(most.bit_length())]
    rates = dict.fromkeys(counts, 0.0)
    for _ in range(2):
        for count in counts:
            torch.set_num_threads(count)
            rates[count] = max(rates[count], _rate(torch.float32))
    chosen = fastest(rates, most)
    torch.set_num_threads(chosen)
    return chosen


def fastest(rates: dict[int, float], usual: int) -> int:
    """The number of threads with the highest rate; ``usual`` if that is hardly slower."""
    best = max(rates, key=lambda count: rates[count])
    return best if rates[best] > THREADS_GAIN * rates[usual] else usual


@cache
def prefers_bfloat16() -> bool:
    """Whether products are faster in bfloat16 than in float32.

    False without a measurement where torch knows that its library cannot, or is told to make do
    with AVX2 (``ATEN_CPU_CAPABILITY=avx2``).
    """
    if torch.backends.cpu.get_cpu_capability() == "AVX2" or not _has_bfloat16():
        return False
    settle_threads()
    rates = [(_rate(torch.bfloat16), _rate(torch.float32)) for _ in range(2)]
    narrow, wide = (max(column) for column in zip(*rates, strict=True))
    return narrow > BFLOAT16_GAIN * wide


def _has_bfloat16() -> bool:
    known = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return known is not None and bool(known())


@torch.no_grad()
def _rate(kind: torch.dtype) -> float:
    rows, inputs, outputs = SHAPE
    hidden, weight = torch.ones(rows, inputs, dtype=kind), torch.ones(outputs, inputs, dtype=kind)
    return best_rate(lambda: product(hidden, weight), 2 * rows * inputs * outputs, SECONDS)
