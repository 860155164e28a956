from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from one_thread import one_thread  # noqa: F401

from speakeasy.cli.main import main
from speakeasy.cli.watch import LogWatcher
from speakeasy.config import TrainConfig
from speakeasy.dialect.prompts import packaged_prompts
from speakeasy.errors import InterruptedRun, RunError, UsageError
from speakeasy.training.inference import Responder, Speaker
from speakeasy.training.loop import Record, Watcher
from speakeasy.training.run import Run
from speakeasy.training.session import Session
from speakeasy.workflow.execute import Outcome, carry_out, standings
from speakeasy.workflow.recipe import (
    AnswersPlan,
    Recipe,
    load_recipe,
    packaged_recipes,
    parse_recipe,
)

STEPS = 4
RECIPE = """
description = "tiny"

[[stage]]
name = "train"
kind = "train"
[stage.plan]
model = "{model}"
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
name = "answers"
kind = "answers"
[stage.plan]
prompts = ["greeting-02", "control-07"]
sampling = {{ max_tokens = {max_tokens}, temperature = 0.0 }}
"""


class Listener:
    """A follower that remembers, and may do something at a step."""

    def __init__(self, at_step: Callable[[int], None] = lambda step: None) -> None:
        self.lines: list[str] = []
        self.plans: list[Session] = []
        self.counted: list[tuple[str, int, int]] = []
        self.steps: list[int] = []
        self._at_step = at_step

    def say(self, line: str) -> None:
        self.lines.append(line)

    def planned(self, session: Session) -> None:
        self.plans.append(session)

    @contextmanager
    def training(self, session: Session, run: Run) -> Iterator[Watcher]:
        watcher = LogWatcher()

        def on_step(record: Record) -> None:
            self.steps.append(record["step"])
            self._at_step(record["step"])

        watcher.on_step = on_step  # type: ignore[method-assign]
        yield watcher

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        done: list[int] = []
        yield done.append
        self.counted.append((what, total, sum(done)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with data beside which a recipe may lie."""
    lines = [
        {"messages": [{"role": "user", "content": f"Hola, nen {number}"},
                      {"role": "assistant", "content": f"Ostras, {number * 7} vegades, apa"}]}
        for number in range(20)
    ]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "conversations.jsonl").write_text(text)
    return tmp_path


@pytest.fixture
def write(folder: Path, tiny_directory: Path) -> Callable[..., Recipe]:
    """Writes the recipe with changes, and reads it."""

    def write(**changes: Any) -> Recipe:
        values = {"model": tiny_directory, "steps": STEPS, "max_tokens": 4, "more": ""} | changes
        file = folder / "tiny.toml"
        file.write_text(RECIPE.format(**values))
        return load_recipe(str(file))

    return write


def actions(outcomes: list[Outcome]) -> dict[str, str]:
    return {outcome.stage.name: outcome.action for outcome in outcomes}


def test_the_demo_is_a_recipe() -> None:
    assert "demo" in packaged_recipes()
    for name in packaged_recipes():
        recipe = load_recipe(name)
        assert recipe.name == name
        assert recipe.description
    train, answers = load_recipe("demo").stages
    assert isinstance(train.plan, TrainConfig)
    assert train.plan.model == "starter"
    assert train.plan.data.train == ()
    assert isinstance(answers.plan, AnswersPlan)
    assert answers.plan.run == train.name
    assert len(answers.plan.prompts) == 3


def test_every_stage_is_done_once(write: Callable[..., Recipe], folder: Path) -> None:
    recipe, listener, root = write(), Listener(), folder / "out"
    outcomes = list(carry_out(recipe, root, listener))
    assert actions(outcomes) == {"train": "run", "answers": "run"}
    assert listener.steps == list(range(1, STEPS + 1))
    assert len(listener.plans) == 1
    assert [(total, done) for _, total, done in listener.counted] == [(20, 20), (2, 2), (2, 2)]
    summary, answered = (outcome.result for outcome in outcomes)
    assert summary["steps"] == STEPS
    assert Run(root / "train").summary == summary
    prompts = {prompt.id: prompt.text for prompt in packaged_prompts()}
    assert [a["id"] for a in answered["answers"]] == ["greeting-02", "control-07"]
    assert all(a["prompt"] == prompts[a["id"]] for a in answered["answers"])
    files = {file: file.stat().st_mtime_ns for file in root.rglob("*")}
    again = list(carry_out(recipe, root, Listener()))
    assert actions(again) == {"train": "skip", "answers": "skip"}
    assert [outcome.result for outcome in again] == [summary, answered]
    assert {file: file.stat().st_mtime_ns for file in root.rglob("*")} == files


def test_the_answers_are_those_of_base_and_adapter(
    write: Callable[..., Recipe], folder: Path, tiny_directory: Path
) -> None:
    recipe = write(max_tokens=12, steps=12, more="[stage.plan.optimizer]\nlearning_rate = 0.05\n")
    *_, answers = carry_out(recipe, folder / "out", Listener())
    plan = answers.stage.plan
    prompts = {prompt.id: prompt for prompt in packaged_prompts()}
    messages = [prompts[name].to_messages() for name in plan.prompts]
    sides = {}
    for side, speaker in (
        ("base", Speaker(model=str(tiny_directory), backend="torch", precision="float32")),
        ("trained", Speaker(run=folder / "out" / "train", precision="float32")),
    ):
        found = Responder.open(speaker).answer(messages, plan.sampling)
        sides[side] = [answer.text for batch in found for answer in batch]
        assert [a[side] for a in answers.result["answers"]] == sides[side]
    assert sides["base"] != sides["trained"]


def test_a_changed_plan_is_done_again_and_nothing_is_lost(
    write: Callable[..., Recipe], folder: Path
) -> None:
    root = folder / "out"
    *_, before = carry_out(write(), root, Listener())
    listener = Listener()
    outcomes = list(carry_out(write(max_tokens=5), root, listener))
    assert actions(outcomes) == {"train": "skip", "answers": "rerun"}
    assert any("changed: sampling.max_tokens" in line for line in listener.lines)
    kept = json.loads((root / "answers.old-1" / "answers.json").read_text())
    assert kept == before.result


@pytest.mark.parametrize("changed", ["data", "plan"])
def test_what_a_stage_reads_is_what_counts(
    changed: str, write: Callable[..., Recipe], folder: Path
) -> None:
    root, recipe = folder / "out", write()
    list(carry_out(recipe, root, Listener()))
    if changed == "data":
        file = folder / "conversations.jsonl"
        file.write_text(file.read_text().replace("Ostras", "Apa"))
    else:
        recipe = write(more="seed = 5")
    listener = Listener()
    shown = {stage.name: found.action for stage, found in standings(recipe, root)}
    assert shown == {"train": "rerun", "answers": "rerun"}
    outcomes = list(carry_out(recipe, root, listener))
    assert actions(outcomes) == {"train": "rerun", "answers": "rerun"}
    said = "training data" if changed == "data" else "seed"
    assert any(f"changed: {said}" in line for line in listener.lines)
    assert any("changed: adapter" in line for line in listener.lines)
    assert (root / "train.old-1" / "summary.json").is_file()


def test_an_interrupted_recipe_goes_on(write: Callable[..., Recipe], folder: Path) -> None:
    recipe = write()
    whole, *_ = carry_out(recipe, folder / "whole", Listener())

    def interrupt(step: int) -> None:
        if step == 2:
            signal.raise_signal(signal.SIGTERM)

    root = folder / "out"
    with pytest.raises(InterruptedRun) as caught:
        list(carry_out(recipe, root, Listener(interrupt)))
    assert caught.value.exit_status == 128 + signal.SIGTERM
    assert str(caught.value) == (
        f"stage train stopped, its state is saved; go on with: "
        f"speakeasy run {recipe.source} --output-dir {root}"
    )
    shown = {stage.name: found.action for stage, found in standings(recipe, root)}
    assert shown == {"train": "resume", "answers": "run"}
    listener = Listener()
    outcomes = list(carry_out(recipe, root, listener))
    assert actions(outcomes) == {"train": "resume", "answers": "run"}
    assert listener.steps == [3, 4]
    adapters = [
        (directory / "adapter" / "adapter_model.safetensors").read_bytes()
        for directory in (whole.directory, root / "train")
    ]
    assert adapters[0] == adapters[1]


def test_what_others_made_is_left_alone(write: Callable[..., Recipe], folder: Path) -> None:
    mine = folder / "out" / "train" / "notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(RunError, match="holds something that speakeasy run did not make"):
        list(carry_out(write(), folder / "out", Listener()))
    assert mine.read_text() == "mine"


def test_the_command(write: Callable[..., Recipe], folder: Path) -> None:
    source, root = write().source, folder / "out"
    words = ["run", source, "--output_dir", str(root)]
    dry = CliRunner().invoke(main, [*words, "--dry-run", "--json"])
    assert dry.exit_code == 0
    assert [stage["action"] for stage in json.loads(dry.stdout)["stages"]] == ["run", "run"]
    assert not root.exists()
    shown = CliRunner().invoke(main, words)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout == ""
    for word in ("before", "after", "bits per byte", f"speakeasy chat --run {root / 'train'}"):
        assert word in shown.stderr
    again = CliRunner().invoke(main, [*words, "--json"])
    found = json.loads(again.stdout)
    assert (found["recipe"], found["output_dir"]) == (source, str(root))
    assert [stage["action"] for stage in found["stages"]] == ["skip", "skip"]
    assert found["stages"][0]["result"]["steps"] == STEPS


STAGE = '[[stage]]\nname = "a"\nkind = "train"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[stage", "not a TOML file"),
        ("", "no [[stage]] table"),
        ("stage = 3", "no [[stage]] table"),
        ("stage = [3]", "stage 1: expected a [[stage]] table"),
        ("stages = []", "unknown key 'stages'"),
        (f"description = 3\n{STAGE}", "description = 3: expected text"),
        ('[[stage]]\nkind = "train"', "stage 1: name = None: expected lower-case"),
        ('[[stage]]\nname = "../up"\nkind = "train"', "name = '../up': expected lower-case"),
        ('[[stage]]\nname = "a"\nkind = ["train"]', "stage 1 (a): kind = ['train']: expected one"),
        (STAGE + STAGE, "stage 2: name 'a' is taken already"),
        (STAGE + "plan = 1", "stage 1 (a): plan = 1: expected a table"),
        (STAGE + "extra = 1", "stage 1: unknown key 'extra'"),
        (STAGE + "[stage.plan]\nepochs = 1", "stage 1 (a): unknown key 'epochs'"),
        (STAGE + '[stage.plan.lora]\nr = "8"', "[lora]: r = '8': expected int"),
        ('[[stage]]\nname = "b"\nkind = "answers"', "run = 'train': expected a train stage before"),
        (
            f'{STAGE}[[stage]]\nname = "b"\nkind = "answers"\n'
            'plan = { run = "a", prompts = ["x"] }',
            "prompts has 'x': expected ids",
        ),
    ],
)
def test_a_wrong_recipe_is_one_line_that_names_the_place(text: str, message: str) -> None:
    with pytest.raises(RunError) as caught:
        parse_recipe(text, "name", "file.toml", Path())
    assert str(caught.value).startswith("file.toml: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_value_out_of_range_is_the_options_error() -> None:
    with pytest.raises(UsageError, match="--lora-r 0"):
        parse_recipe(f"{STAGE}[stage.plan.lora]\nr = 0", "name", "file.toml", Path())


def test_an_unknown_recipe_names_the_packaged_ones() -> None:
    with pytest.raises(UsageError, match=r"RECIPE nothing: cannot be read .* or demo"):
        load_recipe("nothing")


def test_paths_start_where_the_recipe_lies(tmp_path: Path) -> None:
    text = (
        f'{STAGE}[stage.plan]\nmodel = "./model"\n'
        '[stage.plan.data]\ntrain = ["a.jsonl", "/b.jsonl"]\nevaluation = ["c"]\n'
    )
    [stage] = parse_recipe(text, "name", "file.toml", tmp_path).stages
    assert stage.plan.model == str(tmp_path / "model")
    assert stage.plan.data.train == (str(tmp_path / "a.jsonl"), "/b.jsonl")
    assert stage.plan.data.evaluation == (str(tmp_path / "c"),)
    for model in ("starter", "owner/model"):
        [stage] = parse_recipe(f'{STAGE}plan = {{ model = "{model}" }}', "n", "f", tmp_path).stages
        assert stage.plan.model == model
