"""Every refusal of an adapter, by name and reason: the list in the code, the docs and these tests.

A case makes an adapter that would convert, checks that it does, and spoils one thing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters import EMBEDDING, HEAD, LAYERS, random_adapter
from safetensors.numpy import load_file, save_file
from tiny_model import tiny_llama

from speakeasy.errors import AdapterError
from speakeasy.weights.adapters import Format, write_mlx, write_peft
from speakeasy.weights.checkpoint import weight_matrices
from speakeasy.weights.convert import convert
from speakeasy.weights.hub import ModelDirectory
from speakeasy.weights.refusals import REFUSALS

DOCS = Path(__file__).parent.parent / "docs" / "portability.md"
QUERY = "model.layers.0.self_attn.q_proj"
PREFIX = "base_model.model."


class Bench:
    """A model, an adapter for it that converts, and ways to spoil it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.base(tied=True)

    def base(self, *, tied: bool) -> None:
        self.model = tiny_llama(
            self.path / f"model-{tied}", vocab_size=20, layers=LAYERS, tied=tied
        )
        self.matrices = weight_matrices(self.model)
        self.matrices.setdefault(HEAD, self.matrices[EMBEDDING])

    def peft(self, *modules: str, **fields: Any) -> None:
        self.to: Format = "mlx"
        self.adapter = self.path / "peft"
        write_peft(random_adapter(self.matrices, modules or [QUERY], **fields), self.adapter)

    def mlx(self, *modules: str, **fields: Any) -> None:
        self.to = "peft"
        self.adapter = self.path / "mlx"
        adapter = random_adapter(self.matrices, modules or [QUERY], **fields)
        write_mlx(adapter, self.adapter, LAYERS, HEAD not in weight_matrices(self.model))

    def set(self, **settings: Any) -> None:
        self.converts()
        file = self.adapter / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))

    def add(self, **tensors: np.ndarray) -> None:
        self.converts()
        (file,) = self.adapter.glob("adapter*.safetensors")
        prefix = PREFIX if self.to == "mlx" else ""
        more = {prefix + name.replace("__", "."): tensor for name, tensor in tensors.items()}
        save_file({**load_file(file), **more}, file)

    def converts(self) -> None:
        """Nothing is wrong yet."""
        self.convert(f"sound-{len(list(self.path.iterdir()))}")

    def convert(self, name: str) -> None:
        base = ModelDirectory(self.model, "tiny", "for tests")
        convert(self.adapter, self.path / name, self.to, base=base)


def setting(**settings: Any) -> Callable[[Bench], None]:
    def spoil(bench: Bench) -> None:
        bench.peft()
        bench.set(**settings)

    return spoil


def peft_tensor(name: str, *shape: int) -> Callable[[Bench], None]:
    def spoil(bench: Bench) -> None:
        bench.peft()
        bench.add(**{name: np.ones(shape, np.float32)})

    return spoil


def mlx_tensor(name: str, *shape: int) -> Callable[[Bench], None]:
    def spoil(bench: Bench) -> None:
        bench.mlx()
        bench.add(**{name: np.ones(shape, np.float32)})

    return spoil


def another_embedding(bench: Bench) -> None:
    bench.base(tied=False)
    bench.peft(EMBEDDING)
    weight = load_file(bench.model / "model.safetensors")[f"{EMBEDDING}.weight"]
    bench.add(**{f"{EMBEDDING}.base_layer.weight": weight})
    bench.converts()  # the base's own copy is nothing to be lost
    bench.add(**{f"{EMBEDDING}.base_layer.weight": weight + 0.01})


def rows_and_lora(bench: Bench) -> None:
    bench.base(tied=False)
    bench.peft(QUERY, EMBEDDING)
    bench.set(trainable_token_indices=[3])
    name = f"{PREFIX}{EMBEDDING}.token_adapter.trainable_tokens_delta"
    file = bench.adapter / "adapter_model.safetensors"
    save_file({**load_file(file), name: np.ones((1, 32), np.float32)}, file)


def rows_of_a_tied_head(bench: Bench) -> None:
    bench.peft()
    bench.set(trainable_token_indices={"lm_head": [3]})
    name = f"{PREFIX}{HEAD}.token_adapter.trainable_tokens_delta"
    file = bench.adapter / "adapter_model.safetensors"
    save_file({**load_file(file), name: np.ones((1, 32), np.float32)}, file)


def embedding_dora_setting(bench: Bench) -> None:
    bench.base(tied=False)
    bench.peft(EMBEDDING)
    bench.set(use_dora=True)


def tied_embedding(bench: Bench) -> None:
    bench.peft(QUERY, EMBEDDING)


def tied_ends_that_differ(bench: Bench) -> None:
    bench.peft(QUERY, EMBEDDING, HEAD)


