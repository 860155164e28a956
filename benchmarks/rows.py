"""Writing a model anew: new rows and a fused adapter against a plain copy of its files.

    python -m benchmarks.rows --rounds 3

The model has the shape of Llama 3.2 1B (tied, bfloat16, 2.5 GB) and random weights; it is made in a
temporary directory, which needs 6 GB, and removed again. Every contender runs in a process of its
own, ends with all files on the disk, and begins with the disk at rest and the model's files in the
page cache. They take turns, and times are compared within a round. On a machine that others use as
well, set OMP_NUM_THREADS=1: numpy's BLAS otherwise waits for its threads by spinning.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from speakeasy.files import new_directory, write_json
from speakeasy.training.memory import peak_process_bytes
from speakeasy.weights.adapters import Adapter, draw_lora, read_adapter, target_names, write_peft
from speakeasy.weights.checkpoint import linear_layers, model_shape, tensor_index
from speakeasy.weights.fuse import fuse
from speakeasy.weights.rows import add_rows
from speakeasy.weights.safetensors_io import BLOCK_BYTES, DTYPES, write_blocks

NEW_ROWS = 2_000
RANK = 64
MARGIN = 300_000_000
"""Bytes that a contender may take beyond the largest tensor."""


def make_model(directory: Path, layers: int) -> None:
    """A random Llama of the shape of Llama 3.2 1B."""
    hidden, inner, heads, kv_heads, vocabulary = 2048, 8192, 32, 8, 128_256
    kv_width = hidden // heads * kv_heads
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for block in range(layers):
        prefix = f"model.layers.{block}"
        for module, rows, columns in (
            ("self_attn.q_proj", hidden, hidden),
            ("self_attn.k_proj", kv_width, hidden),
            ("self_attn.v_proj", kv_width, hidden),
            ("self_attn.o_proj", hidden, hidden),
            ("mlp.gate_proj", inner, hidden),
            ("mlp.up_proj", inner, hidden),
            ("mlp.down_proj", hidden, inner),
        ):
            shapes[f"{prefix}.{module}.weight"] = (rows, columns)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{prefix}.{norm}.weight"] = (hidden,)
    shapes["model.norm.weight"] = (hidden,)
    dtype = DTYPES["BF16"]
    generator = np.random.default_rng(0)
    pool = (0.02 * generator.standard_normal(4 * BLOCK_BYTES, dtype=np.float32)).astype(dtype)

    def blocks(shape: tuple[int, ...]) -> Any:
        left = int(np.prod(shape))
        while left:
            start = int(generator.integers(len(pool) // 2))
            block = pool[start : start + min(left, len(pool) // 2)]
            left -= len(block)
            yield block

    write_blocks(
        directory / "model.safetensors",
        {name: (dtype, shape) for name, shape in shapes.items()},
        ((name, blocks(shape)) for name, shape in shapes.items()),
    )
    rope = {"rope_type": "default", "rope_theta": 500_000.0}
    write_json(
        directory / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "dtype": "bfloat16",
            "vocab_size": vocabulary,
            "hidden_size": hidden,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": hidden // heads,
            "max_position_embeddings": 131_072,
            "rms_norm_eps": 1e-5,
            "rope_theta": rope["rope_theta"],
            "rope_parameters": rope,
            "tie_word_embeddings": True,
        },
    )


def make_adapter(model: Path, directory: Path) -> None:
    """LoRA of rank 64 on all linear layers, in PEFT's format."""
    layers = linear_layers(model)
    tensors = draw_lora(layers, RANK, 0)
    for name in tensors:
        if name.endswith(".lora_B.weight"):
            tensors[name] += np.float32(1e-3)
    directory.mkdir()
    write_peft(
        Adapter(tensors, RANK, 16.0, False, 0.0, target_names(layers, layers), "benchmark"),
        directory,
    )


