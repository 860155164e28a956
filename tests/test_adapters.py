from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from tiny_model import tiny_llama
from tokenizers.pre_tokenizers import ByteLevel

from speakeasy.errors import AdapterError, ModelError, UsageError
from speakeasy.weights.adapters import (
    Adapter,
    check_fits,
    draw_lora,
    merge_scale,
    read_adapter,
    select_layers,
    target_names,
    write_mlx,
    write_peft,
)
from speakeasy.weights.checkpoint import fingerprint, linear_layers
from speakeasy.weights.gguf_llama import smollm_tokenizer

VOCABULARY = 300
LAYERS = 3
TOKENS = np.array([[5, 17, 250, 3, 99, 42, 7, 0, 61, 200, 13, 128]])
LOGIT_TOLERANCE = 2e-5  # float32 over three blocks of width 32; logits are about 1


# peft 0.21 asks transformers 5.23 by a name that it has since changed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny Llama with a byte-level tokenizer, since mlx_lm.load loads that too."""
    path = tiny_llama(
        tmp_path_factory.mktemp("base") / "model", vocab_size=VOCABULARY, layers=LAYERS
    )
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


@pytest.fixture(scope="module")
def layers(model: Path) -> dict[str, tuple[int, int]]:
    return linear_layers(model)


def trained(
    layers: Mapping[str, tuple[int, int]],
    targets: str,
    *,
    r: int = 4,
    alpha: float = 16.0,
    rslora: bool = False,
    seed: int = 0,
    base: str = "tiny",
) -> Adapter:
    """An adapter as after training: B is not zero."""
    chosen = select_layers(layers, targets)
    generator = np.random.default_rng(seed)
    tensors = {
        name: t if t.any() else (0.1 * generator.standard_normal(t.shape)).astype(np.float32)
        for name, t in draw_lora(chosen, r, seed).items()
    }
    return Adapter(
        tensors=tensors,
        r=r,
        alpha=alpha,
        rslora=rslora,
        dropout=0.05,
        targets=target_names(layers, chosen),
        base=base,
        base_fingerprint="f" * 64,
        base_quantization="nf4",
    )


def assert_same(found: Adapter, expected: Adapter) -> None:
    assert set(found.tensors) == set(expected.tensors)
    for name, tensor in expected.tensors.items():
        assert found.tensors[name].dtype == np.float32
        assert found.tensors[name].shape == tensor.shape
        assert found.tensors[name].tobytes() == tensor.tobytes(), name
    for field in Adapter.__dataclass_fields__:
        if field != "tensors":
            assert getattr(found, field) == getattr(expected, field), field


def merged_logits(model: Path, adapter: Adapter | None) -> np.ndarray:
    """Logits of the base with scale B A added to its weights: the definition of LoRA."""
    import torch
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model)
    if adapter is not None:
        for module, _ in adapter.modules.items():
            a = adapter.tensors[f"{module}.lora_A.weight"].astype(np.float64)
            b = adapter.tensors[f"{module}.lora_B.weight"].astype(np.float64)
            weight = base.get_submodule(module).weight
            weight.data += torch.from_numpy(merge_scale(adapter) * (b @ a)).float()
    with torch.no_grad():
        return base(torch.from_numpy(TOKENS)).logits.numpy()


def peft_logits(model: Path, adapter: Path) -> np.ndarray:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), str(adapter))
    with torch.no_grad():
        return loaded(torch.from_numpy(TOKENS)).logits.numpy()


def mlx_logits(model: Path, adapter: Path) -> np.ndarray:
    import mlx.core as mx
    import mlx_lm

    loaded, *_ = mlx_lm.load(str(model), adapter_path=str(adapter))
    loaded.eval()
    return np.array(loaded(mx.array(TOKENS)))


# --- drawing and choosing --------------------------------------------------------------------

SHAPES = st.dictionaries(
    st.sampled_from([f"model.layers.{b}.{m}" for b in (0, 2, 10) for m in ("mlp.up", "attn.q")]),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    min_size=1,
)


