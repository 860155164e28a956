"""The engine of recipes: each stage once, again when what it reads has changed."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli import speakeasy
from listener import Listener, actions
from one_thread import one_thread  # noqa: F401

from speakeasy.errors import InterruptedRun, RunError
from speakeasy.training.run import Run
from speakeasy.workflow.execute import carry_out, standings
from speakeasy.workflow.recipe import Recipe, load_recipe

STEPS = 4
RECIPE = """
description = "tiny"

[[stage]]
name = "base"
kind = "pretrain"
[stage.plan]
model = "{model}"
backend = "torch"
train = "full"
max_steps = 2
batch_size = 1
[stage.plan.corpus]
paths = ["texts.txt"]
evaluation = ["held-out.txt"]
replay_share = 0.0
max_length = 64

[[stage]]
name = "lora"
kind = "train"
[stage.plan]
model = "stage:base"
backend = "torch"
precision = "float32"
max_steps = {steps}
batch_size = 1
save_every = 1
{more}
[stage.plan.data]
train = ["conversations.jsonl"]
max_length = 256
holdout = 0.2
[stage.plan.lora]
r = 2

[[stage]]
name = "other"
kind = "train"
[stage.plan]
model = "{model}"
backend = "torch"
precision = "float32"
max_steps = 1
batch_size = 1
[stage.plan.data]
train = ["others.jsonl"]
max_length = 256
holdout = 0.2
[stage.plan.lora]
r = 2
"""
ALL = ("base", "lora", "other")


def conversations(word: str) -> str:
    lines = [
        {"messages": [{"role": "user", "content": f"Hola, nen {number}"},
                      {"role": "assistant", "content": f"{word}, {number * 7} vegades, apa"}]}
        for number in range(20)
    ]  # fmt: skip
    return "".join(json.dumps(line) + "\n" for line in lines)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with data beside which a recipe may lie."""
    (tmp_path / "conversations.jsonl").write_text(conversations("Ostras"))
    (tmp_path / "others.jsonl").write_text(conversations("Collons"))
    (tmp_path / "texts.txt").write_text("La rambla és plena de gent i el nen riu.\n" * 30)
    (tmp_path / "held-out.txt").write_text("El carrer és ple de nens, apa.\n" * 4)
    return tmp_path


@pytest.fixture
def write(folder: Path, tiny_directory: Path) -> Callable[..., Recipe]:
    """Writes the recipe with changes, and reads it."""

    def write(**changes: Any) -> Recipe:
        file = folder / "tiny.toml"
        file.write_text(
            RECIPE.format(**{"model": tiny_directory, "steps": STEPS, "more": ""} | changes)
        )
        return load_recipe(str(file))

    return write


def shown(recipe: Recipe, root: Path) -> dict[str, str]:
    return {stage.name: found.action for stage, found in standings(recipe, root)}


def test_every_stage_is_done_once(write: Callable[..., Recipe], folder: Path) -> None:
    recipe, listener, root = write(), Listener(), folder / "out"
    assert shown(recipe, root) == dict.fromkeys(ALL, "run")
    outcomes = list(carry_out(recipe, root, listener))
    assert actions(outcomes) == dict.fromkeys(ALL, "run")
    assert listener.steps == [1, 2, *range(1, STEPS + 1), 1]
    assert len(listener.plans) == len(ALL)
    summaries = [outcome.result for outcome in outcomes]
    assert [Run(root / name).summary for name in ALL] == summaries
    assert Path(Run(root / "lora").config.model) == (root / "base").resolve()
    files = {file: file.stat().st_mtime_ns for file in root.rglob("*")}
    assert not [file for file in root.iterdir() if file.name.startswith(".")]
    again = list(carry_out(recipe, root, Listener()))
    assert actions(again) == dict.fromkeys(ALL, "skip")
    assert [outcome.result for outcome in again] == summaries
    assert {file: file.stat().st_mtime_ns for file in root.rglob("*")} == files


@pytest.mark.parametrize(
    ("file", "expected", "changed"),
    [
        ("texts.txt", {"base": "rerun", "lora": "rerun", "other": "skip"}, "training text"),
        (
            "conversations.jsonl",
            {"base": "skip", "lora": "rerun", "other": "skip"},
            "training data",
        ),
        ("others.jsonl", {"base": "skip", "lora": "skip", "other": "rerun"}, "training data"),
    ],
)
def test_a_changed_input_reruns_its_stage_and_those_that_read_it_and_no_other(
    file: str,
    expected: dict[str, str],
    changed: str,
    write: Callable[..., Recipe],
    folder: Path,
) -> None:
    recipe, root = write(), folder / "out"
    list(carry_out(recipe, root, Listener()))
    before = {name: (root / name / "summary.json").read_bytes() for name in ALL}
    path = folder / file
    path.write_text(path.read_text().replace("nen", "noi"))
    assert shown(recipe, root) == expected
    listener = Listener()
    assert actions(carry_out(recipe, root, listener)) == expected
    assert any(f"done again, changed: {changed}" in line for line in listener.lines)
    if expected["base"] == "rerun":
        assert any("lora: done again, changed: model" in line for line in listener.lines)
    for name, action in expected.items():
        kept = root / (f"{name}.old-1" if action == "rerun" else name)
        assert (kept / "summary.json").read_bytes() == before[name]


