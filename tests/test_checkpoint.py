from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tiny_model import tiny_llama

from speakeasy.errors import ModelError
from speakeasy.weights.checkpoint import (
    DTYPES,
    TensorInfo,
    check_directory,
    check_rope,
    complete_config,
    fingerprint,
    linear_layers,
    model_shape,
    normalized_rope,
    read_config,
    read_tensor,
    tensor_index,
    tokenizer_fingerprint,
)
from speakeasy.weights.safetensors_io import read_header, write_tensors

LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "model", vocab_size=61)


def edit_json(file: Path, **changes: Any) -> None:
    value = json.loads(file.read_text())
    value.update(changes)
    file.write_text(json.dumps({k: v for k, v in value.items() if v is not ...}))


def shard(model: Path, **renamed: str) -> dict[str, str]:
    """Split a model over two files; returns the index's weight_map."""
    tensors = load_file(model / "model.safetensors")
    names = sorted(tensors)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({n: tensors[n] for n in part}, model / file, metadata={"format": "pt"})
    (model / "model.safetensors").unlink()
    weight_map = {n: file for file, part in halves.items() for n in part} | renamed
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return weight_map


# --- safetensors -----------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["F32", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3"]),
            st.lists(st.integers(0, 4), max_size=3),
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 2**32 - 1),
)
def test_what_is_written_is_read_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, plan: list[tuple[str, list[int]]], seed: int
) -> None:
    file = tmp_path_factory.mktemp("io") / "x.safetensors"
    generator = np.random.default_rng(seed)
    tensors = {
        f"t{i}é": (generator.standard_normal(shape) * 3).astype(DTYPES[dtype])
        for i, (dtype, shape) in enumerate(plan)
    }
    write_tensors(file, {n: (t.dtype, t.shape) for n, t in tensors.items()}, tensors.items())
    index, metadata = read_header(file)
    assert metadata == {"format": "pt"}
    for name, tensor in tensors.items():
        found = read_tensor(index[name])
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
        assert found.tobytes() == tensor.tobytes()
    with safe_open(file, "numpy") as reference:  # the reference implementation agrees
        assert set(reference.keys()) == set(tensors)
        for name, tensor in tensors.items():
            if tensor.dtype in (np.float32, np.int64, np.uint8):
                np.testing.assert_array_equal(reference.get_tensor(name), tensor)


def test_strided_views_are_written_as_they_look(tmp_path: Path) -> None:
    view = np.arange(12, dtype=np.float32).reshape(3, 4).T
    write_tensors(tmp_path / "x", {"t": (view.dtype, view.shape)}, [("t", view)])
    np.testing.assert_array_equal(load_file(tmp_path / "x")["t"], view)


@pytest.mark.parametrize(
    "stream", [[], [("u", np.zeros(2, np.float32))], [("t", np.zeros(3, np.float32))]]
)
def test_a_stream_that_leaves_its_layout_is_refused(
    tmp_path: Path, stream: list[tuple[str, np.ndarray]]
) -> None:
    with pytest.raises(ValueError, match="layout"):
        write_tensors(tmp_path / "x", {"t": (np.dtype(np.float32), (2,))}, stream)


def test_bfloat16_is_read_as_the_reference_reads_it(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file as save_torch

    values = torch.randn(7, 5).to(torch.bfloat16)
    save_torch({"t": values}, tmp_path / "x.safetensors")
    found = read_tensor(read_header(tmp_path / "x.safetensors")[0]["t"])
    assert found.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found.astype(np.float32), values.float().numpy())


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_no_damage_to_a_file_is_more_than_a_model_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    file = tmp_path_factory.mktemp("damage") / "x.safetensors"
    save_file({"a": np.ones((2, 3), np.float32), "b": np.zeros(4, np.float16)}, file)
    raw = bytearray(file.read_bytes())
    cut = data.draw(st.integers(0, len(raw)))
    if data.draw(st.booleans()):
        raw = raw[:cut]
    else:
        raw[cut % len(raw)] ^= data.draw(st.integers(1, 255))
    file.write_bytes(raw)
    index: dict[str, TensorInfo] = {}
    message = ""
    try:
        index, _ = read_header(file)
    except ModelError as error:
        message = str(error)
    assert bool(index) != message.startswith(str(file))  # either whole, or refused by name
    assert "\n" not in message
    for info in index.values():
        assert read_tensor(info).nbytes == info.nbytes