@given(SHAPES, st.integers(1, 70), st.integers(0, 2**31))
def test_a_draw_depends_on_seed_and_name_alone(
    shapes: dict[str, tuple[int, int]], r: int, seed: int
) -> None:
    drawn = draw_lora(shapes, r, seed)
    reversed_order = draw_lora(dict(reversed(shapes.items())), r, seed)
    assert list(drawn) == list(reversed_order)
    for module, (rows, columns) in shapes.items():
        a, b = drawn[f"{module}.lora_A.weight"], drawn[f"{module}.lora_B.weight"]
        assert a.dtype == np.float32
        assert a.shape == (r, columns)
        assert b.shape == (rows, r)
        assert not b.any()
        assert np.abs(a).max() <= np.float32(1 / math.sqrt(columns))
        np.testing.assert_array_equal(
            a, draw_lora({module: (rows, columns)}, r, seed)[f"{module}.lora_A.weight"]
        )
        assert (a != draw_lora(shapes, r, seed + 1)[f"{module}.lora_A.weight"]).any()


def test_a_is_uniform_as_both_libraries_draw_it() -> None:
    columns, r = 400, 500
    a = draw_lora({"model.layers.0.q": (1, columns)}, r, 0)["model.layers.0.q.lora_A.weight"]
    bound = 1 / math.sqrt(columns)
    # 200,000 draws: the standard error of the mean is 0.0013 bounds, of the deviation less.
    assert abs(a.mean()) < 0.006 * bound
    assert a.std() == pytest.approx(bound / math.sqrt(3), rel=0.006)
    assert a.max() > 0.999 * bound
    assert a.min() < -0.999 * bound


@pytest.mark.parametrize(
    ("targets", "count"),
    [
        ("all-linear", 7 * LAYERS),
        ("attention", 4 * LAYERS),
        ("mlp", 3 * LAYERS),
        ("q_proj, v_proj", 2 * LAYERS),
        ("self_attn.q_proj", LAYERS),
        ("model.layers.1.mlp.up_proj,o_proj", LAYERS + 1),
    ],
)
def test_targets_choose_layers_in_order(
    layers: dict[str, tuple[int, int]], targets: str, count: int
) -> None:
    chosen = select_layers(layers, targets)
    assert len(chosen) == count
    assert list(chosen) == [module for module in layers if module in chosen]
    names = target_names(layers, chosen)
    assert select_layers(layers, ",".join(names)) == chosen


@pytest.mark.parametrize("targets", ["wq", "", "q_proj,", "proj", "layers.7.self_attn.q_proj"])
def test_a_target_that_is_not_there_is_named_with_what_is(
    layers: dict[str, tuple[int, int]], targets: str
) -> None:
    with pytest.raises(UsageError, match=r"--lora-targets .*down_proj, gate_proj, up_proj"):
        select_layers(layers, targets)


def test_rank_zero_is_refused(layers: dict[str, tuple[int, int]]) -> None:
    with pytest.raises(UsageError, match="--lora-r 0: rank must be at least 1"):
        draw_lora(layers, 0, 1)


# --- on disk ---------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(
    r=st.integers(1, 20),
    alpha=st.one_of(st.integers(1, 64).map(float), st.floats(0.1, 100)),
    rslora=st.booleans(),
    targets=st.sampled_from(
        [
            "all-linear",
            "attention",
            "v_proj,down_proj",
            "layers.1.mlp.up_proj,model.layers.2.mlp.up_proj",
        ]
    ),
    seed=st.integers(0, 1000),
)
def test_any_way_through_both_formats_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    layers: dict[str, tuple[int, int]],
    r: int,
    alpha: float,
    rslora: bool,
    targets: str,
    seed: int,
) -> None:
    path = tmp_path_factory.mktemp("round")
    adapter = trained(layers, targets, r=r, alpha=alpha, rslora=rslora, seed=seed)
    write_peft(adapter, path / "1")
    write_mlx(read_adapter(path / "1"), path / "2", LAYERS)
    write_peft(read_adapter(path / "2"), path / "3")
    assert_same(read_adapter(path / "2"), adapter)
    assert_same(read_adapter(path / "3"), adapter)
    for file in (path / "1").iterdir():
        assert file.read_bytes() == (path / "3" / file.name).read_bytes(), file.name


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize(
    "targets", ["all-linear", "q_proj,down_proj", "layers.1.self_attn.v_proj,layers.2.mlp.up_proj"]
)
def test_both_libraries_load_it_and_agree_with_the_definition(
    tmp_path: Path, model: Path, layers: dict[str, tuple[int, int]], targets: str, rslora: bool
) -> None:
    adapter = trained(layers, targets, r=3, rslora=rslora, base=str(model))
    write_peft(adapter, tmp_path / "peft")
    write_mlx(adapter, tmp_path / "mlx", LAYERS)
    expected = merged_logits(model, adapter)
    assert np.abs(expected - merged_logits(model, None)).max() > 1000 * LOGIT_TOLERANCE
    np.testing.assert_allclose(
        peft_logits(model, tmp_path / "peft"), expected, rtol=0, atol=LOGIT_TOLERANCE
    )
    np.testing.assert_allclose(
        mlx_logits(model, tmp_path / "mlx"), expected, rtol=0, atol=LOGIT_TOLERANCE
    )


