"""Cross-entropy at the targets only, a chunk of them at a time.

With a vocabulary of 128k the logits are the largest thing in memory. Here the head's rows are
frozen, so all that the backward pass needs is the gradient of the hidden states, which is as
small as they are; it is computed in the forward pass while a chunk's logits are at hand, and
nothing of the vocabulary's size is kept (the idea of Liger Kernel's fused linear cross-entropy,
https://arxiv.org/abs/2410.10989).

Shapes: N targets, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch

CHUNK_BYTES = 64 * 2**20
"""Size that one chunk's float32 logits may have."""


def chunk_rows(vocabulary: int) -> int:
    """How many targets to score at once, so that their float32 logits fit CHUNK_BYTES."""
    return max(32, CHUNK_BYTES // (4 * vocabulary))


class _TargetLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: torch.Tensor, head_VD: torch.Tensor, labels_N: torch.Tensor
    ) -> torch.Tensor:
        wants_gradient = ctx.needs_input_grad[0]
        gradient_ND = torch.empty_like(hidden_ND) if wants_gradient else None
        losses_N = torch.empty(len(labels_N), dtype=torch.float32, device=hidden_ND.device)
        step = chunk_rows(head_VD.shape[0])
        for start in range(0, len(labels_N), step):
            part = slice(start, start + step)
            logits_NV = (hidden_ND[part] @ head_VD.T).float()
            labels = labels_N[part, None]
            log_sum_N = logits_NV.logsumexp(dim=1)
            losses_N[part] = log_sum_N - logits_NV.gather(1, labels)[:, 0]
            if gradient_ND is not None:
                probabilities_NV = logits_NV.sub_(log_sum_N[:, None]).exp_()
                probabilities_NV.scatter_add_(
                    1, labels, -torch.ones_like(labels, dtype=torch.float32)
                )
                gradient_ND[part] = probabilities_NV.to(head_VD.dtype) @ head_VD
        if gradient_ND is not None:
            ctx.save_for_backward(gradient_ND)
        return losses_N

    @staticmethod
    def backward(ctx: Any, upstream_N: torch.Tensor) -> tuple[Any, ...]:
        (gradient_ND,) = ctx.saved_tensors
        return gradient_ND * upstream_N[:, None].to(gradient_ND.dtype), None, None


def target_losses(
    hidden_ND: torch.Tensor, head_VD: torch.Tensor, labels_N: torch.Tensor
) -> torch.Tensor:
    """Losses_N, float32 nats, of each label under the logits ``hidden_ND @ head_VD.T``.

    Differentiable in ``hidden_ND`` alone; ``head_VD`` counts as frozen.
    """
    return _TargetLoss.apply(hidden_ND, head_VD, labels_N)
