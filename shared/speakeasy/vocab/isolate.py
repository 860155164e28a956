"""Regular expressions that make a word or a phrase a pre-token of its own.

They are written for Oniguruma, which the ``tokenizers`` library uses: ``\\p{L}`` is a letter,
``(?<!...)`` and ``(?!...)`` look around.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from speakeasy.vocab.families import SPACE, Spec, from_spec, joined, parts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What a ``ByteLevel`` pre-tokenizer cuts with when ``use_regex`` is set (tokenizers,
pre_tokenizers/byte_level.rs; GPT-2's encoder.py)."""

_IN_WORD = r"\p{L}\p{M}\p{N}"
_NO_WORD_GOES_ON = f"(?![{_IN_WORD}])"


def alternation(strings: Iterable[str]) -> str:
    """A regular expression for any of the strings, the longest that fits first.

    Common beginnings are written once. Two thousand alternatives tried one by one at every
    character would be slow.
    """
    endings: dict[str, list[str]] = {}
    for string in strings:
        endings.setdefault(string[:1], []).append(string[1:])
    may_end = endings.pop("", None) is not None
    branches = [re.escape(first) + alternation(rest) for first, rest in sorted(endings.items())]
    if not branches:
        return ""
    if len(branches) == 1 and not may_end:
        return branches[0]
    return f"(?:{'|'.join(branches)})" + ("?" if may_end else "")


def isolate_words(spec: Spec, keys: Collection[str]) -> dict[str, Any]:
    """The pre-tokenizer of a SentencePiece-like tokenizer, and then a cut around these words.

    A word counts only where no letter, mark or digit goes on after it. A key without ``▁`` counts
    only behind something that is no letter, mark, digit or space. Elsewhere nothing is cut, so a
    text without any of the words is one piece as before.
    """
    spaced = [key for key in keys if key.startswith(SPACE)]
    words = [key for key in keys if not key.startswith(SPACE) and key[0].isalnum()]
    glued = [key for key in keys if not key.startswith(SPACE) and not key[0].isalnum()]
    choices = [alternation(spaced), alternation(glued)]
    if words:
        choices.append(f"(?<![{_IN_WORD}{SPACE}])" + alternation(words))
    pattern = f"(?:{'|'.join(filter(None, choices))})" + _NO_WORD_GOES_ON
    steps = [*parts(spec["pre_tokenizer"]), _split(pattern)]
    result = joined(steps)
    assert result is not None
    return result


def word_finder(spec: Spec, keys: Collection[str]) -> Tokenizer:
    """Not to encode with: its pre-tokens are the words, and what lies between them."""
    return from_spec(
        {
            **spec,
            "model": {"type": "BPE", "vocab": {}, "merges": []},
            "added_tokens": [],
            "post_processor": None,
            "pre_tokenizer": isolate_words(spec, keys),
        }
    )


def keep_phrases(spec: Spec, phrases: Iterable[str]) -> dict[str, Any] | None:
    """The pre-tokenizer of a byte-level tokenizer, but with phrases left whole.

    The phrases come first in the regular expression that cuts, so they are tried wherever a
    pre-token begins, and nothing else is cut differently.

    Returns:
        None where no step is known that cuts by a regular expression.
    """
    steps = parts(spec["pre_tokenizer"])
    whole = alternation(phrases) + _NO_WORD_GOES_ON
    for place, step in enumerate(steps):
        if step["type"] == "Split" and "Regex" in step["pattern"]:
            longer = {"Regex": f"{whole}|{step['pattern']['Regex']}"}
            return joined([*steps[:place], {**step, "pattern": longer}, *steps[place + 1 :]])
        if step["type"] == "ByteLevel" and step["use_regex"] and not step["add_prefix_space"]:
            cut = _split(f"{whole}|{GPT2_PATTERN}")
            return joined([*steps[:place], cut, {**step, "use_regex": False}, *steps[place + 1 :]])
    return None


def _split(pattern: str) -> dict[str, Any]:
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }
