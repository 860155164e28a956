"""GGUF files: read back with gguf's own reader, loaded by transformers, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from gguf.quants import dequantize
from hypothesis import given
from hypothesis import strategies as st
from model_files import edit_config, store, stored_llama, tensors_of
from one_thread import one_thread  # noqa: F401
from tiny import CHATML, VOCABULARY, save_tiny_tokenizer
from vocabularies import sentencepiece

from speakeasy.errors import ModelError
from speakeasy.export.gguf_check import check_gguf
from speakeasy.export.gguf_file import permute, plan_file, rope_factors, write_gguf
from speakeasy.export.gguf_tokenizer import PRE_TOKENIZERS, read_back
from speakeasy.vocab.expand import plan_expansion
from speakeasy.vocab.families import Spec
from speakeasy.vocab.tokenizer_files import write_tokenizer
from speakeasy.weights.gguf_llama import canonical_name, unpermute
from speakeasy.weights.hub import load_tokenizer

STOP = (2,)
TEXTS = [
    "Ostras, nen!  1992\n\n¿Qué?",
    "l'avi d'en Pere",
    "<|im_start|>user\nhola<|im_end|>",
    "😀 ñ",
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    source = stored_llama(tmp_path / "model", hidden=64, vocab_size=VOCABULARY + 5)
    save_tiny_tokenizer(source)
    return source


def spec_of(directory: Path) -> Spec:
    return json.loads((directory / "tokenizer.json").read_text())


def with_spec(directory: Path, **parts: Any) -> None:
    (directory / "tokenizer.json").write_text(json.dumps({**spec_of(directory), **parts}))


def written(model: Path, kind: Any = "f32") -> GGUFReader:
    plan = plan_file(model, kind, STOP)
    write_gguf(model, model / "model.gguf", plan, name="tiny")
    check_gguf(model, model / "model.gguf", plan)
    return GGUFReader(model / "model.gguf")


@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 4))
def test_rows_are_put_in_order_and_back(heads: int, half: int, width: int) -> None:
    rows = np.arange(2 * heads * half * width).reshape(-1, width)
    assert (unpermute(permute(rows, heads), heads) == rows).all()


@pytest.mark.parametrize("stored", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0"])
def test_every_tensor_reads_back_within_its_type(model: Path, kind: str, stored: str) -> None:
    weights = {name: t.astype(np.float32) for name, t in tensors_of(model).items()}
    store(model, {n: t.astype({"F32": "f4", "F16": "f2"}.get(stored, _bf16())) for n, t in
                  weights.items()})  # fmt: skip
    reader = written(model, kind)
    unit = {"f32": 0.0, "f16": 2.0**-11, "bf16": 2.0**-8, "q8_0": 2.0**-7}[kind]
    for tensor in reader.tensors:
        name = canonical_name(tensor.name)
        expected = tensors_of(model)[name].astype(np.float32)
        values = dequantize(tensor.data, tensor.tensor_type)
        heads = 4 if "q_proj" in name else 2 if "k_proj" in name else 0
        values = unpermute(values, heads) if heads else values
        largest = np.abs(expected).max()
        assert np.abs(values - expected).max() <= unit * largest + 1e-8
        if expected.ndim == 1 or kind == "f32":
            assert tensor.tensor_type.name == "F32"
            assert (values == expected).all()


def _bf16() -> np.dtype:
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def test_metadata(model: Path) -> None:
    reader = written(model)

    def value(key: str) -> Any:
        field = reader.get_field(key)
        assert field is not None, key
        return field.contents()

    assert value("general.architecture") == "llama"
    assert value("llama.block_count") == 2
    assert value("llama.attention.head_count_kv") == 2
    assert value("llama.rope.freq_base") == 50_000
    assert value("tokenizer.ggml.model") == "gpt2"
    assert value("tokenizer.ggml.pre") == "gpt-2"
    assert value("tokenizer.ggml.eos_token_id") == 2
    assert value("tokenizer.ggml.padding_token_id") == 0
    assert value("tokenizer.ggml.add_bos_token") is False
    assert value("tokenizer.chat_template") == CHATML
    tokens, types = value("tokenizer.ggml.tokens"), value("tokenizer.ggml.token_type")
    assert tokens[VOCABULARY:] == [f"[PAD{VOCABULARY + n}]" for n in range(5)]
    assert types[:3] == [3, 3, 3]
    assert types[VOCABULARY:] == [5] * 5


def test_transformers_loads_it_with_the_same_logits(model: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    written(model)
    tokens = torch.tensor([[5, 17, 250, 3, 99]])
    logits = []
    for how in ({}, {"gguf_file": "model.gguf",
                     "quantization_config": GgufConfig(dequantize=True)}):  # fmt: skip
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, **how).eval()
        with torch.no_grad():
            logits.append(loaded(input_ids=tokens).logits.numpy())
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-5)


@pytest.mark.parametrize("pre", sorted(PRE_TOKENIZERS))
def test_its_tokenizer_reads_back_as_it_was(model: Path, pre: str) -> None:
    steps = [{"trim_offsets": True, **step} for step in PRE_TOKENIZERS[pre][0]]
    with_spec(model, pre_tokenizer={"type": "Sequence", "pretokenizers": steps})
    reader = written(model)
    field = reader.get_field("tokenizer.ggml.pre")
    assert field is not None
    assert field.contents() == pre
    ours, theirs = load_tokenizer(model), read_back(reader)
    for text in TEXTS:
        assert theirs.encode(text).ids == ours(text).input_ids
        assert theirs.decode(ours(text).input_ids, skip_special_tokens=False) == text


# --- what llama.cpp could not hold -----------------------------------------------------------


def expanded(model: Path, mode: Any, words: list[str], *phrases: str) -> None:
    plan = plan_expansion(model, words, mode=mode, phrases=phrases)
    write_tokenizer(plan.source, plan.spec, model, plan.given_up)
    size = max(plan.rows) + 1
    weights = tensors_of(model)
    matrix = weights["model.embed_tokens.weight"]
    weights["model.embed_tokens.weight"] = np.resize(matrix, (max(size, len(matrix)), 64))
    store(model, weights)
    edit_config(model, vocab_size=len(weights["model.embed_tokens.weight"]))


def test_entries_without_merges_are_refused_and_merges_are_the_way_out(model: Path) -> None:
    words = [" flipar", " collons"]
    expanded(model, "vocab", words)
    with pytest.raises(ModelError, match=r"are no result of merges, .* expand .* --mode merges"):
        plan_file(model, "f16", STOP)
    save_tiny_tokenizer(model)
    expanded(model, "merges", words)
    theirs = read_back(written(model))
    assert all(len(theirs.encode(word).ids) == 1 for word in words)


def test_llama_3_takes_entries_without_merges(model: Path) -> None:
    steps = [{"trim_offsets": True, **step} for step in PRE_TOKENIZERS["llama-bpe"][0]]
    with_spec(
        model,
        pre_tokenizer={"type": "Sequence", "pretokenizers": steps},
        model={**spec_of(model)["model"], "ignore_merges": True},
    )
    expanded(model, "vocab", [" flipar"])
    assert len(read_back(written(model)).encode(" flipar").ids) == 1


def test_a_pattern_of_its_own_is_refused(model: Path) -> None:
    expanded(model, "vocab", [], "si us plau")
    with pytest.raises(ModelError, match="no pre-tokenizer that cuts text as this one does"):
        plan_file(model, "f16", STOP)


def test_sentencepiece_is_refused(tmp_path: Path) -> None:
    source = stored_llama(tmp_path / "model", hidden=64, vocab_size=900)
    config = (source / "config.json").read_text()
    sentencepiece(source)
    (source / "config.json").write_text(config)
    with pytest.raises(ModelError, match=r"SentencePiece-like tokenizer"):
        plan_file(source, "f16", STOP)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "qwen3"}, "the architecture is qwen3"),
        ({"attention_bias": True}, "llama with attention_bias"),
        ({"sliding_window": 128}, "with a sliding window"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 5e4}}, "by yarn"),
    ],
)
def test_other_architectures_are_refused(model: Path, changes: dict, said: str) -> None:
    edit_config(model, **changes)
    with pytest.raises(ModelError, match=f"{said}.*convert_hf_to_gguf.py takes"):
        plan_file(model, "f16", STOP)


def test_values_too_large_for_float16_are_refused(model: Path) -> None:
    weights = tensors_of(model)
    weights["model.embed_tokens.weight"][3, 3] = 1e5
    store(model, weights)
    with pytest.raises(ModelError, match="beyond float16's 65504"):
        written(model, "f16")


@pytest.mark.parametrize("what", ["weights", "order", "tokenizer"])
def test_a_file_that_holds_another_model_is_found(
    model: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    from speakeasy.export import gguf_file

    plan = plan_file(model, "f32", STOP)
    if what == "order":
        monkeypatch.setattr(gguf_file, "permute", lambda weights, heads: weights)
    write_gguf(model, model / "model.gguf", plan, name="tiny")
    if what == "weights":
        weights = tensors_of(model)
        weights["model.layers.1.mlp.up_proj.weight"][7, 7] += 0.01
        store(model, weights)
    if what == "tokenizer":
        kept = spec_of(model)["model"]
        with_spec(model, model={**kept, "merges": kept["merges"][:-30]})
    with pytest.raises(ModelError, match=r"reads back|would encode"):
        check_gguf(model, model / "model.gguf", plan)


def test_the_scaling_of_llama_3_is_transformers_own() -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = LlamaConfig(
        head_dim=64, max_position_embeddings=131_072,
        rope_parameters={**scaling, "rope_theta": 500_000.0},
    )  # fmt: skip
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 500_000.0 ** -(np.arange(0, 64, 2) / 64)
    factors = rope_factors(64, 500_000.0, scaling)
    np.testing.assert_allclose(plain / factors, scaled.numpy(), rtol=1e-5)
    assert {1.0, 32.0} <= set(factors.tolist())


def test_the_scaling_of_llama_3_is_in_the_file(model: Path) -> None:
    edit_config(
        model,
        rope_parameters={
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 128, "rope_theta": 50_000.0,
        },
    )  # fmt: skip
    (found,) = [t for t in written(model).tensors if t.name == "rope_freqs.weight"]
    assert found.data.shape == (8,)
    assert found.data.max() == 8
