"""Train and eval parts that share no conversation, not even nearly."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from speakeasy.data.chat import Conversation
from speakeasy.data.duplicates import content_key, find_duplicates
from speakeasy.errors import DataError, UsageError

NO_STRATUM = "(none)"


def stratum(conversation: Conversation, by: str) -> str:
    """The value of the field that a split is stratified by; ``domain`` falls back on the file."""
    value = conversation.domain if by == "domain" else conversation.fields.get(by)
    return NO_STRATUM if value is None or value == "" else str(value)


def hold_out(
    conversations: Sequence[Conversation],
    *,
    fraction: float = 0.1,
    count: int | None = None,
    seed: int = 0,
    by: str = "domain",
) -> tuple[list[Conversation], list[Conversation]]:
    """Split into (train, eval), each in the order given.

    A conversation and its near duplicates (``find_duplicates``) stay on one side. Every stratum
    gives eval its share, rounded so that the sum is right (largest remainder). Which
    conversations are held out depends on what they say and on the seed, not on their order, their
    files or the machine. Where a group of duplicates is larger than the room that is left for it,
    it stays in train, so eval can come out smaller than asked, never larger.

    Args:
        conversations: at least two, not all near duplicates of each other.
        fraction: share of conversations to hold out, between 0 and 1; one is held out at least.
        count: number to hold out, instead of ``fraction``.
        seed: another seed holds out others.
        by: the field to stratify by.

    Raises:
        UsageError: an argument is out of range, or no conversation has the field.
        DataError: nothing can be held out.
    """
    wanted = _wanted(len(conversations), fraction, count)
    _require_field(conversations, by)
    groups = _groups(conversations)
    # What stands for a group must not depend on the order that its members came in.
    faces = {
        group: min(
            (content_key(conversations[index]), stratum(conversations[index], by))
            for index in group
        )
        for group in groups
    }
    groups.sort(key=lambda group: _draw(faces[group][0], seed))
    strata: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    for group in groups:
        strata[faces[group][1]].append(group)
    sizes = {name: sum(map(len, members)) for name, members in strata.items()}
    held: set[int] = set()
    for name, share in _shares(sizes, wanted).items():
        held.update(_fill(strata[name], share))
    # Groups too large for their stratum's share leave room that single conversations can take.
    rest = [group for group in groups if group[0] not in held]
    held.update(_fill(rest, wanted - len(held)))
    if not held:
        raise DataError(
            f"{len(conversations):,} conversations: nothing can be held out, since all are near "
            f"duplicates in groups of more than {wanted:,}; give an eval file, or hold out more"
        )
    train = [item for index, item in enumerate(conversations) if index not in held]
    return train, [item for index, item in enumerate(conversations) if index in held]


def count_strata(conversations: Sequence[Conversation], by: str) -> dict[str, int]:
    """How many conversations each stratum has, by name."""
    return dict(sorted(Counter(stratum(item, by) for item in conversations).items()))


def _wanted(total: int, fraction: float, count: int | None) -> int:
    if total < 2:
        raise DataError(f"{total} conversation(s): expected two at least to hold one out")
    if count is None:
        if not 0 < fraction < 1:
            raise UsageError(f"--eval-fraction {fraction}: expected a number between 0 and 1")
        return min(max(round(fraction * total), 1), total - 1)
    if not 0 < count < total:
        raise UsageError(f"--eval-count {count}: expected 1 to {total - 1:,} of {total:,}")
    return count


def _require_field(conversations: Sequence[Conversation], by: str) -> None:
    if by == "domain" or any(by in conversation.fields for conversation in conversations):
        return
    known = sorted({"domain"}.union(*(conversation.fields for conversation in conversations)))
    raise UsageError(f"--by {by}: no conversation has this field; expected {', '.join(known)}")


def _groups(conversations: Sequence[Conversation]) -> list[tuple[int, ...]]:
    """Every conversation's index once, near duplicates together."""
    groups = [group.members for group in find_duplicates(conversations)]
    grouped = {index for group in groups for index in group}
    return groups + [(index,) for index in range(len(conversations)) if index not in grouped]


def _draw(content: str, seed: int) -> bytes:
    """A random number that depends on the content and the seed alone."""
    return hashlib.blake2b(f"{seed}\n{content}".encode()).digest()


def _shares(sizes: Mapping[str, int], wanted: int) -> dict[str, int]:
    """Divide ``wanted`` in proportion to ``sizes`` by the largest remainder."""
    total = sum(sizes.values())
    exact = {name: wanted * size / total for name, size in sizes.items()}
    shares = {name: math.floor(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (shares[name] - exact[name], name))
    for name in by_remainder[: wanted - sum(shares.values())]:
        shares[name] += 1
    return shares


def _fill(groups: Sequence[tuple[int, ...]], room: int) -> list[int]:
    """Take groups in order, leaving out those that no longer fit."""
    taken: list[int] = []
    for group in groups:
        if len(taken) + len(group) <= room:
            taken.extend(group)
    return taken
