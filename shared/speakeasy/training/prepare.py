"""From a plan to what the loop takes: conversations as tokens, with an account of every one."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speakeasy.batches.render import RenderedSet, render_all
from speakeasy.batches.types import Rendered
from speakeasy.config import DataConfig
from speakeasy.data.chat import Conversation
from speakeasy.data.dataset import load_conversations, starter_conversations
from speakeasy.data.split import hold_out
from speakeasy.errors import DataError


@dataclass(frozen=True, slots=True)
class Prepared:
    """Both sides of the data, ready to be packed.

    Attributes:
        train, held_out: rendered conversations with counts of what was shortened or left out.
        overlap: how many held-out conversations stand in ``train`` too, token for token.
        origin: where they came from, in words.
        fingerprint: changes with any token or target of either side, or their order.
    """

    train: RenderedSet
    held_out: RenderedSet
    overlap: int
    origin: str
    fingerprint: str


def prepare(
    config: DataConfig, tokenizer: Any, seed: int, say: Callable[[str], None] = lambda line: None
) -> Prepared:
    """Read, hold out, render.

    Raises:
        DataError: a file cannot be used, or nothing is left to learn or to score.
    """
    train, held_out, origin = conversations(config, seed)
    say(f"data: {origin}")
    sides = [
        render_all(tokenizer, side, config.max_length)
        for side in (_take(train, config.max_train, seed), _take(held_out, config.max_eval, seed))
    ]
    for name, side in zip(("training", "held-out"), sides, strict=True):
        if not side.items:
            raise DataError(
                f"{origin}: no {name} conversation fits --max-length {config.max_length}; "
                f"raise it or shorten them"
            )
    trained = {item.tokens_T.tobytes() for item in sides[0].items}
    overlap = sum(item.tokens_T.tobytes() in trained for item in sides[1].items)
    return Prepared(*sides, overlap=overlap, origin=origin, fingerprint=_fingerprint(sides))


def conversations(
    config: DataConfig, seed: int
) -> tuple[list[Conversation], list[Conversation], str]:
    """Both sides of the data, and where they came from in words."""
    reader = None if config.format == "auto" else config.format
    if config.train:
        everything = load_conversations([Path(path) for path in config.train], reader)
        origin = ", ".join(config.train)
    else:
        everything = starter_conversations()
        origin = "the packaged starter conversations"
    if config.evaluation:
        held_out = load_conversations([Path(path) for path in config.evaluation], reader)
        return everything, held_out, f"{origin}; held out: {', '.join(config.evaluation)}"
    train, held_out = hold_out(everything, fraction=config.holdout, seed=seed)
    return train, held_out, f"{origin}; {config.holdout:.0%} held out (seed {seed})"


def _take(side: Sequence[Conversation], count: int, seed: int) -> Sequence[Conversation]:
    if not count or count >= len(side):
        return side
    chosen = sorted(random.Random(seed).sample(range(len(side)), count))
    return [side[index] for index in chosen]


def _fingerprint(sides: Sequence[RenderedSet]) -> str:
    digest = hashlib.sha256()
    for side in sides:
        digest.update(f"{len(side.items)} ".encode())
        for item in side.items:
            _update(digest, item)
    return digest.hexdigest()


def _update(digest: Any, item: Rendered) -> None:
    digest.update(f"{len(item.tokens_T)} ".encode())
    digest.update(item.tokens_T.astype("<i4").tobytes())
    digest.update(item.is_target_T.tobytes())
