"""Trained rows of frozen embedding and output matrices.

The values are parameters of their own; the frozen matrices always hold a copy of them, so that
generation and scoring need to know nothing of it. Only a training step does: it looks the trained
tokens up in the parameters, where a gradient can reach them.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from speakeasy.weights.trained_rows import EMBEDDING, HEAD, SUFFIX, TrainedRows

NAMES = {"embedding": EMBEDDING + SUFFIX, "head": HEAD + SUFFIX}
"""Parameter -> its canonical name."""


class Rows(nn.Module):
    """The trained rows of one model.

    Attributes:
        embedding, head: the values (R, D), float32; no ``head`` where one matrix serves both ends.
    """

    def __init__(self, model: Any, rows: TrainedRows) -> None:
        super().__init__()
        self._matrices = {"embedding": model.model.embed_tokens}
        if rows.head is not None:
            self._matrices["head"] = model.lm_head
        self._ids_R = mx.array(rows.ids.astype(np.int32))
        self._places_V = np.full(model.args.vocab_size, -1, dtype=np.int32)
        self._places_V[rows.ids] = np.arange(len(rows.ids))
        self.put(rows.tensors())

    @property
    def ids_R(self) -> mx.array:
        """Token ids, int32."""
        return self._ids_R

    @property
    def head_RD(self) -> mx.array:
        """The output rows: the input rows themselves where one matrix serves both ends."""
        return self["head"] if "head" in self else self["embedding"]

    def put(self, tensors: dict[str, np.ndarray]) -> None:
        """Take values over, by canonical name."""
        for parameter in self._matrices:
            self[parameter] = mx.array(tensors[NAMES[parameter]])
        self.write()

    def places(self, tokens_M: np.ndarray) -> mx.array:
        """Which row each token is, int32; -1 for a token whose row is not trained."""
        return mx.array(self._places_V[tokens_M])

    def embed(self, tokens_M: mx.array, places_M: mx.array) -> mx.array:
        """Hidden_MD of tokens, differentiable in the trained rows."""
        hidden_MD = mx.stop_gradient(self._matrices["embedding"](tokens_M))
        values_MD = self["embedding"][mx.maximum(places_M, 0)].astype(hidden_MD.dtype)
        return mx.where(places_M[:, None] >= 0, values_MD, hidden_MD)

    def write(self) -> None:
        """Copy the present values into the frozen matrices."""
        for parameter, matrix in self._matrices.items():
            weight = matrix.weight
            # Nobody else may hold the old array, or MLX would copy it instead of writing to it.
            del matrix["weight"]
            weight[self._ids_R] = self[parameter].astype(weight.dtype)
            matrix.weight = weight
            mx.eval(matrix.weight)
