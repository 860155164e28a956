"""Measures of the words of an answer that know no language: variety, repetition, copying."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from speakeasy.evaluation.words import words

Ngram = tuple[str, ...]

REPEATED = 4
"""Length of the n-grams of ``repetition``."""
COPIED = 4
"""Shortest run of words that counts as taken from the prompt."""
TRAINING = 13
"""Length of the n-grams that are looked for in training texts (Brown et al. 2020, appendix C)."""
LOOP_TIMES = 3
LOOP_WORDS = 8
"""A cycle at an answer's end is a loop from so many rounds and so many words on; `no, no, no` and
`va, va, va` are how people talk."""


def ngrams(tokens: Sequence[str], length: int) -> Iterator[Ngram]:
    """All runs of ``length`` words, in order."""
    return zip(*(tokens[start:] for start in range(length)), strict=False)


def repetition(tokens: Sequence[str]) -> float:
    """Share of 4-grams that came before: 1 - different / all; 0 for fewer than four words.

    seq-rep-4 of Welleck et al. 2020, <https://arxiv.org/abs/1908.04319>, section 6.
    """
    runs = list(ngrams(tokens, REPEATED))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def loops(tokens: Sequence[str]) -> bool:
    """Whether the words end in a cycle: the last n are the same n, three times in a row or more.

    The rounds must make ``LOOP_WORDS`` words together. The last word may be cut off.
    """
    return _cycles(tokens) or _cycles(tokens[:-1])


def _cycles(tokens: Sequence[str]) -> bool:
    for length in range(1, len(tokens) // LOOP_TIMES + 1):
        times = max(LOOP_TIMES, -(-LOOP_WORDS // length))
        end = tokens[-length * times :]
        if len(end) == length * times and end[length:] == end[:-length]:
            return True
    return False


def prompt_overlap(tokens: Sequence[str], prompt: Sequence[str]) -> float:
    """Share of the words that lie in a run of four or more that is also in the prompt.

    An answer of fewer than four words overlaps as a whole or not at all.
    """
    length = min(COPIED, len(tokens))
    if not length:
        return 0.0
    known = set(ngrams(prompt, length))
    copied = [False] * len(tokens)
    for start, run in enumerate(ngrams(tokens, length)):
        if run in known:
            copied[start : start + length] = [True] * length
    return sum(copied) / len(tokens)


def training_ngrams(answers: Iterable[str], training: Iterable[str]) -> frozenset[Ngram]:
    """Those 13-grams of the answers that stand in the training texts too.

    The answers' n-grams are held and the training texts run past them, so that a corpus of
    gigabytes needs no more memory than its longest text.
    """
    wanted = {run for answer in answers for run in ngrams(words(answer), TRAINING)}
    first = {run[0] for run in wanted}
    found: set[Ngram] = set()
    for text in training:
        tokens = words(text)
        for start, word in enumerate(tokens[: 1 - TRAINING]):
            if word in first:
                run = tuple(tokens[start : start + TRAINING])
                if run in wanted:
                    found.add(run)
    return frozenset(found)
