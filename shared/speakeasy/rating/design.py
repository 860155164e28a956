"""Which rater sees what, in which order, and on which side: all drawn before anyone is asked.

Every list is balanced by itself: of each two models, either is to the left in half of the pairs
(or one more), and each two models are compared equally often (or one more). Over the lists, items
are used equally often, as far as that allows, and so are both sides of each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from speakeasy.rating.study import Slot

APART = 5
"""Positions that a repeated pair should be away from its first showing."""


@dataclass(frozen=True, slots=True)
class Real:
    """An item that counts.

    Attributes:
        owners: numbers of the systems behind its first and its second answer.
    """

    number: int
    prompt: str
    owners: tuple[int, int]

    @property
    def pair(self) -> tuple[int, int]:
        """The two systems, the lower number first."""
        return min(self.owners), max(self.owners)


@dataclass(slots=True)
class _Card:
    """A slot whose position is not yet known."""

    item: int
    swapped: bool
    first: _Card | None = None


def make_schedule(
    real: Sequence[Real],
    gold: Sequence[int],
    *,
    places: int,
    pairs: int,
    repeats: int,
    gold_each: int,
    seed: int,
) -> list[list[Slot]]:
    """A list of slots for each place.

    Args:
        gold: numbers of the gold items.
        pairs, repeats, gold_each: of each kind on a list; of real items no more than there are.
    """
    generator = np.random.default_rng(seed)
    used: Counter[int] = Counter()
    lefts: Counter[int] = Counter()
    schedule = []
    for place in range(places):
        chosen = _choose(real, min(pairs, len(real)), used, generator)
        cards = _sided(chosen, lefts, place, generator)
        cards = [cards[n] for n in generator.permutation(len(cards))]
        _put_gold(cards, gold, gold_each, place, generator)
        _put_repeats(cards, min(repeats, len(chosen)), set(gold), generator)
        schedule.append(_slots(cards))
    return schedule


def _choose(
    real: Sequence[Real], count: int, used: Counter[int], generator: np.random.Generator
) -> list[Real]:
    """Items for a list: prompts not seen on it first, then models seldom compared on it, then items
    seldom used before; the rest by lot."""
    lot = dict(zip((item.number for item in real), generator.random(len(real)), strict=True))
    left = list(real)
    prompts: Counter[str] = Counter()
    compared: Counter[tuple[int, int]] = Counter()
    chosen = []
    for _ in range(count):
        item = min(
            left,
            key=lambda each: (
                prompts[each.prompt], compared[each.pair], used[each.number], lot[each.number],
            ),
        )  # fmt: skip
        left.remove(item)
        chosen.append(item)
        prompts[item.prompt] += 1
        compared[item.pair] += 1
        used[item.number] += 1
    return chosen


def _sided(
    chosen: Sequence[Real], lefts: Counter[int], place: int, generator: np.random.Generator
) -> list[_Card]:
    """Half of each two models' items with the lower number to the left: where it was least."""
    cards = []
    for pair in dict.fromkeys(item.pair for item in chosen):
        own = [item for item in chosen if item.pair == pair]
        own = [own[n] for n in generator.permutation(len(own))]
        own.sort(key=lambda item: lefts[item.number])
        half = (len(own) + place % 2) // 2
        for rank, item in enumerate(own):
            lower_left = rank < half
            lefts[item.number] += 1 if lower_left else -1
            cards.append(_Card(item.number, (item.owners[0] == pair[0]) != lower_left))
    return cards


def _put_gold(
    cards: list[_Card],
    gold: Sequence[int],
    count: int,
    place: int,
    generator: np.random.Generator,
) -> None:
    """Gold items anywhere but first, in rotation, either side up by lot."""
    for number in range(min(count, len(gold))):
        item = gold[(place * count + number) % len(gold)]
        swapped = bool((number + generator.integers(0, 2)) % 2)
        cards.insert(
            int(generator.integers(min(1, len(cards)), len(cards) + 1)), _Card(item, swapped)
        )


def _put_repeats(
    cards: list[_Card], count: int, gold: set[int], generator: np.random.Generator
) -> None:
    """The other side up, ``APART`` positions on, or as far as the list allows."""
    originals = [card for card in cards if card.item not in gold]
    early = originals[: max(count, len(originals) - APART + 1)]
    for choice in generator.permutation(len(early))[:count]:
        first = early[choice]
        least = min(cards.index(first) + APART, len(cards))
        place = int(generator.integers(least, len(cards) + 1))
        cards.insert(place, _Card(first.item, not first.swapped, first))


def _slots(cards: Sequence[_Card]) -> list[Slot]:
    place = {id(card): position for position, card in enumerate(cards)}
    return [
        Slot(card.item, card.swapped, None if card.first is None else place[id(card.first)])
        for card in cards
    ]