def header_file(file: Path, header: object, data: bytes) -> Path:
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return file


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}, "shape"),
        ({"a": {"dtype": "F32", "shape": [-2, -1], "data_offsets": [0, 8]}}, "sound"),
        ({"a": {"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]}}, "sound"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}, "sound"),
        ({"a": {"dtype": "Q9", "shape": [2], "data_offsets": [0, 8]}}, "Q9"),
        ({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, "truncated"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, "gap"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, "12 bytes|describes"),
        (
            {
                "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                "b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
            },
            "overlap",
        ),
        ([], "not a JSON object"),
    ],
)
def test_unsound_headers_are_named(tmp_path: Path, header: object, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read_header(header_file(tmp_path / "x.safetensors", header, bytes(8)))


# --- rotary embeddings -----------------------------------------------------------------------

SPELLINGS = [
    ({}, 10_000.0, None),
    ({"rope_theta": 5e5}, 5e5, None),
    ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, 5e5, None),
    ({"rope_theta": 5e5, "rope_scaling": LLAMA3_SCALING}, 5e5, LLAMA3_SCALING),
    ({"rope_parameters": {**LLAMA3_SCALING, "rope_theta": 5e5}}, 5e5, LLAMA3_SCALING),
    (
        {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}},
        1e4,
        {"rope_type": "linear", "factor": 2.0},
    ),
]


@pytest.mark.parametrize(("config", "theta", "scaling"), SPELLINGS)
def test_each_spelling_is_completed_to_both(
    config: dict[str, Any], theta: float, scaling: dict[str, Any] | None
) -> None:
    rope = normalized_rope(config)
    assert (rope["rope_theta"], rope["rope_scaling"]) == (theta, scaling)
    completed = complete_config({"model_type": "llama", **config})
    assert completed["rope_parameters"]["rope_theta"] == completed["rope_theta"] == theta
    assert complete_config(completed) == completed


@pytest.mark.parametrize(("config", "theta", "scaling"), SPELLINGS)
def test_both_libraries_read_a_completed_config_alike(
    config: dict[str, Any], theta: float, scaling: dict[str, Any] | None
) -> None:
    from mlx_lm.models.llama import ModelArgs
    from transformers import LlamaConfig

    figures = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "intermediate_size": 8,
        "num_attention_heads": 4,
        "rms_norm_eps": 1e-5,
        "vocab_size": 8,
        "max_position_embeddings": 262_144,
    }
    completed = complete_config({"model_type": "llama", **figures, **config})
    mlx = ModelArgs.from_dict(completed)
    assert (mlx.rope_theta, mlx.rope_scaling) == (theta, scaling)
    torch = LlamaConfig.from_dict(completed)
    assert torch.rope_parameters["rope_theta"] == theta
    wanted = scaling or {"rope_type": "default"}
    assert {k: torch.rope_parameters[k] for k in wanted} == wanted


def test_what_transformers_saves_is_completed_for_mlx(tmp_path: Path) -> None:
    from transformers import LlamaConfig

    LlamaConfig(rope_parameters={"rope_type": "default", "rope_theta": 5e5}).save_pretrained(
        tmp_path
    )
    saved = read_config(tmp_path)
    assert "rope_theta" not in saved  # the trap that complete_config is for
    assert complete_config(saved)["rope_theta"] == 5e5


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}, "10000 and .* 500000"),
        (
            {
                "rope_scaling": {"type": "linear", "factor": 2.0},
                "rope_parameters": {"rope_type": "linear", "factor": 4.0},
            },
            "contradict",
        ),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "layer type"),
        ({"rope_scaling": "linear"}, "expected an object"),
    ],
)
def test_contradicting_spellings_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check_rope(config)


# --- directories -----------------------------------------------------------------------------


def test_shards_and_one_file_are_the_same_model(model: Path, tmp_path: Path) -> None:
    sharded = Path(shutil.copytree(model, tmp_path / "sharded"))
    shard(sharded)
    check_directory(sharded)
    assert model_shape(sharded) == model_shape(model)
    assert linear_layers(sharded) == linear_layers(model)
    assert list(linear_layers(sharded)) == list(linear_layers(model))
    assert fingerprint(sharded) == fingerprint(model)


@pytest.mark.parametrize(
    ("renamed", "message"),
    [
        ({"model.norm.weight": "../b.safetensors"}, "outside"),
        ({"model.norm.weight": "/etc/passwd"}, "outside"),
        ({"model.norm.weight": "c.safetensors"}, "c.safetensors: missing"),
        ({"lm_head.weight": "a.safetensors"}, "lacks 'lm_head.weight'"),
    ],
)
def test_an_index_that_is_not_true_is_refused(
    model: Path, renamed: dict[str, str], message: str
) -> None:
    shard(model, **renamed)
    with pytest.raises(ModelError, match=message):
        check_directory(model)


def test_only_what_the_index_names_belongs_to_the_model(model: Path) -> None:
    weight_map = shard(model)
    del weight_map["model.norm.weight"]
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert set(tensor_index(model)) == set(weight_map)


def test_directories_that_cannot_be_loaded_are_refused_by_name(model: Path) -> None:
    weights, config = model / "model.safetensors", model / "config.json"
    raw = weights.read_bytes()
    weights.write_bytes(raw[:-1])
    with pytest.raises(ModelError, match=r"truncated: tensor .* copy it again"):
        check_directory(model)
    weights.unlink()
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        check_directory(model)
    (model / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin.*convert"):
        check_directory(model)
    weights.write_bytes(raw)
    check_directory(model)
    (model / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["x.X", null]}}')
    with pytest.raises(ModelError, match=r"tokenizer_config\.json: auto_map"):
        check_directory(model)
    edit_json(config, model_file="model.py")
    with pytest.raises(ModelError, match=r"/config\.json: model_file"):
        check_directory(model)
    edit_json(config, auto_map={"AutoModelForCausalLM": "m.M"}, model_file=...)
    with pytest.raises(ModelError, match=r"/config\.json: auto_map"):
        check_directory(model)
    config.write_text("{")
    with pytest.raises(ModelError, match="not valid JSON"):
        check_directory(model)
    config.unlink()
    with pytest.raises(ModelError, match=r"no config\.json"):
        check_directory(model)


