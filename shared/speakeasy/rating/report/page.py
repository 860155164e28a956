"""A study's report as one HTML file, in the look of the comparison's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from speakeasy.evaluation.report.page import environment, style
from speakeasy.evaluation.report.panels import Panel
from speakeasy.evaluation.report.plots import Bar, Dot, bars, dots
from speakeasy.rating.report.tables import interval, number, tables
from speakeasy.rating.study import Record
from speakeasy.rating.verdict import DIMENSIONS, percent

SHOWN = 6
"""Items of each kind whose answers are shown."""


def report_page(record: Record) -> str:
    """The page; the same record gives the same bytes, and whatever people wrote is text in it."""
    return (
        environment("speakeasy.rating.report", "speakeasy.evaluation.report")
        .get_template("study.html")
        .render(
            style=style(),
            title=record["plan"]["title"] or " or ".join(record["systems"]),
            record=record,
            verdict=record["verdict"],
            warnings=record["warnings"],
            language=record["plan"]["language"],
            tables=tables(record),
            panels=list(_panels(record)),
            examples=list(_examples(record)),
        )
    )


def _panels(record: Record) -> Iterator[Panel]:
    names, found = record["systems"], record["all"]
    for first, name in enumerate(names):
        rows = [
            Dot(
                names[each["second"]],
                each["second"],
                100 * each["score"],
                percent(each["score"]),
                _percents(each["interval"]),
            )
            for each in found["preferences"]
            if each["first"] == first and each["score"] is not None
        ]
        if rows:
            yield Panel(
                f"Votes for {name}",
                "%, ties counted half; left, which model it was compared with",
                dots(f"preference-{first}", rows, ("half", 50.0)),
            )
    scores = found["bradley_terry"]
    if scores is not None and len(names) > 2:
        rows = [
            Dot(name, place, value, f"{number(value)} {interval(ends)}", ends)
            for place, (name, (value, ends)) in enumerate(zip(names, scores["scores"], strict=True))
        ]
        yield Panel("Bradley-Terry scores", "log-odds", dots("scores", rows))
    for dimension, label in DIMENSIONS.items():
        spread = [each for each in found["ratings"] if each["dimension"] == dimension]
        listed = [
            Bar(names[each["system"]], each["counts"]) for each in spread if sum(each["counts"])
        ]
        if listed:
            yield Panel(
                f"Ratings: {label}",
                "share of 1 (worst) to 5 (best)",
                bars(f"ratings-{dimension}", listed),
            )


def _percents(ends: Sequence[float] | None) -> tuple[float, float] | None:
    return None if ends is None else (100 * ends[0], 100 * ends[1])


def _examples(record: Record) -> Iterator[tuple[str, list[Record]]]:
    """The items that people agreed on most, and least."""
    judged = [item for item in record["items"] if _total(item) > 1]
    by_agreement = sorted(judged, key=lambda item: (-_agreed(item), item["item"]))
    if by_agreement:
        yield "Where people agreed", by_agreement[:SHOWN]
    rest = by_agreement[SHOWN:]
    if rest:
        yield "Where they did not", rest[::-1][:SHOWN]


def _total(item: Record) -> int:
    return sum(answer["votes"] for answer in item["answers"]) + item["both_good"] + item["both_bad"]


def _agreed(item: Record) -> float:
    """Share of votes for the answer that has more."""
    return max(answer["votes"] for answer in item["answers"]) / _total(item)
