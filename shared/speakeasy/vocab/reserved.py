"""Reserved tokens: ids that a tokenizer keeps free, with rows in the model already.

Llama 3 has 256 tokens behind its vocabulary, of which few have a meaning; the others are called
``<|reserved_special_token_N|>`` and were never trained. Which ones have been given a name since
differs between 3.0, 3.1 and fine-tuned models, so only the last unbroken run of them is taken, and
of that nothing that a config, the chat template or ``tokenizer_config.json`` names.
"""

from __future__ import annotations

import json
import re

from speakeasy.errors import ModelError
from speakeasy.vocab.families import Source, Spec
from speakeasy.weights.directory import read_json_object

_RESERVED = re.compile(r"<\|reserved_special_token_\d+\|>")
_CONFIGS = ("config.json", "generation_config.json")


def free_reserved(source: Source) -> dict[str, int]:
    """The reserved tokens that nothing uses: content to id, by id."""
    run: dict[str, int] = {}
    for token in sorted(source.spec["added_tokens"], key=lambda token: token["id"]):
        if _RESERVED.fullmatch(token["content"]):
            run[token["content"]] = token["id"]
        else:
            run = {}
    texts = _naming(source)
    ids = _configured_ids(source)
    return {
        content: id
        for content, id in run.items()
        if id not in ids and not any(content in text for text in texts)
    }


def give_up(source: Source, spec: Spec, count: int) -> tuple[tuple[str, ...], list[int]]:
    """Take the names of the first ``count`` free reserved tokens out of ``spec``.

    Returns:
        The names, and the ids that are free now.

    Raises:
        ModelError: there are not so many.
    """
    free = free_reserved(source)
    if not free:
        raise ModelError(
            f"--mode reserved: {source.directory} has no unused <|reserved_special_token_N|>; "
            "only Llama 3 tokenizers do; try --mode auto"
        )
    if len(free) < count:
        raise ModelError(
            f"--mode reserved: {count:,} entries are asked for, and {len(free):,} reserved tokens "
            "are unused; give fewer words, or let the model grow with --mode vocab"
        )
    taken = dict(list(free.items())[:count])
    spec["added_tokens"] = [t for t in spec["added_tokens"] if t["content"] not in taken]
    for content in taken:
        del spec["model"]["vocab"][content]
    return tuple(taken), list(taken.values())


def _naming(source: Source) -> list[str]:
    """Texts in which a token that is used would be named."""
    tokens = source.transformers
    named = [str(value) for value in tokens.special_tokens_map.values() if isinstance(value, str)]
    template = tokens.chat_template
    if template:
        named.append(template if isinstance(template, str) else json.dumps(template))
    named.append(json.dumps(source.spec["post_processor"]))
    return named


def _configured_ids(source: Source) -> set[int]:
    """Ids that ``config.json`` or ``generation_config.json`` names, ``eos_token_id`` and so on."""
    ids: set[int] = set()
    for name in _CONFIGS:
        file = source.directory / name
        if file.is_file():
            for key, value in read_json_object(file).items():
                if key.endswith("_token_id"):
                    values = value if isinstance(value, list) else [value]
                    ids |= {v for v in values if isinstance(v, int)}
    return ids
