from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from libraries import with_mlx_lm, with_peft
from model_files import (
    EMBEDDING,
    HEAD,
    config_of,
    edit_config,
    same_bits,
    store,
    stored_llama,
    tensors_of,
    use_small_blocks,
)
from tiny import VOCABULARY, save_tiny_tokenizer

from speakeasy.errors import AdapterError, ModelError
from speakeasy.weights.adapters import Adapter, draw_lora, select_layers, write_mlx, write_peft
from speakeasy.weights.checkpoint import DTYPES, fingerprint, linear_layers, model_shape
from speakeasy.weights.fuse import fuse, write_weights
from speakeasy.weights.lora import A_SUFFIX, B_SUFFIX

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

TOKENS = np.array([[5, 17, 250, 3, 99, 42, 7, 0, 61, 200, 13, 128]])


def adapter_for(model: Path, *, targets: str = "all-linear", r: int = 4, **fields: Any) -> Adapter:
    """An adapter that changes much: B is not zero."""
    generator = np.random.default_rng(3)
    tensors = draw_lora(select_layers(linear_layers(model), targets), r, 0)
    for name, tensor in tensors.items():
        if name.endswith(B_SUFFIX):
            tensors[name] = generator.standard_normal(tensor.shape).astype(np.float32) * 0.2
    modules = {name.removesuffix(A_SUFFIX).removesuffix(B_SUFFIX) for name in tensors}
    leaves = {module.rpartition(".")[2] for module in modules}
    settings = {"alpha": 16.0, "rslora": False, "dropout": 0.0, "base": str(model)}
    return Adapter(tensors=tensors, r=r, targets=tuple(sorted(leaves)), **{**settings, **fields})


def fused(source: Path, target: Path, **how: Any) -> dict[str, np.ndarray]:
    target.mkdir(exist_ok=True)
    fuse(source, target, **how)
    return tensors_of(target)


def merged(tensor: np.ndarray, adapter: Adapter, module: str) -> np.ndarray:
    """W + scale * B A, in float64."""
    A, B = (adapter.tensors[module + suffix] for suffix in (A_SUFFIX, B_SUFFIX))
    return tensor.astype(np.float64) + adapter.scale(module) * (B.astype(np.float64) @ A)


