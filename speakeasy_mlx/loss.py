"""Cross-entropy at the targets only, a chunk of them at a time.

With a vocabulary of 128k the logits are the largest thing in memory. Here loss and gradients are
computed together, in the forward pass, while a chunk's logits are at hand, and nothing of the
vocabulary's size is kept (the idea of Liger Kernel's fused linear cross-entropy,
https://arxiv.org/abs/2410.10989). What the backward pass then needs is as small as the hidden
states, and as the rows of the head that are trained; only a head that is trained whole has a
gradient of its own size.

Shapes: N targets, D width, V vocabulary, R trained rows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import mlx.core as mx

from speakeasy_mlx.lean import exp
from speakeasy_mlx.trail import mark

CHUNK_BYTES = 64 * 2**20
"""Size that one chunk's float32 logits may have."""


def chunk_rows(vocabulary: int) -> int:
    """How many targets to score at once, so that their float32 logits fit CHUNK_BYTES."""
    return max(32, CHUNK_BYTES // (4 * vocabulary))


Head = Callable[[mx.array], mx.array]
TargetLosses = Callable[..., mx.array]


def _chunk_losses(head: Head, hidden_ND: mx.array, labels_N: mx.array) -> tuple[mx.array, mx.array]:
    """Losses_N, and the probabilities_NV that they were made of, exponentials taken once."""
    logits_NV = head(hidden_ND).astype(mx.float32)
    picked_N = mx.take_along_axis(logits_NV, labels_N[:, None], axis=1)[:, 0]
    largest_N1 = logits_NV.max(axis=1, keepdims=True)
    exponentials_NV = exp(logits_NV - largest_N1)
    sum_N1 = exponentials_NV.sum(axis=1, keepdims=True)
    losses_N = (mx.log(sum_N1) + largest_N1)[:, 0] - picked_N
    return losses_N, exponentials_NV / sum_N1


def _chunk_error(
    head: Head, hidden_ND: mx.array, labels_N: mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    """Losses_N, the error_NV in the logits, and the gradient_ND of the losses' sum."""
    losses_N, probabilities_NV = _chunk_losses(head, hidden_ND, labels_N)
    rows = mx.arange(labels_N.shape[0])
    error_NV = probabilities_NV.at[rows, labels_N].add(-1.0)
    _, (gradient_ND,) = mx.vjp(head, [hidden_ND], [error_NV.astype(hidden_ND.dtype)])
    mark(hidden_ND, losses_N, gradient_ND)
    return losses_N, error_NV, gradient_ND


def _chunks(count: int, vocabulary: int) -> list[slice]:
    step = chunk_rows(vocabulary)
    return [slice(start, start + step) for start in range(0, count, step)]


def make_target_loss(head: Head, vocabulary: int, ids_R: mx.array | None = None) -> TargetLosses:
    """The function (hidden_ND, labels_N) -> summed loss, float32 nats, for a frozen head.

    Differentiable in ``hidden_ND``. With ``ids_R`` it takes a third argument, the trained values
    rows_RD that the head holds already in these rows, and is differentiable in them, too.
    """

    @mx.custom_function
    def with_gradient(
        hidden_ND: mx.array, labels_N: mx.array, *rows: mx.array
    ) -> tuple[mx.array, ...]:
        losses, gradients, row_gradients = [], [], []
        for part in _chunks(len(labels_N), vocabulary):
            losses_N, error_NV, gradient_ND = _chunk_error(head, hidden_ND[part], labels_N[part])
            losses.append(losses_N.sum())
            gradients.append(gradient_ND)
            if ids_R is not None:
                row_gradients.append(error_NV[:, ids_R].T @ hidden_ND[part].astype(mx.float32))
        kept = [reduce(mx.add, row_gradients)] if row_gradients else []
        return reduce(mx.add, losses), mx.concatenate(gradients), *kept

    @with_gradient.vjp
    def backward(primals: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, ...]:
        upstream = cotangents[0]
        hidden_ND, labels_N, *rows = primals
        gradient_ND = outputs[1] * upstream.astype(hidden_ND.dtype)
        return gradient_ND, mx.zeros_like(labels_N), *(outputs[2] * upstream for _ in rows)

    def target_loss(hidden_ND: mx.array, labels_N: mx.array, *rows: mx.array) -> mx.array:
        outputs: Any = with_gradient(hidden_ND, labels_N, *rows)
        return outputs[0]

    return target_loss


def make_trained_head_loss(vocabulary: int) -> TargetLosses:
    """The function (hidden_ND, labels_N, head_VD) -> summed loss, differentiable in hidden states
    and head."""

    @mx.custom_function
    def with_gradient(
        hidden_ND: mx.array, labels_N: mx.array, head_VD: mx.array
    ) -> tuple[mx.array, ...]:
        def head(part_ND: mx.array) -> mx.array:
            return part_ND @ head_VD.T

        losses, gradients, head_gradient = [], [], mx.zeros_like(head_VD)
        for part in _chunks(len(labels_N), vocabulary):
            losses_N, error_NV, gradient_ND = _chunk_error(head, hidden_ND[part], labels_N[part])
            losses.append(losses_N.sum())
            gradients.append(gradient_ND)
            head_gradient = head_gradient + error_NV.T @ hidden_ND[part]
        return reduce(mx.add, losses), mx.concatenate(gradients), head_gradient

    @with_gradient.vjp
    def backward(primals: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, ...]:
        upstream = cotangents[0]
        return outputs[1] * upstream, mx.zeros_like(primals[1]), outputs[2] * upstream

    def target_loss(hidden_ND: mx.array, labels_N: mx.array, head_VD: mx.array) -> mx.array:
        outputs: Any = with_gradient(hidden_ND, labels_N, head_VD)
        return outputs[0]

    return target_loss


def log_sums(head: Head, vocabulary: int, hidden_ND: mx.array, ids_K: mx.array) -> mx.array:
    """Log_sums_N, float32: of the exponentials of all logits but those of ``ids_K``."""
    sums = []
    for part in _chunks(len(hidden_ND), vocabulary):
        logits_NV = head(hidden_ND[part]).astype(mx.float32)
        logits_NV[:, ids_K] = -mx.inf
        sums.append(mx.logsumexp(logits_NV, axis=1))
        mx.eval(sums[-1])
    return mx.concatenate(sums)


def losses_without_gradient(
    head: Head, vocabulary: int, hidden_ND: mx.array, labels_N: mx.array
) -> mx.array:
    """Losses_N, float32 nats, a chunk at a time, each evaluated before the next is begun."""
    losses = []
    for part in _chunks(len(labels_N), vocabulary):
        losses.append(_chunk_losses(head, hidden_ND[part], labels_N[part])[0])
        mx.eval(losses[-1])
    return mx.concatenate(losses)
