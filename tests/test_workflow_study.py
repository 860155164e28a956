"""A blind study made ready: nothing in the pairs tells whose an answer is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from speakeasy.errors import RunError
from speakeasy.evaluation.result import Evaluation
from speakeasy.workflow.plans import StudyPlan
from speakeasy.workflow.stages.kind import Place
from speakeasy.workflow.stages.study import Study, make_study

PROMPTS = 7
SAMPLES = 2


def evaluation(name: str, folder: Path, fingerprint: str = "same", **changed: Any) -> Evaluation:
    """An evaluation directory that holds answers alone.

    Args:
        changed: by prompt id, fields of the answers to it.
    """
    path = folder / name
    path.mkdir()
    answers = [
        {
            "id": f"p{number}",
            "prompt": f"Question {number}?",
            "category": "greeting",
            "register": "informal",
            "control": number == 0,
            "expects": [],
            "sample": sample,
            "answer": f"{name} says {number}.{sample}",
            "tokens": 4,
            "finished": True,
            "measures": {},
            **changed.get(f"p{number}", {}),
        }
        for number in range(PROMPTS)
        for sample in range(SAMPLES)
    ]
    record = {
        "version": 1,
        "name": name,
        "model": {"name": name, "fingerprint": f"fp-{name}"},
        "run": None,
        "lineage": [],
        "sets": {},
        "fertility": {},
        "answers": {"count": len(answers), "prompts_fingerprint": fingerprint},
        "metrics": {},
    }
    (path / "evaluation.json").write_text(json.dumps(record))
    (path / "scores.jsonl").write_text("")
    (path / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in answers))
    return Evaluation.read(path)


@pytest.fixture
def both(tmp_path: Path) -> tuple[Evaluation, Evaluation]:
    return evaluation("alpha", tmp_path), evaluation("beta", tmp_path)


def test_the_key_undoes_the_blinding(both: tuple[Evaluation, Evaluation]) -> None:
    pairs, key = make_study(*both)
    assert len(pairs) == PROMPTS * SAMPLES
    assert sorted(key["pairs"]) == sorted(pair["id"] for pair in pairs)
    names = {side: key[side]["name"] for side in ("first", "second")}
    assert names == {"first": "alpha", "second": "beta"}
    for pair in pairs:
        entry = key["pairs"][pair["id"]]
        assert {entry["left"], entry["right"]} == {"first", "second"}
        number = entry["prompt"].removeprefix("p")
        assert pair["prompt"] == f"Question {number}?"
        assert pair["control"] is (number == "0")
        for side in ("left", "right"):
            expected = f"{names[entry[side]]} says {number}.{entry['sample']}"
            assert pair[side] == expected


def test_pairs_do_not_tell_whose_they_are(both: tuple[Evaluation, Evaluation]) -> None:
    pairs, key = make_study(*both)
    kept = {"id", "prompt", "category", "register", "control", "left", "right", "flags"}
    assert all(set(pair) == kept for pair in pairs)
    left = [entry["left"] for entry in key["pairs"].values()]
    assert left.count("first") == len(left) / 2
    assert left != sorted(left)
    asked = [pair["prompt"] for pair in pairs]
    assert asked != sorted(asked)


def test_the_seed_draws_everything(both: tuple[Evaluation, Evaluation]) -> None:
    assert make_study(*both, seed=3) == make_study(*both, seed=3)
    (one, _), (other, _) = make_study(*both, seed=3), make_study(*both, seed=4)
    assert not {pair["id"] for pair in one} & {pair["id"] for pair in other}
    assert [pair["prompt"] for pair in one] != [pair["prompt"] for pair in other]


def test_one_sample_a_prompt(both: tuple[Evaluation, Evaluation]) -> None:
    _, key = make_study(*both, samples=1)
    assert sorted(entry["prompt"] for entry in key["pairs"].values()) == [
        f"p{number}" for number in range(PROMPTS)
    ]


def test_what_cannot_be_judged_is_flagged(tmp_path: Path) -> None:
    first = evaluation("alpha", tmp_path, p1={"answer": " "}, p2={"finished": False},
                       p3={"answer": "the  same"})  # fmt: skip
    second = evaluation("beta", tmp_path, p3={"answer": "the same"})
    pairs, key = make_study(first, second, samples=1)
    found = {key["pairs"][pair["id"]]["prompt"]: pair for pair in pairs}
    side = {name: "left" if entry["left"] == "first" else "right"
            for name, entry in ((e["prompt"], e) for e in key["pairs"].values())}  # fmt: skip
    assert found["p0"]["flags"] == []
    assert found["p1"]["flags"] == [f"{side['p1']} is empty"]
    assert found["p2"]["flags"] == [f"{side['p2']} is cut off"]
    assert found["p3"]["flags"] == ["identical"]


def test_the_stage_writes_pairs_and_key_apart(
    both: tuple[Evaluation, Evaluation], tmp_path: Path
) -> None:
    from recipes import Listener

    first, second = both
    plan = StudyPlan(first=str(first.path), second=str(second.path), seed=1)
    place = Place(tmp_path / "study", plan)
    before = Study().inputs(place, lambda line: None)
    Study().carry_out(place, Listener())
    pairs, key = make_study(first, second, seed=1)
    lines = (place.directory / "pairs.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == pairs
    assert json.loads((place.directory / "key.json").read_text()) == key
    summary = json.loads((place.directory / "study.json").read_text())
    assert summary == {
        "version": 1, "seed": 1, "pairs": 14, "prompts": 7, "empty": 0, "cut_off": 0,
        "identical": 0,
    }  # fmt: skip
    assert "alpha" not in json.dumps(summary)
    answers = second.path / "answers.jsonl"
    answers.write_text(answers.read_text().replace("says", "dice"))
    after = Study().inputs(place, lambda line: None)
    assert (before["first"] == after["first"], before["second"] == after["second"]) == (True, False)


def test_other_prompts_are_refused(tmp_path: Path) -> None:
    first = evaluation("alpha", tmp_path)
    with pytest.raises(RunError, match="was not asked the same prompts as"):
        make_study(first, evaluation("beta", tmp_path, fingerprint="other"))
