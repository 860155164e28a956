"""``speakeasy train`` as a user runs it, on both backends; what is killed runs by itself."""

from __future__ import annotations

import json
import random
import resource
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli import alone, speakeasy, start
from one_thread import one_thread  # noqa: F401
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
    flags = [f"--{name}" for name, value in options.items() if value is None]
    valued = {name: value for name, value in options.items() if value is not None}
    return ["train", *flags, *(w for name, value in valued.items() for w in (f"--{name}", value))]


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
        done = alone(*words(backend, tiny_directory, files, out), "--json")
        runs[backend] = out, done.result
    return runs


def test_a_run_reports_what_it_did(backend_name: str, unbroken: dict) -> None:
    out, summary = unbroken[backend_name]
    assert summary["backend"] == backend_name
    assert summary["reason"]
    assert summary["run"] == str(out)
    assert summary["steps"] == 12
    for key in (
        "train_loss",
        "eval_loss_before",
        "eval_loss",
        "eval_word_perplexity",
        "seconds",
        "tokens_per_second",
        "target_tokens_per_second",
        "peak_memory_bytes",
    ):
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
    backend_name: str,
    unbroken: dict,
    tiny_directory: Path,
    files: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    """kill -9 at two random moments, then --resume: log and adapter as if nothing had been."""
    whole = unbroken[backend_name][0]
    out = tmp_path / "killed"
    command = words(backend_name, tiny_directory, files, out, save_every=3)
    generator = random.Random(backend_name)
    for after in sorted(generator.sample(range(1, 12), 2)):
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
    alone("train", "--resume", "--output-dir", out)
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


@pytest.fixture
def unfinished(tiny_directory: Path, files: tuple[Path, Path], tmp_path: Path) -> Path:
    """A run that was killed after its second state."""
    out = tmp_path / "killed"
    process = start(*words("torch", tiny_directory, files, out, max_steps=5000, save_every=1))
    while process.poll() is None and not (out / "state" / "step-000002").exists():
        time.sleep(0.01)
    process.kill()
    process.communicate()
    return out


def test_resuming_a_finished_run_shows_its_figures(unbroken: dict) -> None:
    finished, summary = unbroken["torch"]
    assert speakeasy("train", "--resume", "--output-dir", finished, "--json").result == summary


def test_resume_wants_the_same_plan_and_data(unfinished: Path, files: tuple[Path, Path]) -> None:
    resume = ["train", "--resume", "--output-dir", unfinished]
    refused = speakeasy(*resume, "--lora-r", 4, check=False)
    assert refused.returncode == 1
    assert "--lora-r 4" in refused.stderr
    assert "started with --lora-r 8" in refused.stderr
    original = files[0].read_bytes()
    files[0].write_bytes(original + original.splitlines(keepends=True)[0])
    try:
        refusals = [speakeasy(*resume, *more, check=False) for more in ([], ["--dry-run"])]
    finally:
        files[0].write_bytes(original)
    for changed in refusals:
        assert changed.returncode == 1
        assert "the data is not what the run was started with" in changed.stderr


def test_a_run_that_lost_its_states_says_that_it_begins_again(
    unbroken: dict, tmp_path: Path
) -> None:
    finished, summary = unbroken["torch"]
    lost = tmp_path / "lost"
    shutil.copytree(finished, lost)
    (lost / "summary.json").unlink()
    shutil.rmtree(lost / "state")
    again = speakeasy("train", "--resume", "--output-dir", lost, "--json")
    steps = summary["steps"]
    assert f"no state of the {steps} logged steps is left" in again.stderr
    assert (again.result["steps"], len(Run.open(lost).steps())) == (steps, steps)


def test_resume_compares_the_data_even_before_the_first_state(
    unfinished: Path, files: tuple[Path, Path]
) -> None:
    shutil.rmtree(unfinished / "state")
    original = files[0].read_bytes()
    files[0].write_bytes(b"".join(original.splitlines(keepends=True)[:5]))
    try:
        changed = speakeasy("train", "--resume", "--output-dir", unfinished, check=False)
    finally:
        files[0].write_bytes(original)
    assert changed.returncode == 1
    assert "the data is not what the run was started with" in changed.stderr


def test_only_one_process_trains_in_a_run(unfinished: Path) -> None:
    """And what a killed one left half-written is cleared away by the next."""
    torn = unfinished / "state" / ".step-000009-torn"
    torn.mkdir()
    with Run.open(unfinished).locked():
        assert not torn.exists()
        second = speakeasy("train", "--resume", "--output-dir", unfinished, check=False)
    assert second.returncode == 1
    assert "another process is training here" in second.stderr


def test_a_disk_that_takes_no_more_is_one_line(unfinished: Path) -> None:
    """The kernel refuses files of more than 20 kB, as a full disk would; earlier states stay."""
    before = sorted((unfinished / "state").iterdir())
    process = start(
        "train",
        "--resume",
        "--output-dir",
        unfinished,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    last = errors.splitlines()[-1]
    assert last.startswith(f"error: {unfinished / 'state'}")
    assert "File too large" in last
    assert "Traceback" not in errors
    assert sorted((unfinished / "state").iterdir()) == before
    assert not (unfinished / "summary.json").exists()


def test_divergence_keeps_the_last_good_state(
    backend_name: str, tiny_directory: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "wild"
    done = speakeasy(
        *words(backend_name, tiny_directory, files, out, learning_rate=1e30, max_grad_norm=0),
        "--json",
        check=False,
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
    "seed": ({"seed": 2**32}, "--seed"),
    "a file in the way": ({"output_dir": Path(__file__) / "run"}, "is a file"),
    "a name too long": ({"output_dir": "x" * 300}, "too long"),
    "recomputed dropout": (
        {"backend": "mlx", "lora_dropout": 0.1, "gradient_checkpointing": None},
        "leave one of them out",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(
    case: str, tiny_directory: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    changes, named = BAD[case]
    out = tmp_path / "run"
    options = {"backend": "torch", **changes}
    done = speakeasy(*words(model=tiny_directory, files=files, out=out, **options), check=False)
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
    done = speakeasy(*words("torch", tiny_directory, files, out, lora_r=10**9), check=False)
    assert done.returncode == 1
    assert "training needs about" in done.stderr
    assert not out.exists()


def test_a_dry_run_writes_nothing(
    tiny_directory: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    done = speakeasy(*words("torch", tiny_directory, files, out), "--dry-run", "--json")
    plan = done.result
    assert plan["plan"]["lora"]["r"] == 8
    assert plan["estimated_memory_bytes"] == sum(plan["estimated_memory"].values())
    assert "⟦" in done.stderr
    assert not out.exists()


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
