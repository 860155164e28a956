"""PEFT to MLX to PEFT, and the reverse: the same bits, the same meaning, in both libraries."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters import (
    EMBEDDING,
    HEAD,
    LAYERS,
    TOKENS,
    VOCABULARY,
    assert_same,
    merged_logits,
    model_with_tokenizer,
    random_adapter,
    selected_by_mlx_lm,
)
from cli import speakeasy
from hypothesis import given, settings
from hypothesis import strategies as st
from libraries import with_mlx_lm, with_peft
from safetensors.numpy import load_file, save_file
from tiny_model import tiny_llama

from speakeasy import plan_files
from speakeasy.config import TrainConfig
from speakeasy.errors import AdapterError, ModelError, RunError
from speakeasy.weights import trained_rows
from speakeasy.weights.adapters import Adapter, read_adapter, write_mlx, write_peft
from speakeasy.weights.checkpoint import fingerprint, weight_matrices
from speakeasy.weights.convert import convert, needs_base
from speakeasy.weights.fuse import fuse
from speakeasy.weights.hub import ModelDirectory
from speakeasy.weights.tied import split_head
from speakeasy.weights.trained_rows import TrainedRows

LOGIT_TOLERANCE = 5e-5  # float32 over three blocks of width 32; logits are about 1, DoRA's larger

# peft 0.21 asks transformers 5.23 by a name that it has since changed, and says what it saves.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),
]


@dataclass(frozen=True)
class Base:
    """A model with a tokenizer, and its matrices."""

    path: Path
    tied: bool
    matrices: dict[str, tuple[int, int]]

    @property
    def model(self) -> ModelDirectory:
        return ModelDirectory(self.path, "tiny", "for tests")


def make_base(path: Path, tied: bool) -> Base:
    model_with_tokenizer(path, tied=tied)
    return Base(path, tied, weight_matrices(path))


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Base]:
    """Tied or not -> a base."""
    path = tmp_path_factory.mktemp("bases")
    return {tied: make_base(path / str(tied), tied) for tied in (True, False)}


# --- any adapter, through both formats -------------------------------------------------------

SCALES = st.one_of(st.sampled_from([1.0, 8.0, 16.0, 64.0]), st.floats(0.01, 300), st.just(0.0))


@st.composite
def adapters(draw: st.DrawFn, bases: dict[bool, Base]) -> tuple[Base, Adapter]:
    """Any adapter that PEFT can have and mlx-lm too, and its base."""
    base = bases[draw(st.booleans())]
    dora = draw(st.booleans())
    inner = [m for m in base.matrices if m not in (EMBEDDING, HEAD)]
    names = sorted({m.rpartition(".")[2] for m in inner})
    blocks = draw(st.sets(st.integers(0, LAYERS - 1), min_size=1))
    leaves = draw(st.sets(st.sampled_from(names), min_size=1))
    modules = [
        m for m in inner if int(m.split(".")[2]) in blocks and m.rpartition(".")[2] in leaves
    ]
    if draw(st.booleans()):  # one more that fits no pattern
        modules = list(dict.fromkeys([*modules, draw(st.sampled_from(inner))]))
    ends = [] if dora else draw(st.sampled_from([[], [EMBEDDING], [EMBEDDING, HEAD], [HEAD]]))
    if dora and not base.tied:
        ends = draw(st.sampled_from([[], [HEAD]]))
    if base.tied and ends:
        ends = [EMBEDDING]
    patterned = draw(st.lists(st.sampled_from([*ends, *modules]), unique=True))
    fingerprinted = draw(st.booleans())
    adapter = random_adapter(
        base.matrices,
        [*ends, *modules],
        r=draw(st.integers(1, 9)),
        alpha=draw(SCALES),
        ranks={m: draw(st.integers(1, 9)) for m in patterned if draw(st.booleans())},
        alphas={m: draw(SCALES) for m in patterned if draw(st.booleans())},
        rslora=draw(st.booleans()),
        dora=dora,
        seed=draw(st.integers(0, 1000)),
        base_fingerprint=fingerprint(base.path) if fingerprinted else None,
        head_follows=base.tied and bool(ends),
    )
    return base, split_head(adapter, base.tied)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_adapter_comes_back_from_mlx_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, bases: dict[bool, Base], data: st.DataObject
) -> None:
    base, adapter = data.draw(adapters(bases))
    path = tmp_path_factory.mktemp("round")
    write_peft(adapter, path / "1")
    there = convert(path / "1", path / "2", "mlx", base=base.model)
    back = convert(path / "2", path / "3", "peft", base=base.model)
    assert back.difference <= there.difference <= 1e-6
    assert_same(read_adapter(path / "3"), adapter)
    for file in (path / "1").iterdir():
        assert file.read_bytes() == (path / "3" / file.name).read_bytes(), file.name
    assert selected_by_mlx_lm(path / "2", base.matrices) == modules_of_mlx(path / "2")


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_what_mlx_lm_makes_of_it_is_what_peft_makes_of_it(
    tmp_path_factory: pytest.TempPathFactory, bases: dict[bool, Base], data: st.DataObject
) -> None:
    """Changes of the weights as mlx-lm computes them, from its files alone."""
    base, adapter = data.draw(adapters(bases))
    path = tmp_path_factory.mktemp("change")
    write_mlx(adapter, path, LAYERS, base.tied)
    tensors = load_file(path / "adapters.safetensors")
    parameters = json.loads((path / "adapter_config.json").read_text())["lora_parameters"]
    for module in modules_of_mlx(path):
        a, b = (tensors[f"{module}.{kind}"].astype(np.float64) for kind in ("lora_a", "lora_b"))
        assert a.shape[1] == b.shape[0] == parameters["rank"]
        lora = adapter.lora(module)
        expected = lora.scale * (lora.B.astype(np.float64) @ lora.A.astype(np.float64))
        found = parameters["scale"] * (a @ b if module == EMBEDDING else (a @ b).T)
        assert np.linalg.norm(found - expected) <= 1e-6 * np.linalg.norm(expected)
        if lora.magnitude is not None:
            assert tensors[f"{module}.m"].tobytes() == lora.magnitude.tobytes()


def modules_of_mlx(directory: Path) -> set[str]:
    return {name.rpartition(".")[0] for name in load_file(directory / "adapters.safetensors")}


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_adapter_of_mlx_lm_comes_back_from_peft_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, bases: dict[bool, Base], data: st.DataObject
) -> None:
    """As mlx-lm writes it: one rank, one scale, the last blocks, no file of ours beside it."""
    base = bases[data.draw(st.booleans())]
    num_layers = data.draw(st.integers(1, LAYERS))
    keys = data.draw(
        st.sets(
            st.sampled_from(["self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", EMBEDDING]
                            + ([] if base.tied else [HEAD])),
            min_size=1,
        )
    )  # fmt: skip
    rank, scale = data.draw(st.integers(1, 8)), data.draw(SCALES)
    dora = data.draw(st.booleans()) and EMBEDDING not in keys
    path = tmp_path_factory.mktemp("round")
    (path / "1").mkdir()
    config = {
        "fine_tune_type": "dora" if dora else "lora",
        "num_layers": num_layers,
        "lora_parameters": {"rank": rank, "scale": scale, "dropout": 0.0, "keys": sorted(keys)},
        "model": "tiny",
    }
    (path / "1" / "adapter_config.json").write_text(json.dumps(config))
    generator = np.random.default_rng(data.draw(st.integers(0, 1000)))
    tensors = {}
    for module in selected_by_mlx_lm(path / "1", base.matrices):
        rows, columns = base.matrices[module]
        ends = (rows, columns) if module == EMBEDDING else (columns, rows)
        tensors[f"{module}.lora_a"] = generator.standard_normal((ends[0], rank), np.float32)
        tensors[f"{module}.lora_b"] = generator.standard_normal((rank, ends[1]), np.float32)
        if dora:
            tensors[f"{module}.m"] = generator.standard_normal(rows, np.float32)
    save_file(tensors, path / "1" / "adapters.safetensors")
    convert(path / "1", path / "2", "peft", base=base.model)
    convert(path / "2", path / "3", "mlx", base=base.model)
    found = load_file(path / "3" / "adapters.safetensors")
    assert {n: t.tobytes() for n, t in found.items()} == {
        n: t.tobytes() for n, t in tensors.items()
    }
    again = json.loads((path / "3" / "adapter_config.json").read_text())
    assert again["lora_parameters"].pop("scale") == pytest.approx(scale, rel=1e-14, abs=0)
    assert again["fine_tune_type"] == config["fine_tune_type"]
    assert again["lora_parameters"]["rank"] == rank
    assert again["model"] == "tiny"
    selected = [selected_by_mlx_lm(path / n, base.matrices) for n in ("1", "3")]
    assert selected[0] == selected[1]


# --- the libraries themselves ----------------------------------------------------------------

PEFT_SETTINGS: dict[str, dict[str, Any]] = {
    "patterns": {
        "target_modules": "all-linear",
        "rank_pattern": {"q_proj": 2, r"layers\.[12]\.mlp\.(up|gate)_proj": 7},
        "alpha_pattern": {"model.layers.1.self_attn.v_proj": 3, ".*o_proj": 11},
    },
    "rslora_patterns": {
        "target_modules": ["q_proj", "down_proj"],
        "use_rslora": True,
        "rank_pattern": {"layers.0.self_attn.q_proj": 8},
    },
    "dora": {"target_modules": ["q_proj", "up_proj"], "use_dora": True, "use_rslora": True},
    "dora_patterns": {
        "target_modules": ["q_proj", "up_proj", "down_proj"],
        "use_dora": True,
        "rank_pattern": {"up_proj": 3},
    },
    "some_layers": {"target_modules": ["v_proj", "gate_proj"], "layers_to_transform": [0, 2]},
    "expression": {"target_modules": r".*\.(0|2)\.self_attn\.(q|k)_proj"},
    "excluded": {"target_modules": ["q_proj", "o_proj"], "exclude_modules": r".*layers\.1\..*"},
    "eva": {"target_modules": ["q_proj"], "init_lora_weights": "gaussian"},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "both_ends": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "head": {"target_modules": ["o_proj", "lm_head"]},
    "head_dora": {"target_modules": ["o_proj", "lm_head"], "use_dora": True},
    "tied": {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
}
ON_TIED = ("patterns", "dora", "tied")


def save_with_peft(model: Path, directory: Path, **options: Any) -> np.ndarray:
    """An adapter as PEFT saves it, with random matrices; returns its logits."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    wrapped = get_peft_model(
        AutoModelForCausalLM.from_pretrained(model),
        LoraConfig(**{"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM", **options}),
    )
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_embedding" in name or "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
            elif "magnitude" in name or "trainable_tokens" in name:
                parameter += 0.1 * torch.randn_like(parameter)
        wrapped.save_pretrained(str(directory))
        return wrapped.eval()(torch.from_numpy(TOKENS)).logits.numpy()


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=LOGIT_TOLERANCE)


