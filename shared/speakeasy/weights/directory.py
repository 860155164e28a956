"""A model directory in Hugging Face's layout: its files, checked before any backend opens them.

``config.json``, and either ``model.safetensors`` or shards under ``model.safetensors.index.json``
(tensor name to file name, under ``weight_map``), as transformers' ``save_pretrained`` writes them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from speakeasy.errors import ModelError
from speakeasy.weights.safetensors_io import TensorInfo, read_header

_INDEX = "model.safetensors.index.json"
_COMPANIONS = (
    "tokenizer*.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
    "generation_config.json",
    "expansion.json",
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY*",
)
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def read_config(path: Path) -> dict[str, Any]:
    """The model's ``config.json``, as it stands.

    Raises:
        ModelError: there is none, or it is not a JSON object with a ``model_type``.
    """
    file = path / "config.json"
    if not file.is_file():
        raise ModelError(f"{path}: no config.json; expected a Hugging Face model directory")
    config = read_json_object(file)
    if not isinstance(config.get("model_type"), str):
        raise ModelError(f"{file}: no model_type; expected a Hugging Face model's config")
    return config


def read_json_object(file: Path) -> dict[str, Any]:
    """A file that must hold one JSON object.

    Raises:
        ModelError: it cannot be read, or holds something else.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file}: not valid JSON; copy it again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{file}: holds a {type(value).__name__}; expected a JSON object")
    return value


def check_directory(path: Path) -> None:
    """Refuse a directory that no backend could load, before any backend tries.

    Raises:
        ModelError: no config; code of its own (never executed here); weights that are missing,
            pickled, truncated or spread over shards of which one is missing.
    """
    for file in ("config.json", "tokenizer_config.json"):
        config = read_config(path) if file == "config.json" else {}
        if not config and (path / file).is_file():
            config = read_json_object(path / file)
        code = next((key for key in ("auto_map", "model_file") if key in config), None)
        if code:
            raise ModelError(
                f"{path / file}: {code} asks to run the model's own Python code, which speakeasy "
                "never does; choose a model of an architecture that transformers knows"
            )
    tensor_index(path)


def companion_files(path: Path) -> list[Path]:
    """A model's files that stay as they are when its weights change: the tokenizer, the chat
    template, the generation config, the record of an expansion, licences."""
    found = {file for pattern in _COMPANIONS for file in path.glob(pattern) if file.is_file()}
    return sorted(found)


def tensor_index(path: Path) -> dict[str, TensorInfo]:
    """Every tensor of a model directory; only headers are read.

    Raises:
        ModelError: see ``check_directory`` and ``safetensors_io.read_header``.
    """
    index_file = path / _INDEX
    if index_file.is_file():
        return _sharded(path, index_file)
    single = path / "model.safetensors"
    if single.is_file():
        return read_header(single)[0]
    pickles = sorted(file.name for pattern in _PICKLES for file in path.glob(pattern))
    if pickles:
        raise ModelError(
            f"{path}: only pickled weights ({pickles[0]}), which can run code when loaded; convert "
            "them to safetensors first (https://huggingface.co/spaces/safetensors/convert)"
        )
    raise ModelError(f"{path}: no model.safetensors; expected a Hugging Face model directory")


def _sharded(path: Path, index_file: Path) -> dict[str, TensorInfo]:
    weight_map = read_json_object(index_file).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index_file}: no weight_map; download it again")
    shards = sorted(set(map(str, weight_map.values())))
    for shard in shards:
        if Path(shard).name != shard or shard in ("", ".", ".."):
            raise ModelError(f"{index_file}: shard {shard!r} lies outside the model directory")
        if not (path / shard).is_file():
            raise ModelError(f"{path / shard}: missing, but named by {_INDEX}; download it again")
    stored = {shard: read_header(path / shard)[0] for shard in shards}
    tensors = {}
    for name, shard in weight_map.items():  # what the index leaves out, transformers leaves out
        if name not in stored[shard]:
            raise ModelError(f"{path / shard}: lacks {name!r}, which {_INDEX} promises")
        tensors[name] = stored[shard][name]
    return tensors
