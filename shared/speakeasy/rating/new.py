"""From evaluations to a study that people can be asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import TypeVar

import numpy as np

from speakeasy.data.dataset import load_conversations, starter_conversations
from speakeasy.dialect.audio import Dialogue, packaged_dialogues, read_dialogues
from speakeasy.dialect.variety import CATALONIA, Variety
from speakeasy.errors import UsageError
from speakeasy.evaluation.result import Evaluation
from speakeasy.files import new_directory
from speakeasy.rating.checks import DROPPED, flags_of
from speakeasy.rating.design import Real, make_schedule
from speakeasy.rating.gold import gold_pairs
from speakeasy.rating.key import Key, write_key
from speakeasy.rating.power import Power, power_table
from speakeasy.rating.sources import (
    Candidate,
    candidates,
    check_comparable,
    figures,
    identity,
)
from speakeasy.rating.study import Item, Record, StudyPlan, write_study
from speakeasy.rating.wish import NONE, PACKAGED, Wish

_GOLD_KINDS = 3
"""Gold items that a study has for each that a rater sees: not the same for everyone."""
_LEAST_PLACES = 30
REGIONS: Mapping[str, str] = {CATALONIA.name: "Catalunya"}
"""What raters call the region of a packaged variety."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Made:
    """What was made of a wish.

    Attributes:
        flags: flag -> ids of the prompts of the pairs that have it.
        dropped: pairs that were left out.
        power: what the study can find.
        notes: what the organiser should know.
    """

    plan: StudyPlan
    flags: Mapping[str, list[str]]
    dropped: int
    power: Sequence[Power]
    notes: Sequence[str]

    def record(self) -> Record:
        """As JSON."""
        return {
            "plan": asdict(self.plan),
            "flags": {flag: list(ids) for flag, ids in self.flags.items()},
            "dropped": self.dropped,
            "power": [asdict(power) for power in self.power],
            "notes": list(self.notes),
        }


def make_study(evaluations: Sequence[Evaluation], wish: Wish, directory: Path | None) -> Made:
    """Make a study, or only say what it would be like.

    Args:
        evaluations: of the models, which were asked the same prompts.
        directory: where it goes; None to write nothing.

    Raises:
        UsageError, RunError: the evaluations cannot be compared, or no pair is fit to be judged.
    """
    check_comparable(evaluations)
    generator = np.random.default_rng(wish.seed)
    found = candidates(evaluations, wish.samples)
    kept, flags, dropped = _sorted_out(found, evaluations, wish)
    variety = Variety(**evaluations[0].record["variety"])
    notes: list[str] = []
    gold_each = round(wish.gold_share * min(wish.pairs, len(kept)))
    gold = _gold(wish, variety, gold_each, [each.prompt.text for each in kept], generator, notes)
    items, key = _items(kept, gold, evaluations, generator)
    gold_each = min(gold_each, len(gold))
    if len(kept) < wish.pairs:
        notes.append(f"lists hold all {len(kept):,} pairs: there are no more of them")
    plan = StudyPlan(
        title=wish.title,
        contact=wish.contact,
        language=variety.matrix,
        variety=variety.name,
        region=wish.region or REGIONS.get(variety.name, ""),
        raters=wish.raters,
        pairs=min(wish.pairs, len(kept)),
        repeats=min(wish.repeats, len(kept)),
        gold=gold_each,
        items=len(items),
        prompts=len({each.prompt.id for each in kept}),
        systems=len(evaluations),
        seed=wish.seed,
    )
    schedule = make_schedule(
        [Real(number, each.prompt.id, _owners(key, number)) for number, each in enumerate(kept)],
        range(len(kept), len(items)),
        places=max(2 * wish.raters, _LEAST_PLACES),
        pairs=plan.pairs,
        repeats=plan.repeats,
        gold_each=gold_each,
        seed=wish.seed,
    )
    if directory is not None:
        with new_directory(directory) as place:
            write_key(place, key)
            write_study(place, plan, items, schedule, _dialogues(wish, variety))
    comparisons = len(list(combinations(evaluations, 2)))
    power = power_table(plan.raters, plan.pairs, plan.prompts, comparisons)
    return Made(plan, flags, dropped, power, notes)