def test_peft_writes_what_we_read(
    tmp_path: Path, model: Path, layers: dict[str, tuple[int, int]]
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model)
    config = LoraConfig(
        r=5, lora_alpha=7, use_rslora=True, lora_dropout=0.1, target_modules=["q_proj", "up_proj"],
        layers_to_transform=[0, 2], task_type="CAUSAL_LM",
    )  # fmt: skip
    wrapped = get_peft_model(base, config)
    torch.manual_seed(0)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    wrapped.save_pretrained(str(tmp_path / "peft"))
    adapter = read_adapter(tmp_path / "peft")
    assert (adapter.r, adapter.alpha, adapter.rslora, adapter.dropout) == (5, 7, True, 0.1)
    assert {module.split(".")[2] for module in adapter.modules} == {"0", "2"}
    check_fits(adapter, layers)
    write_mlx(adapter, tmp_path / "mlx", LAYERS)
    np.testing.assert_allclose(
        mlx_logits(model, tmp_path / "mlx"),
        peft_logits(model, tmp_path / "peft"),
        rtol=0,
        atol=LOGIT_TOLERANCE,
    )


def test_mlx_lm_writes_what_we_read(tmp_path: Path, model: Path) -> None:
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model

    loaded, _ = load_model(model)
    loaded.freeze()
    parameters = {"rank": 8, "scale": 20.0, "dropout": 0.0}
    linear_to_lora_layers(loaded, 2, parameters)
    weights = dict(tree_flatten(loaded.trainable_parameters()))
    weights = {
        n: w if n.endswith("a") else mx.random.normal(w.shape) / 20 for n, w in weights.items()
    }
    mx.save_safetensors(str(tmp_path / "adapters.safetensors"), weights)
    config = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": parameters}
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "model": str(model)}))
    adapter = read_adapter(tmp_path)
    assert (adapter.r, adapter.alpha, adapter.rslora) == (8, 160.0, False)
    assert {module.split(".")[2] for module in adapter.modules} == {"1", "2"}
    assert adapter.base == str(model)
    write_peft(adapter, tmp_path / "peft")
    np.testing.assert_allclose(
        peft_logits(model, tmp_path / "peft"),
        mlx_logits(model, tmp_path),
        rtol=0,
        atol=LOGIT_TOLERANCE,
    )


