from __future__ import annotations

import json
import os
import sqlite3
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from one_thread import one_thread  # noqa: F401

from speakeasy.cli.main import main
from speakeasy.config import TrainConfig
from speakeasy.errors import SpeakeasyError
from speakeasy.training.run import Record, Run
from speakeasy.training.trackers import TrackerWatcher, check_installed, open_trackers


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", TrainConfig(seed=7), {})


def step(number: int) -> Record:
    return {"step": number, "loss": 2 / number, "bits_per_byte": 1.5, "learning_rate": 1e-3,
            "grad_norm": 0.5, "tokens_per_second": 100.0}  # fmt: skip


def evaluation(number: int, perplexity: float | None = 20.0) -> Record:
    return {"step": number, "eval_loss": 2.5, "eval_bits_per_byte": 1.25,
            "eval_word_perplexity": perplexity}  # fmt: skip


def events(folder: Path) -> list[Any]:
    """The events of TensorBoard's files, which are TFRecords: length, crc, bytes, crc."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted(folder.iterdir()):
        data, start = file.read_bytes(), 0
        while start < len(data):
            (length,) = struct.unpack_from("<Q", data, start)
            found.append(Event.FromString(data[start + 12 : start + 12 + length]))
            start += 12 + length + 4
    return found


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    return {
        (value.tag, event.step): value.simple_value
        for event in events(folder)
        for value in event.summary.value
        if value.HasField("simple_value")
    }


def test_tensorboard_shows_what_the_run_logged(tiny_directory: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    result = CliRunner().invoke(
        main,
        ["train", "--model", str(tiny_directory), "--max-steps", "3", "--max-train", "20",
         "--max-eval", "4", "--max-length", "512", "--batch-size", "1", "--lora-r", "2",
         "--backend", "torch", "--report_to", "tensorboard", "--output-dir", str(path)],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = scalars(path / "tensorboard")
    run = Run(path)
    expected = {}
    for record in run.steps():
        for name in ("loss", "bits_per_byte", "learning_rate", "grad_norm", "tokens_per_second"):
            expected[f"train/{name}", record["step"]] = record[name]
    for record in run.evaluations():
        for name in ("loss", "bits_per_byte", "word_perplexity"):
            if record[f"eval_{name}"] is not None:
                expected[f"eval/{name}", record["step"]] = record[f"eval_{name}"]
    assert found == pytest.approx(expected, rel=1e-6)  # float32 in the file
    texts = [v.tensor.string_val[0].decode() for e in events(path / "tensorboard")
             for v in e.summary.value if v.HasField("tensor")]  # fmt: skip
    assert any("max_steps = 3" in text for text in texts)


def test_a_resumed_run_hides_what_it_does_again(run: Run) -> None:
    with open_trackers(["tensorboard"], run) as [watcher]:
        for number in (1, 2, 3):
            watcher.on_step(step(number))
    (run.states / "step-000002").mkdir(parents=True)
    with open_trackers(["tensorboard"], run) as [watcher]:
        watcher.on_step(step(3))
    found = events(run.path / "tensorboard")
    restarts = [event for event in found if event.HasField("session_log")]
    assert [event.step for event in restarts] == [3]
    steps = [e.step for e in found for v in e.summary.value if v.tag == "train/loss"]
    assert steps == [1, 2, 3, 3]


def test_a_figure_that_is_none_is_left_out(run: Run) -> None:
    with open_trackers(["tensorboard"], run) as [watcher]:
        watcher.on_evaluation(evaluation(0, perplexity=None))
    assert scalars(run.path / "tensorboard") == {
        ("eval/loss", 0): 2.5, ("eval/bits_per_byte", 0): 1.25,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "module"),
    [("tensorboard", "tensorboardX"), ("wandb", "wandb"), ("trackio", "trackio")],
)
def test_a_missing_package_is_one_line_before_training(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SpeakeasyError) as caught:
        check_installed([name])
    assert str(caught.value) == (
        f"--report-to {name}: {module} is not installed; "
        "install it with: pip install 'speakeasy-lm[trackers]'"
    )


def test_one_that_cannot_be_opened_costs_a_line(run: Run) -> None:
    (run.path / "tensorboard").write_text("in the way")
    said: list[str] = []
    with open_trackers(["tensorboard"], run, said.append) as watchers:
        assert watchers == []
    assert len(said) == 1
    assert said[0].startswith("warning: --report-to tensorboard: ")


class Broken:
    """A tracker whose network goes away after a number of calls."""

    def __init__(self, good: int) -> None:
        self.good, self.calls = good, 0

    def log(self, figures: Mapping[str, float], step: int) -> None:
        sys.stdout.write("chatter\n")
        self.calls += 1
        if self.calls > self.good:
            raise ConnectionError("no route\nto host")

    def close(self, *, failed: bool) -> None:
        raise AssertionError("not asked any more")


def test_one_that_fails_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    tracker = Broken(good=2)
    watcher = TrackerWatcher("wandb", tracker, said.append)
    for number in range(1, 6):
        watcher.on_step(step(number))
    watcher.on_evaluation(evaluation(5))
    watcher.close(failed=False)
    assert tracker.calls == 3
    assert said == ["warning: --report-to wandb: no route; the run goes on without it"]
    assert capsys.readouterr().out == ""


def test_an_error_of_the_run_passes_through_and_is_told(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[bool] = []
    close = TrackerWatcher.close

    def note(self: TrackerWatcher, *, failed: bool) -> None:
        closed.append(failed)
        close(self, failed=failed)

    monkeypatch.setattr(TrackerWatcher, "close", note)
    with pytest.raises(ZeroDivisionError), open_trackers(["tensorboard"], run):
        raise ZeroDivisionError
    assert closed == [True]


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment in which nobody is logged in anywhere."""
    home = tmp_path / "home"
    home.mkdir()
    for name in [name for name in os.environ if name.startswith(("WANDB_", "TRACKIO_"))]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TRACKIO_DIR", str(home / "trackio"))
    return home


