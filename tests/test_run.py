"""Run directories, training states, schedules and data order."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speakeasy import plan_files
from speakeasy.config import DataConfig, LoraConfig, OptimizerConfig, TrainConfig
from speakeasy.errors import RunError, UsageError
from speakeasy.training import state as states
from speakeasy.training.run import Run
from speakeasy.training.schedule import DataOrder, learning_rate
from speakeasy.training.state import Progress, TrainingState

CONFIG = TrainConfig(
    model="starter",
    gradient_checkpointing=True,
    report_to=("tensorboard",),
    data=DataConfig(train=("a b.jsonl", "c.jsonl"), max_length=256),
    lora=LoraConfig(r=8, alpha=0.1 + 0.2, rslora=True),
)


def test_a_plan_of_before_dora_is_read(tmp_path: Path) -> None:
    text = plan_files.dump(CONFIG).replace("dora = false\n", "")
    assert "dora" not in text
    (tmp_path / "run.toml").write_text(text, encoding="utf-8")
    assert plan_files.load(TrainConfig, tmp_path / "run.toml") == CONFIG


def test_a_plan_survives_toml(tmp_path: Path) -> None:
    for config in (CONFIG, TrainConfig()):
        (tmp_path / "run.toml").write_text(plan_files.dump(config), encoding="utf-8")
        assert plan_files.load(TrainConfig, tmp_path / "run.toml") == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle = 'x'", "unknown key 'modle'"),
        ("num_epochs = 'three'", "num_epochs = 'three': expected int"),
        ("[lora]\nr = 0", "rank must be at least 1"),
        ("backend = 'jax'", "expected one of"),
        ("[lora]\nr = true", "expected int"),
        ("lora = 3", "expected a table"),
        ("report_to = ['a', 3]", "expected a list of strings"),
        ("model = ", "not a TOML file"),
    ],
)
def test_a_broken_plan_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "run.toml").write_text(text, encoding="utf-8")
    with pytest.raises((RunError, UsageError)) as caught:
        plan_files.load(TrainConfig, tmp_path / "run.toml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "values", "option"),
    [
        (LoraConfig, {"r": 0}, "--lora-r 0"),
        (LoraConfig, {"alpha": -1.0}, "--lora-alpha -1.0"),
        (LoraConfig, {"dropout": 1.0}, "--lora-dropout 1.0"),
        (OptimizerConfig, {"learning_rate": float("nan")}, "--learning-rate nan"),
        (OptimizerConfig, {"warmup_ratio": 1.5}, "--warmup-ratio 1.5"),
        (DataConfig, {"max_length": 8}, "--max-length 8"),
        (DataConfig, {"holdout": 0.0}, "--holdout 0.0"),
        (TrainConfig, {"batch_size": 0}, "--batch-size 0"),
        (TrainConfig, {"max_steps": -1}, "--max-steps -1"),
    ],
)
def test_values_out_of_range_name_their_option(kind: type, values: dict, option: str) -> None:
    with pytest.raises(UsageError, match=option.replace(".", r"\.")):
        kind(**values)


def test_a_run_is_not_started_over_something(tmp_path: Path) -> None:
    path = tmp_path / "run"
    run = Run.create(path, CONFIG, {"backend": "torch"})
    assert run.config == CONFIG
    assert run.environment == {"backend": "torch"}
    with pytest.raises(RunError, match="unfinished run; add --resume"):
        Run.create(path, CONFIG, {})
    run.finish({"steps": 1})
    with pytest.raises(RunError, match="finished run"):
        Run.create(path, CONFIG, {})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="not empty"):
        Run.create(tmp_path / "full", CONFIG, {})
    (tmp_path / "empty").mkdir()
    Run.create(tmp_path / "empty", CONFIG, {})
    with pytest.raises(RunError, match="no run to go on with"):
        Run.open(tmp_path / "nowhere")


def test_rewind_forgets_later_lines_and_a_torn_one(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", CONFIG, {})
    for step in range(1, 6):
        run.log_step({"step": step, "loss": 0.1 * step})
    run.log_evaluation({"step": 0})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    assert [record["step"] for record in run.steps()] == [1, 2, 3, 4, 5]
    run.rewind(3)
    assert [record["step"] for record in run.steps()] == [1, 2, 3]
    run.log_step({"step": 4})
    assert [record["step"] for record in run.steps()] == [1, 2, 3, 4]
    assert run.evaluations() == [{"step": 0}]


def test_an_evaluation_still_to_come_is_logged_once(tmp_path: Path) -> None:
    """Stopped in the evaluation of step 2, resumed, and killed after it was logged."""
    run = Run.create(tmp_path / "run", CONFIG, {})
    for step in (1, 2):
        run.log_step({"step": step})
    for step in (0, 2):
        run.log_evaluation({"step": step})
    run.rewind(2, evaluated=False)
    assert [record["step"] for record in run.steps()] == [1, 2]
    assert run.evaluations() == [{"step": 0}]


def test_parts_follow_the_machines(tmp_path: Path) -> None:
    """Steps that are done again elsewhere are that machine's; the same machine again is no part."""

    def on(backend: str) -> dict:
        return {"backend": backend, "parts": [{"first_step": 1, "backend": backend, "reason": "r"}]}

    run = Run.create(tmp_path / "run", CONFIG, on("torch"))
    for backend, step in (("torch", 0), ("torch", 5), ("mlx", 10), ("torch", 20), ("torch", 25)):
        run.carry_on(CONFIG, on(backend), step)
    assert [(part["first_step"], part["backend"]) for part in run.parts] == [
        (1, "torch"), (11, "mlx"), (21, "torch"),
    ]  # fmt: skip
    run.carry_on(dataclasses.replace(CONFIG, backend="torch"), on("torch"), 10)
    assert [(part["first_step"], part["backend"]) for part in run.parts] == [(1, "torch")]
    assert run.config.backend == "torch"
    run.carry_on(CONFIG, on("mlx"), 0)
    assert [(part["first_step"], part["backend"]) for part in run.parts] == [(1, "mlx")]
    assert run.environment["backend"] == "mlx"


