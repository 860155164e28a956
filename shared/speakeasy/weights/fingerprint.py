"""Fingerprints: is this the base model or the tokenizer that a run or an adapter was made for?"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import BinaryIO

import numpy as np

from speakeasy.errors import ModelError
from speakeasy.weights.added import added_ids
from speakeasy.weights.directory import read_json_object, tensor_index
from speakeasy.weights.safetensors_io import TensorInfo, read_rows

_MATRICES = ("model.embed_tokens.weight", "lm_head.weight")
_PIECES = 16
_PIECE_BYTES = 256
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def fingerprint(path: Path) -> str:
    """sha256 (64 hexadecimal digits) of a model's tensors, the bulk of them sampled.

    Hashed are, in order of name, each tensor's name, type and shape and 16 pieces of 256 bytes at
    even distances, the first and last bytes among them; a tensor of up to 4,096 bytes (norms,
    biases) is hashed whole. That reads 4 kB a tensor, so a 16 GB model takes well under a second
    on a local disk, and file layout (shards, order) does not matter.

    Of the embedding and output matrices, the rows of added entries (``added.added_ids``) are hashed
    whole, too: pre-training may change these alone.

    Detects another model, another revision, another type, resized rows, and training or fusing,
    which changes nearly every value of the tensors or rows that it touches. Cannot detect a change
    of a few values between the pieces (one edited row of an embedding), nor of config or
    tokenizer: it is a guard against mix-ups, not against an adversary.

    Raises:
        ModelError: the directory is unsound.
    """
    digest = hashlib.sha256()
    added = added_ids(path)
    handles: dict[Path, BinaryIO] = {}
    try:
        for name, info in sorted(tensor_index(path).items()):
            digest.update(json.dumps([name, info.dtype, info.shape]).encode())
            handle = handles.get(info.file) or handles.setdefault(info.file, info.file.open("rb"))
            for start, stop in _pieces(info):
                handle.seek(start)
                digest.update(handle.read(stop - start))
            if name in _MATRICES and len(info.shape) == 2:
                rows = [row for row in added if row < info.shape[0]]
                digest.update(np.ascontiguousarray(read_rows(info, rows)).tobytes())
    finally:
        for handle in handles.values():
            handle.close()
    return digest.hexdigest()


def _pieces(info: TensorInfo) -> list[tuple[int, int]]:
    if info.nbytes <= _PIECES * _PIECE_BYTES:
        return [(info.start, info.stop)]
    last = info.nbytes - _PIECE_BYTES
    starts = [info.start + last * i // (_PIECES - 1) for i in range(_PIECES)]
    return [(start, start + _PIECE_BYTES) for start in starts]


def tokenizer_fingerprint(path: Path) -> str:
    """sha256 of all that turns a conversation into ids: tokenizer files and the chat template.

    Of ``tokenizer_config.json`` only the template and the special tokens' texts are hashed: the
    libraries rewrite the rest on every save.

    Raises:
        ModelError: the directory holds no tokenizer, or one whose config is not sound.
    """
    digest = hashlib.sha256()
    for name in _TOKENIZER_FILES:
        if (path / name).is_file():
            digest.update(name.encode() + b"\0")
            digest.update(hashlib.sha256((path / name).read_bytes()).digest())
    config_file = path / "tokenizer_config.json"
    if not any((path / name).is_file() for name in _TOKENIZER_FILES[:3]):
        raise ModelError(f"{path}: no tokenizer.json; expected a model directory with a tokenizer")
    if config_file.is_file():
        config = read_json_object(config_file)
        kept = {
            key: value.get("content") if isinstance(value, dict) else value
            for key, value in sorted(config.items())
            if key == "chat_template" or (key.endswith("_token") and not key.startswith("add_"))
        }
        digest.update(json.dumps(kept, sort_keys=True).encode())
    return digest.hexdigest()