def test_a_changed_plan_is_done_again_and_nothing_is_lost(
    write: Callable[..., Recipe], folder: Path
) -> None:
    root = folder / "out"
    before = {found.stage.name: found.result for found in carry_out(write(), root, Listener())}
    listener = Listener()
    outcomes = carry_out(write(more="seed = 5"), root, listener)
    assert actions(outcomes) == {"base": "skip", "lora": "rerun", "other": "skip"}
    assert any("changed: seed" in line for line in listener.lines)
    kept = json.loads((root / "lora.old-1" / "summary.json").read_text())
    assert kept == before["lora"]


@pytest.mark.parametrize("stopped", ["base", "lora"])
def test_an_interrupted_recipe_goes_on(
    stopped: str, write: Callable[..., Recipe], folder: Path
) -> None:
    recipe = write()
    list(carry_out(recipe, folder / "whole", Listener()))
    seen: list[int] = []

    def interrupt(step: int) -> None:
        seen.append(step)
        if len(seen) == {"base": 1, "lora": 4}[stopped]:
            signal.raise_signal(signal.SIGTERM)

    root = folder / "out"
    with pytest.raises(InterruptedRun) as caught:
        list(carry_out(recipe, root, Listener(interrupt)))
    assert caught.value.exit_status == 128 + signal.SIGTERM
    assert str(caught.value) == (
        f"stage {stopped} stopped, its state is saved; go on with: "
        f"speakeasy run {recipe.source} --output-dir {root}"
    )
    assert shown(recipe, root)[stopped] == "resume"
    listener = Listener()
    found = actions(carry_out(recipe, root, listener))
    expected = {"base": "resume", "lora": "run"} if stopped == "base" else {"lora": "resume"}
    assert found == {"base": "skip", "other": "run"} | expected
    assert listener.steps[0] == {"base": 2, "lora": 3}[stopped]
    adapters = [
        (directory / "adapter" / "adapter_model.safetensors").read_bytes()
        for directory in (folder / "whole" / "lora", root / "lora")
    ]
    assert adapters[0] == adapters[1]


def test_a_stage_that_was_changed_while_it_was_stopped_begins_again(
    write: Callable[..., Recipe], folder: Path
) -> None:
    def interrupt(step: int) -> None:
        signal.raise_signal(signal.SIGTERM)

    root = folder / "out"
    with pytest.raises(InterruptedRun):
        list(carry_out(write(), root, Listener(interrupt)))
    file = folder / "texts.txt"
    file.write_text(file.read_text().replace("nen", "noi"))
    assert actions(carry_out(write(), root, Listener()))["base"] == "rerun"
    assert (root / "base.old-1" / "stage.json").is_file()


def test_a_kill_between_a_result_and_its_record_costs_nothing(
    write: Callable[..., Recipe], folder: Path
) -> None:
    root = folder / "out"
    list(carry_out(write(), root, Listener()))
    (root / "lora" / "stage.json").rename(root / ".lora.stage.json")
    assert actions(carry_out(write(), root, Listener())) == dict.fromkeys(ALL, "skip")
    assert (root / "lora" / "stage.json").is_file()


def test_what_others_made_is_left_alone(write: Callable[..., Recipe], folder: Path) -> None:
    mine = folder / "out" / "base" / "notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(RunError, match="holds something that speakeasy run did not make"):
        list(carry_out(write(), folder / "out", Listener()))
    assert mine.read_text() == "mine"


def test_the_command(write: Callable[..., Recipe], folder: Path) -> None:
    source, root = write().source, folder / "out"
    words = ("run", source, "--output_dir", root)
    dry = speakeasy(*words, "--dry-run", "--json").result
    assert [stage["action"] for stage in dry["stages"]] == ["run"] * 3
    assert all(stage["estimate"]["seconds"] > 0 for stage in dry["stages"])
    whole = dry["estimate"]
    assert whole["seconds"] == pytest.approx(sum(s["estimate"]["seconds"] for s in dry["stages"]))
    assert whole["memory_bytes"] == max(s["estimate"]["memory_bytes"] for s in dry["stages"])
    assert not root.exists()
    shown = speakeasy(*words)
    assert shown.stdout == ""
    for word in ("bits per byte", f"speakeasy chat --run {root / 'lora'}"):
        assert word in shown.stderr
    again = speakeasy(*words, "--json").result
    assert (again["recipe"], again["output_dir"]) == (source, str(root))
    assert [stage["action"] for stage in again["stages"]] == ["skip"] * 3
    assert again["stages"][1]["result"]["steps"] == STEPS
    nothing = speakeasy(*words, "--dry-run")
    assert "done already" in nothing.stderr


def test_a_recipe_is_copied_to_be_changed(tmp_path: Path) -> None:
    target = tmp_path / "mine.toml"
    assert speakeasy("run", "demo", "--copy", target, "--json").result["copy"] == str(target)
    assert load_recipe(str(target)).stages == load_recipe("demo").stages
    refused = speakeasy("run", "demo", "--copy", target, check=False)
    assert refused.returncode == 1
    assert "exists already" in refused.stderr
