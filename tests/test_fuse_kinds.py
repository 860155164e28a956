"""Fusing every kind of adapter, with the libraries as referees: what they compute from base and
adapter apart, or merge themselves, is what the fused model is held to."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from libraries import with_mlx_lm, with_peft
from model_files import EMBEDDING, HEAD, config_of, same_bits, stored_llama, tensors_of
from test_fuse import TOKENS, _mlx_lm, _transformers, adapter_for, fused
from tiny import VOCABULARY, save_tiny_tokenizer

from speakeasy.errors import ModelError
from speakeasy.weights.adapters import Adapter, write_mlx, write_peft
from speakeasy.weights.checkpoint import model_shape
from speakeasy.weights.lora import A_SUFFIX, B_SUFFIX, EMBEDDING_A_SUFFIX, EMBEDDING_B_SUFFIX
from speakeasy.weights.lora import MAGNITUDE_SUFFIX as MAGNITUDE

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning",
    "ignore:Model has `tie_word_embeddings=True`:UserWarning",
)

RANK = 3


@pytest.fixture
def model(tmp_path: Path) -> Path:
    source = stored_llama(tmp_path / "model", vocab_size=VOCABULARY, scale=6)
    save_tiny_tokenizer(source)
    return source


def with_dora(adapter: Adapter, model: Path) -> Adapter:
    """Magnitudes of half to one and a half of the base's row norms."""
    generator, weights = np.random.default_rng(5), tensors_of(model)
    tensors = dict(adapter.tensors)
    for module, (rows, _) in adapter.modules.items():
        norms = np.linalg.norm(weights[f"{module}.weight"], axis=1)
        tensors[module + MAGNITUDE] = (norms * generator.uniform(0.5, 1.5, rows)).astype("f4")
    return replace(adapter, tensors=tensors)


def with_patterns(adapter: Adapter) -> Adapter:
    """Another rank for some modules, another alpha for others."""
    tensors = dict(adapter.tensors)
    modules = list(adapter.modules)
    ranks = {module: 1 + number % 6 for number, module in enumerate(modules[::2])}
    for module, rank in ranks.items():
        a, b = tensors[module + A_SUFFIX], tensors[module + B_SUFFIX]
        tensors[module + A_SUFFIX] = np.resize(a, (rank, a.shape[1]))
        tensors[module + B_SUFFIX] = np.resize(b, (b.shape[0], rank))
    alphas = {module: 2.0 + number for number, module in enumerate(modules[::3])}
    return replace(adapter, tensors=tensors, ranks=ranks, alphas=alphas)


def of_ends(model: Path, *ends: str, follows: bool = False) -> Adapter:
    """LoRA on the attention and on the embedding, the output matrix or both."""
    generator = np.random.default_rng(7)
    shape = model_shape(model)

    def drawn(*size: int) -> np.ndarray:
        return generator.standard_normal(size).astype(np.float32) * 0.3

    inner = adapter_for(model, targets="attention", r=RANK)
    tensors = dict(inner.tensors)
    if "model.embed_tokens" in ends:
        tensors["model.embed_tokens" + EMBEDDING_A_SUFFIX] = drawn(RANK, shape.vocab_size)
        tensors["model.embed_tokens" + EMBEDDING_B_SUFFIX] = drawn(shape.hidden_size, RANK)
    if "lm_head" in ends:
        tensors["lm_head" + A_SUFFIX] = drawn(RANK, shape.hidden_size)
        tensors["lm_head" + B_SUFFIX] = drawn(shape.vocab_size, RANK)
    names = {end.rpartition(".")[2] for end in ends}
    targets = tuple(sorted({*inner.targets, *names}))
    return replace(inner, tensors=tensors, targets=targets, head_follows=follows)


def merged_by_peft(model: Path, adapter: Path) -> dict[str, np.ndarray]:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = PeftModel.from_pretrained(base, adapter).merge_and_unload()
    return {name: tensor.numpy() for name, tensor in whole.state_dict().items()}


