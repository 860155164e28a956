"""The starter model with one adapter in both formats: the same logits from both libraries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters import EMBEDDING, HEAD, assert_same, random_adapter
from libraries import with_mlx_lm, with_peft

from speakeasy.weights.adapters import Adapter, read_adapter, write_peft
from speakeasy.weights.checkpoint import read_tensor, tensor_index, weight_matrices
from speakeasy.weights.convert import convert
from speakeasy.weights.hub import resolve_model
from speakeasy.weights.tied import split_head

pytestmark = [
    pytest.mark.starter,
    # peft 0.21 asks transformers 5.23 by a name that it has since changed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),
]

TOKENS = np.array([[1, 4093, 198, 19556, 28, 638, 359, 346, 47, 2, 198, 1]])


@pytest.mark.parametrize("kind", ["patterns", "dora"])
def test_both_libraries_say_the_same(tmp_path: Path, kind: str) -> None:
    model = resolve_model("starter")
    matrices = weight_matrices(model.path)
    inner = [m for m in matrices if m not in (EMBEDDING, HEAD) and not m.endswith("k_proj")]
    fields: dict[str, Any] = {"rslora": True, "alpha": 4.0, "r": 8, "base": "starter"}
    if kind == "patterns":
        attention = [m for m in inner if "self_attn" in m]
        fields |= {"ranks": dict.fromkeys(attention, 4), "head_follows": True}
        adapter = random_adapter(matrices, [EMBEDDING, *inner], **fields)
    else:
        adapter = with_lengths_of(
            model.path, random_adapter(matrices, inner[::2], dora=True, **fields)
        )
    write_peft(split_head(adapter, tied=True), tmp_path / "peft")
    done = convert(tmp_path / "peft", tmp_path / "mlx", "mlx", base=model)
    assert done.difference < 1e-6
    convert(tmp_path / "mlx", tmp_path / "back", "peft", base=model)
    one, back = (read_adapter(tmp_path / name) for name in ("peft", "back"))
    assert_same(back, one)
    expected = with_peft(model.path, tmp_path / "peft")(TOKENS)
    found = with_mlx_lm(model.path, tmp_path / "mlx")(TOKENS)
    assert np.abs(bare_logits(model.path) - expected).max() > 1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


def with_lengths_of(model: Path, adapter: Adapter) -> Adapter:
    """Magnitudes near the lengths of the base's rows, as training leaves them."""
    stored, tensors = tensor_index(model), dict(adapter.tensors)
    for module in adapter.modules:
        name = f"{module}.lora_magnitude_vector"
        weight = read_tensor(stored[f"{module}.weight"]).astype(np.float32)
        tensors[name] = (tensors[name] * np.linalg.norm(weight, axis=1)).astype(np.float32)
    return replace(adapter, tensors=tensors)


def bare_logits(model: Path) -> np.ndarray:
    import torch
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        return base(torch.from_numpy(TOKENS)).logits.numpy()