@pytest.mark.parametrize(
    ("name", "tied"),
    [(n, False) for n in PEFT_SETTINGS if n != "tied"] + [(n, True) for n in ON_TIED],
)
def test_what_peft_saves_is_the_same_in_mlx_lm_and_back(
    tmp_path: Path, bases: dict[bool, Base], name: str, tied: bool
) -> None:
    base = bases[tied]
    expected = save_with_peft(base.path, tmp_path / "peft", **PEFT_SETTINGS[name])
    assert np.abs(expected - merged_logits(base.path, None)).max() > 100 * LOGIT_TOLERANCE
    convert(tmp_path / "peft", tmp_path / "mlx", "mlx", base=base.model)
    assert_close(with_mlx_lm(base.path, tmp_path / "mlx")(TOKENS), expected)
    convert(tmp_path / "mlx", tmp_path / "back", "peft", base=base.model)
    assert_close(with_peft(base.path, tmp_path / "back")(TOKENS), expected)
    assert_close(merged_logits(base.path, read_adapter(tmp_path / "back")), expected)
    saved, back = (load_file(tmp_path / d / "adapter_model.safetensors") for d in ("peft", "back"))
    for key, tensor in back.items():
        assert saved.pop(key).tobytes() == tensor.tobytes(), key
    assert all(key.endswith("base_layer.weight") for key in saved)


