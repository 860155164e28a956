"""A tokenizer as llama.cpp can hold it: entries, types, merges, and a pre-tokenizer by name.

A GGUF file has no place for regular expressions. It names a pre-tokenizer that llama.cpp has built
in (``llm_tokenizer_bpe`` in its ``src/llama-vocab.cpp``), and with the name goes whether a
pre-token that is an entry is taken whole (``ignore_merges``): for ``llama-bpe`` it is, for the
others here it is not. A tokenizer that needs anything else would be read as a different one without
a word, so it is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speakeasy.errors import ModelError
from speakeasy.vocab.families import (
    Source,
    Spec,
    from_spec,
    out_of_reach,
    parts,
    read_source,
    whole_vocabulary,
)

if TYPE_CHECKING:
    from gguf import GGUFReader, GGUFWriter
    from tokenizers import Tokenizer

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_WHOLE_BYTES: Spec = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
_WORDS: Spec = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}

PRE_TOKENIZERS: dict[str, tuple[list[Spec], bool]] = {
    "gpt-2": ([_WORDS], False),
    "smollm": ([{"type": "Digits", "individual_digits": True}, _WORDS], False),
    "llama-bpe": (
        [
            {
                "type": "Split",
                "pattern": {"Regex": _LLAMA3},
                "behavior": "Isolated",
                "invert": False,
            },
            _WHOLE_BYTES,
        ],
        True,
    ),
}
"""llama.cpp's name -> its steps as ``tokenizers`` spells them, and its ``ignore_merges``."""

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # gguf.TokenType
_WAY_OUT = "use the export with transformers or mlx-lm"


@dataclass(frozen=True, slots=True)
class GgufTokenizer:
    """What goes into the file.

    Attributes:
        pre: llama.cpp's name of the pre-tokenizer.
        tokens: the entries by id, rows without one as ``[PADn]``.
        types: gguf's ``TokenType`` of each.
        merges: two entries each, with a space between.
        ids: ``bos``, ``eos``, ``eot``, ``unk``, ``padding`` -> id, those that there are.
        add_bos: whether every text begins with the first of these.
    """

    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    ids: dict[str, int]
    add_bos: bool


def plan_tokenizer(folder: Path, rows: int, stop: Sequence[int]) -> GgufTokenizer:
    """What a model's tokenizer becomes in a GGUF file.

    Args:
        folder: the model directory.
        rows: of its embedding matrix; a file has as many entries.
        stop: ids that end an answer.

    Raises:
        ModelError: llama.cpp would read another tokenizer; the reason, and the way out.
    """
    source = read_source(folder)
    spec = source.spec
    if source.family != "byte-level":
        raise ModelError(
            f"--gguf: {folder.name} has a SentencePiece-like tokenizer, whose merges and patterns "
            "llama.cpp replaces by scores that tokenizer.json does not hold; expected a byte-level "
            f"one (Llama 3, SmolLM2); {_WAY_OUT}, or convert it with llama.cpp's own script"
        )
    if spec["normalizer"] is not None:
        raise ModelError(
            f"--gguf: the tokenizer changes texts first ({spec['normalizer']['type']}), which "
            f"llama.cpp does not; {_WAY_OUT}"
        )
    pre = _pre_tokenizer(spec)
    _check_reach(source, pre)
    vocabulary = {id: entry for entry, id in whole_vocabulary(spec).items()}
    special = {token["id"]: token["special"] for token in spec["added_tokens"]}

    def kind(id: int) -> int:
        if id not in vocabulary:
            return _UNUSED
        if id not in special:
            return _NORMAL
        return _CONTROL if special[id] else _USER_DEFINED

    if max(vocabulary) >= rows:
        raise ModelError(f"--gguf: the tokenizer has id {max(vocabulary)}, the model {rows} rows")
    ids = _special_ids(source, stop)
    first = source.transformers("a").input_ids[:1]
    return GgufTokenizer(
        pre=pre,
        tokens=[vocabulary.get(id, f"[PAD{id}]") for id in range(rows)],
        types=[kind(id) for id in range(rows)],
        merges=[" ".join(_pair(merge)) for merge in spec["model"]["merges"]],
        ids=ids,
        add_bos=first == [ids.get("bos")],
    )