def test_rewind_forgets_what_was_scored_again_later(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", CONFIG, {})
    for record in ({"step": 0}, {"step": 0, "rescored_at": 5}, {"step": 0, "rescored_at": 9}):
        run.log_evaluation(record)
    run.rewind(5)
    assert run.evaluations() == [{"step": 0}, {"step": 0, "rescored_at": 5}]


def a_state(step: int) -> TrainingState:
    tensors = {"a.lora_A.weight": np.full((2, 3), step, np.float32)}
    return TrainingState(
        Progress(step=step, nats=0.1 + 0.2, best_score=1 / 3), tensors, tensors, tensors
    )


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    place = states.save(a_state(7), tmp_path / "state", best=7)
    back = states.load(place)
    assert back.progress == a_state(7).progress
    for group in ("trainables", "first", "second"):
        assert getattr(back, group).keys() == {"a.lora_A.weight"}
        np.testing.assert_array_equal(getattr(back, group)["a.lora_A.weight"], np.full((2, 3), 7))


def test_the_newest_two_states_and_the_best_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20, 25):
        states.save(a_state(step), tmp_path / "state", best=10)
    assert states.steps_saved(tmp_path / "state") == [10, 20, 25]
    newest = states.latest(tmp_path / "state")
    assert newest is not None
    assert newest.progress.step == 25
    assert states.latest(tmp_path / "none") is None


@pytest.mark.parametrize("victim", ["tensors.safetensors", "state.json"])
def test_a_broken_state_is_named(tmp_path: Path, victim: str) -> None:
    place = states.save(a_state(3), tmp_path / "state", best=3)
    content = (place / victim).read_bytes()
    (place / victim).write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match="step-000003: this state cannot be read") as caught:
        states.latest(tmp_path / "state")
    assert "\n" not in str(caught.value)


@given(
    total=st.integers(1, 500),
    ratio=st.floats(0, 1),
    schedule=st.sampled_from(["constant", "linear", "cosine"]),
)
def test_the_rate_rises_to_its_peak_and_never_again(
    total: int, ratio: float, schedule: str
) -> None:
    config = OptimizerConfig(learning_rate=2.0, warmup_ratio=ratio, schedule=schedule)
    rates = [learning_rate(config, step, total) for step in range(1, total + 1)]
    peak = max(range(total), key=rates.__getitem__)
    assert rates[peak] == pytest.approx(2.0)
    assert all(rate > 0 for rate in rates)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


@given(
    lengths=st.lists(st.integers(1, 64), min_size=1, max_size=60),
    rows_per_step=st.integers(1, 5),
    seed=st.integers(0, 99),
    stop=st.integers(0, 30),
)
def test_the_order_of_data_can_be_entered_anywhere(
    lengths: list[int], rows_per_step: int, seed: int, stop: int
) -> None:
    order = DataOrder(lengths, 64, rows_per_step, seed)
    walk = order.steps(0, 0)
    behind = [next(walk) for _ in range(stop + 1)][-1]
    again = order.steps(behind.epoch, behind.cursor)
    for _ in range(3):
        assert next(walk) == next(again)


@given(lengths=st.lists(st.integers(1, 64), min_size=1, max_size=60), seed=st.integers(0, 99))
def test_an_epoch_shows_every_conversation_once(lengths: list[int], seed: int) -> None:
    order = DataOrder(lengths, 64, rows_per_step=3, seed=seed)
    walk = order.steps(0, 0)
    for epoch in range(2):
        seen: list[int] = []
        for number in range(order.steps_per_epoch()):
            step = next(walk)
            assert step.epoch == epoch
            assert step.ends_epoch == (number == order.steps_per_epoch() - 1)
            seen += [index for row in step.rows for index in row]
        assert sorted(seen) == list(range(len(lengths)))


def test_progress_has_no_field_that_json_cannot_hold() -> None:
    assert all(
        isinstance(value, int | float | str | type(None))
        for value in dataclasses.asdict(Progress()).values()
    )
