"""Side by side with TRL and mlx-lm, on this machine, in one run.

    pip install -c constraints.txt -e '.[mlx,torch,bench]'
    python -m benchmarks.peers --rounds 2

Contenders run in processes of their own and take turns, so that a change in the machine's speed
meets all of them; ratios are taken within a round. Afterwards the same program scores every
contender's adapter on the same held-out conversations. Three models: the starter model; a random
one with Llama 3.2 1B's width and vocabulary in two blocks, where the logits rule; and the starter
model with the guide's words added, whose rows are trained as well: by speakeasy these rows, by PEFT
the whole matrix.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.job import Job
from benchmarks.memory import MODELS, make_model

CONTENDERS = {
    "speakeasy, torch": ["benchmarks.contenders.ours", "torch"],
    "TRL, packing": ["benchmarks.contenders.trl_sft", "packing"],
    "TRL, padding": ["benchmarks.contenders.trl_sft", "padding"],
    "speakeasy, MLX": ["benchmarks.contenders.ours", "mlx"],
    "mlx-lm": ["benchmarks.contenders.mlx_lm_trainer"],
    "PEFT, whole matrices": ["benchmarks.contenders.trl_sft", "packing"],
}
OURS = ("speakeasy, torch", "speakeasy, MLX")
PEERS = {"TRL, packing": 2.0, "TRL, padding": 3.0, "mlx-lm": 2.5, "PEFT, whole matrices": 2.0}
"""Contender -> how many times its speed is aimed at."""
MEMORY = {"starter": 0.6, "wide": 0.4, "added": 0.6}
"""Model -> the share of the leanest peer's memory that is aimed at."""
PACKAGES = ("torch", "transformers", "peft", "trl", "mlx", "mlx-lm", "numpy")
Results = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Size:
    """How much of a job is done with a model."""

    conversations: int
    rows: int
    padded_rows: int
    contenders: tuple[str, ...]
    trains_added: bool = False


_FOUR = ("speakeasy, torch", "TRL, packing", "speakeasy, MLX", "mlx-lm")
SIZES = {
    "starter": Size(24, rows=2, padded_rows=8, contenders=(*_FOUR, "TRL, padding")),
    "wide": Size(16, rows=4, padded_rows=16, contenders=_FOUR),
    "added": Size(
        24,
        rows=2,
        padded_rows=8,
        contenders=("speakeasy, torch", "PEFT, whole matrices"),
        trains_added=True,
    ),
}
HELD_OUT = 12


