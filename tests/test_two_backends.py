"""Runs that move from one backend to the other, and from one machine to another."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli import Done, alone, speakeasy, start
from one_thread import one_thread  # noqa: F401
from own_cache import own_cache  # noqa: F401
from safetensors.numpy import load_file
from tiny import save_tiny_tokenizer
from tiny_model import tiny_llama
from training_runs import BACKENDS, column, distance, killed_after, other, write_conversations

from speakeasy.files import write_json
from speakeasy.training import backend as backends
from speakeasy.training import state as states
from speakeasy.training.run import Run
from speakeasy.weights.adapters import draw_lora, read_adapter
from speakeasy.weights.checkpoint import linear_layers
from speakeasy.weights.lora import MAGNITUDE_SUFFIX
from speakeasy.weights.trained_rows import read_from_model

ADDED = (470, 475, 479)
FLOAT_NOISE = 2e-4
"""Most that the end of a moved run may be away from an unbroken one's, as a share of the way that
training went. Sums are taken in another order, and AdamW divides by the gradient's own size, so
entries whose gradient is near zero enlarge the rounding of 1e-7. Seen: 1e-6 from the run on the
backend that it ended on, 4e-5 from the other."""
SHAPE = {
    "train": {"lora-r": 4},
    "dora": {"lora-r": 4, "dora": None},
    "pretrain": {"train": "rows+lora", "lora-r": 4},
}
"""What is trained; all but the last with ``speakeasy train``."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untied Llama, wide enough for 4 bits, of which some entries are called added."""
    directory = tiny_llama(
        tmp_path_factory.mktemp("model"), vocab_size=480, tied=False, hidden=64,
        intermediate=128, embedding_scale=0.2,
    )  # fmt: skip
    save_tiny_tokenizer(directory)
    write_json(directory / "expansion.json", {"added": [{"id": i} for i in ADDED], "steps": []})
    return directory


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_conversations(tmp_path_factory.mktemp("data"), train=24, held_out=4)


def verb(kind: str) -> str:
    return "pretrain" if kind == "pretrain" else "train"


def words(kind: str, backend: str, model: Path, files: tuple[Path, Path], out: Path, **more: Any):
    """A run of twenty steps with a state in the middle."""
    options = {
        "model": model, "output-dir": out, "backend": backend, "precision": "float32",
        "max-steps": 20, "save-every": 10, "batch-size": 1, "max-length": 256,
        "learning-rate": 0.01, **SHAPE[kind],
    }  # fmt: skip
    if kind != "pretrain":
        options |= {"train-file": files[0], "eval-file": files[1]}
    options |= more
    flags = [f"--{name}" for name, value in options.items() if value is None]
    valued = {name: value for name, value in options.items() if value is not None}
    return [
        verb(kind),
        *flags,
        *(w for name, value in valued.items() for w in (f"--{name}", value)),
    ]


def resume(kind: str, out: Path, *more: object, check: bool = True) -> Done:
    return speakeasy(verb(kind), "--resume", "--output-dir", out, *more, check=check)


@pytest.fixture(scope="module")
def unbroken(
    model: Path, files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], Path]:
    """A finished run for each kind and backend."""
    runs = {}
    for kind in SHAPE:
        for backend in BACKENDS:
            runs[kind, backend] = tmp_path_factory.mktemp("runs") / f"{kind}-{backend}"
            speakeasy(*words(kind, backend, model, files, runs[kind, backend]))
    return runs


def beginning(kind: str, model: Path) -> Mapping[str, np.ndarray]:
    start = draw_lora(linear_layers(model), 4, seed=0)
    if kind == "pretrain":
        start |= read_from_model(model, ADDED).tensors()
    if kind == "dora":
        stored = load_file(model / "model.safetensors")
        for name in linear_layers(model):
            lengths = np.linalg.norm(stored[f"{name}.weight"], axis=1)
            start[name + MAGNITUDE_SUFFIX] = lengths
    return start


def end(run: Path) -> Mapping[str, np.ndarray]:
    """What was trained, after the last step."""
    return states.at_step(run / "state", 20).trainables