def written(adapter: Adapter, directory: Path, tied: bool) -> Path:
    directory.mkdir()
    write_peft(adapter, directory, tied)
    return directory


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("kind", ["dora", "patterns", "dora with patterns"])
def test_it_is_what_peft_merges(model: Path, tmp_path: Path, kind: str, rslora: bool) -> None:
    adapter = adapter_for(model, rslora=rslora)
    adapter = with_patterns(adapter) if "patterns" in kind else adapter
    adapter = with_dora(adapter, model) if "dora" in kind else adapter
    theirs = merged_by_peft(model, written(adapter, tmp_path / "peft", tied=True))
    ours, old = fused(model, tmp_path / "new", adapter=adapter), tensors_of(model)
    assert ours.keys() <= theirs.keys()
    for name, tensor in ours.items():
        # Sums of 64 products of float32 in another order.
        np.testing.assert_allclose(tensor, theirs[name], atol=2e-6 * np.abs(tensor).max())
        changed = name.removesuffix(".weight") in adapter.modules
        assert same_bits(tensor, old[name]) != changed


def test_dora_gives_each_row_its_length(model: Path, tmp_path: Path) -> None:
    adapter = with_dora(adapter_for(model), model)
    ours = fused(model, tmp_path / "new", adapter=adapter)
    for module in adapter.modules:
        lengths = np.linalg.norm(ours[f"{module}.weight"].astype(np.float64), axis=1)
        np.testing.assert_allclose(lengths, adapter.tensors[module + MAGNITUDE], rtol=1e-6)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "ends", [("model.embed_tokens",), ("lm_head",), ("model.embed_tokens", "lm_head")]
)
def test_ends_that_become_different_are_untied(
    tmp_path: Path, tied: bool, ends: tuple[str, ...]
) -> None:
    model = stored_llama(tmp_path / "model", tied=tied, vocab_size=VOCABULARY, scale=6)
    save_tiny_tokenizer(model)
    adapter = of_ends(model, *ends)
    apart = with_peft(model, written(adapter, tmp_path / "peft", tied))(TOKENS)
    new, old = fused(model, tmp_path / "new", adapter=adapter), tensors_of(model)
    assert config_of(tmp_path / "new")["tie_word_embeddings"] is False
    assert new.keys() == old.keys() | {HEAD}
    assert same_bits(new[EMBEDDING], old[EMBEDDING]) == ("model.embed_tokens" not in ends)
    assert same_bits(new[HEAD], old[EMBEDDING if tied else HEAD]) == ("lm_head" not in ends)
    save_tiny_tokenizer(tmp_path / "new")
    scale = np.abs(apart).max()
    for logits in (_transformers(tmp_path / "new"), _mlx_lm(tmp_path / "new")):
        np.testing.assert_allclose(logits, apart, atol=1e-5 * scale)


def test_ends_that_change_alike_stay_tied(model: Path, tmp_path: Path) -> None:
    """What mlx-lm trains on the embedding of a tied model changes its output as well."""
    adapter = of_ends(model, "model.embed_tokens", follows=True)
    (tmp_path / "mlx").mkdir()
    write_mlx(adapter, tmp_path / "mlx", 2, tied=True)
    apart = with_mlx_lm(model, tmp_path / "mlx")(TOKENS)
    new = fused(model, tmp_path / "new", adapter=adapter)
    assert new.keys() == tensors_of(model).keys()
    assert config_of(tmp_path / "new")["tie_word_embeddings"] is True
    save_tiny_tokenizer(tmp_path / "new")
    scale = np.abs(apart).max()
    for logits in (_transformers(tmp_path / "new"), _mlx_lm(tmp_path / "new")):
        np.testing.assert_allclose(logits, apart, atol=1e-5 * scale)


def test_rows_of_the_output_untie_a_tied_model(model: Path, tmp_path: Path) -> None:
    values = np.random.default_rng(1).standard_normal((2, 32)).astype(np.float32)
    ids = np.array([3, 60])
    new = fused(model, tmp_path / "new", rows={HEAD: (ids, values)})
    old = tensors_of(model)
    assert same_bits(new[EMBEDDING], old[EMBEDDING])
    expected = old[EMBEDDING].copy()
    expected[ids] = values
    assert same_bits(new[HEAD], expected)
    assert config_of(tmp_path / "new")["tie_word_embeddings"] is False


def test_the_names_of_what_changed_are_told(model: Path, tmp_path: Path) -> None:
    from speakeasy.weights.fuse import fuse

    (tmp_path / "new").mkdir()
    adapter = adapter_for(model, targets="q_proj")
    changed = fuse(model, tmp_path / "new", adapter=adapter)
    assert set(changed) == {f"{module}.weight" for module in adapter.modules}
    with pytest.raises(ModelError, match="no tensor 'other'"):
        fuse(model, tmp_path / "new", rows={"other": (np.array([0]), np.zeros((1, 32), "f4"))})
