"""SmolLM2's GGUF file as a Hugging Face folder, de-quantised in numpy.

Tensor names and order of rows are llama.cpp's (``convert_hf_to_gguf.py``, class LlamaModel); what
is undone here is what that script did. The values equal those of transformers' own GGUF loader bit
for bit (tests/test_starter.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from speakeasy.errors import ModelError
from speakeasy.files import write_json
from speakeasy.weights.rope import complete_config
from speakeasy.weights.safetensors_io import write_tensors

if TYPE_CHECKING:
    from gguf import GGUFReader, ReaderTensor
    from tokenizers import Tokenizer

OUTSIDE_BLOCKS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
INSIDE_BLOCKS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL = 3  # gguf.TokenType.CONTROL


def write_model(gguf: Path, directory: Path) -> None:
    """Write config, generation config, weights and tokenizer of ``gguf`` into ``directory``.

    Weights are stored as float32: a 4-bit value times a float16 scale plus a float16 minimum has
    more significant bits than bfloat16 or float16 keep, so any smaller type would change the model.

    Raises:
        ModelError: the file holds another architecture or pre-tokenizer, or a tensor that Llama
            does not have.
    """
    from gguf import GGUFReader

    reader = GGUFReader(gguf)
    architecture = _value(reader, "general.architecture")
    pre_tokenizer = _value(reader, "tokenizer.ggml.pre")
    if (architecture, pre_tokenizer) != ("llama", "smollm"):
        raise ModelError(
            f"{gguf}: architecture {architecture!r} with pre-tokenizer {pre_tokenizer!r}; "
            "expected 'llama' with 'smollm'"
        )
    config = _config(reader)
    write_json(directory / "config.json", config)
    special = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(directory / "generation_config.json", special)
    _write_tokenizer(reader, directory, config["max_position_embeddings"])

    tensors = sorted((canonical_name(t.name), t) for t in reader.tensors)
    write_tensors(
        directory / "model.safetensors",
        # GGUF writes dimensions innermost first.
        {name: (np.dtype("<f4"), tuple(map(int, t.shape[::-1]))) for name, t in tensors},
        _dequantized(tensors, config["num_attention_heads"], config["num_key_value_heads"]),
    )


def _value(reader: GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    if field is None:
        raise ModelError(f"the GGUF file has no {key!r}")
    return field.contents()


def canonical_name(name: str) -> str:
    """The name in transformers of a tensor that llama.cpp calls ``name``.

    Raises:
        ModelError: Llama has no such tensor.
    """
    stem, _, kind = name.rpartition(".")
    if stem in OUTSIDE_BLOCKS and kind == "weight":
        return f"{OUTSIDE_BLOCKS[stem]}.weight"
    block, _, module = stem.removeprefix("blk.").partition(".")
    if block.isdecimal() and module in INSIDE_BLOCKS and kind == "weight":
        return f"model.layers.{block}.{INSIDE_BLOCKS[module]}.weight"
    raise ModelError(f"the GGUF file holds tensor {name!r}, which Llama does not have")


def _dequantized(
    tensors: list[tuple[str, ReaderTensor]], heads: int, kv_heads: int
) -> Iterator[tuple[str, np.ndarray]]:
    from gguf.quants import dequantize

    for name, tensor in tensors:
        weights = dequantize(tensor.data, tensor.tensor_type).astype("<f4", copy=False)
        if name.endswith("q_proj.weight"):
            weights = unpermute(weights, heads)
        elif name.endswith("k_proj.weight"):
            weights = unpermute(weights, kv_heads)
        yield name, weights


def unpermute(weights: np.ndarray, heads: int) -> np.ndarray:
    """Undo ``LlamaModel.permute`` of llama.cpp: from interleaved to half-split rotary pairs.

    ``weights`` is (heads * head_dim, in); within a head, row ``2 i + j`` goes to ``i + j * half``.
    """
    split = weights.reshape(heads, weights.shape[0] // heads // 2, 2, weights.shape[1])
    return split.swapaxes(1, 2).reshape(weights.shape)


def _config(reader: GGUFReader) -> dict[str, Any]:
    def llama(key: str) -> Any:
        return _value(reader, f"llama.{key}")

    hidden, heads = llama("embedding_length"), llama("attention.head_count")
    return complete_config(
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "dtype": "float32",
            "vocab_size": llama("vocab_size"),
            "hidden_size": hidden,
            "intermediate_size": llama("feed_forward_length"),
            "num_hidden_layers": llama("block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": llama("attention.head_count_kv"),
            "head_dim": hidden // heads,
            "hidden_act": "silu",
            "max_position_embeddings": llama("context_length"),
            "rms_norm_eps": _shortest(llama("attention.layer_norm_rms_epsilon")),
            "rope_theta": _shortest(llama("rope.freq_base")),
            "tie_word_embeddings": not any(t.name == "output.weight" for t in reader.tensors),
            "attention_bias": False,
            "attention_dropout": 0.0,
            "mlp_bias": False,
            "bos_token_id": _value(reader, "tokenizer.ggml.bos_token_id"),
            "eos_token_id": _value(reader, "tokenizer.ggml.eos_token_id"),
            "pad_token_id": _value(reader, "tokenizer.ggml.padding_token_id"),
        }
    )


def _shortest(value: float) -> float:
    """The shortest decimal of a float32, so that 9.999999747378752e-06 is 1e-05 again."""
    return float(str(np.float32(value)))


def _write_tokenizer(reader: GGUFReader, directory: Path, max_length: int) -> None:
    tokens: list[str] = _value(reader, "tokenizer.ggml.tokens")
    kinds: list[int] = _value(reader, "tokenizer.ggml.token_type")
    merges: list[str] = _value(reader, "tokenizer.ggml.merges")
    special = [t for t, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    tokenizer = smollm_tokenizer(tokens, [_pair(m) for m in merges], special)
    tokenizer.save(str(directory / "tokenizer.json"))

    def token(role: str) -> str:
        return tokens[_value(reader, f"tokenizer.ggml.{role}_token_id")]

    write_json(
        directory / "tokenizer_config.json",
        {
            # The generic class takes tokenizer.json as it is; GPT2Tokenizer would rebuild it.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": token("bos"),
            "eos_token": token("eos"),
            "unk_token": token("unknown"),
            "pad_token": token("padding"),
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": max_length,
            "chat_template": _value(reader, "tokenizer.chat_template"),
        },
    )


def _pair(merge: str) -> tuple[str, str]:
    left, right = merge.split(" ")
    return left, right


def smollm_tokenizer(
    tokens: list[str], merges: list[tuple[str, str]], special: list[str]
) -> Tokenizer:
    """The byte-level BPE of SmolLM2, which GGUF names only as pre-tokenizer ``smollm``.

    Digits are split one by one before the GPT-2 pattern applies; without that step
    (transformers' own conversion leaves it out) numbers get other tokens than in training.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    return tokenizer
