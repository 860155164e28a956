"""``speakeasy train``, as a user runs it: ``python -m benchmarks.contenders.ours JOB BACKEND``."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.job import read_job


def main() -> None:
    """Train, and print the result."""
    job, backend = read_job(), sys.argv[2]
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "run"
        options = {
            "model": job.model,
            "train-file": job.conversations,
            "eval-file": job.held_out,
            "output-dir": out,
            "num-epochs": 1,
            "batch-size": job.rows,
            "max-length": job.row_length,
            "lora-r": job.lora_r,
            "lora-alpha": job.lora_alpha,
            "learning-rate": job.learning_rate,
            "lr-schedule": "constant",
            "warmup-ratio": 0,
            "precision": "float32",
            "backend": backend,
            "train-rows": "new" if job.trains_added else "auto",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        done = subprocess.run(
            [sys.executable, "-m", "speakeasy", "train", *words, "--json"],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        summary = json.loads(done.stdout)
        steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        shutil.copytree(out / "adapter", job.adapter)
    wanted = ("target_tokens", "seconds", "target_tokens_per_second", "peak_memory_bytes", "steps")
    print(
        json.dumps(
            {key: summary[key] for key in wanted} | {"losses": [step["loss"] for step in steps]}
        )
    )


if __name__ == "__main__":
    main()