@settings(max_examples=30)
@given(st.data())
def test_adapted_matrices_are_merged_in_float32_and_cast_once(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    stored = data.draw(st.sampled_from(["F32", "BF16", "F16"]))
    source = stored_llama(
        tmp_path_factory.mktemp("any") / "model",
        stored,
        tied=data.draw(st.booleans()),
        shards=data.draw(st.integers(1, 3)),
    )
    adapter = adapter_for(
        source,
        targets=data.draw(st.sampled_from(["all-linear", "attention", "mlp", "q_proj,v_proj"])),
        r=data.draw(st.integers(1, 9)),
        alpha=data.draw(st.floats(0.5, 64)),
        rslora=data.draw(st.booleans()),
    )
    with pytest.MonkeyPatch.context() as patch:
        use_small_blocks(patch, data.draw(st.integers(1, 5000)))
        new = fused(source, source.with_name("new"), adapter=adapter)
    old = tensors_of(source)
    assert new.keys() == old.keys()
    for name, tensor in old.items():
        module = name.removesuffix(".weight")
        if module not in adapter.modules:
            assert same_bits(new[name], tensor)
            continue
        exact = merged(tensor, adapter, module)
        assert new[name].dtype == tensor.dtype
        # Float32 sums err by a few 1e-7 of the largest term; a cast by half a unit in the last
        # place. Two casts, or arithmetic in 16 bits, would err by more than that.
        unit = {"F32": 0.0, "BF16": 2.0**-8, "F16": 2.0**-11}[stored]
        largest = np.abs(exact).max()
        error = np.abs(new[name].astype(np.float64) - exact)
        assert (error <= unit * np.abs(exact) * 1.0001 + 1e-5 * largest).all()


@pytest.mark.parametrize("tied", [True, False])
def test_the_libraries_make_the_same_of_it_as_of_base_and_adapter(
    tmp_path: Path, tied: bool
) -> None:
    source = stored_llama(tmp_path / "model", tied=tied, vocab_size=VOCABULARY, scale=6)
    save_tiny_tokenizer(source)
    adapter = adapter_for(source, base_fingerprint=fingerprint(source))
    fused(source, tmp_path / "new", adapter=adapter)
    save_tiny_tokenizer(tmp_path / "new")
    (tmp_path / "peft").mkdir()
    (tmp_path / "mlx").mkdir()
    write_peft(adapter, tmp_path / "peft")
    write_mlx(adapter, tmp_path / "mlx", 2)
    apart = with_peft(source, tmp_path / "peft")(TOKENS)
    plain = {"torch": _transformers(tmp_path / "new"), "mlx": _mlx_lm(tmp_path / "new")}
    # The adapter moves logits of about 1 by about 1; float32 leaves 1e-5 of that.
    assert np.abs(apart - _transformers(source)).max() > 0.1
    np.testing.assert_allclose(with_mlx_lm(source, tmp_path / "mlx")(TOKENS), apart, atol=1e-4)
    for logits in plain.values():
        np.testing.assert_allclose(logits, apart, atol=1e-4)


def _transformers(path: Path) -> np.ndarray:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(input_ids=torch.from_numpy(TOKENS)).logits.numpy()


def _mlx_lm(path: Path) -> np.ndarray:
    import speakeasy_mlx  # noqa: F401  (loads OpenBLAS first where there is one)
    import mlx.core as mx  # isort: skip
    from mlx_lm import load

    model, _ = load(str(path))
    return np.array(model(mx.array(TOKENS.astype(np.int32))))


def test_rows_are_written_in_with_an_adapter_and_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_blocks(monkeypatch)
    source = stored_llama(tmp_path / "model", "BF16", tied=False, shards=2)
    values = np.random.default_rng(1).standard_normal((2, 32)).astype(np.float32)
    tables = {EMBEDDING: (np.array([60, 3]), values), HEAD: (np.array([60, 3]), -values)}
    old = tensors_of(source)
    adapter = adapter_for(source)
    for given_adapter in (None, adapter):
        new = fused(source, tmp_path / "new", adapter=given_adapter, rows=tables)
        for name, (ids, rows) in tables.items():
            expected = old[name].copy()
            expected[ids] = rows.astype(expected.dtype)
            assert same_bits(new[name], expected)
        name = "model.layers.1.mlp.down_proj.weight"
        assert same_bits(new[name], old[name]) == (given_adapter is None)


@pytest.mark.parametrize("stored", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_dtype_casts_every_weight_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: str, dtype: str
) -> None:
    use_small_blocks(monkeypatch)
    source = stored_llama(tmp_path / "model", stored)
    old = tensors_of(source) | {"steps": np.array([3, 4])}
    store(source, old)
    values = np.random.default_rng(1).standard_normal((1, 32)).astype(np.float32)
    table = {EMBEDDING: (np.array([9]), values)}
    new = fused(source, tmp_path / "new", adapter=None, rows=table, dtype=dtype)
    target = DTYPES[{"bfloat16": "BF16", "float16": "F16", "float32": "F32"}[dtype]]
    for name, tensor in old.items():
        expected = tensor if tensor.dtype.kind == "i" else tensor.astype(np.float32).astype(target)
        if name == EMBEDDING:
            expected[9] = values[0].astype(target)  # not by way of the type it was stored in
        assert same_bits(new[name], expected)
    assert config_of(tmp_path / "new")["dtype"] == dtype
    assert "torch_dtype" not in config_of(tmp_path / "new")
    edit_config(source, dtype=..., torch_dtype="float32")
    fused(source, tmp_path / "new", dtype=dtype)
    assert config_of(tmp_path / "new")["torch_dtype"] == dtype
    assert model_shape(tmp_path / "new").dtype == {"i": "I64"}.get(
        target.kind, {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}[dtype]
    )


def test_nothing_to_do_is_a_copy(tmp_path: Path) -> None:
    source = stored_llama(tmp_path / "model", "BF16")
    fused(source, tmp_path / "new", dtype="bfloat16")
    files = [path / "model.safetensors" for path in (source, tmp_path / "new")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_values_too_large_for_float16_are_refused(tmp_path: Path) -> None:
    source = stored_llama(tmp_path / "model", "BF16")
    old = tensors_of(source)
    old["model.norm.weight"][3] = 1e5
    store(source, old)
    with pytest.raises(ModelError, match=r"model.norm.weight: holds values beyond float16's 65504"):
        fused(source, tmp_path / "new", dtype="float16")


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    source = stored_llama(tmp_path / "model")
    other = stored_llama(tmp_path / "other", layers=3)
    with pytest.raises(AdapterError, match="not in this model; the adapter was made for"):
        fused(source, tmp_path / "new", adapter=adapter_for(other))
    wider = stored_llama(tmp_path / "wider", intermediate=96)
    with pytest.raises(AdapterError, match=r"the adapter's is .* the model's"):
        fused(source, tmp_path / "new", adapter=adapter_for(wider))
    twin = stored_llama(tmp_path / "twin", seed=9)
    adapter = adapter_for(twin, base_fingerprint=fingerprint(twin))
    with pytest.raises(AdapterError, match="same shapes, other weights"):
        fused(source, tmp_path / "new", adapter=adapter)
    assert not list((tmp_path / "new").iterdir())
    # Trained on a quantised copy, whose fingerprint no full-precision model can have.
    quantized = adapter_for(twin, base_fingerprint=fingerprint(twin), base_quantization="mlx 4-bit")
    fused(source, tmp_path / "new", adapter=quantized)


def test_a_quantised_base_is_refused_with_the_way_out(tmp_path: Path) -> None:
    source = stored_llama(tmp_path / "model")
    adapter = adapter_for(source)
    edit_config(source, quantization={"group_size": 64, "bits": 4})
    with pytest.raises(ModelError, match="mlx 4-bit; fuse into the full-precision model"):
        fused(source, tmp_path / "new", adapter=adapter)
    with pytest.raises(ModelError, match="full training begins from the full-precision model"):
        write_weights(source, tmp_path / "new", {})


# --- whole tensors ---------------------------------------------------------------------------


@pytest.mark.parametrize("stored", ["F32", "BF16", "F16"])
def test_whole_tensors_take_the_stored_type_and_the_rest_keeps_its_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: str
) -> None:
    use_small_blocks(monkeypatch)
    source = stored_llama(tmp_path / "model", stored, tied=False, shards=3)
    old = tensors_of(source)
    generator = np.random.default_rng(2)
    trained = {
        name: generator.standard_normal(old[name].shape).astype(np.float32)
        for name in list(old)[::2]
    }
    (tmp_path / "new").mkdir()
    write_weights(source, tmp_path / "new", trained)
    new = tensors_of(tmp_path / "new")
    assert new.keys() == old.keys()
    for name, tensor in old.items():
        expected = trained[name].astype(tensor.dtype) if name in trained else tensor
        assert same_bits(new[name], expected)


class Lazy(Mapping[str, np.ndarray]):
    """Makes each tensor when it is asked for, and counts."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self.shapes = shapes
        self.asked: list[str] = []

    def __getitem__(self, name: str) -> np.ndarray:
        self.asked.append(name)
        return np.ones(self.shapes[name], np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def test_each_tensor_is_asked_for_once(tmp_path: Path) -> None:
    source = stored_llama(tmp_path / "model")
    trained = Lazy({name: tensor.shape for name, tensor in tensors_of(source).items()})
    (tmp_path / "new").mkdir()
    write_weights(source, tmp_path / "new", trained)
    assert sorted(trained.asked) == sorted(trained.shapes)
    assert all((tensor == 1).all() for tensor in tensors_of(tmp_path / "new").values())


def test_tensors_of_another_model_are_refused(tmp_path: Path) -> None:
    source = stored_llama(tmp_path / "model")
    (tmp_path / "new").mkdir()
    with pytest.raises(ModelError, match=r"no tensor 'lm_head.weight'"):
        write_weights(source, tmp_path / "new", {HEAD: np.ones((61, 32), np.float32)})
    with pytest.raises(ModelError, match=r"shape \(60, 32\), but the model's is \(61, 32\)"):
        write_weights(source, tmp_path / "new", {EMBEDDING: np.ones((60, 32), np.float32)})


# --- memory ----------------------------------------------------------------------------------


def test_memory_is_that_of_a_few_blocks_and_not_of_a_tensor(tmp_path: Path) -> None:
    """A matrix of 33 million weights is 134 MB in float32; fusing may take less than half."""
    source = stored_llama(
        tmp_path / "model", "BF16", hidden=1024, intermediate=32_768, layers=1, heads=8, kv_heads=8
    )
    program = (
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from speakeasy.training.memory import peak_process_bytes\n"
        "from speakeasy.weights.adapters import Adapter, draw_lora\n"
        "from speakeasy.weights.fuse import fuse\n"
        f"source, target = Path({str(source)!r}), Path({str(tmp_path / 'new')!r})\n"
        "target.mkdir()\n"
        "module = 'model.layers.0.mlp.up_proj'\n"
        "tensors = draw_lora({module: (32768, 1024)}, 4, 0)\n"
        "adapter = Adapter(tensors, 4, 8.0, False, 0.0, ('up_proj',), '')\n"
        "before = peak_process_bytes()\n"
        "fuse(source, target, adapter=adapter)\n"
        "print(peak_process_bytes() - before)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
    )
    assert int(done.stdout) < 64 * 2**20
