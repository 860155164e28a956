"""Runs on a base in 4 bits that move to another quantisation, or to none."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli import Done, speakeasy
from one_thread import one_thread  # noqa: F401
from tiny import save_tiny_tokenizer
from tiny_model import tiny_llama
from training_runs import column, killed_after, write_conversations

from speakeasy.files import write_json
from speakeasy.training import session
from speakeasy.training import state as states
from speakeasy.training.loop import Fit
from speakeasy.training.run import Run
from speakeasy.training.signals import StopRequest
from speakeasy.weights.adapters import read_adapter

FORMS = {
    "nf4": ("--backend", "torch", "--use-4bit"),
    "mlx 4-bit": ("--backend", "mlx", "--use-4bit"),
    "float32": ("--backend", "torch", "--no-use-4bit"),
}
MOVES = [("nf4", "mlx 4-bit"), ("mlx 4-bit", "nf4"), ("nf4", "float32"), ("float32", "mlx 4-bit")]
FIGURES = ("eval_loss", "eval_bits_per_byte", "eval_word_perplexity")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough that the forms of the base give figures that can be told apart."""
    directory = tiny_llama(
        tmp_path_factory.mktemp("model"), vocab_size=480, hidden=64, intermediate=128,
        embedding_scale=0.2,
    )  # fmt: skip
    save_tiny_tokenizer(directory)
    return directory


