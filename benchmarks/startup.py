"""From the command to its first step, against what the bare framework takes to load the model.

    python -m benchmarks.startup --rounds 3

``speakeasy train`` on its defaults, in a process of its own, until its first step begins; and a
process that imports transformers, or mlx-lm, and loads model and tokenizer. In turns; ratios within
a round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from speakeasy.weights.hub import resolve_model

TRAIN = """
import os, sys, time
from speakeasy_{backend} import engine
def begin(*_):
    print(time.time(), flush=True)
    os._exit(0)
engine.{kind}.accumulate = begin
from speakeasy.cli.main import main
sys.argv = ["speakeasy", "train", "--backend", "{backend}", *sys.argv[1:]]
main(prog_name="speakeasy")
"""
BARE = {
    "torch": """
import sys, time
from transformers import AutoModelForCausalLM, AutoTokenizer
AutoTokenizer.from_pretrained(sys.argv[1])
AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="float32")
print(time.time())
""",
    "mlx": """
import sys, time
import speakeasy_mlx
import mlx.core as mx
from mlx_lm import load
model, _ = load(sys.argv[1])
mx.eval(model.parameters())
print(time.time())
""",
}
KINDS = {"torch": "TorchEngine", "mlx": "MlxEngine"}


def seconds(code: str, *words: str) -> float:
    """From the start of a process to the time that it prints last."""
    began = time.time()
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    return float(done.stdout.split()[-1]) - began


def train(backend: str) -> float:
    """Seconds to the first step."""
    code = TRAIN.format(backend=backend, kind=KINDS[backend])
    with tempfile.TemporaryDirectory() as place:
        return seconds(code, "--output-dir", str(Path(place) / "run"))


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    model = str(resolve_model("starter").path)
    print("| | the bare framework | to the first step | ratio |")
    print("|---|---|---|---|")
    for backend in KINDS:
        found = [(seconds(BARE[backend], model), train(backend)) for _ in range(rounds)]
        bare, whole = (statistics.median(column) for column in zip(*found, strict=True))
        ratio = statistics.median(one[1] / one[0] for one in found)
        print(f"| {backend} | {bare:.1f} s | {whole:.1f} s | {ratio:.2f} |")


if __name__ == "__main__":
    main()