@pytest.mark.filterwarnings("default")  # those of wandb's and trackio's dependencies are not ours
def test_wandb_offline_where_nobody_is_logged_in(run: Run, nobody: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed (extra: trackers)")
    said: list[str] = []
    for _ in range(2):
        with open_trackers(["wandb"], run, said.append) as [watcher]:
            watcher.on_step(step(1))
    assert len(said) == 2
    assert all(line.startswith("wandb: not logged in, so it writes offline; ") for line in said)
    identity = json.loads((run.path / "trackers.json").read_text())["wandb"]
    logs = list((run.path / "wandb").glob(f"offline-run-*-{identity}/run-{identity}.wandb"))
    assert logs
    assert all(log.stat().st_size > 0 for log in logs)


def test_wandb_login_is_found_without_asking(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from speakeasy.training.trackers import _wandb_login

    assert not _wandb_login()
    (nobody / ".netrc").write_text("machine api.wandb.ai login user password x\n")
    (nobody / ".netrc").chmod(0o600)
    assert _wandb_login()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not _wandb_login()
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert _wandb_login()


@pytest.mark.filterwarnings("default")
def test_trackio_keeps_one_run(run: Run, nobody: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("trackio", reason="trackio is not installed (extra: trackers)")
    for number in (1, 2):
        with open_trackers(["trackio"], run) as [watcher]:
            watcher.on_step(step(number))
    assert capsys.readouterr().out == ""
    [file] = (nobody / "trackio").glob("*.db")
    with sqlite3.connect(file) as store:
        rows = store.execute("SELECT run_name, step, metrics FROM metrics ORDER BY step").fetchall()
    assert len({name for name, _, _ in rows}) == 1
    losses = {number: json.loads(metrics).get("train/loss") for _, number, metrics in rows}
    assert losses == {1: 2.0, 2: 1.0}
