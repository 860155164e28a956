"""An export as one GGUF file, for llama.cpp and Ollama.

Names, metadata and the order of the query and key rows are llama.cpp's (``convert_hf_to_gguf.py``,
class LlamaModel; the format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). The file
is written a block of rows at a time; ``gguf_check`` reads it back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

import numpy as np

from speakeasy.errors import ModelError
from speakeasy.export.gguf_tokenizer import GgufTokenizer, add_tokenizer, plan_tokenizer
from speakeasy.export.papers import template_text
from speakeasy.vocab.progress import Bar, no_bar
from speakeasy.weights.checkpoint import ModelShape, model_shape, normalized_rope
from speakeasy.weights.directory import read_config, tensor_index
from speakeasy.weights.fuse import Dtype
from speakeasy.weights.gguf_llama import INSIDE_BLOCKS, OUTSIDE_BLOCKS
from speakeasy.weights.safetensors_io import TensorInfo, read_tensor, row_blocks

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter

GgufType = Literal["f32", "f16", "bf16", "q8_0"]
OF_DTYPE: dict[Dtype, GgufType] = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
"""The type that holds an export's weights as they are."""

_MODEL_TYPES = ("llama", "mistral")
_NAMES = {
    **{theirs: ours for ours, theirs in OUTSIDE_BLOCKS.items()},
    **{theirs: ours for ours, theirs in INSIDE_BLOCKS.items()},
}


@dataclass(frozen=True, slots=True)
class Plan:
    """A file that llama.cpp can read, before it is written.

    Attributes:
        kind: type of the matrices; vectors are float32.
        config: the model's ``config.json``.
        scaling: the rotary embedding's, empty for none.
        theta: its base.
    """

    kind: GgufType
    shape: ModelShape
    config: dict[str, Any]
    tokenizer: GgufTokenizer
    scaling: dict[str, Any]
    theta: float


def plan_file(folder: Path, kind: GgufType, stop: Sequence[int]) -> Plan:
    """Refuse what llama.cpp would read otherwise than it is meant, before anything is written.

    Args:
        folder: a model directory with its tokenizer.
        kind: type of the matrices.
        stop: ids that end an answer.

    Raises:
        ModelError: another architecture, a rotary embedding or a tokenizer that has no place in
            the format; the reason, and the way out.
    """
    config, shape = read_config(folder), model_shape(folder)
    odd = [key for key in ("attention_bias", "mlp_bias") if config.get(key)]
    if shape.model_type not in _MODEL_TYPES or odd or config.get("sliding_window"):
        what = shape.model_type + "".join(f" with {key}" for key in odd)
        what += " with a sliding window" if config.get("sliding_window") else ""
        raise ModelError(
            f"--gguf: the architecture is {what}; expected plain llama or mistral. llama.cpp's "
            "convert_hf_to_gguf.py takes the exported directory as well"
        )
    rope = normalized_rope(config)
    scaling = rope["rope_scaling"] or {}
    if scaling.get("rope_type", "linear") not in ("linear", "llama3"):
        raise ModelError(
            f"--gguf: rotary embedding scaled by {scaling['rope_type']}; expected linear or "
            "llama3. llama.cpp's convert_hf_to_gguf.py takes the exported directory as well"
        )
    tokenizer = plan_tokenizer(folder, shape.vocab_size, stop)
    return Plan(kind, shape, config, tokenizer, scaling, rope["rope_theta"])