# --- figures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_the_shape_agrees_with_transformers(tmp_path: Path, tied: bool) -> None:
    from torch import nn
    from transformers import AutoModelForCausalLM

    path = tiny_llama(tmp_path / "m", vocab_size=61, tied=tied, layers=3)
    shape = model_shape(path)
    model = AutoModelForCausalLM.from_pretrained(path)
    assert shape.parameter_count == model.num_parameters()
    assert shape.bytes_on_disk == 4 * shape.parameter_count
    assert (shape.layers, shape.heads, shape.kv_heads, shape.head_dim) == (3, 4, 2, 8)
    assert (shape.hidden_size, shape.intermediate_size, shape.vocab_size) == (32, 64, 61)
    assert (shape.tied, shape.dtype, shape.quantization) == (tied, "F32", None)
    expected = {
        name: tuple(module.weight.shape)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name != "lm_head"
    }
    assert linear_layers(path) == expected


def test_blocks_are_ordered_by_number(tmp_path: Path) -> None:
    layers = linear_layers(tiny_llama(tmp_path / "m", vocab_size=5, layers=11))
    blocks = [int(module.split(".")[2]) for module in layers]
    assert blocks == sorted(blocks)
    assert blocks[-1] == 10


def test_an_untied_model_without_an_output_matrix_is_refused(model: Path) -> None:
    edit_json(model / "config.json", tie_word_embeddings=False)
    with pytest.raises(ModelError, match=r"lm_head\.weight"):
        model_shape(model)
    edit_json(model / "config.json", tie_word_embeddings=...)
    assert model_shape(model).tied


def test_a_missing_figure_is_named(model: Path) -> None:
    edit_json(model / "config.json", num_hidden_layers=...)
    with pytest.raises(ModelError, match="num_hidden_layers is None"):
        model_shape(model)


def test_packed_mlx_weights_count_with_their_true_shape(model: Path, tmp_path: Path) -> None:
    from mlx_lm.utils import load_model, quantize_model, save_model

    tiny_llama(model, vocab_size=61, hidden=64)
    loaded, config = load_model(model)
    quantized, config = quantize_model(loaded, config, group_size=32, bits=4)
    packed = tmp_path / "packed"
    save_model(packed, quantized)
    (packed / "config.json").write_text(json.dumps(config))
    assert linear_layers(packed) == linear_layers(model)
    assert model_shape(packed).quantization == "mlx 4-bit"
    edit_json(model / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(ModelError, match="gptq 4-bit"):
        linear_layers(model)


# --- fingerprints ----------------------------------------------------------------------------


def rewrite(model: Path, change: Any) -> str:
    tensors = load_file(model / "model.safetensors")
    change(tensors)
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    return fingerprint(model)


def test_the_fingerprint_sees_training_types_names_and_rows(model: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    seen = {fingerprint(model)}
    assert rewrite(model, lambda t: None) in seen

    def train(tensors: dict[str, np.ndarray]) -> None:
        tensors[name] = tensors[name] * np.float32(1.0001)

    def nudge_a_norm(tensors: dict[str, np.ndarray]) -> None:
        tensors["model.norm.weight"][17] += 1e-6

    def halve(tensors: dict[str, np.ndarray]) -> None:
        tensors[name] = tensors[name].astype(np.float16)

    def rename(tensors: dict[str, np.ndarray]) -> None:
        tensors["other"] = tensors.pop(name)

    def add_a_row(tensors: dict[str, np.ndarray]) -> None:
        embedding = tensors["model.embed_tokens.weight"]
        tensors["model.embed_tokens.weight"] = np.concatenate([embedding, embedding[:1]])

    for change in (train, nudge_a_norm, halve, rename, add_a_row):
        found = rewrite(model, change)
        assert found not in seen, change.__name__
        seen.add(found)


def test_the_tokenizer_fingerprint_sees_the_vocabulary_and_the_template(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        tokenizer_fingerprint(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    config = tmp_path / "tokenizer_config.json"
    config.write_text('{"chat_template": "a", "eos_token": "<e>", "model_max_length": 8}')
    first = tokenizer_fingerprint(tmp_path)
    edit_json(config, eos_token={"content": "<e>", "special": True}, model_max_length=9)
    assert tokenizer_fingerprint(tmp_path) == first
    edit_json(config, chat_template="b")
    second = tokenizer_fingerprint(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{ }")
    assert len({first, second, tokenizer_fingerprint(tmp_path)}) == 3
