"""A model directory in Hugging Face's layout: its files, checked before any backend opens them.

``config.json``, and either ``model.safetensors`` or shards under ``model.safetensors.index.json``
(tensor name to file name, under ``weight_map``), as transformers' ``save_pretrained`` writes them.
A directory comes from a stranger: nothing in it is executed, nothing outside it is read, and all
who load it must come to the same weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from speakeasy.errors import ModelError
from speakeasy.weights.safetensors_io import TensorInfo, read_header

_INDEX = "model.safetensors.index.json"
_ADAPTER = "adapter_config.json"
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
_LARGEST_JSON = 100_000_000
"""Twice the largest ``tokenizer.json`` and ten times the largest index that are known."""


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
        if (size := file.stat().st_size) > _LARGEST_JSON:
            raise ModelError(f"{file}: {size:,} bytes; expected at most 100 MB of JSON")
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
        ModelError: no config; code of its own (never executed here); a link that leads out of it;
            an adapter in it, which transformers would apply; weights that are missing, pickled,
            truncated, spread over shards of which one is missing, or there more than once.
    """
    check_links(path)
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
    if (path / _ADAPTER).is_file():
        raise ModelError(
            f"{path / _ADAPTER}: an adapter within a model, which transformers would apply and "
            "mlx-lm would not; move it to a directory of its own, and give that as --adapter"
        )
    tensor_index(path)


def check_links(path: Path) -> None:
    """Refuse a directory with a symbolic link to a file outside it.

    Whoever copies, exports or uploads the directory would take that file along, whatever it is.
    Links into ``blobs`` of the Hub's cache (``models--OWNER--NAME/blobs``) are how that cache
    stores what it has downloaded, so they may stay.

    Raises:
        ModelError: naming the link and where it leads.
    """
    inside = path.resolve()
    for file in sorted(path.iterdir()) if path.is_dir() else ():
        if not file.is_symlink():
            continue
        try:
            target = file.resolve()
        except (OSError, RuntimeError) as error:  # links in a circle
            raise ModelError(f"{file}: a link that leads nowhere; remove it") from error
        blobs = target.parent
        cached = blobs.name == "blobs" and blobs.parent.name.startswith("models--")
        if not (target.is_relative_to(inside) or cached):
            raise ModelError(
                f"{file}: a link to {target}, outside the directory; put a copy of the file in its "
                "place if it belongs there"
            )


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
    single = path / "model.safetensors"
    if index_file.is_file():
        weight_map = _weight_map(path, index_file)
        _refuse_others(path, set(weight_map.values()), _INDEX)
        return _sharded(path, weight_map)
    if single.is_file():
        _refuse_others(path, {single.name}, single.name)
        return read_header(single)[0]
    pickles = sorted(file.name for pattern in _PICKLES for file in path.glob(pattern))
    if pickles:
        raise ModelError(
            f"{path}: only pickled weights ({pickles[0]}), which can run code when loaded; convert "
            "them to safetensors first (https://huggingface.co/spaces/safetensors/convert)"
        )
    raise ModelError(f"{path}: no model.safetensors; expected a Hugging Face model directory")


def _refuse_others(path: Path, files: set[str], named_by: str) -> None:
    """transformers takes ``model.safetensors`` before an index, mlx-lm all ``model*.safetensors``.

    So a file that does not belong to the weights would be loaded by one and not by the other.
    """
    others = sorted(f.name for f in path.glob("model*.safetensors") if f.name not in files)
    if others:
        raise ModelError(
            f"{path / others[0]}: weights beside those of {named_by}, and libraries differ in "
            "which they load; move the wrong ones away"
        )


def _weight_map(path: Path, index_file: Path) -> dict[str, str]:
    weight_map = read_json_object(index_file).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index_file}: no weight_map; download it again")
    for shard in sorted(set(map(str, weight_map.values()))):
        if Path(shard).name != shard or shard in ("", ".", "..") or "\\" in shard:
            raise ModelError(f"{index_file}: shard {shard!r} lies outside the model directory")
        if not _is_file(path / shard):
            raise ModelError(f"{path / shard}: missing, but named by {_INDEX}; download it again")
    return {name: str(shard) for name, shard in weight_map.items()}


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long for any
        return False


def _sharded(path: Path, weight_map: dict[str, str]) -> dict[str, TensorInfo]:
    stored = {shard: read_header(path / shard)[0] for shard in sorted(set(weight_map.values()))}
    homes: dict[str, str] = {}
    for shard, names in stored.items():
        for name in names:
            if homes.setdefault(name, shard) != shard:
                raise ModelError(
                    f"{path / shard}: {name!r} lies in {homes[name]} too; expected once"
                )
    tensors = {}
    for name, shard in weight_map.items():  # what the index leaves out, transformers leaves out
        if name not in stored[shard]:
            raise ModelError(f"{path / shard}: lacks {name!r}, which {_INDEX} promises")
        tensors[name] = stored[shard][name]
    return tensors
