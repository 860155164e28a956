"""``speakeasy train`` as a user runs it: in a process of its own, on both backends."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli import result, speakeasy, start
from safetensors.numpy import load_file

from speakeasy.data.dataset import starter_conversations
from speakeasy.training.run import Run

TIMES = {"tokens_per_second", "peak_memory_bytes", "device_peak_memory_bytes", "seconds"}
WEIGHTS = {"torch": "adapter_model.safetensors", "mlx": "adapters.safetensors"}


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Forty conversations to train on, eight held out."""
    directory = tmp_path_factory.mktemp("data")
    chosen = random.Random(0).sample(starter_conversations(), 48)
    paths = directory / "train.jsonl", directory / "eval.jsonl"
    for path, part in zip(paths, (chosen[:40], chosen[40:]), strict=True):
        path.write_text(
            "".join(json.dumps({"messages": c.to_messages()}) + "\n" for c in part),
            encoding="utf-8",
        )
    return paths


def words(backend: str, model: Path, files: tuple[Path, Path], out: Path, **more: Any) -> list:
    """A short run, in the guide's own spelling."""
    options = {
        "model_name": model,
        "train_file": files[0],
        "eval_file": files[1],
        "output_dir": out,
        "lora_r": 8,
        "lora_alpha": 16,
        "batch_size": 2,
        "max_length": 512,
        "max_steps": 12,
        "learning_rate": 0.02,
        "backend": backend,
        "precision": "float32",
        "seed": 1,
    } | more
    return ["train", *(word for name, value in options.items() for word in (f"--{name}", value))]


def comparable(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Log lines without what depends on the clock."""
    return [{key: record[key] for key in record if key not in TIMES} for record in records]


def weights(run: Path) -> dict[str, np.ndarray]:
    """The final adapter's arrays, whatever their names."""
    (path,) = (run / "adapter").glob("*.safetensors")
    return load_file(path)


@pytest.fixture(scope="module")
def unbroken(
    tiny_directory: Path, files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, dict[str, Any]]]:
    """One finished run a backend, and what it printed."""
    runs = {}
    for backend in ("mlx", "torch"):
        out = tmp_path_factory.mktemp("runs") / backend
        done = speakeasy(*words(backend, tiny_directory, files, out), "--json")
        runs[backend] = out, result(done)
    return runs


def test_a_run_reports_what_it_did(backend_name: str, unbroken: dict) -> None:
    out, summary = unbroken[backend_name]
    assert summary["backend"] == backend_name
    assert summary["reason"]
    assert summary["run"] == str(out)
    assert summary["steps"] == 12
    for key in ("train_loss", "eval_loss_before", "eval_loss", "eval_word_perplexity", "seconds",
                "tokens_per_second", "target_tokens_per_second", "peak_memory_bytes"):
        assert summary[key] > 0, key
    assert summary["eval_bits_per_byte"] < 0.95 * summary["eval_bits_per_byte_before"]
    assert summary["target_tokens"] < summary["tokens"]
    assert summary["tokens_per_second"] == pytest.approx(summary["tokens"] / summary["seconds"])
    assert summary == json.loads((out / "summary.json").read_text())
    run = Run.open(out)
    steps = run.steps()
    assert [record["step"] for record in steps] == list(range(1, 13))
    assert steps[-1]["tokens"] == summary["tokens"]
    assert all(record["loss"] > 0 for record in steps)
    assert run.environment["backend"] == backend_name
    assert not list(out.glob(".*"))


def test_both_backends_log_the_same_losses(unbroken: dict) -> None:
    losses = [[record["loss"] for record in Run.open(out).steps()] for out, _ in unbroken.values()]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)


