"""The memory estimate against what runs really took.

    python -m benchmarks.memory --output memory.md

Each case is a whole ``speakeasy train`` (approach 1) or ``pretrain`` (approach 2) of a few steps in
a process of its own, whose high-water mark its summary holds. The models are the starter model and
two random ones, made in a temporary directory (6 GB): ``wide`` has Llama 3.2 1B's width and
vocabulary in two blocks, ``deep`` is narrow and has an output matrix of its own. Other programs on
the machine slow this down and change nothing else. On a GPU the device's own mark is compared.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speakeasy.weights.hub import resolve_model

WITHIN = 0.2
"""How far from the measured peak an estimate may be."""
CONVERSATIONS = 60
FIT_ROWS = 2_000
MODELS = {
    "wide": {
        "vocab_size": 128_256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 2,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
    "deep": {
        "vocab_size": 49_152,
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 48,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
}
"""Name -> figures of a random Llama, beside the starter model."""


@dataclass(frozen=True)
class Case:
    """A run.

    Attributes:
        approach: 1 for LoRA on conversations, 2 for pre-training of rows and LoRA.
        options: of the command, beside those that all cases share.
        length: tokens of a row.
    """

    model: str
    approach: int
    backend: str
    options: tuple[str, ...] = ()
    length: int = 1024

    def __str__(self) -> str:
        words = (self.backend, *(option.removeprefix("--") for option in self.options))
        return f"{self.model} | {self.approach} | {' '.join(words)} | {self.length:,}"


def cases(backends: tuple[str, ...], models: tuple[str, ...]) -> Iterator[Case]:
    """All cases, those in float32 first."""
    for model in models:
        for approach in (1, 2):
            for backend in backends:
                yield Case(model, approach, backend, ("--precision", "float32"))
    for model in models:
        for backend in backends:
            yield Case(model, 1, backend, ("--precision", "float32"), length=512)
            yield Case(model, 1, backend, ("--precision", "float32", "--use-4bit"), length=512)
            yield Case(model, 1, backend, ("--precision", "float32", "--dora"), length=512)
    for model in models if "torch" in backends else ():
        for approach in (1, 2):
            yield Case(model, approach, "torch", ("--precision", "bfloat16"))
        yield Case(model, 1, "torch", ("--precision", "bfloat16"), length=512)
        four_bits = ("--precision", "bfloat16", "--use-4bit", "--gradient-checkpointing")
        yield Case(model, 1, "torch", four_bits, length=512)


def make_model(figures: dict[str, Any], directory: Path) -> None:
    """A random Llama, with the starter model's tokenizer, of which it has rows to spare."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    starter = resolve_model("starter", say=_note).path
    torch.manual_seed(0)
    config = LlamaConfig(**figures, max_position_embeddings=8192, rope_theta=100_000.0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)
    for file in starter.iterdir():
        if "token" in file.name or file.suffix == ".jinja":
            shutil.copy(file, directory / file.name)


def measure(case: Case, model: Path, output: Path) -> dict[str, Any]:
    """The summary of one run."""
    words = ["train", "--max-train", str(CONVERSATIONS), "--max-eval", "4"]
    if case.approach == 2:
        held_out = output.with_suffix(".txt")
        held_out.write_text("Una frase corta, y otra.\n" * 20, encoding="utf-8")
        words = ["pretrain", "--fit-rows", str(FIT_ROWS), "--replay", "0"]
        words += ["--eval-path", str(held_out)]
    words += ["--model", str(model), "--backend", case.backend, "--max-length", str(case.length)]
    words += ["--max-steps", "2", "--batch-size", "2", "--force", *case.options]
    command = [sys.executable, "-m", "speakeasy", *words, "--output-dir", str(output), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    shutil.rmtree(output, ignore_errors=True)
    if done.returncode:
        raise SystemExit(f"{case}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def table(results: list[dict[str, Any]]) -> str:
    """Markdown, a line a case."""
    lines = [
        "| model | approach | run | row | estimate | measured | estimate / measured |",
        "|---|---|---|---|---|---|---|",
    ]
    for found in results:
        estimate, measured = found["estimate"], found["measured"]
        ratio = estimate / measured
        mark = "" if abs(ratio - 1) <= WITHIN else " (outside)"
        lines.append(
            f"| {found['case']} | {estimate / 1e9:.2f} GB | {measured / 1e9:.2f} GB | "
            f"{ratio:.2f}{mark} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Make the models, run the cases, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="write the table here too, as it grows")
    parser.add_argument("--backends", default="torch,mlx")
    parser.add_argument("--models", default="starter,wide,deep")
    parser.add_argument("--only", default="", help="cases whose line holds this text")
    parser.add_argument("--directory", type=Path, help="where to put the files (temporary place)")
    options = parser.parse_args()
    names = tuple(options.models.split(","))
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=options.directory) as place:
        for case in cases(tuple(options.backends.split(",")), names):
            if options.only not in str(case):
                continue
            summary = measure(case, _model(case, Path(place)), Path(place) / "run")
            on_device = summary["device_peak_memory_bytes"]
            results.append(
                {
                    "case": str(case),
                    "estimate": summary["estimated_memory_bytes"],
                    "measured": on_device or summary["peak_memory_bytes"],
                }
            )
            _note(f"{table(results[-1:]).splitlines()[-1]} {summary['seconds']:.0f} s")
            if options.output:
                options.output.write_text(table(results) + "\n", encoding="utf-8")
    print(table(results))


def _model(case: Case, place: Path) -> Path:
    """The model's directory, made when it is first needed."""
    base = place / case.model
    if case.model == "starter":
        base = resolve_model("starter", say=_note).path
    elif not base.is_dir():
        make_model(MODELS[case.model], base)
    if case.approach == 1:
        return base
    expanded = place / f"{case.model}-expanded"
    if not expanded.is_dir():
        words = ["vocab", "expand", "--model", str(base), "--output-dir", str(expanded), "--json"]
        command = [sys.executable, "-m", "speakeasy", *words]
        subprocess.run(command, capture_output=True, check=True)
    return expanded


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
