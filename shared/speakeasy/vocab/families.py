"""What kind of tokenizer a model has, and how new entries can reach it.

Two kinds of BPE are known, told apart by their ``tokenizer.json`` (the format is that of the
``tokenizers`` library):

- *byte-level*: a regular expression cuts text into pre-tokens, each byte of which is written as one
  printable character (``Ġostras`` is " ostras"). Llama 3, SmolLM2, Qwen, Mistral's tekken.
- *sentencepiece*: a space is written ``▁``, text is not cut before the merges, and bytes without a
  character of their own have entries such as ``<0x0A>``. Llama 2, Mistral 7B, Gemma.

A source is read as transformers holds it after loading, and not as its file has it: transformers 5
builds some classes anew from the vocabulary and merges alone, and what training sees is that. Llama
2's ``LlamaTokenizer``, for one, then treats leading spaces differently from its own file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from speakeasy.errors import ModelError
from speakeasy.weights.directory import read_json_object
from speakeasy.weights.hub import load_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

Family = Literal["byte-level", "sentencepiece"]
Spec = dict[str, Any]
"""The content of a ``tokenizer.json``."""

SPACE = "▁"
_SPACE_KINDS = {"Prepend", "Replace", "Metaspace", "Split"}


@dataclass(frozen=True, slots=True)
class Source:
    """A model's tokenizer before anything is added.

    Attributes:
        directory: the model directory.
        family: its kind.
        spec: its ``tokenizer.json``, as transformers holds it after loading.
        config: its ``tokenizer_config.json``.
        transformers: as transformers loads it.
        tokenizer: the same without transformers around it; truncates and pads nothing.
    """

    directory: Path
    family: Family
    spec: Spec
    config: dict[str, Any]
    transformers: PreTrainedTokenizerBase
    tokenizer: Tokenizer


def read_source(directory: Path) -> Source:
    """A model directory's tokenizer.

    Raises:
        ModelError: it cannot be loaded, or is of a kind that cannot be extended here.
    """
    loaded = load_tokenizer(directory)
    spec = json.loads(loaded.backend_tokenizer.to_str())
    spec["truncation"] = spec["padding"] = None
    return Source(
        directory,
        family_of(spec, directory),
        spec,
        _config(directory, loaded),
        loaded,
        from_spec(spec),
    )


def from_spec(spec: Spec) -> Tokenizer:
    """The tokenizer that a ``tokenizer.json`` describes."""
    from tokenizers import Tokenizer

    return Tokenizer.from_str(json.dumps(spec, ensure_ascii=False))


def _config(directory: Path, loaded: PreTrainedTokenizerBase) -> dict[str, Any]:
    file = directory / "tokenizer_config.json"
    if file.is_file():
        return read_json_object(file)
    return {"tokenizer_class": "PreTrainedTokenizerFast", **loaded.special_tokens_map}


def family_of(spec: Spec, directory: Path) -> Family:
    """The kind of tokenizer.

    Raises:
        ModelError: neither of the two.
    """
    model, steps = spec["model"], parts(spec["pre_tokenizer"])
    if model.get("type") != "BPE":
        raise ModelError(
            f"{directory}: a {model.get('type')} tokenizer; only BPE vocabularies can be extended "
            "without harm; choose a model of the Llama family"
        )
    if any(model.get(affix) for affix in ("continuing_subword_prefix", "end_of_word_suffix")):
        raise ModelError(
            f"{directory}: its tokenizer marks the parts of words (continuing_subword_prefix or "
            "end_of_word_suffix), so no entry can be added; choose a model of the Llama family"
        )
    if any(step["type"] == "ByteLevel" for step in steps):
        return "byte-level"
    kinds = {step["type"] for step in (*steps, *parts(spec["normalizer"]))}
    if model.get("byte_fallback") and kinds <= _SPACE_KINDS:
        return "sentencepiece"
    raise ModelError(
        f"{directory}: its tokenizer is neither byte-level nor SentencePiece-like BPE (it has "
        f"{', '.join(sorted(kinds)) or 'no pre-tokenizer'}); choose a model of the Llama family"
    )


def parts(step: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, a ``Sequence`` taken apart."""
    if step is None:
        return []
    if step["type"] != "Sequence":
        return [step]
    inner = step.get("pretokenizers") or step.get("normalizers") or []
    return [part for one in inner for part in parts(one)]


def joined(steps: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Pre-tokenizers as one, the opposite of ``parts``."""
    if len(steps) < 2:
        return steps[0] if steps else None
    return {"type": "Sequence", "pretokenizers": steps}


def pre_tokens(tokenizer: Tokenizer, text: str) -> list[str]:
    """What the tokenizer cuts a text into before the merges, in its own spelling (``Ġostras``)."""
    if tokenizer.normalizer is not None:
        text = tokenizer.normalizer.normalize_str(text)
    if tokenizer.pre_tokenizer is None:
        return [text]
    return [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


def whole_vocabulary(spec: Spec) -> dict[str, int]:
    """Entry to id, added tokens among them.

    A tokenizer gives added tokens that its model does not hold the ids behind the model's last, so
    they would all move with the first new entry. Held by the model they keep theirs.
    """
    return spec["model"]["vocab"] | {t["content"]: t["id"] for t in spec["added_tokens"]}


def first_free_id(spec: Spec) -> int:
    """The id behind the largest one in use; it may well have a (padding) row in the model."""
    return max(whole_vocabulary(spec).values()) + 1


def out_of_reach(source: Source) -> list[str]:
    """Entries that their merges never build, but that a pre-token could be.

    While there are none, ``ignore_merges`` (take a pre-token that is an entry for that entry, and
    ask no merges) changes the tokens of no text.

    A SentencePiece-like tokenizer's bytes (``<0x0A>``) don't count: a pre-token is there a whole
    text with a space put before it, or what is left between two isolated words.
    """
    spec, tokenizer = source.spec, source.tokenizer
    added = {token["content"] for token in spec["added_tokens"]}
    missed = [
        entry
        for entry in spec["model"]["vocab"]
        if entry not in added and len(tokenizer.model.tokenize(entry)) != 1
    ]
    if source.family == "sentencepiece":
        return [entry for entry in missed if not _is_byte(entry)]
    return [
        entry for entry in missed if pre_tokens(tokenizer, spelled(tokenizer, entry)) == [entry]
    ]


def spelled(tokenizer: Tokenizer, entry: str) -> str:
    """An entry as text: ``Ġostras`` is " ostras"."""
    return tokenizer.decoder.decode([entry]) if tokenizer.decoder is not None else entry


def _is_byte(entry: str) -> bool:
    return len(entry) == 6 and entry.startswith("<0x") and entry.endswith(">")
