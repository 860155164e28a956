"""A GGUF file, read back: is it the model, and the tokenizer, that it was made of?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from speakeasy.errors import ModelError
from speakeasy.export.gguf_file import Plan
from speakeasy.export.gguf_tokenizer import read_back
from speakeasy.vocab.compare import sentences
from speakeasy.vocab.progress import Bar, no_bar
from speakeasy.weights.directory import read_json_object, tensor_index
from speakeasy.weights.gguf_llama import canonical_name, unpermute
from speakeasy.weights.hub import load_tokenizer
from speakeasy.weights.safetensors_io import TensorInfo, read_tensor, row_blocks

_SAMPLE = 200


def check_gguf(folder: Path, file: Path, plan: Plan, *, bar: Bar = no_bar) -> dict[str, Any]:
    """Read a file back: every tensor against the directory's, the tokenizer on real texts.

    Returns:
        ``tensors`` and ``texts`` compared, ``largest_error`` of any weight.

    Raises:
        ModelError: something reads back otherwise than its type explains.
    """
    from gguf import GGUFReader

    reader = GGUFReader(file)
    tensors = tensor_index(folder)
    found = {t.name: t for t in reader.tensors if t.name != "rope_freqs.weight"}
    if {canonical_name(name) for name in found} != set(tensors):
        raise ModelError(f"{file.name}: holds other tensors than the model; nothing was written")
    worst = 0.0
    with bar("reading it back", len(found)) as advance:
        for name, tensor in found.items():
            info = tensors[canonical_name(name)]
            worst = max(worst, _compare(name, tensor, info, plan))
            advance(1)
    texts = _check_texts(folder, read_back(reader))
    return {"tensors": len(found), "texts": texts, "largest_error": worst}


def _compare(name: str, tensor: Any, info: TensorInfo, plan: Plan) -> float:
    """The largest difference of a tensor's values from the model's own."""
    from gguf.quants import dequantize

    heads = {"attn_q": plan.shape.heads, "attn_k": plan.shape.kv_heads}
    count = heads.get(name.removesuffix(".weight").rpartition(".")[2], 0)
    worst = 0.0
    blocks = [(0, read_tensor(info))] if count else row_blocks(info)
    for start, block in blocks:
        data = tensor.data[start : start + len(block)] if block.ndim > 1 else tensor.data
        theirs = dequantize(data, tensor.tensor_type)
        theirs = unpermute(theirs, count) if count else theirs
        ours = block.astype(np.float32)
        error = np.abs(theirs.reshape(ours.shape) - ours)
        if (error > _allowed(tensor.tensor_type.name, ours)).any():
            raise ModelError(
                f"{name}: reads back from the GGUF file with an error of {error.max():.2g}, more "
                f"than {tensor.tensor_type.name} explains; nothing was written"
            )
        worst = max(worst, float(error.max()))
    return worst


def _allowed(kind: str, values: np.ndarray) -> np.ndarray:
    """The rounding of each value: half a unit of float16's 11 bits, or of its smallest steps, or of
    bfloat16's 8; in a block of 8 bits half a step, of which 127 reach its largest value, and the
    rounding of the step to float16."""
    if kind != "Q8_0":
        unit = {"F32": 0.0, "F16": 2.0**-11, "BF16": 2.0**-8}[kind]
        return unit * np.abs(values) + (2.0**-25 if kind == "F16" else 0.0)
    block = np.abs(values.reshape(-1, 32))
    allowed = (0.5 / 127 + 2.0**-11) * block.max(axis=1, keepdims=True) + 2.0**-18 * block + 1e-7
    return np.broadcast_to(allowed, block.shape).reshape(values.shape)


def _check_texts(folder: Path, read: Any) -> int:
    """The number of texts that the file's tokenizer encodes as the directory's does."""
    texts = sentences()[:_SAMPLE]
    if (record := folder / "expansion.json").is_file():
        added = read_json_object(record).get("added", [])
        texts += [f"({entry['form']} 1," for entry in added if "form" in entry]
    ours = load_tokenizer(folder)
    for text in texts:
        expected = ours(text, add_special_tokens=False).input_ids
        ids = read.encode(text, add_special_tokens=False).ids
        if ids != expected:
            raise ModelError(
                f"--gguf: llama.cpp would encode {text[:60]!r} as {ids[:8]}; expected "
                f"{expected[:8]}; nothing was written"
            )
    return len(texts)
