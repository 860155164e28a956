"""Both formats on disk: what the libraries load is what was meant, and what is broken is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters import (
    LAYERS,
    TOKENS,
    assert_same,
    merged_logits,
    model_with_tokenizer,
    random_adapter,
)
from libraries import with_mlx_lm, with_peft
from safetensors.numpy import load_file, save_file

from speakeasy.errors import AdapterError, ModelError
from speakeasy.weights.adapters import (
    Adapter,
    base_name,
    read_adapter,
    select_layers,
    write_mlx,
    write_peft,
)
from speakeasy.weights.checkpoint import linear_layers

LOGIT_TOLERANCE = 2e-5  # float32 over three blocks of width 32; logits are about 1


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_with_tokenizer(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def adapt(model: Path) -> Callable[..., Adapter]:
    """Targets -> an adapter of the model, as after training."""
    layers = linear_layers(model)

    def made(targets: str = "q_proj", **fields: Any) -> Adapter:
        chosen = select_layers(layers, targets)
        return random_adapter(layers, chosen, base_quantization="nf4", **fields)

    return made


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize(
    "targets", ["all-linear", "q_proj,down_proj", "layers.1.self_attn.v_proj,layers.2.mlp.up_proj"]
)
def test_both_libraries_load_it_and_agree_with_the_definition(
    tmp_path: Path, model: Path, adapt: Callable[..., Adapter], targets: str, rslora: bool
) -> None:
    adapter = adapt(targets, r=3, rslora=rslora)
    write_peft(adapter, tmp_path / "peft")
    write_mlx(adapter, tmp_path / "mlx", LAYERS)
    expected = merged_logits(model, adapter)
    assert np.abs(expected - merged_logits(model, None)).max() > 1000 * LOGIT_TOLERANCE
    for load, directory in ((with_peft, "peft"), (with_mlx_lm, "mlx")):
        np.testing.assert_allclose(
            load(model, tmp_path / directory)(TOKENS), expected, rtol=0, atol=LOGIT_TOLERANCE
        )


def test_bfloat16_adapters_are_read_exactly(tmp_path: Path, adapt: Callable[..., Adapter]) -> None:
    import torch
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    write_peft(adapt(), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    halves = {name: t.to(torch.bfloat16) for name, t in load_torch(file).items()}
    save_torch(halves, file)
    found = read_adapter(tmp_path).tensors
    for name, half in halves.items():
        np.testing.assert_array_equal(
            found[name.removeprefix("base_model.model.")], half.float().numpy()
        )


def test_the_base_is_named_as_the_adapter_names_it(
    tmp_path: Path, adapt: Callable[..., Adapter]
) -> None:
    write_peft(adapt(base="somebody/model"), tmp_path / "peft")
    write_mlx(adapt(base="somebody/model"), tmp_path / "mlx", LAYERS)
    for directory in (tmp_path / "peft", tmp_path / "mlx"):
        (directory / "speakeasy.json").unlink()
        assert base_name(directory) == "somebody/model"


# --- mlx-lm's files ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fine_tune_type": "dora"}, "'dora', but the file has no magnitudes"),
        ({"lora_parameters": None}, "lora_parameters"),
        ({"lora_parameters": {"rank": 4}}, "scale is None"),
        ({"lora_parameters": {"rank": 4, "scale": 9.0}}, r"scale 9\.0, but speakeasy\.json"),
        ({"lora_parameters": {"rank": 5, "scale": 4.0}}, "rank 5"),
        ({"lora_parameters": {"rank": 4.5, "scale": 4.0}}, "rank is 4.5"),
        ({"lora_parameters": {"rank": 4, "scale": 4.0, "dropout": "none"}}, "dropout is 'none'"),
        ({"num_layers": "all"}, "num_layers is 'all'"),
        ({"model": 3}, "model is 3"),
    ],
)
def test_mlx_configs_that_cannot_be_meant_are_refused(
    tmp_path: Path, adapt: Callable[..., Adapter], change: dict[str, Any], message: str
) -> None:
    write_mlx(adapt(base=""), tmp_path, LAYERS)
    read_adapter(tmp_path)
    edit(tmp_path / "adapter_config.json", **change)
    with pytest.raises(AdapterError, match=message):
        read_adapter(tmp_path)


def test_plain_lora_needs_no_file_of_ours_to_keep_its_bits(
    tmp_path: Path, adapt: Callable[..., Adapter]
) -> None:
    adapter = adapt("all-linear", alpha=3.0)
    write_mlx(adapter, tmp_path, LAYERS)
    (tmp_path / "speakeasy.json").unlink()
    found = read_adapter(tmp_path)
    assert found.alpha == pytest.approx(adapter.alpha)
    assert {n: t.tobytes() for n, t in found.tensors.items()} == {
        n: t.tobytes() for n, t in adapter.tensors.items()
    }


def test_an_adapter_that_was_changed_since_is_not_taken_for_the_recorded_one(
    tmp_path: Path, adapt: Callable[..., Adapter]
) -> None:
    """As when mlx-lm trains it further: then padding and ratio no longer hold."""
    module = "model.layers.1.mlp.up_proj"
    adapter = adapt("up_proj", ranks={module: 2}, alphas={module: 7.0})
    write_mlx(adapter, tmp_path, LAYERS)
    assert_same(read_adapter(tmp_path), adapter)
    assert (tmp_path / "lora_b.safetensors").is_file()
    file = tmp_path / "adapters.safetensors"
    tensors = load_file(file)
    tensors[f"{module}.lora_b"][3, 0] = 1e-3  # in what was padding
    save_file(tensors, file)
    with pytest.raises(AdapterError, match=r"not what speakeasy\.json describes; delete"):
        read_adapter(tmp_path)
    (tmp_path / "speakeasy.json").unlink()
    found = read_adapter(tmp_path)
    assert found.ranks == {}
    assert found.tensors[f"{module}.lora_B.weight"][0, 3] == np.float32(1e-3)


def test_a_block_that_the_base_does_not_have_is_refused(
    tmp_path: Path, adapt: Callable[..., Adapter]
) -> None:
    with pytest.raises(AdapterError, match="block 2, but the base has 2"):
        write_mlx(adapt(), tmp_path, LAYERS - 1)


# --- PEFT's files -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "use_dora is True, but the file has no magnitudes"),
        ({"rank_pattern": {"q_proj": 2}}, "but rank 2"),
        ({"rank_pattern": {"(": 2}}, "rank_pattern: .* no regular expression"),
        ({"alpha_pattern": ["q_proj"]}, "alpha_pattern"),
        ({"r": "four"}, "r is 'four'"),
        ({"r": 4.5}, "r is 4.5"),
        ({"lora_alpha": None}, "lora_alpha is None"),
        ({"base_model_name_or_path": ["x"]}, "base_model_name_or_path is"),
        ({"trainable_token_indices": [3]}, "but the file has rows of"),
        ({"trainable_token_indices": {"wte": [3]}}, "expected token ids"),
        ({"trainable_token_indices": "3"}, "expected token ids"),
    ],
)
def test_peft_configs_that_cannot_be_meant_are_refused(
    tmp_path: Path, adapt: Callable[..., Adapter], change: dict[str, Any], message: str
) -> None:
    write_peft(adapt(), tmp_path)
    read_adapter(tmp_path)
    edit(tmp_path / "adapter_config.json", **change)
    with pytest.raises(AdapterError, match=message):
        read_adapter(tmp_path)


def test_settings_that_change_nothing_are_passed_over(
    tmp_path: Path, adapt: Callable[..., Adapter]
) -> None:
    """What TRL and Unsloth have in their files; Unsloth names modules by an expression."""
    adapter = adapt("q_proj,up_proj")
    write_peft(adapter, tmp_path)
    edit(
        tmp_path / "adapter_config.json",
        auto_mapping={"base_model_class": "LlamaForCausalLM", "unsloth_fixed": True},
        target_modules=r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?)|(?:\bmodel\.layers\..*)",
        layers_pattern=None,
        modules_to_save=None,
        loftq_config={},
        peft_version="0.18.0",
        eva_config={"rho": 2.0},
        init_lora_weights="eva",
    )
    found = read_adapter(tmp_path)
    assert set(found.targets) == set(adapter.modules)
    assert list(found.tensors) == sorted(adapter.tensors)


# --- broken directories -----------------------------------------------------------------------


def test_broken_directories_are_refused(tmp_path: Path, adapt: Callable[..., Adapter]) -> None:
    with pytest.raises(AdapterError, match="no adapter; expected"):
        read_adapter(tmp_path)
    adapter = adapt()
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


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