def _sorted_out(
    found: Sequence[Candidate], evaluations: Sequence[Evaluation], wish: Wish
) -> tuple[list[Candidate], dict[str, list[str]], int]:
    names = [evaluation.name for evaluation in evaluations]
    for record in (evaluation.record for evaluation in evaluations):
        for path in (record.get("run"), record["model"].get("name")):
            names.append(str(path or "").rstrip("/").rsplit("/", 1)[-1])
    bad = (set(DROPPED) | set(wish.drop)) - set(wish.keep)
    kept, flags = [], dict[str, list[str]]()
    for each in found:
        own = flags_of(each, names, wish.max_chars)
        for flag in own:
            flags.setdefault(flag, []).append(each.prompt.id)
        if not bad.intersection(own):
            kept.append(each)
    if not kept:
        why = ", ".join(f"{len(ids)} {flag}" for flag, ids in flags.items())
        raise UsageError(
            f"--runs: none of {len(found):,} pairs of answers can be judged ({why}); evaluate the "
            "models again, or keep some with --keep"
        )
    return kept, flags, len(found) - len(kept)


def _gold(
    wish: Wish,
    variety: Variety,
    each: int,
    taken: Sequence[str],
    generator: np.random.Generator,
    notes: list[str],
) -> list[tuple[str, str, str]]:
    if not each or wish.gold == NONE:
        return []
    if wish.gold == PACKAGED and variety != CATALONIA:
        notes.append(f"no gold items: none are packaged for {variety.name}; give --gold FILE")
        return []
    conversations = (
        starter_conversations() if wish.gold == PACKAGED else load_conversations([Path(wish.gold)])
    )
    found = gold_pairs(conversations, each * _GOLD_KINDS, generator, taken)
    if len(found) < each:
        notes.append(
            f"{len(found)} gold items: --gold {wish.gold} has no more answers that will do"
        )
    return found


def _items(
    kept: Sequence[Candidate],
    gold: Sequence[tuple[str, str, str]],
    evaluations: Sequence[Evaluation],
    generator: np.random.Generator,
) -> tuple[list[Item], Key]:
    flips = generator.permutation(np.arange(len(kept)) % 2).astype(bool)
    better = generator.integers(0, 2, len(gold))
    items = [
        Item(number, each.prompt.text, each.prompt.history, _turned(each.texts, flip))
        for number, (each, flip) in enumerate(zip(kept, flips, strict=True))
    ]
    for number, ((prompt, good, bad), side) in enumerate(zip(gold, better, strict=True), len(kept)):
        items.append(Item(number, prompt, (), _turned((good, bad), bool(side))))
    none = (None,) * len(gold)
    key = Key(
        systems=tuple(evaluation.name for evaluation in evaluations),
        owners=(
            *(_turned(each.systems, flip) for each, flip in zip(kept, flips, strict=True)),
            *((None, None) for _ in gold),
        ),
        better=(*(None for _ in kept), *(int(side) for side in better)),
        prompts=(*(each.prompt.id for each in kept), *(f"gold-{n}" for n in range(len(gold)))),
        samples=(*(each.sample for each in kept), *(0 for _ in gold)),
        identities=tuple(map(identity, evaluations)),
        metrics=tuple(map(figures, evaluations)),
        measures=(
            *(
                _turned((each.answers[0]["measures"], each.answers[1]["measures"]), flip)
                for each, flip in zip(kept, flips, strict=True)
            ),
            *none,
        ),
    )
    return items, key


def _turned(both: tuple[T, T], flip: bool) -> tuple[T, T]:
    return (both[1], both[0]) if flip else both


def _owners(key: Key, number: int) -> tuple[int, int]:
    first, second = key.owners[number]
    assert first is not None
    assert second is not None
    return first, second


def _dialogues(wish: Wish, variety: Variety) -> Iterable[Record]:
    if wish.dialogues == NONE or (wish.dialogues == PACKAGED and variety != CATALONIA):
        return []
    found: Sequence[Dialogue] = (
        packaged_dialogues() if wish.dialogues == PACKAGED else read_dialogues(Path(wish.dialogues))
    )
    return [
        {
            "id": dialogue.id,
            "title": dialogue.title,
            "scenario": dialogue.scenario,
            "lines": [asdict(line) for line in dialogue.lines],
        }
        for dialogue in found
    ]
