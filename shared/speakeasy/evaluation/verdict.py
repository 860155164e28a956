"""Which model is to be taken, in words; by a rule that was fixed before anyone looked.

1. The better model needs fewer bits a byte for the same held-out conversations, by a paired 95%
   interval that leaves 0 out.
2. Between models that this does not tell apart, the better one's marker density is nearer to that
   of people, by the same measure.
3. If that does not decide either, nothing is decided: "not distinguishable". Nor is it where models
   were not evaluated on the same: "not comparable".

Harm is said beside it, and decides nothing: neutral text of the language that is spoken predicted
more than 3% worse than by the base.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from speakeasy.evaluation.differences import UNCOMPARABLE, UNDECIDED
from speakeasy.evaluation.tables import figure_text
from speakeasy.training.run import Record

RULE = ("eval_bits_per_byte", "marker_density_error")
"""The figures that decide, the first one first."""
HARM = 0.03


@dataclass(frozen=True, slots=True)
class _Words:
    """How a figure that decides is spoken of.

    Attributes:
        better: between the better one's name and the other's.
        unit: after the two figures.
        subject: of "not distinguishable ..." and "not comparable ...".
    """

    better: str
    unit: str
    subject: str


_WORDS = {
    "eval_bits_per_byte": _Words(
        "predicts the held-out conversations better than",
        "bits a byte",
        "in how they predict the held-out conversations",
    ),
    "marker_density_error": _Words(
        "is nearer to people in how many regional markers it uses than",
        "away from people's density",
        "in how near their marker density is to people's",
    ),
}

Outcome = Mapping[tuple[str, str, str], Record]


def verdict(comparison: Record) -> Record:
    """``{"lines": [...], "winner": name or None}`` of a comparison that has its pairs.

    The winner is one of the runs, never the base; None where nothing is decided.
    """
    outcome = {(pair["a"], pair["b"], pair["metric"]): pair for pair in comparison["pairs"]}
    rivals = [run for run in comparison["runs"] if run["name"] != comparison["base"]]
    left: Sequence[str] = [run["name"] for run in rivals]
    lines: list[str] = []
    comparable = True
    for metric in RULE:
        if len(left) > 1 and comparable:
            left, comparable = _step(metric, left, comparison, outcome, lines)
    winner = left[0] if len(left) == 1 and len(rivals) > 1 else None
    lines += _against_base(comparison, outcome)
    lines += _tokens(rivals)
    lines.append(_decision(winner, left, comparison, outcome, comparable=comparable))
    return {"lines": lines, "winner": winner}


def _step(
    metric: str, names: Sequence[str], comparison: Record, outcome: Outcome, lines: list[str]
) -> tuple[list[str], bool]:
    """Those that the best by this figure is not better than, itself among them.

    Returns:
        their names, and whether all could be compared; if not, nothing more may be decided.
    """
    words, values = _WORDS[metric], _values(comparison, metric)
    known = [name for name in names if values[name] is not None]
    if len(known) < len(names):
        missing = [name for name in names if name not in known]
        lines.append(f"{_and(missing)} cannot be compared {words.subject}: there is no figure.")
        return list(names), False
    best = min(known, key=lambda name: values[name])
    left, comparable = [best], True
    for name in names:
        if name == best:
            continue
        pair = _pair(outcome, best, name, metric)
        if pair["verdict"] == UNCOMPARABLE:
            lines.append(
                f"{best} and {name} are not comparable {words.subject}: they were not evaluated "
                "on the same."
            )
            left.append(name)
            comparable = False
        elif pair["verdict"] == UNDECIDED:
            lines.append(
                f"{best} and {name} are not distinguishable {words.subject} "
                f"({_sides(metric, values, best, name)}{_spread(pair)})."
            )
            left.append(name)
        else:
            sides = _sides(metric, values, best, name)
            lines.append(f"{best} {words.better} {name}: {sides} {words.unit}{_spread(pair)}.")
    return [name for name in names if name in left], comparable


def _against_base(comparison: Record, outcome: Outcome) -> Iterator[str]:
    base = comparison["base"]
    for run in comparison["runs"]:
        if base is not None and run["name"] != base:
            yield from _gain(run["name"], base, comparison, outcome)
            yield from _harm(run["name"], base, comparison, outcome)


def _gain(name: str, base: str, comparison: Record, outcome: Outcome) -> Iterator[str]:
    metric = RULE[0]
    found = _side(outcome, name, base, metric)
    if found == UNDECIDED:
        yield f"{name} and the base are not distinguishable {_WORDS[metric].subject}."
    elif found != UNCOMPARABLE:
        sides = _sides(metric, _values(comparison, metric), name, base)
        yield (
            f"{name} predicts the held-out conversations {found} than the base: {sides} bits a "
            f"byte{_spread(_pair(outcome, name, base, metric))}."
        )


def _harm(name: str, base: str, comparison: Record, outcome: Outcome) -> Iterator[str]:
    """Neutral text of the language that is spoken, against the base."""
    metric = "neutral_es_bits_per_byte"
    values, found = _values(comparison, metric), _side(outcome, name, base, metric)
    if found == UNCOMPARABLE or values[name] is None or values[base] is None:
        return
    change = values[name] / values[base] - 1
    size = f"{abs(change):.1%}"
    if change > HARM and found == UNDECIDED:
        yield (
            f"{name} predicts neutral text {size} worse than the base, but the two are not "
            "distinguishable in it."
        )
    elif change > HARM:
        yield f"Harm: {name} predicts neutral text {size} worse than the base."
    else:
        how = f"{size} {'worse' if change > 0 else 'better'} than"
        yield (
            f"No harm: {name} predicts neutral text {'as well as' if size == '0.0%' else how} the "
            f"base ({HARM:.0%} worse is the limit)."
        )


def _tokens(rivals: Sequence[Record]) -> Iterator[str]:
    """What a vocabulary saves, where they differ in it."""
    spent = {run["name"]: run["metrics"]["tokens_per_regional_word"]["value"] for run in rivals}
    known = {name: value for name, value in spent.items() if value is not None}
    if len(known) < 2:
        return
    least, most = min(known, key=lambda n: known[n]), max(known, key=lambda n: known[n])
    saved = 1 - known[least] / known[most]
    if saved > 0.005:
        yield (
            f"{least} writes a regional word in {known[least]:.2f} tokens, {most} in "
            f"{known[most]:.2f}: {saved:.0%} fewer."
        )


def _decision(
    winner: str | None,
    left: Sequence[str],
    comparison: Record,
    outcome: Outcome,
    *,
    comparable: bool,
) -> str:
    base = comparison["base"]
    if winner is not None:
        if base is not None and _side(outcome, winner, base, RULE[0]) == "worse":
            return f"By these figures, {winner} is the best of the runs, yet worse than the base."
        return f"By these figures, take {winner}. Native speakers have the last word."
    if len(left) < 2:
        return "There is nothing to choose between: give two runs or more."
    if not comparable:
        return f"Between {_and(left)} nothing is decided: they cannot be compared."
    return (
        f"By these figures, {_and(left)} are not distinguishable: more held-out conversations or "
        "prompts would tell, or native speakers."
    )


def _values(comparison: Record, metric: str) -> dict[str, float]:
    return {run["name"]: run["metrics"][metric]["value"] for run in comparison["runs"]}


def _pair(outcome: Outcome, one: str, other: str, metric: str) -> Record:
    return outcome.get((one, other, metric)) or outcome[other, one, metric]


def _side(outcome: Outcome, one: str, other: str, metric: str) -> str:
    """``better`` or ``worse``, as one is than the other; else why that cannot be said."""
    pair = _pair(outcome, one, other, metric)
    if pair["verdict"] not in ("a", "b"):
        return str(pair["verdict"])
    return "better" if pair[pair["verdict"]] == one else "worse"


def _sides(metric: str, values: Mapping[str, float], one: str, other: str) -> str:
    return f"{figure_text(metric, values[one])} against {figure_text(metric, values[other])}"


def _spread(pair: Record) -> str:
    """The size of the difference and its interval, whichever way round the pair is."""
    if pair["difference"] is None or pair["interval"] is None:
        return ""
    sign = 1 if pair["difference"] >= 0 else -1
    low, high = sorted(sign * bound for bound in pair["interval"])
    return f", a difference of {abs(pair['difference']):.3f}, 95% {low:.3f} to {high:.3f}"


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
