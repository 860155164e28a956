"""Cross-entropy at the targets only, a chunk of them at a time.

With a vocabulary of 128k the logits are the largest thing in memory. Here loss and gradients are
computed together, in the forward pass, while a chunk's logits are at hand, and nothing of the
vocabulary's size is kept (the idea of Liger Kernel's fused linear cross-entropy,
https://arxiv.org/abs/2410.10989). What the backward pass then needs is as small as the hidden
states, and as the rows of the head that are trained; only a head that is trained whole has a
gradient of its own size. On CUDA, Liger Kernel does a chunk of a frozen head (``liger``).

Shapes: N targets, D width, V vocabulary, R trained rows.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from speakeasy_torch import liger
from speakeasy_torch.products import product

CHUNK_BYTES = 64 * 2**20
"""Size that one chunk's float32 logits may have."""


def chunk_rows(targets: int, vocabulary: int) -> int:
    """How many targets to score at once, so that their float32 logits fit CHUNK_BYTES.

    Chunks are of one size: a short last one would be a slow product.
    """
    most = max(32, CHUNK_BYTES // (4 * vocabulary))
    return math.ceil(targets / math.ceil(targets / most)) if targets else most


class _TargetLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        head_VD: torch.Tensor,
        labels_N: torch.Tensor,
        rows_RD: torch.Tensor | None,
        ids_R: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        wants_hidden, wants_head, _, wants_rows, _ = ctx.needs_input_grad
        hidden_grad_ND = torch.empty_like(hidden_ND) if wants_hidden else None
        head_grad_VD = torch.zeros_like(head_VD, dtype=torch.float32) if wants_head else None
        rows_grad_RD = torch.zeros_like(rows_RD) if wants_rows and rows_RD is not None else None
        wants_any = wants_hidden or wants_head or wants_rows
        losses_N = torch.empty(len(labels_N), dtype=torch.float32, device=hidden_ND.device)
        step = chunk_rows(len(labels_N), head_VD.shape[0])
        for start in range(0, len(labels_N), step):
            part = slice(start, start + step)
            logits_NV = product(hidden_ND[part], head_VD)
            if not wants_head and not wants_rows and liger.serves(logits_NV):
                losses_N[part] = liger.losses_and_errors(logits_NV, labels_N[part], wants_any)
                if hidden_grad_ND is not None:
                    hidden_grad_ND[part] = logits_NV @ head_VD
                continue
            logits_NV = logits_NV.float()
            labels = labels_N[part, None]
            picked_N1 = logits_NV.gather(1, labels)
            # In place, and each exponential once: error = exp(logits - largest) / their sum - 1.
            largest_N1 = logits_NV.amax(dim=1, keepdim=True)
            error_NV = logits_NV.sub_(largest_N1).exp_()
            sum_N1 = error_NV.sum(dim=1, keepdim=True)
            losses_N[part] = (sum_N1.log() + largest_N1 - picked_N1)[:, 0]
            if not wants_any:
                continue
            error_NV.div_(sum_N1)
            error_NV.scatter_add_(1, labels, -torch.ones_like(labels, dtype=torch.float32))
            if hidden_grad_ND is not None:
                hidden_grad_ND[part] = error_NV.to(head_VD.dtype) @ head_VD
            if rows_grad_RD is not None:
                rows_grad_RD += error_NV[:, ids_R].T @ hidden_ND[part].float()
            if head_grad_VD is not None:
                head_grad_VD.addmm_(error_NV.T, hidden_ND[part].float())
        ctx.save_for_backward(hidden_grad_ND, head_grad_VD, rows_grad_RD)
        ctx.mark_non_differentiable(losses_N)
        return losses_N.sum(), losses_N

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor, _: torch.Tensor) -> tuple[Any, ...]:
        hidden, head, rows = (
            None if gradient is None else gradient.mul_(upstream.to(gradient.dtype))
            for gradient in ctx.saved_tensors
        )
        return hidden, head, None, rows, None


def log_sums(hidden_ND: torch.Tensor, head_VD: torch.Tensor, ids_K: torch.Tensor) -> torch.Tensor:
    """Log_sums_N, float32: of the exponentials of all logits but those of ``ids_K``."""
    step = chunk_rows(len(hidden_ND), head_VD.shape[0])
    sums = [
        product(part_ND, head_VD).float().index_fill_(1, ids_K, -torch.inf).logsumexp(dim=1)
        for part_ND in hidden_ND.split(step)
    ]
    return torch.cat(sums)


def target_losses(
    hidden_ND: torch.Tensor,
    head_VD: torch.Tensor,
    labels_N: torch.Tensor,
    rows_RD: torch.Tensor | None = None,
    ids_R: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed loss and losses_N, float32 nats, of each label under ``hidden_ND @ head_VD.T``.

    The sum is differentiable in ``hidden_ND``, in ``head_VD`` where that is trained, and in
    ``rows_RD``; losses_N is for looking at.

    Args:
        rows_RD: trained values, which ``head_VD`` holds already in its rows ``ids_R``.
    """
    return _TargetLoss.apply(hidden_ND, head_VD, labels_N, rows_RD, ids_R)
