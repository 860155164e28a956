"""Another variety needs another lexicon, prompts and data, and nothing else: end to end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from cli import Done, speakeasy
from listener import Listener, actions
from one_thread import one_thread  # noqa: F401

from speakeasy.dialect.lexicon import load_lexicon
from speakeasy.dialect.prompts import read_prompts
from speakeasy.workflow.execute import carry_out, standings
from speakeasy.workflow.recipe import load_recipe

GALICIA = Path(__file__).parent / "data" / "galician"
STAGES = (
    "lora", "evaluate-lora", "expanded", "pretrained", "lora-pretrained", "evaluate-pretrained",
    "comparison", "study",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_directory: Path) -> Path:
    """The recipe and its data, with a tiny model."""
    folder = tmp_path_factory.mktemp("variety") / "galician"
    shutil.copytree(GALICIA, folder)
    recipe = folder / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("MODEL", str(tiny_directory)))
    return folder


@pytest.fixture(scope="module")
def done(folder: Path) -> Done:
    """All stages, by the command."""
    return speakeasy("run", folder / "recipe.toml", "--output-dir", folder / "out")


def result(folder: Path, *names: str) -> Any:
    return json.loads(folder.joinpath("out", *names).read_text(encoding="utf-8"))


def test_the_data_are_small_and_of_another_variety() -> None:
    lexicon = load_lexicon(GALICIA / "lexicon.toml")
    assert (lexicon.variety.matrix, lexicon.variety.contact) == ("es", "gl")
    assert len(lexicon.entries) == 12
    assert len(read_prompts(GALICIA / "prompts.toml")) == 6


def test_all_stages_are_done(done: Done, folder: Path) -> None:
    assert all((folder / "out" / name / "stage.json").is_file() for name in STAGES)
    report = folder / "out" / "comparison" / "report.html"
    assert report.is_file()
    for text in (f"report: {report}", "12 pairs to judge", "approach 2"):
        assert text in done.stderr


def test_the_vocabulary_has_the_variety_s_words(done: Done, folder: Path) -> None:
    forms = {entry["form"] for entry in result(folder, "expanded", "expansion.json")["added"]}
    assert {" orballo", "Morriña", " rapaza"} <= forms
    assert not {" ostras", " nen"} & forms


def test_the_evaluations_are_of_the_variety(done: Done, folder: Path) -> None:
    for name in ("evaluate-lora", "evaluate-pretrained"):
        found = result(folder, name, "evaluation.json")
        assert found["variety"]["contact"] == "gl"
        assert found["answers"]["prompts"] == 6
        lexicon = load_lexicon(folder / "lexicon.toml")
        assert found["answers"]["lexicon_fingerprint"] == lexicon.fingerprint
        # People who answered in the held-out conversations speak so; the packaged ones do not.
        assert found["answers"]["human"]["marker_density"] > 10
    before, after = (
        result(folder, name, "evaluation.json")["fertility"]["regional"]["tokens_per_word"]
        for name in ("evaluate-lora", "evaluate-pretrained")
    )
    assert after < before / 2


def test_the_comparison_is_of_both(done: Done, folder: Path) -> None:
    comparison = result(folder, "comparison", "comparison.json")
    assert [run["name"] for run in comparison["runs"]] == ["approach 1", "approach 2"]
    assert comparison["verdict"]["lines"]
    study = result(folder, "study", "study.json")["plan"]
    assert (study["items"], study["prompts"], study["gold"]) == (6 * 2, 6, 0)
    assert study["variety"] == comparison["runs"][0]["variety"]["name"]


@pytest.mark.parametrize(
    ("file", "old", "new", "again"),
    [
        ("recipe.toml", "fit_rows = 500", "fit_rows = 400", STAGES[3:]),
        ("recipe.toml", "samples = 2", "samples = 1", ("evaluate-lora", *STAGES[5:])),
        ("recipe.toml", "{ samples = 0, ", "{ seed = 3, samples = 0, ", ("study",)),
        ("lexicon.toml", '"boas"', '"boa"', ("evaluate-lora", *STAGES[2:])),
        ("prompts.toml", "Lugo", "Ourense", ("evaluate-lora", *STAGES[5:])),
        ("texts/galicia.txt", "cuento", "sueño", STAGES[3:]),
        ("held-out.jsonl", "Boas", "Buenas", ("lora", "evaluate-lora", *STAGES[4:])),
    ],
)
def test_a_change_reaches_what_reads_it_and_no_other(
    file: str, old: str, new: str, again: tuple[str, ...], done: Done, folder: Path
) -> None:
    """As a dry run tells it, with the file put back afterwards."""
    path = folder / file
    before = path.read_text(encoding="utf-8")
    assert old in before
    path.write_text(before.replace(old, new), encoding="utf-8")
    try:
        found = standings(load_recipe(str(folder / "recipe.toml")), folder / "out")
        shown = {stage.name: standing.action for stage, standing in found}
    finally:
        path.write_text(before, encoding="utf-8")
    assert shown == {name: "rerun" if name in again else "skip" for name in STAGES}


def test_a_changed_study_is_made_again_alone(done: Done, folder: Path) -> None:
    recipe = folder / "other-study.toml"
    text = (folder / "recipe.toml").read_text(encoding="utf-8")
    recipe.write_text(text.replace("{ samples = 0, ", "{ samples = 1, "), encoding="utf-8")
    *others, study = carry_out(load_recipe(str(recipe)), folder / "out", Listener())
    assert actions(others) == dict.fromkeys(STAGES[:-1], "skip")
    assert (study.action, study.result["plan"]["prompts"]) == ("rerun", 6)
    assert study.result["plan"]["items"] == 6
    assert (folder / "out" / "study.old-1" / "key.json").is_file()