def _pair(merge: Any) -> Sequence[str]:
    return merge.split(" ") if isinstance(merge, str) else merge


def _pre_tokenizer(spec: Spec) -> str:
    found = parts(spec["pre_tokenizer"])
    for name, (steps, _) in PRE_TOKENIZERS.items():
        if len(steps) == len(found) and all(
            step.items() <= one.items() for step, one in zip(steps, found, strict=True)
        ):
            return name
    raise ModelError(
        f"--gguf: llama.cpp has no pre-tokenizer that cuts text as this one does "
        f"({', '.join(step['type'] for step in found)}); known are {', '.join(PRE_TOKENIZERS)}. A "
        "vocabulary expanded with --phrases has a pattern of its own: leave them out, or "
        f"{_WAY_OUT}"
    )


def _check_reach(source: Source, pre: str) -> None:
    """Refuse entries that only ``ignore_merges`` reaches where llama.cpp does not have it, or the
    reverse."""
    model = source.spec["model"]
    whole = PRE_TOKENIZERS[pre][1]
    if bool(model.get("ignore_merges")) == whole:
        return
    spec = {**source.spec, "model": {**model, "ignore_merges": False}}
    missed = out_of_reach(replace(source, spec=spec, tokenizer=from_spec(spec)))
    if missed:
        raise ModelError(
            f"--gguf: {len(missed):,} entries, the first {missed[0]!r}, are no result of merges, "
            f"and for the pre-tokenizer {pre} llama.cpp takes no others; expand the vocabulary "
            f"with --mode merges, or {_WAY_OUT}"
        )


def _special_ids(source: Source, stop: Sequence[int]) -> dict[str, int]:
    """llama.cpp ends at ``eos`` and at ``eot``; where only one ends answers, it is both."""
    loaded = source.transformers
    eos = loaded.eos_token_id
    others = [id for id in stop if id != eos]
    found = {
        "bos": loaded.bos_token_id,
        "eos": eos if eos is not None else next(iter(stop), None),
        "eot": others[0] if others else None,
        "unk": loaded.unk_token_id,
        "padding": loaded.pad_token_id,
    }
    return {role: id for role, id in found.items() if id is not None}


def add_tokenizer(writer: GGUFWriter, tokenizer: GgufTokenizer, template: str | None) -> None:
    """Put a tokenizer into the metadata of a file."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(tokenizer.pre)
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types(tokenizer.types)
    writer.add_token_merges(tokenizer.merges)
    for role, id in tokenizer.ids.items():
        name = {"unk": "unknown"}.get(role, role)
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", id)
    writer.add_add_bos_token(tokenizer.add_bos)
    writer.add_add_eos_token(False)
    if template is not None:
        writer.add_chat_template(template)


def read_back(reader: GGUFReader) -> Tokenizer:
    """The tokenizer that llama.cpp makes of a file's metadata, without the first token of texts."""

    def value(key: str) -> Any:
        field = reader.get_field(f"tokenizer.ggml.{key}")
        assert field is not None, key
        return field.contents()

    steps, whole = PRE_TOKENIZERS[value("pre")]
    tokens, types = value("tokens"), value("token_type")
    kept = {token: id for id, (token, kind) in enumerate(zip(tokens, types, strict=True))
            if kind != _UNUSED}  # fmt: skip
    added = [
        {
            "id": id,
            "content": token,
            "special": kind == _CONTROL,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for id, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    return from_spec(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [{"trim_offsets": True, **step} for step in steps],
            },
            "post_processor": None,
            "decoder": {
                "type": "ByteLevel",
                "add_prefix_space": True,
                "trim_offsets": True,
                "use_regex": True,
            },
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": whole,
                "vocab": kept,
                "merges": value("merges"),
            },
        }
    )
