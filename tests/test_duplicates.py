"""Duplicates: equal to the comparison of all pairs, whatever the order."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speakeasy.data.chat import Conversation, Turn
from speakeasy.data.dataset import starter_conversations
from speakeasy.data.duplicates import find_duplicates, jaccard, shingles

# Few words, so that near duplicates are common.
SAYINGS = st.lists(st.sampled_from(["va", "nen", "Nen", "apa"]), max_size=7).map(" ".join)


def say(user: str, assistant: str, system: str = "") -> Conversation:
    head = (Turn("system", system),) if system else ()
    return Conversation((*head, Turn("user", user), Turn("assistant", assistant)))


def components(conversations: list[Conversation], threshold: float) -> set[frozenset[int]]:
    """Connected components by comparing every pair: the definition, with nothing clever."""
    sets = [shingles(item) for item in conversations]
    names = list(range(len(sets)))
    for one in range(len(sets)):
        for other in range(one):
            if jaccard(sets[one], sets[other]) >= threshold:
                old, new = names[one], names[other]
                names = [new if name == old else name for name in names]
    groups = {frozenset(n for n, x in enumerate(names) if x == name) for name in names}
    return {group for group in groups if len(group) > 1}


@given(
    st.lists(st.builds(say, SAYINGS, SAYINGS, SAYINGS), max_size=12),
    st.sampled_from([0.1, 1 / 3, 0.5, 0.6, 2 / 3, 0.8, 1.0]),
)
def test_groups_are_those_of_all_pairs(conversations: list[Conversation], threshold: float) -> None:
    found = find_duplicates(conversations, threshold)
    assert {frozenset(group.members) for group in found} == components(conversations, threshold)
    assert all(threshold <= group.similarity <= 1 for group in found)


@given(st.lists(st.builds(say, SAYINGS, SAYINGS), max_size=12), st.randoms())
def test_groups_do_not_depend_on_order(
    conversations: list[Conversation], rng: random.Random
) -> None:
    order = list(range(len(conversations)))
    rng.shuffle(order)
    shuffled = find_duplicates([conversations[index] for index in order])
    back = {
        (frozenset(order[place] for place in group.members), group.exact, group.similarity)
        for group in shuffled
    }
    straight = find_duplicates(conversations)
    assert back == {(frozenset(g.members), g.exact, g.similarity) for g in straight}


def test_exact_means_the_same_after_normalisation() -> None:
    same = [say("¡Bon  dia, nen!", "Ei"), say("¡bon dia,\nNEN!", "ei")]
    assert [(group.members, group.exact) for group in find_duplicates(same)] == [((0, 1), True)]


def test_another_system_message_makes_a_near_duplicate() -> None:
    (group,) = find_duplicates([say("a b c", "d", "Uno."), say("a b c", "d", "Dos.")])
    assert (group.exact, group.similarity) == (False, 1.0)


def test_short_and_wordless_texts_are_compared_whole() -> None:
    assert find_duplicates([say("👍", "🎉"), say("👍", "👍"), say("Ei", "Va")]) == []
    assert len(find_duplicates([say("👍", "🎉"), say("👍", "🎉")])) == 1


def test_a_word_changed_in_ten_is_found_among_the_starter_conversations() -> None:
    conversations = starter_conversations()
    rng = random.Random(0)
    copies = []
    for item in conversations[:100]:
        turns = []
        for turn in item.turns:
            words = turn.content.split()
            for place in range(rng.randrange(10), len(words), 10):
                words[place] = "otra"
            turns.append(Turn(turn.role, " ".join(words)))
        copies.append(Conversation(tuple(turns)))
    found = {group.members for group in find_duplicates(conversations + copies)}
    expected = {(number, len(conversations) + number) for number in range(100)}
    assert found <= expected
    assert len(found) >= 90  # short ones can fall just below one half


@pytest.mark.timeout(60)
def test_thousands_of_near_copies_take_linear_time() -> None:
    # 18 million similar pairs. To look at each takes minutes (3,000 texts: 77 s), this seconds.
    mould = " ".join(f"palabra{number}" for number in range(60))
    copies = [say(mould, f"uno{number} dos{number} tres{number}") for number in range(6000)]
    start = time.perf_counter()
    (group,) = find_duplicates(copies)
    assert len(group.members) == 6000
    assert time.perf_counter() - start < 30
