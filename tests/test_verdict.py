"""The verdict in words: true, and no more than the figures say."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from evaluations import PLAIN, REGIONAL, evaluation_of

from speakeasy.evaluation.compare import compared


def verdict_of(tmp_path: Path, **models: dict[str, Any]) -> Any:
    """Of models by name; the one that is called base is the base."""
    named = [(name, evaluation_of(tmp_path / name, **how)) for name, how in models.items()]
    base = "base" if "base" in models else None
    return compared(named, base=base, directory=tmp_path)["verdict"]


def test_fewer_bits_win(tmp_path: Path) -> None:
    found = verdict_of(tmp_path, one={"bits": 2.2}, two={"bits": 2.0})
    assert found["winner"] == "two"
    assert found["lines"][0].startswith(
        "two predicts the held-out conversations better than one: 2.000 against 2.200 bits a byte, "
        "a difference of 0.200, 95% 0.1"
    )
    assert found["lines"][-1] == ("By these figures, take two. Native speakers have the last word.")


def test_where_bits_do_not_decide_the_density_does(tmp_path: Path) -> None:
    """Marker density 0 against one nearer to people's 3.0."""
    found = verdict_of(
        tmp_path,
        plain={"bits": 2.0, "answers": (PLAIN,)},
        regional={"bits": 2.001, "answers": (REGIONAL, PLAIN, PLAIN, PLAIN)},
    )
    assert found["lines"][0].startswith(
        "plain and regional are not distinguishable in how they predict the held-out conversations "
        "(2.000 against 2.001, a difference of 0.001"
    )
    assert any("marker" in line for line in found["lines"][1:])


def test_nothing_is_decided_where_nothing_differs(tmp_path: Path) -> None:
    found = verdict_of(tmp_path, one={"bits": 2.0}, two={"bits": 2.0})
    assert found["winner"] is None
    assert "one and two are not distinguishable" in found["lines"][-1]


def test_three_and_two_of_them_alike(tmp_path: Path) -> None:
    found = verdict_of(tmp_path, bad={"bits": 2.5}, one={"bits": 2.0}, two={"bits": 2.001})
    assert found["winner"] is None
    assert found["lines"][-1].startswith("By these figures, one and two are not distinguishable")


def test_harm_is_said_and_decides_nothing(tmp_path: Path) -> None:
    found = verdict_of(
        tmp_path,
        base={"bits": 2.4, "neutral": 2.0},
        one={"bits": 2.2, "neutral": 1.9},
        two={"bits": 2.0, "neutral": 2.1},
    )
    assert found["winner"] == "two"
    assert "Harm: two predicts neutral text 5.0% worse than the base." in found["lines"]
    assert (
        "No harm: one predicts neutral text 5.0% better than the base (3% worse is the limit)."
        in found["lines"]
    )


def test_one_against_the_base(tmp_path: Path) -> None:
    found = verdict_of(tmp_path, base={"bits": 2.4}, one={"bits": 2.6})
    assert found["winner"] is None
    assert found["lines"][0].startswith(
        "one predicts the held-out conversations worse than the base: 2.600 against 2.400"
    )
    assert found["lines"][-1].startswith("There is nothing to choose between")


def test_a_vocabulary_is_told_by_what_it_saves(tmp_path: Path) -> None:
    found = verdict_of(
        tmp_path, one={"bits": 2.0, "regional": 2.6}, two={"bits": 2.2, "regional": 1.3}
    )
    assert "two writes a regional word in 1.30 tokens, one in 2.60: 50% fewer." in found["lines"]


def test_the_better_of_two_that_are_worse_than_the_base(tmp_path: Path) -> None:
    found = verdict_of(tmp_path, base={"bits": 2.0}, one={"bits": 2.2}, two={"bits": 2.1})
    assert found["winner"] == "two"
    assert found["lines"][-1] == (
        "By these figures, two is the best of the runs, yet worse than the base."
    )


def test_what_is_not_comparable_is_not_decided_by_the_next_figure(tmp_path: Path) -> None:
    found = verdict_of(
        tmp_path,
        plain={"bits": 2.0, "answers": (PLAIN,)},
        regional={"bits": 2.0, "answers": (REGIONAL, PLAIN, PLAIN, PLAIN), "texts": "others"},
    )
    assert found["winner"] is None
    assert found["lines"] == [
        "plain and regional are not comparable in how they predict the held-out conversations: "
        "they were not evaluated on the same.",
        "Between plain and regional nothing is decided: they cannot be compared.",
    ]


def test_harm_by_chance_is_no_harm(tmp_path: Path) -> None:
    """Two texts: one much harder for the run, one a little easier; 20% worse in all."""
    base = evaluation_of(tmp_path / "base", bits=2.0, items=2)
    one = evaluation_of(tmp_path / "one", bits=2.0, items=2)
    worse = iter((1.5, 0.9))
    scores = tuple(
        dataclasses.replace(score, nats=score.nats * next(worse))
        if score.set == "neutral_es"
        else score
        for score in one.scores
    )
    one.record["metrics"]["neutral_es_bits_per_byte"]["value"] = 2.4
    named = [("base", base), ("one", dataclasses.replace(one, scores=scores))]
    lines = compared(named, base="base", directory=tmp_path)["verdict"]["lines"]
    assert (
        "one predicts neutral text 20.0% worse than the base, but the two are not distinguishable "
        "in it." in lines
    )
    assert not any("arm:" in line for line in lines)
