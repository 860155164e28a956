"""What a checkpoint is: its figures and its linear layers, read without a framework.

The door to the reading half of this package: config, rotary embedding, tensors and fingerprints
can all be imported from here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speakeasy.errors import ModelError
from speakeasy.weights.directory import check_directory, read_config, tensor_index
from speakeasy.weights.fingerprint import fingerprint, tokenizer_fingerprint
from speakeasy.weights.rope import check_rope, complete_config, normalized_rope
from speakeasy.weights.safetensors_io import DTYPES, FLOATS, TensorInfo, read_tensor

__all__ = [
    "DTYPES",
    "ModelShape",
    "TensorInfo",
    "check_directory",
    "check_rope",
    "complete_config",
    "fingerprint",
    "linear_layers",
    "model_shape",
    "normalized_rope",
    "read_config",
    "read_tensor",
    "tensor_index",
    "tokenizer_fingerprint",
    "weight_matrices",
]

_WEIGHTS = (*FLOATS, "F8_E4M3", "F8_E5M2")
_IN_A_BLOCK = re.compile(r"(?:^|\.)layers\.(\d{1,9})\.")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The figures of a decoder that plans and estimates need.

    Attributes:
        model_type: the architecture's name, such as ``llama``.
        layers: number of blocks.
        hidden_size: width of the residual stream.
        intermediate_size: width of the MLP.
        heads: query heads of a block.
        kv_heads: key and value heads of a block.
        head_dim: width of a head.
        vocab_size: rows of the embedding matrix (the padded ones too).
        tied: the output matrix is the embedding matrix.
        max_positions: longest sequence that the model was made for, in tokens.
        parameter_count: elements of all stored tensors. A quantised model's packed words count
            as stored, so it is no parameter count there.
        dtype: safetensors' name of the type that most elements have.
        bytes_on_disk: bytes of all tensors.
        quantization: None for plain weights, else the method and bits, such as ``mlx 4-bit``.
    """

    model_type: str
    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    tied: bool
    max_positions: int
    parameter_count: int
    dtype: str
    bytes_on_disk: int
    quantization: str | None