MLX_SETTINGS: dict[str, dict[str, Any]] = {
    "all": {},
    "some": {"num_layers": 2, "keys": ["self_attn.q_proj", "mlp.down_proj"]},
    "dora": {"num_layers": 1, "dora": True},
    "both_ends": {"keys": ["self_attn.q_proj", EMBEDDING, HEAD]},
    "embedding": {"num_layers": 2, "keys": ["self_attn.v_proj", EMBEDDING]},
}


def save_with_mlx_lm(
    model: Path, directory: Path, num_layers: int = LAYERS, keys: Any = None, dora: bool = False
) -> np.ndarray:
    """An adapter as mlx-lm's trainer saves it, with random matrices; returns its logits."""
    import speakeasy_mlx  # noqa: F401  (loads OpenBLAS first where there is one)
    import mlx.core as mx  # isort: skip
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model

    mx.random.seed(0)
    loaded, _ = load_model(model)
    loaded.freeze()
    parameters = {"rank": 6, "scale": 2.5, "dropout": 0.0, "keys": keys}
    linear_to_lora_layers(loaded, num_layers, parameters, use_dora=dora)
    weights = {
        name: w + mx.random.normal(w.shape) / 10
        for name, w in tree_flatten(loaded.trainable_parameters())
    }
    loaded.load_weights(list(weights.items()), strict=False)
    directory.mkdir()
    mx.save_safetensors(str(directory / "adapters.safetensors"), weights)
    kind = "dora" if dora else "lora"
    config = {"fine_tune_type": kind, "num_layers": num_layers, "lora_parameters": parameters}
    (directory / "adapter_config.json").write_text(json.dumps({**config, "model": str(model)}))
    loaded.eval()
    return np.array(loaded(mx.array(TOKENS)))


