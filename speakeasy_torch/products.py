"""Products with a weight matrix, by whichever of torch's libraries is quick on this CPU.

torch multiplies float32 with Intel's MKL, which keeps its best code for Intel's CPUs. On AMD's,
oneDNN, which torch brings too, does a training step's shapes at 0.98 to 1.76 times its rate, most
where a short inner dimension meets many outputs (``python -m benchmarks.products``).
The choice is the CPU's maker's, not a measurement's, so that the same run gives the same numbers.

Shapes: M positions, I inputs, O outputs.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import torch
from torch.nn.functional import linear

LEAST_ROWS = 64
"""Below, putting the weights in oneDNN's order costs more than it gains: generation."""


def product(
    hidden_MI: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None
) -> torch.Tensor:
    """``hidden @ weight.T + bias``, (M, O); without a gradient, for autograd functions."""
    if (
        hidden_MI.dtype is weight_OI.dtype is torch.float32
        and hidden_MI.device.type == "cpu"
        and len(hidden_MI) >= LEAST_ROWS
        and prefers_onednn()
    ):
        return onednn_product(hidden_MI, weight_OI, bias_O)
    return linear(hidden_MI, weight_OI, bias_O)


def onednn_product(
    hidden_MI: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None
) -> torch.Tensor:
    """The same by oneDNN: float32, on the CPU."""
    return torch.ops.mkldnn._linear_pointwise(hidden_MI, weight_OI, bias_O, "none", [], "")


@cache
def prefers_onednn() -> bool:
    """Whether this is an AMD CPU and torch has oneDNN's product, an operator of its compiler's."""
    return (
        torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and _cpu_maker() == "AuthenticAMD"
    )


def _cpu_maker() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor().rpartition(" ")[2]  # Windows: "... , AuthenticAMD"
    return next((line.split()[-1] for line in lines if line.startswith("vendor_id")), "")
