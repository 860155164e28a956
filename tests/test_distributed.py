"""Two processes train one run: as one process would, with states for any number of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli import speakeasy
from one_thread import one_thread  # noqa: F401
from own_cache import own_cache  # noqa: F401
from safetensors.numpy import load_file, save_file
from tiny import save_tiny_tokenizer
from tiny_model import tiny_llama
from together import Call, carry_out
from training_runs import BACKENDS, column, killed_after, write_conversations

from speakeasy.files import write_json
from speakeasy.training import state as states
from speakeasy.training.backend import select
from speakeasy.training.launcher import launched
from speakeasy.training.run import Run

STEPS = 20
ADDED = (470, 475, 479)
CLOSE = 1e-5
"""Losses differ by the order in which two processes' sums are taken, 1e-7 a step, and by what the
steps make of that; 1e-3 is promised. Seen: 1e-7."""
LOSS = ("loss", "grad_norm", "tokens", "target_tokens", "learning_rate")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untied Llama with added entries, whose rows can be fitted."""
    directory = tiny_llama(
        tmp_path_factory.mktemp("model"), vocab_size=480, tied=False, embedding_scale=0.2
    )
    save_tiny_tokenizer(directory)
    tensors = load_file(directory / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name][list(ADDED)] = tensors[name][[10, 11]].mean(axis=0)  # as vocab expand does
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    added = [{"id": id, "pieces": [10, 11]} for id in ADDED]
    write_json(directory / "expansion.json", {"added": added, "steps": []})
    return directory


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_conversations(tmp_path_factory.mktemp("data"), train=30, held_out=7)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    for n in range(12):
        lines = [f"El tren {k} va de {k + n} a {k * n}, i torna." for k in range(20)]
        (folder / f"{n}.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


def words(model: Path, files: tuple[Path, Path], out: Path, **more: Any) -> list[str]:
    """Steps of three rows, so that two processes never have equal shares."""
    options = {
        "model": model, "train-file": files[0], "eval-file": files[1], "output-dir": out,
        "precision": "float32", "max-steps": STEPS, "save-every": 10, "batch-size": 3,
        "max-length": 256, "learning-rate": 0.01, "lora-r": 4,
    } | more  # fmt: skip
    return ["train", *(str(w) for name, value in options.items() for w in (f"--{name}", value))]


def pretraining(model: Path, text: Path, out: Path) -> list[str]:
    """Added rows are fitted, by process 0, and then trained."""
    options = {
        "model": model, "corpus-path": text, "replay-path": text, "output-dir": out,
        "precision": "float32", "max-steps": 3, "batch-size": 3, "max-length": 64,
        "train": "rows+lora", "lora-r": 4, "fit-rows": 500, "holdout": 0.2,
    }  # fmt: skip
    return ["pretrain", *(str(w) for name, value in options.items() for w in (f"--{name}", value))]


def same_losses(one: Path, two: Path, **tolerance: float) -> None:
    """Two runs had the same losses, in training and on the held-out set."""
    for name in LOSS:
        np.testing.assert_allclose(column(two, name), column(one, name), err_msg=name, **tolerance)
    scores = [[r["eval_loss"] for r in Run.open(run).evaluations()] for run in (one, two)]
    np.testing.assert_allclose(scores[1], scores[0], **tolerance)


class Runs:
    """What one and two processes made on a backend."""

    def __init__(self, backend: str, model: Path, files: tuple[Path, Path], text: Path, at: Path):
        self.at = at

        def alone(*words: str) -> None:
            speakeasy(*words, "--backend", backend)

        alone(*words(model, files, at / "one"))
        alone(*words(model, files, at / "one-row", **{"max-steps": 3, "batch-size": 1}))
        alone(*pretraining(model, text, at / "one-text"))
        killed_after(at / "one", 10, at / "one-then-two")
        folders = []
        for rank in range(2):
            folder = at / f"of-{rank}"
            folder.mkdir()
            lines = files[0].read_text(encoding="utf-8").splitlines(keepends=True)
            (folder / "train.jsonl").write_text("".join(lines[rank:]), encoding="utf-8")
            folders.append(str(folder))
        resume = ["train", "--resume", "--output-dir"]
        other = files[0].with_name("train.jsonl").name, files[1]
        cut = {"max-steps": 5000, "save-every": 2, "eval-every": 5000}
        self.ends, self.killed = carry_out(
            backend,
            {
                "two": Call([*words(model, files, at / "two"), "--json"]),
                "one-then-two": Call([*resume, str(at / "one-then-two")]),
                "row": Call(words(model, files, at / "row", **{"max-steps": 3, "batch-size": 1})),
                "text": Call(pretraining(model, text, at / "text")),
                "stopped": Call(words(model, files, at / "stopped"), signal_after=4),
                "resumed": Call([*resume, str(at / "stopped")]),
                "odd": Call(words(model, (Path(other[0]), other[1]), at / "odd"), folders),
                "killed": Call(words(model, files, at / "killed", **cut)),
            },
            {"mlx": 0, "torch": 1}[backend],
            at / "calls",
        )

    def same_losses(self, one: str, two: str, **tolerance: float) -> None:
        same_losses(self.at / one, self.at / two, **tolerance)


@pytest.fixture(scope="module")
def made() -> dict[str, Runs]:
    return {}


@pytest.fixture(params=BACKENDS)
def runs(
    request: pytest.FixtureRequest,
    made: dict[str, Runs],
    model: Path,
    files: tuple[Path, Path],
    text: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Runs:
    if request.param not in made:
        at = tmp_path_factory.mktemp(request.param)
        made[request.param] = Runs(request.param, model, files, text, at)
    return made[request.param]


def test_two_processes_give_the_losses_of_one(runs: Runs) -> None:
    assert [end["status"] for end in runs.ends["two"]] == [0, 0], runs.ends["two"]
    runs.same_losses("one", "two", rtol=CLOSE)
    assert len(column(runs.at / "two", "loss")) == STEPS


def test_their_weights_are_the_same_bit_for_bit(runs: Runs) -> None:
    for name in ("two", "one-then-two", "row", "text"):
        first, second = (end["weights"] for end in runs.ends[name])
        assert first == second, name
    assert len({runs.ends[name][0]["weights"] for name in runs.ends}) > 3


def test_a_process_without_a_row_adds_nothing(runs: Runs) -> None:
    runs.same_losses("one-row", "row", rtol=CLOSE)
    assert "1 rows a step for 2 processes" in runs.ends["row"][0]["stderr"]


def test_added_rows_are_fitted_once_and_given_to_all(runs: Runs) -> None:
    assert [end["status"] for end in runs.ends["text"]] == [0, 0], runs.ends["text"]
    assert Run.open(runs.at / "text").rows_fitted == Run.open(runs.at / "one-text").rows_fitted
    runs.same_losses("one-text", "text", rtol=CLOSE)


def test_process_0_alone_writes_and_speaks(runs: Runs) -> None:
    first, second = runs.ends["two"]
    assert json.loads(first["stdout"])["processes"] == 2
    assert second["stdout"] == second["stderr"] == ""
    names = [
        sorted(str(path.relative_to(runs.at / run)) for path in (runs.at / run).rglob("*"))
        for run in ("one", "two")
    ]
    assert names[0] == names[1]
    for run, count in (("one", 1), ("two", 2)):
        assert [part["processes"] for part in Run.open(runs.at / run).parts] == [count]


def test_what_one_saved_goes_on_with_two(runs: Runs) -> None:
    runs.same_losses("one", "one-then-two", rtol=CLOSE)
    assert [p["processes"] for p in Run.open(runs.at / "one-then-two").parts] == [1, 2]
    assert "processes: 2; until now 1" in runs.ends["one-then-two"][0]["stderr"]


def test_what_two_saved_goes_on_with_one(runs: Runs) -> None:
    out = killed_after(runs.at / "two", 10, runs.at / "two-then-one")
    speakeasy("train", "--resume", "--output-dir", out)
    runs.same_losses("one", "two-then-one", rtol=CLOSE)


def test_a_signal_to_one_stops_all_and_they_go_on_bit_for_bit(runs: Runs) -> None:
    first, second = runs.ends["stopped"]
    assert [first["status"], second["status"]] == [143, 143]
    assert "the state is saved" in first["stderr"]
    assert second["stderr"] == ""
    assert [end["status"] for end in runs.ends["resumed"]] == [0, 0]
    runs.same_losses("two", "stopped", rtol=0)


def test_other_data_on_one_of_them_is_refused(runs: Runs) -> None:
    first, second = runs.ends["odd"]
    assert [first["status"], second["status"]] == [1, 1]
    (line,) = [line for line in first["stderr"].splitlines() if line.startswith("error")]
    assert "process 1 of 2" in line
    assert "data (fingerprint)" in line
    assert second["stderr"] == ""
    assert not (runs.at / "odd").exists()


def test_when_one_is_killed_the_other_ends_and_says_how_to_go_on(runs: Runs) -> None:
    killed = runs.killed
    assert killed.seconds < 10  # 30 s are promised; seen: 0.3
    (line,) = [line for line in killed.said.splitlines() if line.startswith("error")]
    assert f"process {killed.victim} of 2 has ended, as if it was killed" in line
    out = runs.at / "killed"
    newest = states.steps_saved(out / "state")[-1]
    assert f"the newest state is step-{newest:06d}; go on with --resume" in line
    assert states.latest(out / "state").progress.step == newest
    speakeasy("train", "--resume", "--output-dir", out, "--dry-run")


# What is refused ------------------------------------------------------------------------------


TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost"}


def test_the_environment_says_who_started_a_process(tmp_path: Path) -> None:
    assert launched({}) is None
    assert launched(TORCHRUN | {"WORLD_SIZE": "1"}) is None
    found = launched(TORCHRUN)
    assert found is not None
    assert (found.backend, found.rank, found.size) == ("torch", 1, 2)
    hosts = tmp_path / "hosts"
    hosts.write_text('[["10.0.0.1:5000"], ["10.0.0.2:5000"], ["10.0.0.3:5000"]]')
    found = launched({"MLX_RANK": "2", "MLX_HOSTFILE": str(hosts)})
    assert found is not None
    assert (found.backend, found.rank, found.size) == ("mlx", 2, 3)
    hosts.write_text("")
    assert launched({"MLX_RANK": "0", "MLX_HOSTFILE": str(hosts)}) is None


def test_backends_do_not_mix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert select().name == "torch"
    assert select().reason == "started by torchrun"
    with pytest.raises(Exception, match="--backend mlx: torchrun starts processes of torch"):
        select("mlx")


def test_commands_for_one_process_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    done = speakeasy("doctor", check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: doctor: is for one process, and torchrun started 2")
