"""Votes as training data: pairs of a chosen and a rejected answer, where people agreed.

Two forms. ``trl`` is TRL's conversational preference format, which its DPO trainer reads: prompt,
chosen and rejected are lists of messages
(https://huggingface.co/docs/trl/dataset_formats#preference). ``mlx-lm-lora`` is what that package's
DPO trainer reads: the three are text, and a directory holds train.jsonl and valid.jsonl
(``DPODataset`` in its trainer/datasets.py). It makes one user turn of the prompt, after a system
message if there is one, so pairs with earlier turns have no place in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from speakeasy.errors import RunError
from speakeasy.files import new_directory, write_text
from speakeasy.rating.ballots import Ballot, tally
from speakeasy.rating.key import Key
from speakeasy.rating.statistics.quality import excluded
from speakeasy.rating.study import Item, Record, Study
from speakeasy.rating.unblind import ballots_of, read_votes, require_closed

Format = Literal["trl", "mlx-lm-lora"]
TRAIN, VALID = "train.jsonl", "valid.jsonl"


@dataclass(frozen=True, slots=True)
class Agreed:
    """A pair on which people agreed.

    Attributes:
        better: number of the item's answer that was chosen.
    """

    item: Item
    prompt_id: str
    better: int


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a study's pairs.

    Attributes:
        judged: real pairs with a vote at least.
        few, split: too few votes, or no agreement.
        turns: agreed, but with earlier turns, which the format cannot hold.
    """

    train: int
    valid: int
    judged: int
    few: int
    split: int
    turns: int


def agreed_pairs(
    study: Study, key: Key, ballots: Sequence[Ballot], *, min_votes: int, min_share: float
) -> tuple[list[Agreed], int, int, int]:
    """The pairs on which people agreed; and how many were judged, had too few votes, or none.

    Gold items, repeats and excluded raters do not count. A vote for neither is a vote against
    both.
    """
    out = set(excluded(ballots, study.plan.exclusions))
    votes: dict[int, list[Ballot]] = {}
    for ballot in ballots:
        if ballot.real and ballot.rater not in out:
            votes.setdefault(ballot.item, []).append(ballot)
    found, few, split = [], 0, 0
    for number, own in sorted(votes.items()):
        won = tally(own, key.owners[number])
        better = 0 if won[0] >= won[1] else 1
        if len(own) < min_votes:
            few += 1
        elif won[better] / len(own) < min_share or won[0] == won[1]:
            split += 1
        else:
            found.append(Agreed(study.items[number], key.prompts[number], better))
    return found, len(votes), few, split


def write_preferences(
    study: Study,
    directory: Path,
    *,
    format: Format,
    min_votes: int,
    min_share: float,
    valid_share: float,
) -> Written:
    """Write the agreed pairs of a closed study into a new directory.

    Args:
        valid_share: share of prompts that go to ``valid.jsonl``, by their ids: none is in both.

    Raises:
        RunError: the study is open, no pair is left, or the directory is not empty.
    """
    votes = read_votes(study)
    require_closed(study, votes)
    key = Key.read(study.path)
    ballots = ballots_of(study, votes, key)
    pairs, judged, few, split = agreed_pairs(
        study, key, ballots, min_votes=min_votes, min_share=min_share
    )
    fitting = pairs if format == "trl" else [pair for pair in pairs if not _earlier(pair.item)]
    turns = len(pairs) - len(fitting)
    if not fitting:
        raise RunError(
            f"{study.path}: no pair is left of {judged:,} judged ({few:,} with too few votes, "
            f"{split:,} without agreement, {turns:,} with turns that {format} cannot hold); lower "
            "--min-votes or --min-share, or take another --format"
        )
    parts: dict[str, list[Agreed]] = {TRAIN: [], VALID: []}
    for pair in fitting:
        parts[VALID if _lot(pair.prompt_id) < valid_share else TRAIN].append(pair)
    with new_directory(directory) as place:
        for name, part in parts.items():
            if part or name == TRAIN:
                write_text(place / name, "".join(_lines(part, format)))
    return Written(len(parts[TRAIN]), len(parts[VALID]), judged, few, split, turns)


def _lines(pairs: Sequence[Agreed], format: Format) -> Iterator[str]:
    for pair in pairs:
        record = _conversational(pair) if format == "trl" else _plain(pair)
        yield json.dumps(record, ensure_ascii=False) + "\n"


def _conversational(pair: Agreed) -> Record:
    chosen, rejected = _answers(pair)
    history = [{"role": role, "content": content} for role, content in pair.item.history]
    return {
        "prompt": [*history, {"role": "user", "content": pair.item.prompt}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def _plain(pair: Agreed) -> Record:
    chosen, rejected = _answers(pair)
    record = {"prompt": pair.item.prompt, "chosen": chosen, "rejected": rejected}
    system = [content for role, content in pair.item.history if role == "system"]
    return {"system": system[0], **record} if system else record


def _earlier(item: Item) -> bool:
    """Whether something was said before the prompt, but for a system message."""
    return any(role != "system" for role, _ in item.history)


def _answers(pair: Agreed) -> tuple[str, str]:
    return pair.item.answers[pair.better], pair.item.answers[1 - pair.better]


def _lot(prompt_id: str) -> float:
    """0 to 1, the same for the same prompt."""
    return int(hashlib.sha256(prompt_id.encode()).hexdigest()[:8], 16) / 16**8
