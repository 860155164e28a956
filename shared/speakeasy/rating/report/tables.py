"""A report as tables of words, the same in the terminal, in Markdown and in HTML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from speakeasy.rating.study import Record
from speakeasy.rating.verdict import DIMENSIONS, p_value, percent

NONE = "–"
_REASONS = {
    "gold": "gold items failed",
    "seconds": "too fast",
    "one_sided": "always the same side",
}


@dataclass(frozen=True, slots=True)
class Table:
    """Words in rows.

    Attributes:
        title: what it shows; note: what must be known to read it; empty for nothing.
        columns: their heads; the first is of the rows' names.
        rows: as many words as there are columns.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def tables(record: Record) -> list[Table]:
    """All of a report's tables, in order; those without rows are left out."""
    found = [_preferences(record, "all", "Preference")]
    if record["kept"] is not None:
        found.append(_preferences(record, "kept", "Preference, without excluded raters"))
    found += [
        _scores(record),
        _ratings(record),
        _differences(record),
        _agreement(record),
        _quality(record),
        _participation(record),
        _raters(record),
        _correlations(record),
    ]
    return [table for table in found if table.rows]


def interval(ends: Sequence[float] | None, digits: int = 2) -> str:
    """``[0.52, 0.71]``; empty for none."""
    return "" if ends is None else f"[{', '.join(number(end, digits) for end in ends)}]"


def percents(ends: Sequence[float] | None) -> str:
    """``[52%, 71%]``; empty for none."""
    return "" if ends is None else f"[{percent(ends[0])}, {percent(ends[1])}]"


def number(value: float | None, digits: int = 2) -> str:
    """With a real minus; a dash for none."""
    return NONE if value is None else f"{value:.{digits}f}".replace("-", "−")


def _p(value: float | None) -> str:
    return NONE if value is None else p_value(value).removeprefix("p = ").removeprefix("p ")


def _preferences(record: Record, section: str, title: str) -> Table:
    names = record["systems"]
    rows = []
    for each in record[section]["preferences"]:
        share = NONE if each["score"] is None else percent(each["score"])
        said = "differ" if each["differs"] else "not distinguishable"
        rows.append(
            (
                f"{names[each['first']]} or {names[each['second']]}",
                f"{share} {percents(each['interval'])}".strip(),
                f"{each['wins']} : {each['losses']}",
                f"{each['both_good']} / {each['both_bad']}",
                _p(each["adjusted"]),
                NONE if each["score"] is None else said,
            )
        )
    note = (
        "Share of votes for the first, ties counted half, with its 95% interval over raters and "
        "prompts; p by permutation, adjusted by Holm where there are several pairs."
    )
    columns = ("Models", "For the first", "Votes", "Both good / bad", "p", "Verdict")
    return Table(title, columns, tuple(rows), note)


def _scores(record: Record) -> Table:
    found = record["all"]["bradley_terry"]
    if found is None:
        return Table("", (), ())
    rows = [
        (name, number(value), interval(ends))
        for name, (value, ends) in zip(record["systems"], found["scores"], strict=True)
    ]
    rows.append(("(being on the left)", number(found["side"][0]), interval(found["side"][1])))
    rows.append(("(being longer)", number(found["length"][0]), interval(found["length"][1])))
    return Table(
        "Bradley-Terry scores",
        ("Model", "Log-odds", "95%"),
        tuple(rows),
        f"With a ridge of {found['ridge']}; side and length are held apart from the scores.",
    )


def _ratings(record: Record) -> Table:
    rows = []
    for each in record["all"]["ratings"]:
        counts = " ".join(map(str, each["counts"]))
        rows.append(
            (
                f"{DIMENSIONS[each['dimension']]}, {record['systems'][each['system']]}",
                number(each["median"], 1),
                number(each["mean"]),
                counts,
                f"{each['cannot']}",
            )
        )
    columns = ("Ratings, 1 to 5", "Median", "Mean", "How often 1 2 3 4 5", "Can't judge")
    return Table("Ratings", columns, tuple(rows))


