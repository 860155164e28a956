"""From a plan to what the loop takes: conversations as tokens, with an account of every one."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from speakeasy.batches.render import RenderedSet, render_all
from speakeasy.batches.types import Rendered
from speakeasy.config import DataConfig
from speakeasy.data.chat import Conversation
from speakeasy.data.dataset import load_conversations, starter_conversations
from speakeasy.data.formats import FORMATS, Format
from speakeasy.data.split import hold_out
from speakeasy.errors import DataError, UsageError
from speakeasy.vocab.progress import Bar, no_bar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prepared:
    """Both sides of the data, ready to be packed.

    Attributes:
        train, held_out: rendered conversations with counts of what was shortened or left out.
        neutral: held-out text that must not be forgotten, raw text's only.
        overlap: how many held-out conversations stand in ``train`` too, token for token.
        origin: where they came from, in words.
        fingerprint: changes with any token or target of either side, or their order.
    """

    train: RenderedSet
    held_out: RenderedSet
    overlap: int
    origin: str
    fingerprint: str
    neutral: Sequence[Rendered] = ()


def prepare(
    config: DataConfig,
    tokenizer: Any,
    seed: int,
    *,
    context: int,
    say: Callable[[str], None] = lambda line: None,
    bar: Bar = no_bar,
) -> Prepared:
    """Read, hold out, render.

    Args:
        context: positions that the model knows; no conversation may be longer, though a packed
            row of several may.

    Raises:
        DataError: a file cannot be used, or nothing is left to learn or to score.
    """
    train, held_out, origin = conversations(config, seed)
    say(f"data: {origin}")
    chosen = take(train, config.max_train, seed), take(held_out, config.max_eval, seed)
    with bar("tokenising", sum(len(side) for side in chosen)) as advance:
        learned, scored = (
            render_all(tokenizer, side, min(config.max_length, context), advance) for side in chosen
        )
    for name, side in (("training", learned), ("held-out", scored)):
        if not side.items:
            raise DataError(
                f"{origin}: no {name} conversation fits --max-length {config.max_length}; "
                f"raise it or shorten them"
            )
    seen = {item.tokens_T.tobytes() for item in learned.items}
    return Prepared(
        train=learned,
        held_out=scored,
        overlap=sum(item.tokens_T.tobytes() in seen for item in scored.items),
        origin=origin,
        fingerprint=_fingerprint((learned, scored)),
    )


def conversations(
    config: DataConfig, seed: int
) -> tuple[list[Conversation], list[Conversation], str]:
    """Both sides of the data, and where they came from in words."""
    reader = _reader(config.format)
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


def _reader(name: str) -> Format | None:
    if name == "auto":
        return None
    if name not in FORMATS:
        raise UsageError(f"--format {name}: expected auto, {', '.join(FORMATS)}")
    return name


def take(side: Sequence[T], count: int, seed: int) -> Sequence[T]:
    """A seeded choice of so many of a side, in their order; all of them for 0."""
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