def copy_files(model: Path, adapter: Path, target: Path) -> None:
    """``cp`` and a flush to the disk."""
    with new_directory(target) as directory:
        for file in sorted(model.iterdir()):
            subprocess.run(["cp", str(file), str(directory / file.name)], check=True)


def expand(model: Path, adapter: Path, target: Path, init: str = "subword") -> None:
    """2,000 new rows."""
    generator = np.random.default_rng(1)
    vocabulary = model_shape(model).vocab_size
    rows = {
        vocabulary + i: generator.integers(vocabulary, size=int(generator.integers(2, 6))).tolist()
        for i in range(NEW_ROWS)
    }
    with new_directory(target) as directory:
        add_rows(model, directory, rows, init=init)  # type: ignore[arg-type]


def expand_by_mean(model: Path, adapter: Path, target: Path) -> None:
    """The same, from the matrix mean."""
    expand(model, adapter, target, "mean")


def merge(model: Path, adapter: Path, target: Path) -> None:
    """The adapter read and fused."""
    with new_directory(target) as directory:
        fuse(model, directory, adapter=read_adapter(adapter))


CONTENDERS: dict[str, Callable[[Path, Path, Path], None]] = {
    "cp": copy_files,
    f"{NEW_ROWS:,} new rows, subword": expand,
    f"{NEW_ROWS:,} new rows, mean": expand_by_mean,
    f"fuse, rank {RANK}, all linear": merge,
}


def measure(name: str, model: Path, adapter: Path, target: Path) -> dict[str, float]:
    """One contender in a process of its own: seconds and bytes."""
    os.sync()
    words = ["--contender", name, str(model), str(adapter), str(target)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.rows", *words],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    shutil.rmtree(target)
    return json.loads(done.stdout)


def table(results: dict[str, list[dict[str, float]]], largest: int) -> str:
    """Medians, and time against ``cp`` of the same round, as Markdown."""
    lines = [
        "| | time | against cp (least to most) | CPU time | peak memory | "
        f"at most {largest / 1e6:.0f} + {MARGIN / 1e6:.0f} MB |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in results.items():
        seconds, cpu = (statistics.median(run[key] for run in runs) for key in ("seconds", "cpu"))
        peak = max(run["peak"] for run in runs)
        ratios = sorted(
            run["seconds"] / copy["seconds"] for run, copy in zip(runs, results["cp"], strict=True)
        )
        against = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        memory = f"{peak / 1e6:.0f} MB | {'yes' if peak <= largest + MARGIN else 'no'}"
        if name == "cp":
            against, memory = "", " | "
        lines.append(f"| {name} | {seconds:.1f} s | {against} | {cpu:.1f} s | {memory} |")
    return "\n".join(lines)


def main() -> None:
    """Run all rounds; progress to stderr, the table to stdout."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=16, help="fewer for a quick try")
    parser.add_argument("--directory", type=Path, help="where to put the files (temporary place)")
    parser.add_argument("--contender", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        name, *paths = options.contender
        model, adapter, target = map(Path, paths)
        started = time.perf_counter()
        CONTENDERS[name](model, adapter, target)
        seconds = time.perf_counter() - started
        cpu = sum(os.times()[:4])  # of this process and of those that it waited for
        print(json.dumps({"seconds": seconds, "cpu": cpu, "peak": peak_process_bytes()}))
        return
    results: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        model, adapter = Path(name) / "model", Path(name) / "adapter"
        model.mkdir()
        make_model(model, options.layers)
        make_adapter(model, adapter)
        largest = max(info.nbytes for info in tensor_index(model).values())
        for number in range(options.rounds):
            for contender, runs in results.items():
                runs.append(measure(contender, model, adapter, Path(name) / "new"))
                seconds, peak = runs[-1]["seconds"], runs[-1]["peak"] / 1e6
                print(f"{number + 1}: {contender}: {seconds:.1f} s, {peak:.0f} MB", file=sys.stderr)
    print(table(results, largest))


if __name__ == "__main__":
    main()
