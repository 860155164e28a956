"""Adapters as plain PEFT and plain mlx-lm load them, for comparison with our own figures."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from speakeasy.batches.render import render_all
from speakeasy.data.dataset import load_conversations
from speakeasy.weights.hub import load_tokenizer

Logits = Callable[[np.ndarray], np.ndarray]
"""tokens_BT -> logits_BTV."""


def with_peft(model: Path, adapter: Path) -> Logits:
    """The model as transformers and PEFT load it."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT 0.21 with transformers 5.23
        adapted = PeftModel.from_pretrained(base, adapter).eval()

    def logits(tokens_BT: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return adapted(input_ids=torch.from_numpy(tokens_BT.astype(np.int64))).logits.numpy()

    return logits


def with_mlx_lm(model: Path, adapter: Path) -> Logits:
    """The model as mlx-lm loads it."""
    import speakeasy_mlx  # noqa: F401  (loads OpenBLAS first where there is one)
    import mlx.core as mx  # isort: skip
    from mlx_lm import load

    adapted, _ = load(str(model), adapter_path=str(adapter))
    return lambda tokens_BT: np.array(adapted(mx.array(tokens_BT.astype(np.int32))))


LOADERS: dict[str, Callable[[Path, Path], Logits]] = {"torch": with_peft, "mlx": with_mlx_lm}


def library_loss(logits: Logits, model: Path, file: Path) -> float:
    """Nats a target over the conversations of a file, one by one, from whole logits."""
    items = render_all(load_tokenizer(model), load_conversations([file]), 512).items
    nats, count = 0.0, 0
    for item in items:
        logits_TV = logits(item.tokens_T[None])[0].astype(np.float64)
        logits_TV -= logits_TV.max(axis=1, keepdims=True)
        logits_TV -= np.log(np.exp(logits_TV).sum(axis=1, keepdims=True))
        targets = np.flatnonzero(item.is_target_T)
        nats -= logits_TV[targets - 1, item.tokens_T[targets]].sum()
        count += len(targets)
    return nats / count