def model_shape(path: Path) -> ModelShape:
    """The shape of a model, from its config and the headers of its weights.

    A library makes the model that the config describes before it looks at the weights, so figures
    that the weights do not bear out are refused here.

    Raises:
        ModelError: the directory is unsound, the config lacks one of the figures, or it and the
            weights contradict each other.
    """
    config = read_config(path)
    tensors = tensor_index(path)

    def figure(key: str, default: int | None = None) -> int:
        value = config.get(key)
        value = default if value is None else value
        if type(value) is not int or value < 1:
            raise ModelError(
                f"{path / 'config.json'}: {key} is {value!r}; expected a positive whole number "
                "(only decoder-only models of the Llama family are supported)"
            )
        return value

    elements: dict[str, int] = {}
    for info in tensors.values():
        elements[info.dtype] = elements.get(info.dtype, 0) + info.size
    heads, hidden = figure("num_attention_heads"), figure("hidden_size")
    shape = ModelShape(
        model_type=config["model_type"],
        layers=figure("num_hidden_layers"),
        hidden_size=hidden,
        intermediate_size=figure("intermediate_size"),
        heads=heads,
        kv_heads=figure("num_key_value_heads", heads),
        head_dim=figure("head_dim", hidden // heads),
        vocab_size=figure("vocab_size"),
        tied=_tied(path, config, tensors),
        max_positions=figure("max_position_embeddings"),
        parameter_count=sum(elements.values()),
        dtype=max(elements, key=lambda dtype: elements[dtype]) if elements else "F32",
        bytes_on_disk=sum(info.nbytes for info in tensors.values()),
        quantization=_quantization(config),
    )
    _check_borne_out(path, shape, tensors)
    return shape


def _check_borne_out(path: Path, shape: ModelShape, tensors: Mapping[str, TensorInfo]) -> None:
    blocks = {index for name in tensors if (index := block_index(name)) is not None}
    if shape.layers > len(blocks) or not blocks.issuperset(range(shape.layers)):
        raise ModelError(
            f"{path / 'config.json'}: num_hidden_layers is {shape.layers}, but the weights hold "
            f"{len(blocks)} blocks; download the model again"
        )
    whole = [n for n, i in tensors.items() if n.endswith(".weight") and i.dtype not in _WEIGHTS]
    if whole and shape.quantization is None:
        raise ModelError(
            f"{tensors[whole[0]].file}: {whole[0]} is {tensors[whole[0]].dtype}, but config.json "
            "says nothing of quantisation; give the full-precision model"
        )
    first = "model.layers.0"
    for name, said in {
        "model.embed_tokens": (shape.vocab_size, shape.hidden_size),
        "lm_head": (shape.vocab_size, shape.hidden_size),
        f"{first}.self_attn.q_proj": (shape.heads * shape.head_dim, shape.hidden_size),
        f"{first}.self_attn.k_proj": (shape.kv_heads * shape.head_dim, shape.hidden_size),
        f"{first}.mlp.up_proj": (shape.intermediate_size, shape.hidden_size),
    }.items():
        info = tensors.get(f"{name}.weight")
        if info and info.dtype in FLOATS and info.shape != said:
            raise ModelError(
                f"{info.file}: {name}.weight has shape {info.shape}, but by config.json it is "
                f"{said}; download the model again"
            )


def _tied(path: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> bool:
    stored = "lm_head.weight" in tensors
    said = config.get("tie_word_embeddings")
    if not isinstance(said, bool | None):
        raise ModelError(
            f"{path / 'config.json'}: tie_word_embeddings is {said!r}; expected true or false"
        )
    if said is False and not stored:
        raise ModelError(
            f"{path}: no lm_head.weight, though config.json says tie_word_embeddings false; "
            "the output matrix would be random. Download the model again"
        )
    # Where the config is silent, what is stored decides: the libraries' defaults differ.
    return said if said is not None else not stored


def _quantization(config: Mapping[str, Any]) -> str | None:
    if isinstance(mlx := config.get("quantization"), dict):
        return f"mlx {mlx.get('bits', '?')}-bit"
    if isinstance(other := config.get("quantization_config"), dict):
        if other.get("quant_method") is None and "group_size" in other and "bits" in other:
            return f"mlx {other['bits']}-bit"
        bits = other.get("bits") or (4 if other.get("load_in_4bit") else None)
        method = str(other.get("quant_method", "unknown method"))
        return f"{method} {bits}-bit" if bits else method
    return None


def linear_layers(path: Path) -> dict[str, tuple[int, int]]:
    """The linear layers inside the blocks: canonical module path -> (out, in).

    Sorted by block, then by name, whatever the file layout. Embeddings, norms and the output
    matrix are left out. MLX's packed weights count with their true shape.

    Raises:
        ModelError: the directory is unsound, is quantised in a way that hides its shapes, or has
            no such layer.
    """
    config = read_config(path)
    quantization = _quantization(config)
    if quantization is not None and not quantization.startswith("mlx"):
        raise ModelError(
            f"{path}: its weights are stored as {quantization}; give the full-precision model, "
            "with --use-4bit to hold it in 4 bits"
        )
    tensors = tensor_index(path)
    found: dict[str, tuple[int, int]] = {}
    for name, info in tensors.items():
        module, _, kind = name.rpartition(".")
        if kind == "weight" and len(info.shape) == 2 and _IN_A_BLOCK.search(module):
            rows, columns = info.shape
            if f"{module}.scales" in tensors:
                columns = columns * 32 // _mlx_bits(config, module)
            found[module] = (rows, columns)
    if not found:
        raise ModelError(f"{path}: no linear layer inside numbered blocks; expected a decoder")
    return {module: found[module] for module in sorted(found, key=layer_order)}


def weight_matrices(path: Path) -> dict[str, tuple[int, int]]:
    """What an adapter can change: ``linear_layers`` after the embedding (V, d) and, where it is
    stored, the output matrix (V, d).

    Raises:
        ModelError: as ``linear_layers``; a figure is missing.
    """
    shape = model_shape(path)
    size = (shape.vocab_size, shape.hidden_size)
    outer = ("model.embed_tokens",) if shape.tied else ("model.embed_tokens", "lm_head")
    return dict.fromkeys(outer, size) | linear_layers(path)


def _mlx_bits(config: Mapping[str, Any], module: str) -> int:
    """Bits a weight: a module's own entry, else the model's (mlx-lm ``utils.load_model``)."""
    settings = config.get("quantization")
    settings = settings if isinstance(settings, dict) else config["quantization_config"]
    own = settings.get(module)
    bits = (own if isinstance(own, dict) else settings).get("bits")
    if type(bits) is not int or not 1 <= bits <= 8:
        raise ModelError(f"config.json: quantization has bits {bits!r} for {module}; expected 2-8")
    return bits


def layer_order(module: str) -> tuple[int, str]:
    """Sort key of canonical module paths: block number, then name; outside blocks comes first."""
    index = block_index(module)
    return (-1 if index is None else index, module)


def block_index(module: str) -> int | None:
    """The number of the block that a canonical module path lies in; None outside the blocks."""
    match = _IN_A_BLOCK.search(f"{module}.")
    return int(match[1]) if match else None
