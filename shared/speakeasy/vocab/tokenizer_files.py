"""A tokenizer's files, and whether transformers leaves them as they are."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from speakeasy.errors import ModelError
from speakeasy.files import write_json, write_text
from speakeasy.vocab.families import Source, Spec, from_spec
from speakeasy.weights.directory import read_json_object
from speakeasy.weights.hub import load_tokenizer

CLASS = "PreTrainedTokenizerFast"
"""The class of transformers that takes a ``tokenizer.json`` as it is. Others build the tokenizer
anew from vocabulary and merges, and drop the rest."""


def write_tokenizer(source: Source, spec: Spec, target: Path, given_up: Collection[str]) -> None:
    """Write ``tokenizer.json``, its config, and the files that belong to it.

    ``vocab.json``, ``merges.txt`` and ``tokenizer.model`` are left behind: they describe the old
    vocabulary.

    Args:
        source: where the other files are taken from.
        spec: the new ``tokenizer.json``.
        target: an existing directory.
        given_up: tokens that are special no longer.
    """
    write_text(target / "tokenizer.json", json.dumps(spec, ensure_ascii=False) + "\n")
    config = _without(source.config, given_up)
    if spec["model"].get("ignore_merges"):
        config["tokenizer_class"] = CLASS
    write_json(target / "tokenizer_config.json", config)
    special = source.directory / "special_tokens_map.json"
    if special.is_file():
        write_json(target / special.name, _without(read_json_object(special), given_up))
    for template in sorted(source.directory.glob("*.jinja")):
        write_text(target / template.name, template.read_text(encoding="utf-8"))


def _without(config: Mapping[str, Any], given_up: Collection[str]) -> dict[str, Any]:
    """A config without the tokens that were given up, in any of the places that list tokens."""
    kept = dict(config)
    decoder = kept.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        kept["added_tokens_decoder"] = {
            id: token for id, token in decoder.items() if _content(token) not in given_up
        }
    for key in ("additional_special_tokens", "extra_special_tokens"):
        if isinstance(kept.get(key), list):
            kept[key] = [token for token in kept[key] if _content(token) not in given_up]
    return kept


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


def survives(source: Source, spec: Spec, texts: Sequence[str]) -> bool:
    """Whether transformers, having loaded what would be written, encodes texts as ``spec`` does.

    Args:
        source: the tokenizer as it was; its ``config.json`` decides which class is taken.
        spec: the new ``tokenizer.json``.
        texts: such as the new entries stand for.
    """
    with tempfile.TemporaryDirectory(prefix="speakeasy-tokenizer-") as name:
        directory = Path(name)
        write_tokenizer(source, spec, directory, given_up=())
        copy_config(source.directory, directory)
        try:
            loaded = load_tokenizer(directory)
        except ModelError:
            return False
    expected = from_spec(spec).encode_batch_fast(list(texts), add_special_tokens=False)
    found = loaded.backend_tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return [item.ids for item in found] == [item.ids for item in expected]


def copy_config(source: Path, target: Path) -> None:
    """Copy ``config.json``, which decides how the libraries load a tokenizer; it may be missing."""
    file = source / "config.json"
    if file.is_file():
        write_text(target / file.name, file.read_text(encoding="utf-8"))