@pytest.mark.parametrize(
    ("name", "tied"), [(n, False) for n in MLX_SETTINGS] + [("embedding", True), ("all", True)]
)
def test_what_mlx_lm_saves_is_the_same_in_peft_and_back(
    tmp_path: Path, bases: dict[bool, Base], name: str, tied: bool
) -> None:
    base = bases[tied]
    expected = save_with_mlx_lm(base.path, tmp_path / "mlx", **MLX_SETTINGS[name])
    assert np.abs(expected - merged_logits(base.path, None)).max() > 100 * LOGIT_TOLERANCE
    assert_close(merged_logits(base.path, read_adapter(tmp_path / "mlx")), expected)
    convert(tmp_path / "mlx", tmp_path / "peft", "peft", base=base.model)
    assert_close(with_peft(base.path, tmp_path / "peft")(TOKENS), expected)
    convert(tmp_path / "peft", tmp_path / "back", "mlx", base=base.model)
    assert_close(with_mlx_lm(base.path, tmp_path / "back")(TOKENS), expected)
    saved, back = (load_file(tmp_path / d / "adapters.safetensors") for d in ("mlx", "back"))
    assert {n: t.tobytes() for n, t in saved.items()} == {n: t.tobytes() for n, t in back.items()}


@pytest.mark.parametrize(
    "modules",
    [
        ["model.layers.1.mlp.up_proj", "model.layers.2.mlp.up_proj"],
        ["model.layers.0.mlp.up_proj", "model.layers.2.self_attn.q_proj", EMBEDDING],
        [EMBEDDING, HEAD],
    ],
)
def test_mlx_lm_adapts_these_modules_and_no_others(
    tmp_path: Path, bases: dict[bool, Base], modules: list[str]
) -> None:
    """So none is there that PEFT did not have, to be trained when training goes on."""
    import speakeasy_mlx  # noqa: F401  (loads OpenBLAS first where there is one)
    from mlx.utils import tree_flatten  # isort: skip
    from mlx_lm import load  # isort: skip

    base = bases[False]
    write_mlx(random_adapter(base.matrices, modules), tmp_path, LAYERS, base.tied)
    adapted, *_ = load(str(base.path), adapter_path=str(tmp_path))
    names = [name for name, _ in tree_flatten(adapted.parameters()) if name.endswith(".lora_a")]
    assert {name.removesuffix(".lora_a") for name in names} == set(modules)
    assert selected_by_mlx_lm(tmp_path, base.matrices) == set(modules)


