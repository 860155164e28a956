"""All that a study says, as one record: the same votes give the same record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from speakeasy import __version__
from speakeasy.rating.ballots import Ballot, tally
from speakeasy.rating.key import Key
from speakeasy.rating.statistics import agreement, correlation, quality, ratings
from speakeasy.rating.statistics.bradley_terry import bradley_terry
from speakeasy.rating.statistics.preference import preferences
from speakeasy.rating.study import Record, Study
from speakeasy.rating.unblind import Votes, ballots_of
from speakeasy.rating.verdict import verdict, warnings_of

VERSION = 1


def analyse(study: Study, votes: Votes, key: Key) -> Record:
    """The content of ``report.json``.

    Everything is reckoned twice: of all raters, and without those whom the rules leave out that
    were fixed beforehand.
    """
    ballots = ballots_of(study, votes, key)
    plan, systems = study.plan, len(key.systems)
    left_out = quality.excluded(ballots, plan.exclusions)
    kept = [ballot for ballot in ballots if ballot.rater not in left_out]
    everyone = _section(ballots, systems, plan.seed)
    record: Record = {
        "version": VERSION,
        "speakeasy": __version__,
        "plan": asdict(plan),
        "closed_at": votes.closed_at,
        "systems": list(key.systems),
        "identities": list(key.identities),
        "participation": votes.counts,
        "rules": asdict(plan.exclusions),
        "excluded": {str(rater): list(why) for rater, why in left_out.items()},
        "all": everyone,
        "kept": _section(kept, systems, plan.seed) if left_out else None,
        "raters": [
            {"rater": rater, **_quality(own)} for rater, own in quality.by_rater(ballots).items()
        ],
        "correlations": _correlations(ballots, key, everyone["bradley_terry"], plan.seed),
        "items": _items(study, ballots, key),
    }
    return record | {"warnings": warnings_of(record), "verdict": verdict(record)}


def _section(ballots: Sequence[Ballot], systems: int, seed: int) -> Record:
    found = bradley_terry(ballots, systems, seed=seed)
    return {
        "raters": len({ballot.rater for ballot in ballots}),
        "ballots": sum(ballot.real for ballot in ballots),
        "preferences": [asdict(each) for each in preferences(ballots, systems, seed=seed)],
        "bradley_terry": None if found is None else asdict(found),
        "ratings": [asdict(each) for each in ratings.spreads(ballots, systems)],
        "rating_differences": [
            _difference(each) for each in ratings.differences(ballots, systems, seed=seed)
        ],
        "agreement": {
            "choices": asdict(agreement.of_choices(ballots, seed=seed)),
            **{
                dimension: asdict(each)
                for dimension, each in agreement.of_ratings(ballots, seed=seed).items()
            },
        },
        "quality": _quality(quality.quality(ballots)),
    }


def _difference(each: ratings.RatingDifference) -> Record:
    mean = each.mean
    return {
        "dimension": each.dimension,
        "first": each.first,
        "second": each.second,
        "value": mean.value if mean.count else None,
        "interval": mean.interval,
        "p": mean.p,
        "adjusted": each.adjusted,
        "count": mean.count,
    }


def _quality(found: quality.Quality) -> Record:
    def share(each: quality.Share) -> Record:
        return {
            "part": each.part, "whole": each.whole, "value": each.value, "interval": each.interval,
        }  # fmt: skip

    return {
        "ballots": found.ballots,
        "gold": share(found.gold),
        "repeats": share(found.repeats),
        "left": share(found.left),
        "ties": share(found.ties),
        "seconds": found.seconds,
    }


def _correlations(ballots: Sequence[Ballot], key: Key, found: Record | None, seed: int) -> Record:
    """Of automatic figures with people; ``found`` holds the Bradley-Terry scores."""
    measures = {
        item: (_numbers(both[0]), _numbers(both[1]))
        for item, both in enumerate(key.measures)
        if both is not None
    }
    scores: list[float | None] = (
        [None] * len(key.systems) if found is None else [score for score, _ in found["scores"]]
    )
    return {
        "items": [
            asdict(each)
            for each in correlation.over_items(ballots, key.owners, measures, seed=seed)
            if each.rho is not None
        ],
        "systems": [
            asdict(each)
            for each in correlation.over_systems(scores, key.metrics)
            if each.rho is not None
        ],
    }


def _numbers(measures: Mapping[str, Any]) -> dict[str, float | None]:
    """The measures that are numbers; counts of marks and words are shares of the words."""
    words = measures.get("words") or 0
    found: dict[str, float | None] = {}
    for name, value in measures.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        per_word = name.endswith(("weight", "markers", "marks")) and words
        found[name] = value / words if per_word else float(value)
    return found


def _items(study: Study, ballots: Sequence[Ballot], key: Key) -> list[Record]:
    """What was asked, and how the votes on it went; gold items are left out."""
    found = []
    for item in study.items:
        own = [ballot for ballot in ballots if ballot.item == item.number and ballot.real]
        owners = key.owners[item.number]
        if not own or owners[0] is None or owners[1] is None:
            continue
        found.append(
            {
                "item": item.number,
                "prompt": item.prompt,
                "answers": [
                    {"system": owner, "text": text, "votes": votes}
                    for owner, text, votes in zip(
                        owners, item.answers, tally(own, owners), strict=True
                    )
                ],
                "both_good": sum(ballot.choice == "both_good" for ballot in own),
                "both_bad": sum(ballot.choice == "both_bad" for ballot in own),
            }
        )
    return found
