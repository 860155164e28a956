"""Cross-entropy of a chunk's logits by Liger Kernel's Triton kernel, where that is installed.

It reads the logits twice and writes their gradient in their place, in their own type; torch's
operations take a float32 copy and seven passes. The kernel is called as Liger Kernel's own fused
loss calls it, since the functions around it wait for the device and round losses to the logits'
type. It was compared under Triton's interpreter, and has not run on a GPU.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from typing import Any

import torch

MOST_COLUMNS = 32_768
"""That are read at once, as Liger Kernel has it."""


def serves(logits_NV: torch.Tensor) -> bool:
    """Whether the kernel is there for the device that the logits are on."""
    return logits_NV.is_cuda and kernel() is not None


def losses_and_errors(
    logits_NV: torch.Tensor, labels_N: torch.Tensor, errors: bool
) -> torch.Tensor:
    """Losses_N, float32 nats; the gradient in the logits takes their place where ``errors``."""
    losses_N = torch.empty(len(labels_N), dtype=torch.float32, device=logits_NV.device)
    arguments = _arguments(logits_NV, labels_N, losses_N, errors)
    found: Any = kernel()
    found[(len(labels_N),)](
        **{name: value for name, value in arguments.items() if name in found.arg_names},
        num_warps=32,
    )
    return losses_N


@cache
def kernel() -> Any:
    """Liger Kernel's, or None: not installed, or of a version that asks for something else."""
    if any(importlib.util.find_spec(name) is None for name in ("triton", "liger_kernel")):
        return None
    try:
        module = importlib.import_module("liger_kernel.ops.cross_entropy")
        found = module.liger_cross_entropy_kernel
    except (ImportError, AttributeError):
        return None
    example = torch.zeros(1, 1)
    known = _arguments(example, torch.zeros(1, dtype=torch.int64), example[0], errors=False)
    return found if set(found.arg_names) <= set(known) else None


def _arguments(
    logits_NV: torch.Tensor, labels_N: torch.Tensor, losses_N: torch.Tensor, errors: bool
) -> dict[str, Any]:
    """All that the kernel of any version so far takes; what is off here is off."""
    columns = logits_NV.shape[1]
    return {
        "X_ptr": logits_NV,
        "X_stride": logits_NV.stride(0),
        "Y_ptr": labels_N,
        "Y_stride": labels_N.stride(0),
        "weight_ptr": None,
        "loss_ptr": losses_N,
        "z_loss_ptr": None,
        "loss_stride": losses_N.stride(0),
        "token_accuracy_ptr": None,
        "token_accuracy_stride": 0,
        "predicted_tokens_ptr": None,
        "predicted_tokens_stride": 0,
        "n_cols": columns,
        "n_non_ignore": len(labels_N),
        "sum_non_ignore_weight": len(labels_N),
        "weight_sum": 0.0,
        "ignore_index": -100,
        "lse_square_scale": 0.0,
        "label_smoothing": 0.0,
        "reduction": "none",
        "softcap": None,
        "RETURN_Z_LOSS": False,
        "RETURN_TOKEN_ACCURACY": False,
        "RETURN_PREDICTED_TOKENS": False,
        "BLOCK_SIZE": min(MOST_COLUMNS, 1 << (columns - 1).bit_length()),
        "HAS_WEIGHT": False,
        "HAS_SOFTCAPPING": False,
        "HAS_GRADIENTS": errors,
    }