@pytest.mark.parametrize("first", BACKENDS)
@pytest.mark.parametrize("kind", SHAPE)
def test_ten_steps_here_and_ten_there_are_twenty(
    kind: str, first: str, unbroken: dict, model: Path, tmp_path: Path
) -> None:
    moved = killed_after(unbroken[kind, first], 10, tmp_path / "moved")
    summary = resume(kind, moved, "--backend", other(first), "--json").result
    for backend in BACKENDS:
        whole = unbroken[kind, backend]
        for name in ("learning_rate", "epoch", "tokens", "target_tokens"):
            assert column(moved, name) == column(whole, name), name
        np.testing.assert_allclose(column(moved, "loss"), column(whole, "loss"), rtol=1e-3)
        assert distance(end(moved), end(whole), beginning(kind, model)) < FLOAT_NOISE
    # The first half is the first backend's, to the bit.
    assert column(moved, "loss")[:10] == column(unbroken[kind, first], "loss")[:10]
    expected = json.loads((unbroken[kind, first] / "summary.json").read_text())
    assert summary["eval_bits_per_byte_before"] == expected["eval_bits_per_byte_before"]
    assert summary["eval_bits_per_byte"] == pytest.approx(expected["eval_bits_per_byte"], rel=1e-4)


@pytest.mark.parametrize("kind", ["train", "dora"])
@pytest.mark.parametrize("first", BACKENDS)
def test_who_took_part_is_recorded(kind: str, first: str, unbroken: dict, tmp_path: Path) -> None:
    moved = killed_after(unbroken[kind, first], 10, tmp_path / "moved")
    done = resume("train", moved, "--backend", other(first), "--json")
    assert f"after step 10 the run goes on with {other(first)} on" in done.stderr
    parts = [(part["first_step"], part["backend"]) for part in Run.open(moved).parts]
    assert parts == [(1, first), (11, other(first))]
    environment = Run.open(moved).environment
    assert environment["backend"] == other(first)
    assert (
        environment["data_fingerprint"]
        == (Run.open(unbroken["train", first]).environment["data_fingerprint"])
    )
    summary = done.result
    ran = [(part["first_step"], part["last_step"], part["backend"]) for part in summary["parts"]]
    assert ran == [(1, 10, first), (11, 20, other(first))]
    assert summary["backend"] == Run.open(moved).config.backend == other(first)
    assert summary["adapter_format"] == {"torch": "peft", "mlx": "mlx-lm"}[other(first)]
    written = {"torch": "adapter_model.safetensors", "mlx": "adapters.safetensors"}[other(first)]
    assert (moved / "adapter" / written).is_file()
    best = states.at_step(moved / "state", summary["best_step"]).trainables
    for name, tensor in read_adapter(moved / "adapter").tensors.items():
        np.testing.assert_array_equal(tensor, best[name])
    asked = speakeasy("generate", "--run", moved, "--backend", first, "--max-tokens", 2, "Hola")
    assert "adapter:" in asked.stderr


def test_it_may_move_back_and_forth(unbroken: dict, model: Path, tmp_path: Path) -> None:
    """Steps that a kill undid are nobody's; a part that is on the same machine is no new one."""
    moved = killed_after(unbroken["train", "torch"], 10, tmp_path / "moved")
    resume("train", moved, "--backend", "mlx")
    back = killed_after(moved, 10, tmp_path / "back")
    assert [part["backend"] for part in Run.open(back).parts] == ["torch", "mlx"]
    resume("train", back, "--backend", "torch")
    assert [part["backend"] for part in Run.open(back).parts] == ["torch"]
    assert column(back, "loss") == column(unbroken["train", "torch"], "loss")
    for name, tensor in end(unbroken["train", "torch"]).items():
        np.testing.assert_array_equal(end(back)[name], tensor)


