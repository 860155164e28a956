"""A study's report: words and widths that must hold whatever the votes and the names are."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rating_studies import answered, make_study

from speakeasy.cli.rate_results import _shown
from speakeasy.rating.analysis import analyse
from speakeasy.rating.key import Key
from speakeasy.rating.report.page import report_page
from speakeasy.rating.report.tables import Table, tables
from speakeasy.rating.unblind import read_votes
from speakeasy.rating.verdict import verdict

LONG = "runs/catalan-spanish-3b-lora-r32-with-a-very-long-name"
WORDS = st.text("abcdefg 0123456789", max_size=18)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    study = make_study(tmp_path_factory.mktemp("r") / "study", items=10, places=6, gold=2)
    store = answered(study, raters=6)
    store.close_study()
    store.end()
    return analyse(study, read_votes(study), Key.read(study.path))


def changed(record: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A copy, of which the first preference has other fields."""
    copy = json.loads(json.dumps(record))
    copy["all"]["preferences"][0] |= fields
    return copy


def lines_of(table: Table, width: int) -> list[str]:
    from rich.console import Console

    console = Console(width=width, file=StringIO())
    console.print(_shown(table, width))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_no_word_is_cut_at_80_columns(record: dict[str, Any]) -> None:
    unclear = changed(record, differs=False, score=0.5, interval=[0.36, 0.63], adjusted=0.999)
    unclear["systems"] = [LONG, f"{LONG}-2"]
    for table in tables(unclear):
        lines = lines_of(table, 80)
        assert max(map(len, lines)) <= 80, table.title
        shown = " ".join(lines).split()
        for cell in (*table.columns[1:], *(cell for row in table.rows for cell in row[1:])):
            assert set(cell.split()) <= set(shown), (table.title, cell)


@given(
    st.integers(2, 5).flatmap(lambda n: st.lists(st.tuples(*[WORDS] * n), min_size=2, max_size=4))
)
def test_widths_keep_words_whole(rows: list[tuple[str, ...]]) -> None:
    lines = lines_of(Table("", rows[0], tuple(rows[1:])), 110)  # 18 x 5 letters and gaps fit
    shown = " ".join(lines).split()
    for row in rows:
        for cell in row[1:]:
            assert set(cell.split()) <= set(shown)


def test_nobody_left_is_no_verdict(record: dict[str, Any]) -> None:
    alone = changed(record)
    alone["excluded"] = {str(rater): ["seconds"] for rater in range(6)}
    alone["kept"] = {"raters": 0, "preferences": alone["all"]["preferences"]}
    assert "nobody is left" in verdict(alone)[-1]


def test_another_winner_is_another_verdict(record: dict[str, Any]) -> None:
    other = changed(record)
    other["excluded"] = {"0": ["gold"]}
    (before,) = other["all"]["preferences"]
    for score, words in ((1 - before["score"], "the verdict changes"), (0.7, "it is the same")):
        other["kept"] = {"raters": 5, "preferences": [before | {"score": score}]}
        assert words in verdict(other)[-1]


def test_what_would_have_been_found_rests_on_the_prompts_judged(record: dict[str, Any]) -> None:
    few = {"score": 0.5, "differs": False, "adjusted": 1.0, "interval": [0.3, 0.7]}
    votes = {"wins": 240, "losses": 240, "both_good": 0, "both_bad": 0}
    found = verdict(changed(record, raters=24, prompts=20, **few, **votes))
    assert "would probably have been found with 24 raters" in found[0]
    found = verdict(changed(record, raters=24, prompts=6, **few, **votes))
    assert "would take more prompts" in found[0]
    found = verdict(changed(record, **few, **votes | {"both_bad": 480}))
    assert "50% of votes were for neither." in found[0]


def test_every_pair_of_models_has_a_row_that_names_it(record: dict[str, Any]) -> None:
    three = changed(record)
    three["systems"], three["all"]["bradley_terry"] = ["alpha", "beta", "gamma"], None
    (first,) = three["all"]["preferences"]
    three["all"]["preferences"] = [
        first | {"first": a, "second": b} for a, b in ((0, 1), (0, 2), (1, 2))
    ]
    page = report_page(three)
    share = f"{first['score']:.0%}"
    assert f'aria-label="beta: {share}; gamma: {share}"' in page
    assert f'aria-label="gamma: {share}"' in page
    assert "Votes for alpha" in page
    assert "Votes for beta" in page


def test_votes_are_read_at_one_moment(tmp_path: Path) -> None:
    """Closed between two queries, a study would seem to lack its last votes."""
    import sqlite3

    from speakeasy.rating import unblind

    study = make_study(tmp_path / "s")
    store = answered(study, raters=2)

    class Closing:
        """A connection, during whose first query for votes the study is closed."""

        def __init__(self, inner: sqlite3.Connection) -> None:
            self.inner = inner

        def execute(self, query: str) -> sqlite3.Cursor:
            rows = self.inner.execute(query)
            if "FROM vote" in query and store.closed_at is None:
                found = rows.fetchall()
                store.close_study()
                return found  # type: ignore[return-value]
            return rows

        def close(self) -> None:
            self.inner.close()

    with pytest.MonkeyPatch.context() as patch:
        opened = unblind.read_only
        patch.setattr(unblind, "read_only", lambda path: Closing(opened(path)))
        assert read_votes(study).closed_at is None
    assert read_votes(study).closed_at is not None
    store.end()
