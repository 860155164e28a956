"""What the usual ``add_tokens`` does to a tokenizer: a comparison, which nothing here expands with.

A token added so is looked for anywhere in a text before anything else is cut: inside of other words
too (``va|mos``), without the space before it, and under a spelling that a byte-level decoder takes
for bytes (``adéu`` comes back as ``ad\ufffdu``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from speakeasy.vocab.compare import Comparison, compare, word_lists
from speakeasy.vocab.families import Source, from_spec, pre_tokens
from speakeasy.vocab.progress import Bar, no_bar


@dataclass(frozen=True, slots=True)
class NaiveAddition:
    """The harm that ``add_tokens`` does.

    Attributes:
        words: language to the comparison over its commonest words, bare.
        still_two: words that cost more than one token after a space all the same.
        destroyed: added words that no longer decode to themselves.
        taken: added words that were entries before, and are now matched anywhere.
    """

    words: dict[str, Comparison]
    still_two: tuple[str, ...]
    destroyed: tuple[str, ...]
    taken: tuple[str, ...]

    @property
    def changed(self) -> int:
        """Words that changed without holding an added one, summed over the languages."""
        return sum(len(part.collateral) for part in self.words.values())


def naive_addition(source: Source, words: Sequence[str], *, bar: Bar = no_bar) -> NaiveAddition:
    """Add words as ``tokenizer.add_tokens(words)`` does, and look what becomes of other words.

    Args:
        source: the tokenizer; it is not changed.
        words: as a list of words has them: bare.
        bar: opens a progress bar.
    """
    from tokenizers import AddedToken

    old, new = source.tokenizer, from_spec(source.spec)
    # transformers makes this of a string (PreTrainedTokenizerFast._add_tokens).
    new.add_tokens([AddedToken(word, special=False, normalized=True) for word in words])
    spaced = [f" {word}" for word in words]
    cut = [pre_tokens(old, form) for form in (*words, *spaced)]
    keys = {pieces[0] for pieces in cut if len(pieces) == 1}
    ids = new.encode_batch_fast(list(words), add_special_tokens=False)
    decoded = new.decode_batch([item.ids for item in ids], skip_special_tokens=False)
    after_space = new.encode_batch_fast(spaced, add_special_tokens=False)
    return NaiveAddition(
        words={
            language: compare(old, new, part, keys=keys, cutter=old, bar=bar)
            for language, part in word_lists().items()
        },
        still_two=tuple(
            word for word, item in zip(words, after_space, strict=True) if len(item.ids) > 1
        ),
        destroyed=tuple(word for word, text in zip(words, decoded, strict=True) if text != word),
        taken=tuple(word for word in words if old.token_to_id(word) is not None),
    )