def tied_head(bench: Bench) -> None:
    bench.peft(QUERY, HEAD)


def dora_on_nf4(bench: Bench) -> None:
    bench.peft(dora=True)
    bench.converts()
    bench.peft(dora=True, base_quantization="nf4")


def dora_on_mlx_4bit(bench: Bench) -> None:
    bench.mlx(dora=True, base_quantization="mlx 4-bit")


def pickled(bench: Bench) -> None:
    bench.peft()
    (bench.adapter / "adapter_model.safetensors").rename(bench.adapter / "adapter_model.bin")


def full(bench: Bench) -> None:
    bench.mlx()
    bench.set(fine_tune_type="full")


CASES: dict[str, list[Callable[[Bench], None]]] = {
    "peft_type": [setting(peft_type="IA3"), setting(peft_type=None), setting(peft_type="ADALORA")],
    "init_lora_weights": [
        setting(init_lora_weights=name)
        for name in ("pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga", "mica", 7)
    ],
    "lora_bias": [setting(lora_bias=True)],
    "bias": [setting(bias="all"), setting(bias="lora_only")],
    "modules_to_save": [setting(modules_to_save=["lm_head"])],
    "layer_replication": [setting(layer_replication=[[0, 1]])],
    "target_parameters": [setting(target_parameters=["experts.w"])],
    "fan_in_fan_out": [setting(fan_in_fan_out=True)],
    "megatron_config": [setting(megatron_config={"tensor_model_parallel_size": 2})],
    "alora_invocation_tokens": [
        setting(alora_invocation_tokens=[1, 2]),
        setting(alora_invocation_tokens=[]),
    ],
    "arrow_config": [setting(arrow_config={"top_k": 3})],
    "use_qalora": [setting(use_qalora=True)],
    "use_bdlora": [setting(use_bdlora={"nblocks": 2})],
    "kasa_config": [setting(kasa_config={"beta": 1e-4})],
    "velora_config": [setting(velora_config={"num_groups": 2})],
    "monteclora_config": [setting(monteclora_config={"num_samples": 8})],
    "unknown_setting": [setting(some_setting_of_the_future=1)],
    "expression": [
        setting(rank_pattern={"(.+)+!": 4}),
        setting(rank_pattern={"(?=.*)q_proj": 4}),
        setting(alpha_pattern={".*.*.*.*.*!": 4}),
        setting(alpha_pattern={".?" * 30 + "!": 4}),
    ],
    "base_layer": [another_embedding],
    "trainable_token_indices": [rows_and_lora, rows_of_a_tied_head],
    "unknown_tensor": [
        peft_tensor(f"{HEAD}.weight", 20, 32),
        peft_tensor("model.norm.lora_A.weight", 4, 32),
        peft_tensor(f"{QUERY}.lora_B.bias", 32),
        mlx_tensor(f"{QUERY}.bias", 32),
        mlx_tensor("model.norm.lora_a", 32, 4),
    ],
    "expert_layers": [mlx_tensor("model.layers.0.mlp.switch_mlp.up_proj.lora_a", 2, 4, 32)],
    "fine_tune_type": [full],
    "embedding_dora": [
        embedding_dora_setting,
        peft_tensor(f"{EMBEDDING}.lora_magnitude_vector", 32),
        mlx_tensor(f"{EMBEDDING}.m", 20),
    ],
    "tied_embedding": [tied_embedding, tied_ends_that_differ],
    "tied_head": [tied_head],
    "quantized_dora": [dora_on_nf4, dora_on_mlx_4bit],
    "pickle": [pickled],
}


def cases() -> Iterator[Any]:
    for name, some in CASES.items():
        for index, case in enumerate(some):
            yield pytest.param(name, case, id=f"{name}-{index}")


@pytest.mark.parametrize(("name", "case"), list(cases()))
def test_what_would_be_lost_is_refused_with_its_reason(
    tmp_path: Path, name: str, case: Callable[[Bench], None]
) -> None:
    bench = Bench(tmp_path)
    case(bench)
    entry = REFUSALS[name]
    with pytest.raises(AdapterError) as refused:
        bench.convert("converted")
    assert str(refused.value).endswith(f": {entry.reason}; {entry.way_out}")
    assert not (tmp_path / "converted").exists()


def test_every_refusal_has_a_test() -> None:
    assert set(CASES) == set(REFUSALS)


def test_the_docs_have_every_refusal_and_no_other() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \| (.+) \|$", DOCS.read_text(), re.MULTILINE)
    assert {name: tuple(cells) for name, *cells in rows} == {
        name: (entry.found, entry.reason, entry.way_out) for name, entry in REFUSALS.items()
    }