@pytest.mark.parametrize("first", BACKENDS)
def test_killed_here_and_resumed_there(
    first: str, unbroken: dict, model: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    """kill -9 in the middle of a step, in processes of their own."""
    out = tmp_path / "killed"
    process = start(*words("train", first, model, files, out, **{"save-every": 3}))
    while not (out / "metrics.jsonl").exists() or len(Run(out).steps()) < 8:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    alone("train", "--resume", "--output-dir", out, "--backend", other(first))
    whole = unbroken["train", first]
    assert column(out, "learning_rate") == column(whole, "learning_rate")
    np.testing.assert_allclose(column(out, "loss"), column(whole, "loss"), rtol=1e-3)
    assert distance(end(out), end(whole), beginning("train", model)) < FLOAT_NOISE


def test_the_backend_that_is_there_is_taken(
    unbroken: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of the other one, on a machine that has this one alone."""
    run = killed_after(unbroken["train", "mlx"], 10, tmp_path / "run")
    present = backends.missing
    monkeypatch.setattr(
        backends,
        "missing",
        lambda name: backends.REGISTRY[name][1] if name == "mlx" else present(name),
    )
    refused = resume("train", run, "--backend", "mlx", check=False)
    assert "--backend mlx: mlx is not installed" in refused.stderr
    done = resume("train", run)
    assert "torch (mlx, which the run was on, is not installed here)" in done.stderr
    assert Run.open(run).summary["backend"] == "torch"
    assert Run.open(run).config.backend == "torch"


@pytest.fixture
def carried(
    unbroken: dict, model: Path, files: tuple[Path, Path], tmp_path: Path
) -> dict[str, Path]:
    """A run whose model and data lay elsewhere, and where they lie now."""
    run = killed_after(unbroken["train", "torch"], 10, tmp_path / "run")
    text = (run / "run.toml").read_text(encoding="utf-8")
    for path in (model, *files):
        text = text.replace(str(path), f"/somewhere/else/{path.name}")
    (run / "run.toml").write_text(text, encoding="utf-8")
    places = {"model": shutil.copytree(model, tmp_path / "model")}
    places |= {path.stem: Path(shutil.copy(path, tmp_path / path.name)) for path in files}
    return {"run": run, **places}


def test_model_and_data_may_lie_elsewhere(carried: dict[str, Path], unbroken: dict) -> None:
    run = carried["run"]
    given: list[object] = []
    for option, name in (("--eval-file", "eval"), ("--model", "model"), ("--train-file", "train")):
        refused = resume("train", run, *given, check=False)
        assert f"is not on this machine; say with {option} where" in refused.stderr
        given += [option, carried[name]]
    resume("train", run, *given, "--backend", "torch")
    assert column(run, "loss") == column(unbroken["train", "torch"], "loss")
    assert Run.open(run).config.model == str(carried["model"])
    assert Run.open(run).config.data.train == (str(carried["train"]),)
    assert "is not on this machine" not in resume("train", run).stderr


@pytest.mark.parametrize("which", ["model", "train"])
def test_but_they_must_be_the_same(carried: dict[str, Path], which: str) -> None:
    if which == "model":
        tiny_llama(carried["model"], vocab_size=480, tied=False, hidden=64, intermediate=128)
    else:
        lines = carried["train"].read_bytes().splitlines(keepends=True)
        carried["train"].write_bytes(b"".join(reversed(lines)))
    refused = resume(
        "train", carried["run"], "--model", carried["model"], "--train-file", carried["train"],
        "--eval-file", carried["eval"], check=False,
    )  # fmt: skip
    what = {"model": "the base model is", "train": "the data is"}[which]
    assert f"{what} not what the run was started with" in refused.stderr
    option = {"model": "--model", "train": "--train-file or --eval-file"}[which]
    assert f"say with {option} where it lies" in refused.stderr
    assert not (carried["run"] / "summary.json").exists()


@pytest.mark.parametrize("option", ["--seed", "--lora-r", "--max-length", "--max-steps"])
def test_the_course_may_not_change(unbroken: dict, tmp_path: Path, option: str) -> None:
    run = killed_after(unbroken["train", "torch"], 10, tmp_path / "run")
    refused = resume("train", run, option, 16, check=False)
    assert f"{option} 16: {run} was started with {option} " in refused.stderr


def test_a_switch_may_not_change_either(unbroken: dict, tmp_path: Path) -> None:
    run = killed_after(unbroken["train", "torch"], 10, tmp_path / "run")
    refused = resume("train", run, "--dora", check=False)
    assert f"error: --dora: {run} was started with --no-dora; leave it out" in refused.stderr


def test_precision_stays_and_a_better_one_is_named(
    unbroken: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """float32 goes on as float32, though another device would like something else."""
    import speakeasy_torch.engine as engine

    device = engine.describe_device()
    large = backends.Device("cpu", "a GPU", device.memory, "bfloat16", "it is fast in that")
    monkeypatch.setattr(engine, "describe_device", lambda: large)
    run = killed_after(unbroken["train", "mlx"], 10, tmp_path / "run")
    done = resume("train", run, "--backend", "torch")
    assert "float32 as until now; --precision bfloat16 suits this device better" in done.stderr
    assert Run.open(run).config.precision == "float32"


def test_runs_of_older_versions_move_too(unbroken: dict, tmp_path: Path) -> None:
    """Their environment.json has no parts, and their evaluations do not say what they are of."""
    run = killed_after(unbroken["train", "torch"], 10, tmp_path / "run")
    environment = Run.open(run).environment
    del environment["parts"]
    write_json(run / "environment.json", environment)
    lines = [{k: v for k, v in line.items() if k != "base"} for line in Run.open(run).evaluations()]
    (run / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = resume("train", run, "--backend", "mlx", "--json").result
    assert [part["backend"] for part in summary["parts"]] == ["torch", "mlx"]
    assert not any("rescored_at" in line for line in Run.open(run).evaluations())