def test_bfloat16_adapters_are_read_exactly(
    tmp_path: Path, layers: dict[str, tuple[int, int]]
) -> None:
    import torch
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    write_peft(trained(layers, "q_proj"), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    halves = {name: t.to(torch.bfloat16) for name, t in load_torch(file).items()}
    save_torch(halves, file)
    found = read_adapter(tmp_path).tensors
    for name, half in halves.items():
        np.testing.assert_array_equal(
            found[name.removeprefix("base_model.model.")], half.float().numpy()
        )


# --- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_dora", True),
        ("rank_pattern", {"q_proj": 2}),
        ("alpha_pattern", {"q_proj": 2}),
        ("modules_to_save", ["lm_head"]),
        ("lora_bias", True),
        ("bias", "all"),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "olora"),
        ("trainable_token_indices", [3]),
        ("layer_replication", [[0, 1]]),
        ("target_parameters", ["experts.w"]),
        ("fan_in_fan_out", True),
        ("peft_type", "IA3"),
        ("some_setting_of_the_future", 1),
    ],
)
def test_peft_settings_that_would_be_lost_are_refused_by_name(
    tmp_path: Path, layers: dict[str, tuple[int, int]], key: str, value: Any
) -> None:
    write_peft(trained(layers, "q_proj"), tmp_path)
    read_adapter(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(AdapterError, match=key):
        read_adapter(tmp_path)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("model.embed_tokens.lora_embedding_A", "lora_embedding_A"),
        ("model.layers.0.self_attn.q_proj.lora_magnitude_vector", "lora_magnitude_vector"),
        ("lm_head.lora_A.weight", "lm_head"),
        ("lm_head.weight", "lm_head"),
        ("model.layers.0.self_attn.o_proj.lora_A.weight", "o_proj has only one"),
    ],
)
def test_peft_tensors_that_would_be_lost_are_refused_by_name(
    tmp_path: Path, layers: dict[str, tuple[int, int]], extra: str, message: str
) -> None:
    write_peft(trained(layers, "q_proj"), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    with_extra = {**load_file(file), f"base_model.model.{extra}": np.ones((4, 32), np.float32)}
    save_file(with_extra, file)
    with pytest.raises(AdapterError, match=message):
        read_adapter(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fine_tune_type": "dora"}, "'dora'"),
        ({"fine_tune_type": "full"}, "'full'"),
        ({"lora_parameters": None}, "lora_parameters"),
        ({"lora_parameters": {"rank": 4}}, "scale is None"),
        ({"lora_parameters": {"rank": 4, "scale": 9.0}}, r"scale 9\.0, but speakeasy\.json"),
        ({"lora_parameters": {"rank": 5, "scale": 3.2}}, "rank 5"),
    ],
)
def test_mlx_configs_that_cannot_be_meant_are_refused(
    tmp_path: Path, layers: dict[str, tuple[int, int]], change: dict[str, Any], message: str
) -> None:
    write_mlx(trained(layers, "q_proj"), tmp_path, LAYERS)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(AdapterError, match=message):
        read_adapter(tmp_path)


def test_broken_directories_are_refused(tmp_path: Path, layers: dict[str, tuple[int, int]]) -> None:
    with pytest.raises(AdapterError, match="no adapter; expected"):
        read_adapter(tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(AdapterError, match="pickled"):
        read_adapter(tmp_path)
    adapter = trained(layers, "q_proj")
    write_peft(adapter, tmp_path)
    write_mlx(adapter, tmp_path, LAYERS)
    with pytest.raises(AdapterError, match="keep one"):
        read_adapter(tmp_path)
    (tmp_path / "adapters.safetensors").unlink()
    write_peft(adapter, tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    raw = file.read_bytes()
    file.write_bytes(raw[:-1])
    with pytest.raises(ModelError, match="truncated"):
        read_adapter(tmp_path)
    file.write_bytes(raw[:-4] + np.float32(np.nan).tobytes())
    with pytest.raises(AdapterError, match="NaN"):
        read_adapter(tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(AdapterError, match=r"no adapter_config\.json"):
        read_adapter(tmp_path)


def test_an_adapter_of_another_base_is_refused(
    tmp_path: Path, model: Path, layers: dict[str, tuple[int, int]]
) -> None:
    adapter = trained(layers, "all-linear")
    check_fits(adapter, layers)
    with pytest.raises(AdapterError, match="same shapes, other weights"):
        check_fits(adapter, layers, fingerprint(model))
    wider = linear_layers(tiny_llama(tmp_path / "wide", vocab_size=9, hidden=64, layers=LAYERS))
    with pytest.raises(AdapterError, match=r"the adapter's is .* made for tiny"):
        check_fits(adapter, wider)
    shorter = linear_layers(tiny_llama(tmp_path / "short", vocab_size=9, layers=LAYERS - 1))
    with pytest.raises(AdapterError, match=r"layers\.2\.\S+: not in this model"):
        check_fits(adapter, shorter)
    with pytest.raises(AdapterError, match="block 2, but the base has 2"):
        write_mlx(adapter, tmp_path / "x", LAYERS - 1)
