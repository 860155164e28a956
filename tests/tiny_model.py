"""A tiny random Llama, written as a Hugging Face model directory with numpy alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from speakeasy.files import write_json


def tiny_llama(
    directory: Path,
    *,
    vocab_size: int,
    tied: bool = True,
    layers: int = 2,
    hidden: int = 32,
    intermediate: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    max_positions: int = 512,
    rope_theta: float = 50_000.0,
    eos_token_id: int | None = None,
    embedding_scale: float = 0.02,
    seed: int = 0,
) -> Path:
    """Write config.json, generation_config.json and model.safetensors; returns ``directory``.

    Matrices are drawn from N(0, 0.02) and norms are 1, as transformers initialises Llama. With
    embeddings so small an adapter can hardly move the logits: a test that is to learn something
    passes an ``embedding_scale`` of 0.2 or so. The
    theta is not the default, so a backend that ignores it is found out.
    """
    directory.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, scale: float = 0.02) -> np.ndarray:
        return (scale * generator.standard_normal((rows, columns))).astype(np.float32)

    kv_width = hidden // heads * kv_heads
    tensors = {"model.embed_tokens.weight": matrix(vocab_size, hidden, embedding_scale)}
    for block in range(layers):
        for module, rows, columns in (
            ("self_attn.q_proj", hidden, hidden),
            ("self_attn.k_proj", kv_width, hidden),
            ("self_attn.v_proj", kv_width, hidden),
            ("self_attn.o_proj", hidden, hidden),
            ("mlp.gate_proj", intermediate, hidden),
            ("mlp.up_proj", intermediate, hidden),
            ("mlp.down_proj", hidden, intermediate),
        ):
            tensors[f"model.layers.{block}.{module}.weight"] = matrix(rows, columns)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{block}.{norm}.weight"] = np.ones(hidden, np.float32)
    tensors["model.norm.weight"] = np.ones(hidden, np.float32)
    if not tied:
        tensors["lm_head.weight"] = matrix(vocab_size, hidden, embedding_scale)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    special = {} if eos_token_id is None else {"eos_token_id": eos_token_id}
    write_json(directory / "generation_config.json", special)
    write_json(
        directory / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "dtype": "float32",
            "vocab_size": vocab_size,
            "hidden_size": hidden,
            "intermediate_size": intermediate,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": hidden // heads,
            "hidden_act": "silu",
            "max_position_embeddings": max_positions,
            "rms_norm_eps": 1e-5,
            "rope_theta": rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": rope_theta},
            "tie_word_embeddings": tied,
            "attention_bias": False,
            "mlp_bias": False,
            **special,
        },
    )
    return directory
