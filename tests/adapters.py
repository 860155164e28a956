"""Adapters of every kind on tiny models, what they mean by definition, and what libraries make of
them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from tiny_model import tiny_llama
from tokenizers.pre_tokenizers import ByteLevel

from speakeasy.weights.adapters import Adapter, target_names
from speakeasy.weights.gguf_llama import smollm_tokenizer

VOCABULARY = 300
LAYERS = 3
TOKENS = np.array([[5, 17, 250, 3, 99, 42, 7, 0, 61, 200, 13, 128]])
EMBEDDING = "model.embed_tokens"
HEAD = "lm_head"


def model_with_tokenizer(path: Path, *, tied: bool = True) -> Path:
    """Tiny Llama with a byte-level tokenizer, since mlx_lm.load loads that too."""
    tiny_llama(path, vocab_size=VOCABULARY, layers=LAYERS, tied=tied)
    tensors = load_file(path / "model.safetensors")
    # Larger than at initialisation, so that a wrong scale or transpose shows in the logits.
    larger = {name: t * 6 if t.ndim == 2 else t for name, t in tensors.items()}
    save_file(larger, path / "model.safetensors", metadata={"format": "pt"})
    tokens = ["<|end|>", *sorted(ByteLevel.alphabet())]
    smollm_tokenizer(tokens, [], tokens[:1]).save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}'
    )
    return path


def random_adapter(
    matrices: Mapping[str, tuple[int, int]],
    modules: Iterable[str],
    *,
    r: int = 4,
    alpha: float = 16.0,
    ranks: Mapping[str, int] | None = None,
    alphas: Mapping[str, float] | None = None,
    rslora: bool = False,
    dora: bool = False,
    seed: int = 0,
    **fields: Any,
) -> Adapter:
    """An adapter as after training, of some of a model's ``weight_matrices``."""
    modules, ranks, alphas = list(modules), dict(ranks or {}), dict(alphas or {})
    generator = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return (0.1 * generator.standard_normal(shape)).astype(np.float32)

    tensors = {}
    for module in modules:
        rows, columns = matrices[module]
        rank = ranks.get(module, r)
        if module == EMBEDDING:
            tensors[f"{module}.lora_embedding_A"] = draw(rank, rows)
            tensors[f"{module}.lora_embedding_B"] = draw(columns, rank)
            continue
        tensors[f"{module}.lora_A.weight"] = draw(rank, columns)
        tensors[f"{module}.lora_B.weight"] = draw(rows, rank)
        if dora:
            tensors[f"{module}.lora_magnitude_vector"] = 1 + draw(rows)
    return Adapter(
        tensors=tensors,
        r=r,
        alpha=alpha,
        rslora=rslora,
        targets=target_names(matrices, modules),
        ranks={m: rank for m, rank in ranks.items() if rank != r},
        alphas={m: value for m, value in alphas.items() if value != alpha},
        **{"dropout": 0.05, "base": "tiny", **fields},
    )


def assert_same(found: Adapter, expected: Adapter) -> None:
    """Every field, and every bit of the tensors."""
    assert set(found.tensors) == set(expected.tensors)
    for name, tensor in expected.tensors.items():
        assert found.tensors[name].dtype == np.float32
        assert found.tensors[name].shape == tensor.shape
        assert found.tensors[name].tobytes() == tensor.tobytes(), name
    for field in Adapter.__dataclass_fields__:
        if field != "tensors":
            assert getattr(found, field) == getattr(expected, field), field


def merged(adapter: Adapter, module: str, weight: np.ndarray) -> np.ndarray:
    """A module's weight with the adapter in it, by the definitions of LoRA and DoRA, in float64."""
    names = ("lora_embedding_A", "lora_embedding_B") if module == EMBEDDING else (
        "lora_A.weight", "lora_B.weight"
    )  # fmt: skip
    a, b = (adapter.tensors[f"{module}.{name}"].astype(np.float64) for name in names)
    r, alpha = len(a), adapter.alphas.get(module, adapter.alpha)
    change = alpha / (math.sqrt(r) if adapter.rslora else r) * (b @ a)
    changed = weight + (change.T if module == EMBEDDING else change)
    magnitude = adapter.tensors.get(f"{module}.lora_magnitude_vector")
    if magnitude is None:
        return changed
    return changed * (magnitude / np.linalg.norm(changed, axis=1))[:, None]


def merged_logits(model: Path, adapter: Adapter | None) -> np.ndarray:
    """Logits of the base with the adapter merged into its weights."""
    import torch
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model)
    modules = list(adapter.modules) if adapter else []
    follows = bool(adapter and adapter.head_follows and base.config.tie_word_embeddings)
    if {EMBEDDING, HEAD} & set(modules) and not follows:
        base.lm_head.weight = torch.nn.Parameter(base.lm_head.weight.detach().clone())
    for module in modules:
        weight = base.get_submodule(module).weight
        new = merged(adapter, module, weight.detach().numpy().astype(np.float64))
        weight.data = torch.from_numpy(new).float()
        if module == EMBEDDING and follows:
            base.lm_head.weight = weight
    with torch.no_grad():
        return base(torch.from_numpy(TOKENS)).logits.numpy()


def selected_by_mlx_lm(directory: Path, matrices: Iterable[str], layers: int = LAYERS) -> set[str]:
    """The modules to which mlx-lm's ``linear_to_lora_layers`` would give LoRA, by its rule."""
    config = json.loads((directory / "adapter_config.json").read_text())
    keys = config["lora_parameters"].get("keys")
    first = layers - config["num_layers"] if config["num_layers"] > 0 else 0
    chosen = set()
    for module in matrices:
        parts = module.split(".")
        if keys is not None and module in keys:
            chosen.add(module)
        elif module.startswith("model.layers.") and int(parts[2]) >= first:
            chosen |= {module} if keys is None or ".".join(parts[3:]) in keys else set()
    return chosen