def test_a_killed_run_resumes_bit_for_bit(
    backend_name: str, unbroken: dict, tiny_directory: Path, files: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    """kill -9 at three random moments, then --resume: log and adapter as if nothing had been."""
    whole = unbroken[backend_name][0]
    out = tmp_path / "killed"
    command = words(backend_name, tiny_directory, files, out, save_every=3)
    generator = random.Random(backend_name)
    for after in sorted(generator.sample(range(1, 12), 3)):
        resume = ["--resume"] if out.exists() else []
        process = start(*command, *resume)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            log = out / "metrics.jsonl"
            if log.exists() and log.read_bytes().count(b"\n") >= after:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (out / "summary.json").exists()
        assert not (out / "adapter").exists()
    speakeasy("train", "--resume", "--output-dir", out)
    assert comparable(Run.open(out).steps()) == comparable(Run.open(whole).steps())
    assert comparable(Run.open(out).evaluations()) == comparable(Run.open(whole).evaluations())
    resumed, expected = weights(out), weights(whole)
    assert resumed.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(resumed[name], tensor)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_how_to_go_on(
    number: signal.Signals, tiny_directory: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "stopped"
    process = start(*words("torch", tiny_directory, files, out, max_steps=5000, save_every=5000))
    log = out / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") > 2):
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"speakeasy train --resume --output-dir {out}" in errors
    assert "Traceback" not in errors
    saved = [int(path.name[5:]) for path in (out / "state").iterdir()]
    assert saved == [len(Run.open(out).steps())]


def test_resume_wants_the_same_plan(unbroken: dict, tmp_path: Path, tiny_directory: Path,
                                    files: tuple[Path, Path]) -> None:
    finished, summary = unbroken["torch"]
    again = speakeasy("train", "--resume", "--output-dir", finished, "--json")
    assert json.loads(again.stdout) == summary
    out = tmp_path / "run"
    process = start(*words("torch", tiny_directory, files, out, max_steps=5000))
    while process.poll() is None and not (out / "metrics.jsonl").exists():
        time.sleep(0.01)
    process.kill()
    process.communicate()
    refused = speakeasy("train", "--resume", "--output-dir", out, "--lora-r", 4, check=False)
    assert refused.returncode == 1
    assert "--lora-r 4" in refused.stderr
    assert "started with 8" in refused.stderr
    with files[0].open("a", encoding="utf-8") as file:
        file.write(files[0].read_text(encoding="utf-8").splitlines()[0] + "\n")
    try:
        (out / "state").mkdir(exist_ok=True)
        changed = speakeasy("train", "--resume", "--output-dir", out, check=False)
        if any((out / "state").iterdir()):
            assert changed.returncode == 1
            assert "the data is not what the run was started with" in changed.stderr
    finally:
        lines = files[0].read_text(encoding="utf-8").splitlines(keepends=True)
        files[0].write_text("".join(lines[:-1]), encoding="utf-8")


def test_divergence_keeps_the_last_good_state(
    backend_name: str, tiny_directory: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "wild"
    done = speakeasy(
        *words(backend_name, tiny_directory, files, out, learning_rate=1e30, max_grad_norm=0),
        "--json", check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("error:") == 1
    assert "not a number any more" in done.stderr
    assert "Traceback" not in done.stderr
    assert "not a number" in json.loads(done.stdout)["error"]
    (state,) = (out / "state").iterdir()
    for tensor in load_file(state / "tensors.safetensors").values():
        assert np.isfinite(tensor).all()


BAD = {
    "no such file": ({"train_file": "nowhere.jsonl"}, "nowhere.jsonl"),
    "no such model": ({"model_name": "./nowhere"}, "./nowhere"),
    "rank": ({"lora_r": 0}, "--lora-r 0"),
    "targets": ({"lora_targets": "q_porj"}, "q_porj"),
    "length": ({"max_length": 20}, "--max-length"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(
    case: str, tiny_directory: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    changes, named = BAD[case]
    out = tmp_path / "run"
    done = speakeasy(*words("torch", tiny_directory, files, out, **changes), check=False)
    assert done.returncode in (1, 2)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert named in last
    assert "Traceback" not in done.stderr
    assert not out.exists()


def test_a_plan_that_does_not_fit_is_refused(
    tiny_directory: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    """A rank so high that no machine has the memory; the message says how much, and what to do."""
    out = tmp_path / "run"
    done = speakeasy(
        *words("torch", tiny_directory, files, out, lora_r=10**9), check=False
    )
    assert done.returncode == 1
    assert "training needs about" in done.stderr
    assert not out.exists()


def test_a_dry_run_writes_nothing(
    tiny_directory: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    done = speakeasy(*words("torch", tiny_directory, files, out), "--dry-run", "--json")
    plan = result(done)
    assert plan["plan"]["lora"]["r"] == 8
    assert plan["estimated_memory_bytes"] == sum(plan["estimated_memory"].values())
    assert "⟦" in done.stderr
    assert not out.exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_a_full_disk_is_one_line(
    tiny_directory: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    """metrics.jsonl leads to a device that is always full."""
    out = tmp_path / "run"
    process = start(*words("torch", tiny_directory, files, out, max_steps=5000, save_every=2))
    while process.poll() is None and not (out / "state").exists():
        time.sleep(0.01)
    process.kill()
    process.communicate()
    log = out / "metrics.jsonl"
    log.unlink()
    log.symlink_to("/dev/full")
    done = speakeasy("train", "--resume", "--output-dir", out, check=False)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (out / "summary.json").exists()


def test_the_adapter_loads_in_its_own_library(
    backend_name: str, unbroken: dict, tiny_directory: Path, files: tuple[Path, Path]
) -> None:
    """The loss of plain PEFT or mlx-lm on the held-out set is the one that the run reported."""
    from libraries import LOADERS, library_loss

    out, summary = unbroken[backend_name]
    logits = LOADERS[backend_name](tiny_directory, out / "adapter")
    assert library_loss(logits, tiny_directory, files[1]) == pytest.approx(
        summary["eval_loss"], rel=1e-4
    )
    assert (out / "adapter" / WEIGHTS[backend_name]).is_file()
