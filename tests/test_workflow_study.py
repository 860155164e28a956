"""The stage ``study``: a study as ``rate new`` makes it, made again when what it reads changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from evaluations import PLAIN, REGIONAL, evaluation_of
from listener import Listener

from speakeasy.errors import UsageError
from speakeasy.rating.key import Key
from speakeasy.rating.study import Study as Made
from speakeasy.workflow.plans import StudyPlan
from speakeasy.workflow.stages.kind import Place
from speakeasy.workflow.stages.study import Study


@pytest.fixture
def evaluations(tmp_path: Path) -> tuple[str, str]:
    places = []
    for name, said in (("alpha", PLAIN), ("beta", REGIONAL)):
        places.append(str(evaluation_of(tmp_path / name, bits=2.0, answers=[said]).path))
    return places[0], places[1]


def test_the_stage_makes_a_study(evaluations: tuple[str, str], tmp_path: Path) -> None:
    plan = StudyPlan(evaluations=evaluations, raters=5, title="Prova")
    listener = Listener()
    Study().carry_out(Place(tmp_path / "study", plan), listener)
    study = Made.read(tmp_path / "study")
    assert (study.plan.title, study.plan.raters, study.plan.prompts) == ("Prova", 5, 4)
    assert Key.read(tmp_path / "study").systems == ("alpha", "beta")
    assert (tmp_path / "study" / Study.result).is_file()


def test_what_it_reads(evaluations: tuple[str, str], tmp_path: Path) -> None:
    gold = tmp_path / "gold.jsonl"
    gold.write_text("{}", encoding="utf-8")
    place = Place(tmp_path / "study", StudyPlan(evaluations=evaluations, gold=str(gold)))
    before = Study().inputs(place, print)
    assert set(before) == {"alpha", "beta", "gold"}
    gold.write_text("{ }", encoding="utf-8")
    after = Study().inputs(place, print)
    assert {name for name in before if before[name] != after[name]} == {"gold"}


def test_one_evaluation_is_too_few() -> None:
    with pytest.raises(UsageError, match="expected two or more evaluations"):
        StudyPlan(evaluations=("one",))
