"""Merges that build new entries out of old ones, for tokenizers where nothing else survives.

They are appended, so all old merges go first and every text is cut as before until only new ones
apply. Still, a merge knows nothing of where a word ends: `` nen`` as ``Ġn`` + ``en`` also joins
these two at the beginning of another word, if the old tokenizer left them apart there. That
collateral is small for forms after a space, which are anchored at the beginning of a word, and it
is measured before anything is written (``verify.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

Pair = tuple[str, str]


class Merges:
    """Old merges, and new ones behind them.

    Args:
        merges: of ``tokenizer.json``: ``["a", "b"]`` or ``"a b"``, the first to apply first.
    """

    def __init__(self, merges: Sequence[Sequence[str] | str]) -> None:
        pairs = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in merges]
        self._ranks: dict[Pair, int] = {(a, b): rank for rank, (a, b) in enumerate(pairs)}
        self._old = len(pairs)

    @property
    def all(self) -> list[list[str]]:
        """In ``tokenizer.json``'s form."""
        return [[a, b] for (a, b), _ in sorted(self._ranks.items(), key=lambda item: item[1])]

    @property
    def added(self) -> int:
        """How many are new."""
        return len(self._ranks) - self._old

    def apply(self, pieces: Sequence[str]) -> list[str]:
        """Merge until nothing applies: the best-ranked pair first, the leftmost of equals."""
        done = list(pieces)
        while known := [
            (self._ranks[pair], place)
            for place, pair in enumerate(pairwise(done))
            if pair in self._ranks
        ]:
            _, place = min(known)
            done[place : place + 2] = ["".join(done[place : place + 2])]
        return done

    def build(self, pieces: Sequence[str]) -> list[str]:
        """Append what makes one entry of a word's old pieces, from left to right.

        Returns:
            The entries that this makes, the whole word last; empty where it is one already. An
            earlier word's merges may have joined some pieces: the rest is built from there. Each
            is a beginning of the word.
        """
        made = []
        left = self.apply(pieces)
        while len(left) > 1:
            self._ranks[left[0], left[1]] = len(self._ranks)
            made.append(left[0] + left[1])
            left = self.apply(left)  # the pair may occur twice, as in a|a|a|a
        return made