@pytest.fixture(scope="module")
def runs(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of twelve steps for each form of the base, evaluated every four.

    Every state is kept: a run that was killed after step 10 has its best, of step 8.
    """
    files = write_conversations(tmp_path_factory.mktemp("data"), train=12, held_out=4)
    found = {}
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(states, "_prune", lambda *arguments, **options: None)
    for form, options in FORMS.items():
        found[form] = tmp_path_factory.mktemp("runs") / form.replace(" ", "-")
        speakeasy(
            "train", "--model", model, "--train-file", files[0], "--eval-file", files[1],
            "--output-dir", found[form], "--precision", "float32", "--max-steps", 12,
            "--save-every", 2, "--eval-every", 4, "--batch-size", 1, "--max-length", 256,
            "--lora-r", 4, "--learning-rate", 0.01, *options,
        )  # fmt: skip
    monkeypatch.undo()
    return found


def resume(run: Path, *options: object) -> Done:
    return speakeasy("train", "--resume", "--output-dir", run, *options, "--json")


def lines(run: Path) -> list[dict[str, Any]]:
    return Run.open(run).evaluations()


def figures(line: dict[str, Any]) -> list[float]:
    return [line[name] for name in FIGURES]


def after_ten(runs: dict[str, Path], form: str, out: Path) -> Path:
    """A run that was killed after step 10; its best is of step 8."""
    run = killed_after(runs[form], 10, out)
    assert states.at_step(run / "state", 10).progress.best_step == 8
    return run


@pytest.mark.parametrize(("then", "now"), MOVES)
def test_another_base_is_warned_of_and_scored_first(
    then: str, now: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    run = after_ten(runs, then, tmp_path / "run")
    before = {line["step"]: line for line in lines(run)}
    done = resume(run, *FORMS[now])
    assert f"warning: the base is held in {now}; until now in {then}" in done.stderr
    again = [line for line in lines(run) if "rescored_at" in line]
    assert [(line["step"], line["rescored_at"], line["base"]) for line in again] == [
        (0, 10, now),
        (8, 10, now),
    ]
    bare = lines(runs[now])[0]
    np.testing.assert_allclose(figures(again[0]), figures(bare), rtol=1e-6)
    assert again[1]["eval_bits_per_byte"] != before[8]["eval_bits_per_byte"]
    assert again[1]["eval_bits_per_byte"] == pytest.approx(
        before[8]["eval_bits_per_byte"], rel=0.05
    )
    last = lines(run)[-1]
    assert (last["step"], last["base"]) == (12, now)
    summary = done.result
    scores = {8: again[1]["eval_bits_per_byte"], 12: last["eval_bits_per_byte"]}
    assert summary["best_step"] == min(scores, key=scores.__getitem__)
    assert summary["eval_bits_per_byte"] == min(scores.values())
    assert summary["eval_bits_per_byte_before"] == again[0]["eval_bits_per_byte"]
    assert summary["measured_on"] == f"the base in {now}"
    assert summary["quantization"] == (None if now == "float32" else now)
    assert [part["quantization"] for part in summary["parts"]] == [
        None if form == "float32" else form for form in (then, now)
    ]
    # The adapter belongs to the last 4 bits that it was trained on, not to what came after.
    held = (then, now) if summary["best_step"] == 12 else (then,)
    in_4_bits = [form for form in held if form != "float32"]
    expected = in_4_bits[-1] if in_4_bits else None
    assert read_adapter(run / "adapter").base_quantization == expected


def test_scoring_again_leaves_training_alone(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = after_ten(runs, "nf4", tmp_path / "scored")
    resume(scored, *FORMS["mlx 4-bit"])
    monkeypatch.setattr(Fit, "rescore", lambda fit, weights: None)
    unscored = after_ten(runs, "nf4", tmp_path / "unscored")
    resume(unscored, *FORMS["mlx 4-bit"])
    assert column(scored, "loss") == column(unscored, "loss")
    expected = states.at_step(unscored / "state", 12)
    for name, tensor in states.at_step(scored / "state", 12).trainables.items():
        np.testing.assert_array_equal(tensor, expected.trainables[name])


def test_it_is_scored_once(runs: dict[str, Path], tmp_path: Path) -> None:
    """Killed after it was scored again and before another state: that need not be done twice."""
    first = after_ten(runs, "nf4", tmp_path / "first")
    expected = resume(first, *FORMS["mlx 4-bit"]).result
    second = killed_after(first, 10, tmp_path / "second")
    found = resume(second).result
    assert len([line for line in lines(second) if "rescored_at" in line]) == 2
    for name in ("best_step", "eval_bits_per_byte", "eval_bits_per_byte_before"):
        assert found[name] == expected[name]


def test_a_signal_while_it_is_scored_loses_nothing(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is saved are the weights of step 10, not those that are being scored."""

    @contextmanager
    def stopped() -> Iterator[StopRequest]:
        request = StopRequest()
        request.signal_number = signal.SIGTERM
        yield request

    run = after_ten(runs, "nf4", tmp_path / "run")
    before = {**states.at_step(run / "state", 10).trainables}
    with monkeypatch.context() as patch:
        patch.setattr(session, "stop_on_signals", stopped)
        done = speakeasy("train", "--resume", "--output-dir", run, *FORMS["mlx 4-bit"], check=False)
    assert done.returncode == 128 + signal.SIGTERM
    state = states.at_step(run / "state", 10)
    assert state.progress.best_step == 8
    for name, tensor in before.items():
        np.testing.assert_array_equal(state.trainables[name], tensor)
    assert resume(run).result["steps"] == 12
    assert len([line for line in lines(run) if "rescored_at" in line]) == 2


def test_a_model_that_is_written_has_figures_of_the_base_in_4_bits(
    backend_name: str, model: Path, tmp_path: Path
) -> None:
    """And says so, in the summary and in the table."""
    expanded = Path(shutil.copytree(model, tmp_path / "expanded"))
    write_json(expanded / "expansion.json", {"added": [{"id": 470}], "steps": []})
    done = speakeasy(
        "pretrain", "--model", expanded, "--output-dir", tmp_path / "out", "--max-steps", 1,
        "--batch-size", 1, "--max-length", 64, "--lora-r", 2, "--use-4bit", "--precision",
        "float32", "--backend", backend_name,
    )  # fmt: skip
    form = {"torch": "nf4", "mlx": "mlx 4-bit"}[backend_name]
    expected = f"the base in {form}; the model written is in full precision"
    summary = Run.open(tmp_path / "out").summary
    assert summary is not None
    assert summary["measured_on"] == expected
    assert f"Held-out figures: {expected}." in " ".join(done.stderr.split())
