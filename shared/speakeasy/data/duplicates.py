"""Exact and near duplicates among conversations.

Two conversations are near duplicates when the sets of word triples in what user and assistant say
have a Jaccard similarity of at least one half: after a word changed in every ten, similarity is
near 0.6; conversations that were written apart stay under 0.1 (starter data: at most 0.07).

The pairs are found by an exact similarity join with prefix and length filters (Bayardo, Ma and
Srikant, "Scaling Up All Pairs Similarity Search", WWW 2007; Xiao et al., "Efficient Similarity
Joins for Near Duplicate Detection", WWW 2008) and not by MinHash: no pair is missed, no seed is
needed, and a split that relies on the groups can promise what it promises. MinHash pays from about
a million conversations on; data sets here have a hundredth of that.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from speakeasy.data.chat import Conversation

NEAR_THRESHOLD = 0.5
SHINGLE_WORDS = 3
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Duplicates:
    """A set of conversations in which each is a near duplicate of another one.

    Attributes:
        members: their indices in the list that was searched, ascending.
        exact: all say the same, word for word, after normalisation.
        similarity: the lowest similarity (0..1) of the links that hold the group together.
    """

    members: tuple[int, ...]
    exact: bool
    similarity: float


def normalized(text: str) -> str:
    """Text without the differences that the eye passes over: NFKC, case, width of spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def content_key(conversation: Conversation) -> str:
    """A text that two conversations share exactly when they are exact duplicates.

    Roles and the system message count, capitals and white space do not.
    """
    return "\n".join(f"{turn.role}: {normalized(turn.content)}" for turn in conversation.turns)


def shingles(conversation: Conversation) -> frozenset[str]:
    """The word triples of what user and assistant say; never empty.

    The system message is left out: one and the same often stands in a whole data set.
    """
    text = "\n".join(
        normalized(turn.content) for turn in conversation.turns if turn.role != "system"
    )
    words = _WORD.findall(text)
    if len(words) < SHINGLE_WORDS:
        return frozenset([text])
    last = len(words) - SHINGLE_WORDS + 1
    return frozenset(" ".join(words[start : start + SHINGLE_WORDS]) for start in range(last))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Size of the intersection over size of the union."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def find_duplicates(
    conversations: Sequence[Conversation], threshold: float = NEAR_THRESHOLD
) -> list[Duplicates]:
    """Groups of exact and near duplicates, largest first; which they are is independent of order.

    Being a near duplicate is not transitive, so a group is a connected component: each member
    has at least ``threshold`` in common with another member, not with all of them.

    Args:
        conversations: what to search.
        threshold: Jaccard similarity of word triples, above 0, at most 1.
    """
    sets = [shingles(conversation) for conversation in conversations]
    forest = _Forest(len(sets))
    links = _similar_pairs(sets, threshold, forest)
    members: dict[int, list[int]] = defaultdict(list)
    for index in range(len(sets)):
        members[forest.root(index)].append(index)
    weakest: dict[int, float] = defaultdict(lambda: 1.0)
    for one, similarity in links:
        weakest[forest.root(one)] = min(weakest[forest.root(one)], similarity)
    groups = [
        Duplicates(
            members=tuple(group),
            exact=len({content_key(conversations[index]) for index in group}) == 1,
            similarity=weakest[root],
        )
        for root, group in members.items()
        if len(group) > 1
    ]
    return sorted(groups, key=lambda group: (-len(group.members), group.members))


class _Forest:
    """Disjoint sets of the numbers below ``size`` (union-find with path halving)."""

    def __init__(self, size: int) -> None:
        self.parent = list(range(size))

    def root(self, item: int) -> int:
        parent = self.parent
        while parent[item] != item:
            parent[item] = item = parent[parent[item]]
        return item

    def join(self, one: int, other: int) -> None:
        self.parent[self.root(one)] = self.root(other)


def _similar_pairs(
    sets: Sequence[frozenset[str]], threshold: float, forest: _Forest
) -> list[tuple[int, float]]:
    """Join all similar sets in ``forest``; returns the links made: (one end, similarity).

    With each set's shingles in one order, rarest first, two sets of which the larger has n
    shingles can only be similar when they share one among their first ``n - ceil(t n) + 1``; and
    the smaller has ``t n`` shingles at least. Pairs that other links have joined are not looked
    at again, so large groups of copies cost little.
    """
    frequency = Counter(shingle for shingles_of in sets for shingle in shingles_of)
    ordered = sorted(sorted(frequency), key=frequency.__getitem__)
    rank = {shingle: number for number, shingle in enumerate(ordered)}
    ranks = [sorted(map(rank.__getitem__, shingles_of)) for shingles_of in sets]
    holders: dict[int, list[int]] = defaultdict(list)  # shingle -> sets, small to large
    joined: dict[int, int] = defaultdict(int)  # shingle -> how many first holders are one tree
    links = []
    for index in sorted(range(len(sets)), key=lambda index: (len(ranks[index]), ranks[index])):
        size = len(ranks[index])
        least = threshold * size
        prefix = ranks[index][: size - math.ceil(least - 1e-9) + 1]
        compared = set()
        for shingle in prefix:
            others = holders[shingle]
            for place in range(len(others) - 1, -1, -1):
                other = others[place]
                if len(ranks[other]) < least - 1e-9:
                    break
                if forest.root(other) == forest.root(index):
                    if place < joined[shingle]:
                        break
                elif other not in compared:
                    compared.add(other)
                    similarity = jaccard(sets[index], sets[other])
                    if similarity >= threshold:
                        forest.join(index, other)
                        links.append((index, similarity))
        for shingle in prefix:
            others = holders[shingle]
            others.append(index)
            while joined[shingle] < len(others) and (
                forest.root(others[joined[shingle]]) == forest.root(others[0])
            ):
                joined[shingle] += 1
    return links
