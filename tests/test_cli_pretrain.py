"""``speakeasy pretrain`` as a user runs it, on both backends; what is killed runs by itself."""

from __future__ import annotations

import json
import random
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
from tiny import save_tiny_tokenizer
from tiny_model import tiny_llama

from speakeasy.files import write_json
from speakeasy.training.run import Run
from speakeasy.weights.hub import resolve_model

ADDED = [470, 475, 479]
"""Ids that the test's model calls added; its tokenizer has 480 entries."""

TIMES = {"tokens_per_second", "peak_memory_bytes", "device_peak_memory_bytes", "seconds"}


@pytest.fixture(scope="module")
def expanded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untied Llama with a record that says that some of its entries were added."""
    model = tiny_llama(
        tmp_path_factory.mktemp("expanded"), vocab_size=480, tied=False, embedding_scale=0.2
    )
    save_tiny_tokenizer(model)
    write_json(model / "expansion.json", {"added": [{"id": i} for i in ADDED], "steps": []})
    return model


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEAKEASY_CACHE", str(tmp_path / "cache"))


def words(backend: str, model: Path, out: Path, train: str, **more: Any) -> list:
    """A short run, in the guide's own spelling."""
    options = {
        "model_path": model,
        "output_dir": out,
        "train": train,
        "batch_size": 2,
        "max_length": 256,
        "max_steps": 6,
        "learning_rate": 0.01,
        "backend": backend,
        "precision": "float32",
    } | more
    if train == "rows+lora":
        options["lora_r"] = 4
    return ["pretrain", *(w for n, v in options.items() for w in (f"--{n}", v) if w is not None)]


