"""One training step on a packed row: its rate, its arithmetic, and the machine's own.

    python -m benchmarks.step --backend torch
    python -m benchmarks.step --backend mlx

*Utilisation* is the arithmetic that the step cannot do without (``estimate.step_flops``: every
product of the blocks, of LoRA, of attention within segments, and of the output matrix at targets;
nothing for norms, activations and copies) over its time, against the rate of a large square
matrix product on the same machine at the same precision. Products go on for two seconds before and
after each step, and their mean over that time is what the step is held against: a machine that
others use as well reaches more in a good moment than it holds for as long as a step takes. What
it reaches, ``fastest_product_flops_per_second``, is printed too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

from speakeasy.batches.pack import build_batch, pack
from speakeasy.batches.pieces import item_lengths
from speakeasy.batches.render import render_all
from speakeasy.batches.types import PackedBatch
from speakeasy.config import LoraConfig, OptimizerConfig, Precision, TrainConfig
from speakeasy.data.dataset import starter_conversations
from speakeasy.training.backend import Backend, Engine, EngineOptions, open_backend
from speakeasy.training.estimate import Reading, step_flops
from speakeasy.training.memory import attended, peak_process_bytes
from speakeasy.training.rate import mean_rate
from speakeasy.weights.adapters import draw_lora, select_layers
from speakeasy.weights.checkpoint import linear_layers, model_shape
from speakeasy.weights.hub import load_tokenizer, resolve_model

CONVERSATIONS = 120


@dataclass
class Bench:
    """An engine with a LoRA adapter and an optimizer, and batches to learn from.

    Attributes:
        flops_per_token: operations that learning from one token takes.
    """

    backend: Backend
    precision: Precision
    engine: Engine
    batches: list[PackedBatch]
    flops_per_token: float
    done: int = 0

    @classmethod
    def open(
        cls,
        model: Path,
        backend: str,
        *,
        precision: Precision = "float32",
        row_length: int = 1024,
        rows: int = 1,
        lora_r: int = 64,
    ) -> Bench:
        """Load the model and render the starter conversations for it."""
        lora = LoraConfig(r=lora_r, alpha=float(lora_r) / 4)
        layers = select_layers(linear_layers(model), lora.targets)
        opened = open_backend(backend)
        engine = opened.load(
            EngineOptions(
                model=model,
                precision=precision,
                lora=lora,
                adapter=draw_lora(layers, lora.r, seed=0),
                optimizer=OptimizerConfig(learning_rate=1e-3),
            )
        )
        chosen = starter_conversations()[:CONVERSATIONS]
        items = render_all(load_tokenizer(model), chosen, row_length).items
        lengths = item_lengths(items)
        packed = pack(lengths, row_length, seed=0)
        full = [row for row in packed if sum(lengths[item] for item in row) > 0.95 * row_length]
        batches = [
            build_batch(items, full[start : start + rows], row_length)
            for start in range(0, len(full) - rows + 1, rows)
        ]
        tokens = sum(batch.token_count for batch in batches)
        reading = Reading(
            train_tokens=tokens,
            eval_tokens=0,
            target_share=sum(batch.target_count for batch in batches) / tokens,
            segment_tokens=attended([lengths[item] for row in full for item in row]),
        )
        config = TrainConfig(lora=lora)
        flops = step_flops(config, model_shape(model), reading, recomputed=False)
        return cls(opened, precision, engine, batches, flops)

    def step(self) -> tuple[float, PackedBatch]:
        """Seconds of the next step, and what it learned from. A row is in the model at once."""
        batch = self.batches[self.done % len(self.batches)]
        self.done += 1
        started = time.perf_counter()
        rows = self.engine.lanes
        for start in range(0, len(batch.tokens_BT), rows):
            part = batch.rows(start, start + rows)
            loss = self.engine.accumulate(part, 1 / batch.target_count)
        self.engine.apply(1e-4)
        float(loss)  # waits for a device
        return time.perf_counter() - started, batch


def utilisation(bench: Bench, steps: int) -> dict[str, Any]:
    """Rates of ``steps`` steps and of as many measurements of the plain product."""
    bench.step()  # warm
    rates, seconds = [], []
    held = [bench.backend.matmul_rate(bench.precision, mean_rate)]
    reached = bench.backend.matmul_rate(bench.precision)
    targets = 0
    for _ in range(steps):
        taken, batch = bench.step()
        held.append(bench.backend.matmul_rate(bench.precision, mean_rate))
        rates.append(bench.flops_per_token * batch.token_count / taken)
        seconds.append(taken)
        targets += batch.target_count
    products = [statistics.fmean(pair) for pair in pairwise(held)]
    shares = [rate / product for rate, product in zip(rates, products, strict=True)]
    return {
        "step_seconds": statistics.median(seconds),
        "target_tokens_per_second": targets / sum(seconds),
        "step_flops_per_second": statistics.median(rates),
        "product_flops_per_second": statistics.median(products),
        "fastest_product_flops_per_second": reached,
        "utilisation": statistics.median(shares),
        "least": min(shares),
        "most": max(shares),
        "peak_memory_bytes": peak_process_bytes(),
    }


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--backend", default="auto", choices=["auto", "mlx", "torch"])
    parser.add_argument("--model", default="starter")
    parser.add_argument("--precision", default="float32", choices=get_args(Precision))
    parser.add_argument("--row-length", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=2, help="of a step")
    parser.add_argument("--lora-r", type=int, default=64)
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args()
    bench = Bench.open(
        resolve_model(args.model).path,
        args.backend,
        precision=args.precision,
        row_length=args.row_length,
        rows=args.rows,
        lora_r=args.lora_r,
    )
    print(json.dumps({**vars(args), **utilisation(bench, args.steps)}, indent=2))


if __name__ == "__main__":
    main()
