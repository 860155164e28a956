"""What a study says, in words that need no statistics."""

from __future__ import annotations

from collections.abc import Iterator

from speakeasy.rating.power import power, raters_for
from speakeasy.rating.study import Record

GOLD, AGREEMENT, SIDE, FEW = 0.7, 0.2, 0.1, 5
"""Below such a share of gold items passed, below such an alpha, so far from half on the left, and
with fewer raters, a report says so before anything else."""
_HOPED, _CHANCE = 0.65, 0.8
"""A preference that most would act upon, and how probably it should be found."""
_TIED = 0.5
"""From such a share of ties on, they are said."""
DIMENSIONS = {
    "naturalness": "naturalness",
    "regional": "regional expressions",
    "grammar": "grammar",
    "appropriateness": "appropriateness",
}


def verdict(record: Record) -> list[str]:
    """Sentences: each two models, then their ratings, then whether exclusions change it."""
    return list(_lines(record))


def warnings_of(record: Record) -> list[str]:
    """What must be known before the verdict is believed."""
    return list(_warnings(record))


def p_value(p: float | None) -> str:
    """``p = 0.03``, or that it is below what is worth telling apart."""
    if p is None:
        return "no p"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def percent(share: float) -> str:
    """``64%``."""
    return f"{share:.0%}"


def counted(number: int, what: str) -> str:
    """``1 rater``, ``2 raters``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _lines(record: Record) -> Iterator[str]:
    names, found = record["systems"], record["all"]
    for each in found["preferences"]:
        yield _preference(record, each)
    for each in found["rating_differences"]:
        if each["adjusted"] is not None and each["adjusted"] <= 0.05 and each["value"]:
            better, worse = (
                (each["first"], each["second"])
                if each["value"] > 0
                else (each["second"], each["first"])
            )
            yield (
                f"On {DIMENSIONS[each['dimension']]}, {names[better]} is rated "
                f"{abs(each['value']):.1f} points of 5 higher than {names[worse]}."
            )
    if record["kept"] is not None:
        who = counted(len(record["excluded"]), "rater")
        yield f"Without {who} whom the rules leave out, {_without(record)}."


def _without(record: Record) -> str:
    """What becomes of the verdict without the raters whom the rules leave out."""
    if not record["kept"]["raters"]:
        return "nobody is left: there is no verdict that can be relied on"
    before, after = (
        [_winner(each) for each in record[section]["preferences"]] for section in ("all", "kept")
    )
    return "it is the same" if before == after else "the verdict changes: see the second table"


def _winner(each: Record) -> int | None:
    """The model that is preferred; None for neither."""
    if not each["differs"]:
        return None
    return each["first"] if each["score"] > 0.5 else each["second"]


def _preference(record: Record, each: Record) -> str:
    first, second = (record["systems"][each[name]] for name in ("first", "second"))
    if each["score"] is None:
        return f"{first} and {second}: nobody has judged a pair of them."
    if each["interval"] is None:
        return (
            f"{first} and {second}: not distinguishable: {each['raters']} raters and "
            f"{each['prompts']} prompts are too few for any verdict; three of each are the least."
        )
    low, high = (percent(end) for end in each["interval"])
    if each["differs"]:
        score, ends, winner, loser = each["score"], (low, high), first, second
        if score < 0.5:
            score, winner, loser = 1 - score, second, first
            ends = (percent(1 - each["interval"][1]), percent(1 - each["interval"][0]))
        return (
            f"People prefer {winner} to {loser}: {percent(score)} of votes, ties counted half "
            f"(95% {ends[0]} to {ends[1]}; {p_value(each['adjusted'])})."
        )
    return (
        f"{first} and {second} are not distinguishable: {percent(each['score'])} of votes for "
        f"{first}, ties counted half (95% {low} to {high}; {p_value(each['adjusted'])}). "
        + _ties(each)
        + _how_many(record, each)
    )


def _ties(each: Record) -> str:
    ties = each["both_good"] + each["both_bad"]
    share = ties / _count(each)
    return f"{percent(share)} of votes were for neither. " if share >= _TIED else ""


def _count(each: Record) -> int:
    return each["wins"] + each["losses"] + each["both_good"] + each["both_bad"]


def _how_many(record: Record, each: Record) -> str:
    judged = max(1, round(_count(each) / each["raters"]))
    if power(_HOPED, each["raters"], judged, each["prompts"]) >= _CHANCE:
        return f"A preference of 65% would probably have been found with {each['raters']} raters."
    plan = record["plan"]
    pairs = max(1, plan["pairs"] // len(record["all"]["preferences"]))
    count = raters_for(_HOPED, pairs, each["prompts"], chance=_CHANCE)
    if count is None or count <= each["raters"]:
        return "A preference of 65% would take more prompts to find."
    return f"To find a preference of 65% four times in five, ask {count} raters."


def _warnings(record: Record) -> Iterator[str]:
    plan, found = record["plan"], record["all"]
    quality, alpha = found["quality"], found["agreement"]["choices"]["alpha"]
    if found["raters"] < FEW:
        yield f"{counted(found['raters'], 'rater')} took part; {plan['raters']} were planned."
    elif found["raters"] < plan["raters"]:
        yield f"{found['raters']} of {plan['raters']} planned raters took part."
    gold = quality["gold"]
    if gold["value"] is not None and gold["value"] < GOLD:
        yield (
            f"{gold['part']} of {gold['whole']} gold items were passed: some did not read what "
            "they judged."
        )
    clear = any(each["differs"] for each in found["preferences"])
    if alpha is not None and alpha < AGREEMENT and not clear:  # a clear winner varies little
        yield (
            f"Raters hardly agree on which answer is better (Krippendorff's alpha {alpha:.2f}): "
            "the pairs are close, or the question was understood differently."
        )
    left = quality["left"]
    ends = left["interval"]
    if ends is not None and not ends[0] <= 0.5 <= ends[1] and abs(left["value"] - 0.5) > SIDE:
        yield f"{percent(left['value'])} of decided votes went to the left answer."
    if record["participation"]["erased"]:
        yield f"Votes of {counted(record['participation']['erased'], 'rater')} were deleted."
