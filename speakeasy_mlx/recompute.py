"""Blocks whose activations are computed again in the backward pass."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn


def recompute_layers(model: Any) -> None:
    """Recompute each block's activations in the backward pass.

    mlx-lm's trainer patches the block's class for all models in the process; here only these
    blocks get a class of their own.
    """
    kinds = {type(layer): _checkpointed(type(layer)) for layer in model.layers}
    for layer in model.layers:
        layer.__class__ = kinds[type(layer)]


def _checkpointed(kind: Any) -> type:
    def recomputed(block: nn.Module, *arguments: Any, **options: Any) -> Any:
        def call(parameters: Any, *arguments: Any, **options: Any) -> Any:
            block.update(parameters)
            return kind.__call__(block, *arguments, **options)

        return mx.checkpoint(call)(block.trainable_parameters(), *arguments, **options)

    return type(kind.__name__, (kind,), {"__call__": recomputed})
