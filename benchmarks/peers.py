"""Side by side with TRL and mlx-lm, on this machine, in one run.

    pip install -c constraints.txt -e '.[mlx,bench]'
    python -m benchmarks.peers --rounds 3

Contenders run in processes of their own and take turns, so that a change in the machine's speed
meets all of them; ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.job import Job

CONTENDERS = {
    "speakeasy, torch": ["benchmarks.contenders.ours", "torch"],
    "TRL SFTTrainer, packing": ["benchmarks.contenders.trl_packed"],
    "speakeasy, MLX": ["benchmarks.contenders.ours", "mlx"],
    "mlx-lm's trainer": ["benchmarks.contenders.mlx_lm_trainer"],
}
PAIRS = [
    ("speakeasy, torch", "TRL SFTTrainer, packing"),
    ("speakeasy, torch", "mlx-lm's trainer"),
    ("speakeasy, MLX", "mlx-lm's trainer"),
]
PACKAGES = ("torch", "transformers", "peft", "trl", "mlx", "mlx-lm", "numpy")


def prepare(directory: Path, conversations: int, row_length: int, rows: int) -> Job:
    """Write the job's files: a seeded choice of the starter conversations."""
    from speakeasy.batches.render import render_all
    from speakeasy.data.dataset import starter_conversations
    from speakeasy.weights.hub import load_tokenizer, resolve_model

    chosen = random.Random(0).sample(starter_conversations(), conversations + 2)
    train, held_out = chosen[2:], chosen[:2]
    for name, part in (("train", train), ("held_out", held_out)):
        lines = [json.dumps({"messages": c.to_messages()}) + "\n" for c in part]
        (directory / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    model = resolve_model("starter").path
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
        row_length=row_length,
        rows=rows,
    )


def measure(words: list[str], job: Path) -> dict[str, Any]:
    """One contender's result."""
    done = subprocess.run(
        [sys.executable, "-m", words[0], str(job), *words[1:]],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Medians of each contender and ratios within rounds, as Markdown."""
    lines = ["| | target tokens/s | peak memory | steps |", "|---|---|---|---|"]
    for name, runs in results.items():
        rate = statistics.median(run["target_tokens_per_second"] for run in runs)
        peak = statistics.median(run["peak_memory_bytes"] for run in runs)
        lines.append(f"| {name} | {rate:.1f} | {peak / 1e9:.1f} GB | {runs[0]['steps']} |")
    lines += ["", "| | speed (median, least to most) | peak memory |", "|---|---|---|"]
    for ours, theirs in PAIRS:
        rounds = list(zip(results[ours], results[theirs], strict=True))
        speed = [a["target_tokens_per_second"] / b["target_tokens_per_second"] for a, b in rounds]
        memory = [a["peak_memory_bytes"] / b["peak_memory_bytes"] for a, b in rounds]
        lines.append(
            f"| {ours} against {theirs} | {statistics.median(speed):.2f} times "
            f"({min(speed):.2f} to {max(speed):.2f}) | {statistics.median(memory):.2f} times |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run all rounds; print progress to stderr and the tables to stdout."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--conversations", type=int, default=32)
    parser.add_argument("--row-length", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=4, help="rows of a step")
    options = parser.parse_args()
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory() as directory:
        job = prepare(Path(directory), options.conversations, options.row_length, options.rows)
        path = Path(directory) / "job.json"
        job.save(path)
        for number in range(options.rounds):
            for name, words in CONTENDERS.items():
                found = measure(words, path)
                results[name].append(found)
                rate, peak = found["target_tokens_per_second"], found["peak_memory_bytes"] / 1e9
                losses = ", ".join(f"{loss:.3f}" for loss in found["losses"])
                print(
                    f"round {number + 1}, {name}: {rate:.1f} target tokens/s, {peak:.1f} GB, "
                    f"{found['seconds']:.0f} s, losses {losses}",
                    file=sys.stderr,
                    flush=True,
                )
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    print(f"{platform.machine()}, {versions}; {vars(options)}\n\n{table(results)}")


if __name__ == "__main__":
    main()