def write_gguf(folder: Path, file: Path, plan: Plan, *, name: str, bar: Bar = no_bar) -> None:
    """Write a model directory as a GGUF file.

    Args:
        folder: the model.
        file: where to.
        plan: of ``plan_file``.
        name: the model's, for people.
        bar: opens a progress bar.

    Raises:
        ModelError: a tensor that Llama does not have, or a value too large for float16.
    """
    from gguf import GGUFWriter

    tensors = list(_tensors(folder, plan))
    with closing(GGUFWriter(file, "llama")) as writer:
        _add_metadata(writer, plan, name)
        add_tokenizer(writer, plan.tokenizer, template_text(folder))
        for tensor in tensors:
            writer.add_tensor_info(
                tensor.name, tensor.shape, np.dtype("f4"), tensor.nbytes, tensor.kind
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        with bar("writing the GGUF file", len(tensors)) as advance:
            for tensor in tensors:
                # What it needs of an array is its size and a way into the file.
                writer.write_tensor_data(cast(np.ndarray, tensor))
                advance(1)


@dataclass(frozen=True, slots=True)
class _Tensor:
    """One tensor on its way, in the place of an array that would hold all of it.

    Attributes:
        name: llama.cpp's.
        info: where its values lie; None for one that the model's files do not hold, whose
            ``values`` are given instead.
        heads: number of heads whose rows are interleaved; 0 for none.
    """

    name: str
    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    info: TensorInfo | None
    heads: int = 0
    values: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        from gguf import GGML_QUANT_SIZES

        block, size = GGML_QUANT_SIZES[self.kind]
        return math.prod(self.shape) // block * size

    def blocks(self) -> Iterator[np.ndarray]:
        """Its values in float32 and llama.cpp's order, whole rows at a time."""
        if self.info is None:
            assert self.values is not None
            yield self.values
        elif self.heads:
            yield permute(read_tensor(self.info).astype(np.float32), self.heads)
        else:
            for _, block in row_blocks(self.info):
                yield block.astype(np.float32)

    def tofile(self, file: BinaryIO) -> None:
        """Write it, a block at a time."""
        from gguf.quants import quantize

        for block in self.blocks():
            with np.errstate(over="ignore"):
                packed = quantize(block, self.kind)
            if packed.dtype == np.float16 and not np.isfinite(packed).all():
                raise ModelError(
                    f"{self.name}: holds values beyond float16's 65504; write the GGUF file as "
                    "bf16 or f32"
                )
            packed.tofile(file)


def permute(weights: np.ndarray, heads: int) -> np.ndarray:
    """Rows (heads * head_dim, in) from half-split to interleaved rotary pairs; the reverse is
    ``gguf_llama.unpermute``."""
    split = weights.reshape(heads, 2, weights.shape[0] // heads // 2, weights.shape[1])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(weights.shape))


def _tensors(folder: Path, plan: Plan) -> Iterator[_Tensor]:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    wanted = GGMLQuantizationType[plan.kind.upper()]
    heads = {"q_proj": plan.shape.heads, "k_proj": plan.shape.kv_heads}
    for name, info in tensor_index(folder).items():
        kind = wanted
        if len(info.shape) < 2:
            kind = GGMLQuantizationType.F32
        elif info.shape[-1] % GGML_QUANT_SIZES[wanted][0]:  # llama.cpp's own way out
            kind = GGMLQuantizationType.F16
        leaf = name.removesuffix(".weight").rpartition(".")[2]
        yield _Tensor(_gguf_name(name), kind, info.shape, info, heads.get(leaf, 0))
    if plan.scaling.get("rope_type") == "llama3":
        factors = rope_factors(plan.shape.head_dim, plan.theta, plan.scaling)
        kind = GGMLQuantizationType.F32
        yield _Tensor("rope_freqs.weight", kind, factors.shape, None, values=factors)


def _gguf_name(name: str) -> str:
    module, _, kind = name.rpartition(".")
    block, prefix = "", ""
    if module.startswith("model.layers."):
        block, _, module = module.removeprefix("model.layers.").partition(".")
        prefix = f"blk.{block}."
    if module not in _NAMES or kind != "weight":
        raise ModelError(f"--gguf: the model holds {name!r}, which llama.cpp's Llama does not have")
    return f"{prefix}{_NAMES[module]}.weight"


def rope_factors(width: int, theta: float, scaling: dict[str, Any]) -> np.ndarray:
    """What Llama 3.1's scaling divides each rotary frequency by, (width / 2,) float32.

    Frequencies whose wave is long against the original context are divided by ``factor``, short
    ones are kept, those between are blended (Meta's ``apply_scaling`` in llama-models).
    """
    frequencies = theta ** -(np.arange(0, width, 2) / width)
    turns = scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - kept) / scaling["factor"] + kept)).astype(np.float32)


def _add_metadata(writer: GGUFWriter, plan: Plan, name: str) -> None:
    from gguf import LlamaFileType, RopeScalingType

    shape = plan.shape
    writer.add_type("model")
    writer.add_name(name)
    writer.add_languages(["es", "ca"])
    writer.add_file_type(
        LlamaFileType.ALL_F32
        if plan.kind == "f32"
        else LlamaFileType[f"MOSTLY_{plan.kind.upper()}"]
    )
    writer.add_quantization_version(2)
    writer.add_context_length(shape.max_positions)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(plan.config.get("rms_norm_eps", 1e-6))
    writer.add_vocab_size(shape.vocab_size)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(plan.theta)
    if plan.scaling.get("rope_type") == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(plan.scaling["factor"])
