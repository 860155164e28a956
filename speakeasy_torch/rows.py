"""Trained rows of frozen embedding and output matrices.

The values are parameters of their own; the frozen matrices always hold a copy of them, so that
generation and scoring need to know nothing of it. Only a training step does: it looks the trained
tokens up in the parameters, where a gradient can reach them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from speakeasy.weights.trained_rows import EMBEDDING, HEAD, SUFFIX, TrainedRows


class Rows:
    """The trained rows of one model.

    Attributes:
        parameters: canonical name -> parameter (R, D), float32.
        ids_R: token ids, int64.
    """

    def __init__(self, model: Any, rows: TrainedRows) -> None:
        self._embedding_VD = model.get_input_embeddings().weight
        self._head_VD = model.get_output_embeddings().weight
        device = self._embedding_VD.device
        self.ids_R = torch.from_numpy(rows.ids).to(device)
        self._places_V = np.full(len(self._embedding_VD), -1, dtype=np.int64)
        self._places_V[rows.ids] = np.arange(len(rows.ids))
        self.parameters = {
            name: torch.nn.Parameter(torch.from_numpy(values.copy()).to(device))
            for name, values in rows.tensors().items()
        }
        self.write()

    @property
    def head_RD(self) -> torch.Tensor:
        """The output rows: the input rows themselves where one matrix serves both ends."""
        return self.parameters.get(HEAD + SUFFIX, self.parameters[EMBEDDING + SUFFIX])

    def embed(self, tokens_M: np.ndarray) -> torch.Tensor:
        """Hidden_MD of tokens, differentiable in the trained rows."""
        device = self._embedding_VD.device
        hidden_MD = self._embedding_VD[torch.from_numpy(tokens_M.astype(np.int64)).to(device)]
        places_M = self._places_V[tokens_M]
        trained = np.flatnonzero(places_M >= 0)
        values = self.parameters[EMBEDDING + SUFFIX][torch.from_numpy(places_M[trained]).to(device)]
        return hidden_MD.index_copy(
            0, torch.from_numpy(trained).to(device), values.to(hidden_MD.dtype)
        )

    @torch.no_grad()
    def write(self) -> None:
        """Copy the present values into the frozen matrices."""
        self._embedding_VD[self.ids_R] = self.parameters[EMBEDDING + SUFFIX].to(
            self._embedding_VD.dtype
        )
        if self._head_VD is not self._embedding_VD:
            self._head_VD[self.ids_R] = self.head_RD.to(self._head_VD.dtype)