def prepare(model: Path, directory: Path, size: Size, row_length: int) -> Job:
    """Write the job's files: a seeded choice of the starter conversations."""
    from speakeasy.batches.render import render_all
    from speakeasy.data.dataset import starter_conversations
    from speakeasy.weights.hub import load_tokenizer

    directory.mkdir()
    chosen = random.Random(0).sample(starter_conversations(), size.conversations + HELD_OUT)
    train, held_out = chosen[HELD_OUT:], chosen[:HELD_OUT]
    for name, part in (("train", train), ("held_out", held_out)):
        lines = [json.dumps({"messages": c.to_messages()}) + "\n" for c in part]
        (directory / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    items = render_all(load_tokenizer(model), train, row_length).items
    np.savez(
        directory / "tokens.npz",
        tokens=np.concatenate([item.tokens_T for item in items]),
        is_target=np.concatenate([item.is_target_T for item in items]),
        lengths=np.array([len(item.tokens_T) for item in items]),
    )
    return Job(
        model=str(model),
        conversations=str(directory / "train.jsonl"),
        held_out=str(directory / "held_out.jsonl"),
        tokens=str(directory / "tokens.npz"),
        adapter=str(directory / "adapter"),
        row_length=row_length,
        rows=size.rows,
        padded_rows=size.padded_rows,
        trains_added=size.trains_added,
    )


def measure(words: list[str], job: Job, directory: Path) -> dict[str, Any]:
    """One contender's result, the loss of its adapter with it."""
    shutil.rmtree(job.adapter, ignore_errors=True)
    path = directory / "job.json"
    job.save(path)
    done = subprocess.run(
        [sys.executable, "-m", words[0], str(path), *words[1:]],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def bits_per_byte(job: Job) -> float:
    """Of the held-out conversations, with the adapter or the model that a contender left; by the
    torch backend, whoever trained it."""
    from speakeasy.batches.render import render_all
    from speakeasy.data.dataset import load_conversations
    from speakeasy.training.evaluate import held_out_loss
    from speakeasy.training.inference import Responder, Speaker

    left = Path(job.adapter)
    model, adapter = (str(left), None) if (left / "config.json").exists() else (job.model, left)
    speaker = Speaker(model=model, adapter=adapter, backend="torch", precision="float32")
    responder = Responder.open(speaker, lambda line: None)
    conversations = load_conversations([Path(job.held_out)])
    items = render_all(responder.tokenizer, conversations, job.row_length).items
    return held_out_loss(responder.engine, items, job.row_length).bits_per_byte


def table(model: str, results: Results) -> str:
    """Medians of each contender and ratios within rounds, as Markdown."""
    lines = [
        "| | target tokens/s | peak memory | steps | held out, bits/byte |",
        "|---|---|---|---|---|",
    ]
    for name, runs in results.items():
        rate = statistics.median(run["target_tokens_per_second"] for run in runs)
        lines.append(
            f"| {name} | {rate:.1f} | {_peak(runs) / 1e9:.1f} GB | {runs[0]['steps']} | "
            f"{runs[-1]['bits_per_byte']:.3f} |"
        )
    lines += ["", "| | speed (median, least to most) | aimed at |", "|---|---|---|"]
    present = [ours for ours in OURS if ours in results]
    for ours in present:
        for theirs, aim in PEERS.items():
            if theirs in results and not (ours.endswith("MLX") and theirs.startswith("TRL")):
                speed = [
                    a["target_tokens_per_second"] / b["target_tokens_per_second"]
                    for a, b in zip(results[ours], results[theirs], strict=True)
                ]
                lines.append(
                    f"| {ours}, against {theirs} | {statistics.median(speed):.2f} times "
                    f"({min(speed):.2f} to {max(speed):.2f}) | {aim} |"
                )
    leanest = min((name for name in results if name in PEERS), key=lambda n: _peak(results[n]))
    lines += ["", f"| | peak memory against {leanest}'s, the leanest peer | aimed at |"]
    lines.append("|---|---|---|")
    for ours in present:
        share = _peak(results[ours]) / _peak(results[leanest])
        lines.append(f"| {ours} | {share:.2f} times | {MEMORY[model]} |")
    return "\n".join(lines)


def _peak(runs: list[dict[str, Any]]) -> float:
    return statistics.median(run["peak_memory_bytes"] for run in runs)


def run(model: str, rounds: int, row_length: int, place: Path) -> Results:
    """All rounds of all contenders with one model; progress goes to stderr."""
    from speakeasy.weights.hub import resolve_model

    size = SIZES[model]
    path = place / model
    if model == "starter":
        path = resolve_model("starter").path
    elif model == "added":
        words = [sys.executable, "-m", "speakeasy", "vocab", "expand", "--output-dir", str(path)]
        subprocess.run(words, check=True, stdout=sys.stderr)
    else:
        make_model(MODELS[model], path)
    job = prepare(path, place / f"{model}-job", size, row_length)
    results: Results = {name: [] for name in CONTENDERS if name in size.contenders}
    for number in range(rounds):
        for name in _order(list(results), number):
            found = measure(CONTENDERS[name], job, place)
            last = number == rounds - 1
            found["bits_per_byte"] = bits_per_byte(job) if last else None
            results[name].append(found)
            print(
                f"{model}, round {number + 1}, {name}: "
                f"{found['target_tokens_per_second']:.1f} target tokens/s, "
                f"{found['peak_memory_bytes'] / 1e9:.1f} GB, {found['seconds']:.0f} s",
                file=sys.stderr,
                flush=True,
            )
    return results


def _order(names: list[str], number: int) -> Iterator[str]:
    """Every other round backwards: who runs first on a cool machine changes."""
    yield from names if number % 2 == 0 else reversed(names)


def report(rounds: dict[str, int], row_length: int = 1024) -> str:
    """Everything, as Markdown."""
    parts = []
    with tempfile.TemporaryDirectory() as directory:
        for model, count in rounds.items():
            if count:
                results = run(model, count, row_length, Path(directory))
                parts.append(
                    f"**{model}**, {count} round{'s' * (count > 1)}\n\n{table(model, results)}"
                )
    return "\n\n".join(parts)


def machine() -> str:
    """What this ran on."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    import torch

    return (
        f"{platform.system()} {platform.machine()}, "
        f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}; {versions}"
    )


def parse_rounds(parser: argparse.ArgumentParser) -> dict[str, int]:
    """Of the command line: how many rounds with which model."""
    parser.add_argument("--rounds", type=int, default=1, help="with the starter model")
    parser.add_argument("--wide-rounds", type=int, default=1, help="with the wide model")
    parser.add_argument("--added-rounds", type=int, default=1, help="with added entries")
    options = parser.parse_args()
    return {"starter": options.rounds, "wide": options.wide_rounds, "added": options.added_rounds}


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    rounds = parse_rounds(parser)
    print(f"{machine()}\n\n{report(rounds)}")


if __name__ == "__main__":
    main()