# --- trained rows ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("indices", "tied"),
    [([7, 3], True), ([7, 3], False), ({"embed_tokens": [9, 3], "lm_head": [4, 3]}, False)],
)
def test_trained_rows_of_peft_become_a_file_of_rows(
    tmp_path: Path, bases: dict[bool, Base], indices: Any, tied: bool
) -> None:
    base = bases[tied]
    options = {"target_modules": ["q_proj"], "trainable_token_indices": indices}
    expected = save_with_peft(base.path, tmp_path / "peft", **options)
    done = convert(tmp_path / "peft", tmp_path / "mlx", "mlx", base=base.model)
    rows = trained_rows.load(tmp_path / "mlx" / "rows.safetensors")
    assert done.rows is not None
    assert rows.ids.tolist() == done.rows.ids.tolist()
    (tmp_path / "rows").mkdir()
    fuse(base.path, tmp_path / "rows", rows=rows.tables())
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "rows" / file).write_bytes((base.path / file).read_bytes())
    # Rows in the base, the adapter beside it.
    assert_close(with_mlx_lm(tmp_path / "rows", tmp_path / "mlx")(TOKENS), expected)
    with pytest.raises(AdapterError, match="speakeasy convert"):
        read_adapter(tmp_path / "peft", base.path)


def test_rows_travel_with_the_adapter(tmp_path: Path, bases: dict[bool, Base]) -> None:
    base = bases[True]
    write_peft(random_adapter(base.matrices, ["model.layers.0.mlp.up_proj"]), tmp_path / "peft")
    values = np.random.default_rng(0).standard_normal((2, 32), np.float32)
    file = tmp_path / "rows.safetensors"
    trained_rows.save(TrainedRows(np.array([5, 9]), values, None), file)
    convert(tmp_path / "peft", tmp_path / "mlx", "mlx", base=base.model, rows_file=file)
    moved = tmp_path / "mlx" / "rows.safetensors"
    assert moved.read_bytes() == file.read_bytes()
    trained_rows.save(TrainedRows(np.array([5, VOCABULARY]), values, None), file)
    with pytest.raises(ModelError, match="do not fit"):
        convert(tmp_path / "peft", tmp_path / "x", "mlx", base=base.model, rows_file=file)
    assert not (tmp_path / "x").exists()


# --- the base --------------------------------------------------------------------------------


def test_another_base_is_an_error_that_force_overrules(
    tmp_path: Path, bases: dict[bool, Base]
) -> None:
    base = bases[True]
    modules = ["model.layers.0.mlp.up_proj"]
    adapter = random_adapter(base.matrices, modules, base_fingerprint="f" * 64)
    write_peft(adapter, tmp_path / "peft")
    with pytest.raises(AdapterError, match="same shapes, other weights"):
        convert(tmp_path / "peft", tmp_path / "mlx", "mlx", base=base.model)
    assert not (tmp_path / "mlx").exists()
    done = convert(tmp_path / "peft", tmp_path / "mlx", "mlx", base=base.model, force=True)
    assert "is not the base" in done.notes[0]
    # The record of what it was trained on stays.
    kept = read_adapter(tmp_path / "mlx")
    assert (kept.base_fingerprint, kept.base) == ("f" * 64, adapter.base)
    wide = tiny_llama(tmp_path / "wide", vocab_size=9, hidden=64, layers=LAYERS)
    other = ModelDirectory(wide, "wide", "for tests")
    with pytest.raises(AdapterError, match="the adapter's is"):
        convert(tmp_path / "peft", tmp_path / "x", "mlx", base=other, force=True)


def test_a_quantised_base_is_said(tmp_path: Path, bases: dict[bool, Base]) -> None:
    base = bases[True]
    adapter = random_adapter(base.matrices, ["model.layers.0.mlp.up_proj"], base_quantization="nf4")
    write_peft(adapter, tmp_path / "peft")
    done = convert(tmp_path / "peft", tmp_path / "mlx", "mlx", base=base.model)
    assert "nf4" in done.notes[0]
    assert read_adapter(tmp_path / "mlx").base_quantization == "nf4"
    assert "nf4" in convert(tmp_path / "peft", tmp_path / "again", "peft").notes[-1]  # without it


