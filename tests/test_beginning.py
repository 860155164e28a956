"""What training begins with is scored, after the first step has shown that the run can be had."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from cli import speakeasy
from one_thread import one_thread  # noqa: F401
from own_cache import own_cache  # noqa: F401
from training_runs import write_conversations

from speakeasy.training import loop, session
from speakeasy.training import state as states
from speakeasy.training.group import Group
from speakeasy.training.run import Run
from speakeasy.training.signals import StopRequest


@pytest.fixture
def words(tiny_directory: Path, tmp_path: Path) -> list[str]:
    """A run of two steps of one row."""
    train, held_out = write_conversations(tmp_path, train=12, held_out=5)
    options = {
        "model": tiny_directory, "train-file": train, "eval-file": held_out, "max-steps": 2,
        "batch-size": 1, "max-length": 256, "lora-r": 4, "precision": "float32",
    }  # fmt: skip
    return [
        "train",
        *(str(word) for name, value in options.items() for word in (f"--{name}", value)),
    ]


def test_it_is_the_base_that_is_scored(
    words: list[str], tmp_path: Path, backend_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    measure = loop.Fit._measure

    def watched(fit: loop.Fit, step: int, *rest: object) -> object:
        seen.append((step, fit.progress.step))
        return measure(fit, step, *rest)

    monkeypatch.setattr(loop.Fit, "_measure", watched)
    out = tmp_path / "run"
    speakeasy(*words, "--backend", backend_name, "--learning-rate", "0.1", "--output-dir", out)
    assert seen == [(0, 1), (2, 2)]
    still = tmp_path / "still"  # a rate so low that the last step's score is the base's
    speakeasy(*words, "--backend", backend_name, "--learning-rate", "1e-9", "--output-dir", still)
    first, last = Run.open(out).evaluations()
    assert first["eval_loss"] == pytest.approx(
        Run.open(still).evaluations()[-1]["eval_loss"], rel=1e-6
    )
    assert last["eval_loss"] != pytest.approx(first["eval_loss"], rel=1e-3)


def test_a_signal_meanwhile_keeps_the_first_step(
    words: list[str], tmp_path: Path, backend_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Second(StopRequest):
        """Asked for at the second occasion: the first step has one."""

        asked = 0

        def agreed(self, group: Group) -> int | None:
            self.asked += 1
            return signal.SIGTERM if self.asked == 2 else None

    @contextmanager
    def stopped() -> Iterator[StopRequest]:
        yield Second()

    words = [*words, "--backend", backend_name]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    speakeasy(*words, "--output-dir", whole)
    with monkeypatch.context() as patch:
        patch.setattr(session, "stop_on_signals", stopped)
        done = speakeasy(*words, "--output-dir", cut, check=False)
    assert done.returncode == 128 + signal.SIGTERM
    assert states.latest(cut / "state").progress.step == 1
    assert not Run.open(cut).evaluations()
    speakeasy("train", "--resume", "--output-dir", cut)
    for expected, found in zip(
        Run.open(whole).evaluations(), Run.open(cut).evaluations(), strict=True
    ):
        assert (found["step"], found["eval_loss"]) == (expected["step"], expected["eval_loss"])
    expected = states.at_step(whole / "state", 2).trainables
    for name, tensor in states.at_step(cut / "state", 2).trainables.items():
        np.testing.assert_array_equal(tensor, expected[name])