@pytest.mark.parametrize("train", ["rows", "rows+lora", "full"])
def test_the_output_is_a_model(
    backend_name: str, train: str, expanded: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    summary = speakeasy(*words(backend_name, expanded, out, train), "--json").result
    assert summary["eval_bits_per_byte"] < summary["eval_bits_per_byte_before"]
    assert summary["neutral_bits_per_byte"] > 0
    assert summary["model_directory"] == str(out)
    assert summary["trained_rows"] == (0 if train == "full" else len(ADDED))
    assert resolve_model(str(out)).path == out
    before = load_file(expanded / "model.safetensors")
    after = load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    old = np.setdiff1d(np.arange(480), ADDED)
    changed = {name for name in before if (before[name] != after[name]).any()}
    if train == "full":
        assert changed == set(before)
    else:
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            np.testing.assert_array_equal(after[name][old], before[name][old])
            assert name in changed
            assert (after[name][ADDED] != before[name][ADDED]).any()
        linear = {name for name in before if "_proj" in name}
        assert changed - {"model.embed_tokens.weight", "lm_head.weight"} == (
            linear if train == "rows+lora" else set()
        )
    assert (out / "tokenizer.json").read_bytes() == (expanded / "tokenizer.json").read_bytes()
    assert not list(out.glob(".*"))
    assert not (out / "model").exists()


def one_after_the_other(backend: str, model: Path, place: Path, **more: Any) -> tuple[dict, dict]:
    """The summaries of a run and of one on the model that it wrote, which begins where it ended."""
    first = speakeasy(*words(backend, model, place / "one", "rows+lora", **more), "--json").result
    again = speakeasy(
        *words(backend, place / "one", place / "two", "rows", max_steps=1), "--json"
    ).result
    assert again["eval_bits_per_byte_before"] == pytest.approx(
        first["eval_bits_per_byte"], rel=1e-5
    )
    return first, again


def test_train_goes_on_from_it_and_scores_the_same(
    backend_name: str, expanded: Path, tmp_path: Path
) -> None:
    """What was written is what was trained: the next run's first score is this one's last."""
    first, again = one_after_the_other(backend_name, expanded, tmp_path)
    assert again["neutral_bits_per_byte_before"] == pytest.approx(
        first["neutral_bits_per_byte"], rel=1e-5
    )
    trained = speakeasy(
        "train", "--model_name", tmp_path / "one", "--output_dir", tmp_path / "lora",
        "--max-steps", 2, "--max-train", 20, "--max-eval", 4, "--max-length", 512, "--lora_r", 4,
        "--train-rows", "new", "--backend", backend_name, "--json",
    ).result  # fmt: skip
    assert trained["trained_rows"] == len(ADDED)
    rows = load_file(tmp_path / "lora" / "rows.safetensors")
    assert rows["ids"].tolist() == ADDED
    asked = speakeasy(
        "generate", "--run", tmp_path / "lora", "--max-tokens", 3, "--backend", backend_name,
        "Hola", "--json",
    )  # fmt: skip
    assert "rows: 3 trained with the adapter" in asked.stderr


def test_dora_is_merged_too(backend_name: str, expanded: Path, tmp_path: Path) -> None:
    """The model that is written scores what the rows and the adapter scored."""
    one_after_the_other(backend_name, expanded, tmp_path, dora=None)


def test_both_backends_take_the_same_course(expanded: Path, tmp_path: Path) -> None:
    losses = {}
    for backend in ("mlx", "torch"):
        speakeasy(*words(backend, expanded, tmp_path / backend, "rows", max_steps=20), "--json")
        losses[backend] = [step["loss"] for step in Run.open(tmp_path / backend).steps()]
    assert len(losses["mlx"]) == 20
    np.testing.assert_allclose(losses["mlx"], losses["torch"], rtol=1e-3)


def test_a_killed_run_goes_on_bit_for_bit(
    backend_name: str, expanded: Path, tmp_path: Path
) -> None:
    more = {"max_steps": 30, "save_every": 3}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    alone(*words(backend_name, expanded, whole, "rows+lora", **more))
    process = start(*words(backend_name, expanded, cut, "rows+lora", **more))
    last = random.Random(backend_name).randint(4, 20)
    while not (cut / "metrics.jsonl").exists() or len(Run(cut).steps()) < last:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (cut / "config.json").exists(), "nothing takes it for a model"
    alone("pretrain", "--resume", "--output_dir", cut)

    def course(run: Path) -> list[dict]:
        return [
            {key: record[key] for key in record if key not in TIMES}
            for record in Run(run).steps() + Run(run).evaluations()
        ]

    assert course(cut) == course(whole)
    after = load_file(whole / "model.safetensors")
    for name, tensor in load_file(cut / "model.safetensors").items():
        np.testing.assert_array_equal(tensor, after[name])


def test_killed_between_two_files_of_the_model(expanded: Path, tmp_path: Path) -> None:
    """All files but config.json may be there: it is no model, and resuming makes it one."""
    out = tmp_path / "out"
    speakeasy(*words("torch", expanded, out, "rows"))
    expected = load_file(out / "model.safetensors")
    (out / "model").mkdir()
    for name in ("config.json", "summary.json"):
        shutil.move(out / name, out / "model" / name)
    (out / "model.safetensors").write_bytes(b"cut off")
    speakeasy("pretrain", "--resume", "--output_dir", out)
    assert json.loads((out / "summary.json").read_text())["steps"] == 6
    for name, tensor in load_file(out / "model.safetensors").items():
        np.testing.assert_array_equal(tensor, expected[name])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"train": "rows", "model_path": "plain"}, "has no added entries"),
        ({"replay": "1"}, "--replay 1.0: expected a share"),
        ({"corpus_path": "nowhere"}, "nowhere: no such file"),
        ({"train": "rows", "lora_r": "4"}, "--lora-r: --train rows trains no adapter"),
        ({"train": "full", "rslora": None}, "--rslora: --train full trains no adapter"),
        ({"train": "full", "precision": "bfloat16"}, "--train full keeps the weights in float32"),
    ],
)
def test_refusals(
    more: dict[str, str], message: str, expanded: Path, tiny_directory: Path, tmp_path: Path
) -> None:
    if more.get("model_path"):
        more = more | {"model_path": str(tiny_directory)}
    out = tmp_path / "out"
    done = speakeasy(*words("torch", expanded, out, more.pop("train", "rows"), **more), check=False)
    assert done.returncode in (1, 2)
    assert message in done.stderr.splitlines()[-1]
    assert not out.exists()


def test_an_unfinished_run_is_no_model_and_says_so(expanded: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    speakeasy(*words("torch", expanded, out, "rows", max_steps=1))
    for name in ("config.json", "summary.json"):
        (out / name).unlink()
    for command in (["generate", "Hola"], ["train", "--output-dir", tmp_path / "next"]):
        done = speakeasy(*command, "--model", out, check=False)
        assert done.returncode == 1
        line = done.stderr.splitlines()[-1]
        assert (
            f"has not finished; finish it with: speakeasy pretrain --resume --output-dir {out}"
            in (line)
        )


def test_the_wrong_command_cannot_resume(expanded: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    speakeasy(*words("torch", expanded, out, "rows", max_steps=1))
    done = speakeasy("train", "--resume", "--output_dir", out, check=False)
    assert done.returncode == 1
    assert f"go on with: speakeasy pretrain --resume --output-dir {out}" in done.stderr