def test_the_base_is_named_so_that_it_is_found_from_anywhere(
    tmp_path: Path, bases: dict[bool, Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = bases[True]
    write_peft(random_adapter(base.matrices, ["model.layers.0.mlp.up_proj"]), tmp_path / "peft")
    monkeypatch.chdir(base.path.parent)
    near = ModelDirectory(Path(base.path.name), base.path.name, "for tests")
    convert(tmp_path / "peft", tmp_path / "mlx", "mlx", base=near)
    assert read_adapter(tmp_path / "mlx").base == str(base.path)


def test_the_base_is_needed_where_the_result_depends_on_it(
    tmp_path: Path, bases: dict[bool, Base]
) -> None:
    matrices = bases[False].matrices
    write_peft(random_adapter(matrices, ["model.layers.0.mlp.up_proj"]), tmp_path / "inner")
    write_peft(random_adapter(matrices, [EMBEDDING]), tmp_path / "embedding")
    assert needs_base(tmp_path / "inner", "mlx")
    assert not needs_base(tmp_path / "inner", "peft")
    assert needs_base(tmp_path / "embedding", "peft")
    assert convert(tmp_path / "inner", tmp_path / "again", "peft").notes
    with pytest.raises(AdapterError, match="--model"):
        convert(tmp_path / "inner", tmp_path / "x", "mlx")


def test_what_reads_back_otherwise_is_not_left_behind(
    tmp_path: Path, bases: dict[bool, Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    from speakeasy.weights import convert as module

    base = bases[True]
    write_peft(random_adapter(base.matrices, ["model.layers.0.mlp.up_proj"]), tmp_path / "peft")

    def write_another(adapter: Adapter, directory: Path, *rest: Any) -> None:
        tensors = {name: tensor * 1.00001 for name, tensor in adapter.tensors.items()}
        write_mlx(replace(adapter, tensors=tensors), directory, *rest)

    monkeypatch.setattr(module, "write_mlx", write_another)
    with pytest.raises(AdapterError, match="reads back otherwise"):
        convert(tmp_path / "peft", tmp_path / "mlx", "mlx", base=base.model)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["peft"]


# --- the command -----------------------------------------------------------------------------


def test_the_command_says_what_it_did(tmp_path: Path, bases: dict[bool, Base]) -> None:
    base = bases[True]
    modules = ["model.layers.1.mlp.up_proj", "model.layers.2.self_attn.q_proj"]
    adapter = random_adapter(
        base.matrices, modules, r=8, ranks={modules[0]: 2}, base=str(base.path)
    )
    write_peft(adapter, tmp_path / "peft")
    done = speakeasy("convert", tmp_path / "peft", tmp_path / "mlx", "--to", "mlx", "--json")
    assert done.result["from"] == "peft"
    assert done.result["modules"] == 2
    assert {group["name"]: group["padded"] for group in done.result["groups"]} == {
        "up_proj": 1,
        "q_proj": 0,
    }
    shown = speakeasy("convert", tmp_path / "mlx", tmp_path / "back", "--to", "peft").stderr
    assert "up_proj" in shown
    assert "greatest relative difference" in shown
    assert_same(read_adapter(tmp_path / "back"), adapter)
    again = speakeasy(
        "convert", tmp_path / "back", tmp_path / "back", "--to", "peft", "--json", check=False
    )
    assert again.returncode == 1
    assert "already exists" in again.result["error"]


def test_a_base_that_is_nowhere_asks_for_model(tmp_path: Path, bases: dict[bool, Base]) -> None:
    base = bases[True]
    adapter = random_adapter(base.matrices, ["model.layers.0.mlp.up_proj"], base="./on-my-mac")
    write_peft(adapter, tmp_path / "peft")
    words = ("convert", tmp_path / "peft", tmp_path / "mlx", "--to", "mlx", "--json")
    failed = speakeasy(*words, check=False)
    assert "'./on-my-mac' is needed" in failed.result["error"]
    assert "--model" in failed.result["error"]
    found = speakeasy(*words, "--model", base.path).result
    assert found["base"] == str(base.path)


def test_a_run_gives_its_adapter_and_its_rows(tmp_path: Path, bases: dict[bool, Base]) -> None:
    base = bases[True]
    run = tmp_path / "run"
    adapter = random_adapter(base.matrices, ["model.layers.0.mlp.up_proj"], base=str(base.path))
    write_peft(adapter, run / "adapter")
    (run / "run.toml").write_text(plan_files.dump(TrainConfig()))
    values = np.ones((1, 32), np.float32)
    trained_rows.save(TrainedRows(np.array([5]), values, None), run / "rows.safetensors")
    done = speakeasy("convert", run, tmp_path / "mlx", "--to", "mlx", "--json")
    assert done.result["trained_rows"] == 1
    assert (tmp_path / "mlx" / "rows.safetensors").is_file()
    with pytest.raises(RunError, match="not empty"):
        convert(run / "adapter", tmp_path / "mlx", "mlx", base=base.model)
