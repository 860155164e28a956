"""torch's two libraries for products with a weight matrix: MKL, its default, and oneDNN.

    python -m benchmarks.products

The shapes of a step on the starter model and on Llama 3.2 1B, in float32. The two take turns, and
medians are compared. ``speakeasy_torch.products`` chooses by what this says of a CPU's maker.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch.nn.functional import linear

from speakeasy_torch.heap import Heap
from speakeasy_torch.products import LEAST_ROWS, onednn_product, prefers_onednn

SHAPES = {
    "starter, gate": (1024, 576, 1536),
    "starter, down": (1024, 1536, 576),
    "starter, output": (1024, 576, 576),
    "starter, adapter": (1024, 576, 64),
    "starter, logits": (300, 576, 49_152),
    "1B, gate": (1024, 2048, 8192),
    "1B, down": (1024, 8192, 2048),
    "1B, logits": (130, 2048, 128_256),
    "starter, gate, few rows": (LEAST_ROWS, 576, 1536),
}
"""Name -> rows, inputs, outputs."""


def rates(shape: tuple[int, int, int], rounds: int) -> tuple[float, float]:
    """GFLOP/s of MKL and of oneDNN."""
    rows, inputs, outputs = shape
    hidden, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for times, multiply in zip(taken, (linear, onednn_product), strict=True):
            started = time.perf_counter()
            multiply(hidden, weight)
            times.append(time.perf_counter() - started)
    work = 2 * rows * inputs * outputs / 1e9
    mkl, onednn = (work / statistics.median(times[1:]) for times in taken)
    return mkl, onednn


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    Heap()
    print(f"oneDNN is chosen here: {prefers_onednn()}\n")
    print("| product | rows x inputs x outputs | MKL | oneDNN | ratio |\n|---|---|---|---|---|")
    for name, shape in SHAPES.items():
        mkl, onednn = rates(shape, rounds)
        sizes = " x ".join(f"{size:,}" for size in shape)
        print(f"| {name} | {sizes} | {mkl:.0f} | {onednn:.0f} | {onednn / mkl:.2f} |", flush=True)


if __name__ == "__main__":
    main()
