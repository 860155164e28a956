"""Cross-entropy at the targets only, a chunk of them at a time.

With a vocabulary of 128k the logits are the largest thing in memory. Here the head is frozen,
so all that the backward pass needs is the gradient of the hidden states, which is as small as
they are; it is computed in the forward pass while a chunk's logits are at hand, and nothing of
the vocabulary's size is kept (the idea of Liger Kernel's fused linear cross-entropy,
https://arxiv.org/abs/2410.10989).

Shapes: N targets, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

CHUNK_BYTES = 64 * 2**20
"""Size that one chunk's float32 logits may have."""


def chunk_rows(vocabulary: int) -> int:
    """How many targets to score at once, so that their float32 logits fit CHUNK_BYTES."""
    return max(32, CHUNK_BYTES // (4 * vocabulary))


Head = Callable[[mx.array], mx.array]


def _chunk_losses(head: Head, hidden_ND: mx.array, labels_N: mx.array) -> tuple[mx.array, mx.array]:
    """Losses_N, and the probabilities_NV that they were made of, exponentials taken once."""
    logits_NV = head(hidden_ND).astype(mx.float32)
    picked_N = mx.take_along_axis(logits_NV, labels_N[:, None], axis=1)[:, 0]
    largest_N1 = logits_NV.max(axis=1, keepdims=True)
    exponentials_NV = mx.exp(logits_NV - largest_N1)
    sum_N1 = exponentials_NV.sum(axis=1, keepdims=True)
    losses_N = (mx.log(sum_N1) + largest_N1)[:, 0] - picked_N
    return losses_N, exponentials_NV / sum_N1


def _chunk_gradient(
    head: Head, hidden_ND: mx.array, labels_N: mx.array
) -> tuple[mx.array, mx.array]:
    """Losses_N, and the gradient_ND of their sum."""
    losses_N, probabilities_NV = _chunk_losses(head, hidden_ND, labels_N)
    rows = mx.arange(labels_N.shape[0])
    upstream_NV = probabilities_NV.at[rows, labels_N].add(-1.0).astype(hidden_ND.dtype)
    _, (gradient_ND,) = mx.vjp(head, [hidden_ND], [upstream_NV])
    return losses_N, gradient_ND


def _chunks(count: int, vocabulary: int) -> list[slice]:
    step = chunk_rows(vocabulary)
    return [slice(start, start + step) for start in range(0, count, step)]


def make_target_losses(head: Head, vocabulary: int) -> Callable[[mx.array, mx.array], mx.array]:
    """The function (hidden_ND, labels_N) -> losses_N, float32 nats, for a frozen head.

    Differentiable in ``hidden_ND`` alone.
    """

    @mx.custom_function
    def with_gradient(hidden_ND: mx.array, labels_N: mx.array) -> tuple[mx.array, mx.array]:
        pairs = [
            _chunk_gradient(head, hidden_ND[part], labels_N[part])
            for part in _chunks(len(labels_N), vocabulary)
        ]
        losses, gradients = zip(*pairs, strict=True)
        return mx.concatenate(list(losses)), mx.concatenate(list(gradients))

    @with_gradient.vjp
    def backward(primals: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, mx.array]:
        hidden_ND, labels_N = primals
        gradient_ND = outputs[1] * cotangents[0][:, None].astype(hidden_ND.dtype)
        return gradient_ND, mx.zeros_like(labels_N)

    def target_losses(hidden_ND: mx.array, labels_N: mx.array) -> mx.array:
        outputs: Any = with_gradient(hidden_ND, labels_N)
        return outputs[0]

    return target_losses


def losses_without_gradient(
    head: Head, vocabulary: int, hidden_ND: mx.array, labels_N: mx.array
) -> mx.array:
    """Losses_N, float32 nats, a chunk at a time, each evaluated before the next is begun."""
    losses = []
    for part in _chunks(len(labels_N), vocabulary):
        losses.append(_chunk_losses(head, hidden_ND[part], labels_N[part])[0])
        mx.eval(losses[-1])
    return mx.concatenate(losses)