def _differences(record: Record) -> Table:
    names = record["systems"]
    rows = [
        (
            f"{DIMENSIONS[each['dimension']]}, {names[each['first']]} − {names[each['second']]}",
            f"{number(each['value'])} {interval(each['interval'])}".strip(),
            _p(each["adjusted"]),
        )
        for each in record["all"]["rating_differences"]
        if each["count"]
    ]
    return Table(
        "Differences of ratings, in the same pair by the same rater",
        ("Dimension", "Points", "p (Holm)"),
        tuple(rows),
    )


def _agreement(record: Record) -> Table:
    rows = [
        (
            "which is better" if name == "choices" else DIMENSIONS[name],
            number(each["alpha"]),
            interval(each["interval"]),
            f"{each['units']}",
        )
        for name, each in record["all"]["agreement"].items()
    ]
    return Table(
        "Agreement",
        ("Judgement", "Krippendorff's alpha", "95%", "Judged by two or more"),
        tuple(rows),
        "1 is always, 0 is as often as by chance.",
    )


def _quality(record: Record) -> Table:
    return Table("How carefully people judged", ("", "Share", "95%", "Of"), tuple(_shares(record)))


def _shares(record: Record) -> Iterator[tuple[str, ...]]:
    labels = {
        "gold": "gold items passed",
        "repeats": "the same said of a repeated pair",
        "left": "decided votes for the left answer",
        "ties": "votes for neither",
    }
    for name, label in labels.items():
        each = record["all"]["quality"][name]
        share = NONE if each["value"] is None else percent(each["value"])
        yield label, share, percents(each["interval"]), f"{each['whole']}"


def _participation(record: Record) -> Table:
    plan, found = record["plan"], record["participation"]
    rows = [
        ("raters planned", f"{plan['raters']}"),
        *(
            (f"raters {name}", f"{found[name]}")
            for name in ("invited", "begun", "finished", "erased")
        ),
        ("votes", f"{found['votes']}"),
        ("comments", f"{found['comments']}"),
        ("recordings", f"{found['recordings']}"),
        ("requests refused", f"{found['refusals']}"),
    ]
    return Table("Who took part", ("", "Count"), tuple(rows), f"Closed at {record['closed_at']}.")


def _raters(record: Record) -> Table:
    rows = []
    for each in record["raters"]:
        why = record["excluded"].get(str(each["rater"]), ())
        gold, left = each["gold"], each["left"]
        rows.append(
            (
                f"rater {each['rater'] + 1}",
                f"{each['ballots']}",
                f"{gold['part']} of {gold['whole']}",
                NONE if left["value"] is None else percent(left["value"]),
                NONE if each["seconds"] is None else f"{each['seconds']:.0f} s",
                ", ".join(_REASONS[reason] for reason in why),
            )
        )
    rules = record["rules"]
    note = (
        f"Left out of the second reading: below {percent(rules['gold'])} of gold items, a median "
        f"under {rules['seconds']:.0f} s a pair, or one side in more than "
        f"{percent(rules['one_sided'])} of {rules['decided']} or more decided votes. Fixed "
        "beforehand."
    )
    columns = ("Rater", "Pairs", "Gold", "Left", "Median time", "Left out for")
    return Table("Raters", columns, tuple(rows), note)


def _correlations(record: Record) -> Table:
    rows = [
        (
            each["name"].replace("_", " "),
            number(each["rho"]),
            interval(each["interval"]),
            f"{each['count']} {kind}",
        )
        for kind in ("systems", "items")
        for each in record["correlations"][kind]
    ]
    return Table(
        "Which automatic figures go with people's judgement",
        ("Figure", "Spearman's rho", "95%", "Over"),
        tuple(rows),
        "Over items: the difference of both answers' figures against the votes.",
    )
