"""mlx-lm's own trainer: its data sets, batches, loss and loop, as ``mlx_lm.lora`` has them.

It cannot mask several assistant turns, so it learns all tokens of a conversation; counted are
the assistant's, as for all. It leaves out the conversations of a last incomplete batch.
"""

from __future__ import annotations

import os

os.environ["MLX_BFS_MAX_WIDTH"] = "20"  # MLX's own; speakeasy_mlx would set another
import speakeasy_mlx  # noqa: F401  (the same OpenBLAS as for our own engine)

import json  # isort: skip
import time
from pathlib import Path

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_map
from mlx_lm.tuner.datasets import CacheDataset, ChatDataset
from mlx_lm.tuner.trainer import TrainingArgs, TrainingCallback, train
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load_model, load_tokenizer

from benchmarks.job import answer, read_job

KEYS = [
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
]


class Collect(TrainingCallback):
    """Keeps the reported losses."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.seconds = 0.0

    def on_train_loss_report(self, train_info: dict) -> None:
        """One report a step."""
        self.losses.append(float(train_info["train_loss"]))
        self.seconds += 1 / train_info["iterations_per_second"]


def main() -> None:
    """Train, and print the result."""
    job = read_job()
    np.random.seed(0)
    model, _ = load_model(Path(job.model))
    model.update(tree_map(lambda weight: weight.astype(mx.float32), model.parameters()))
    model.freeze()
    shape = {"rank": job.lora_r, "scale": job.lora_alpha / job.lora_r, "dropout": 0.0, "keys": KEYS}
    linear_to_lora_layers(model, len(model.layers), shape)
    lines = Path(job.conversations).read_text(encoding="utf-8").splitlines()
    data = ChatDataset([json.loads(line) for line in lines], load_tokenizer(Path(job.model)))
    steps = len(data) // job.padded_rows
    # Its sort by length sees fields of a record, not tokens: the order stays as it is.
    targets = sum(sum(mask) for _, mask in job.items()[: steps * job.padded_rows])
    collect = Collect()
    adapter = Path(job.adapter)
    adapter.mkdir()
    config = {"fine_tune_type": "lora", "num_layers": len(model.layers), "lora_parameters": shape}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    started = time.perf_counter()
    train(
        model,
        optim.AdamW(learning_rate=job.learning_rate),
        CacheDataset(data),
        args=TrainingArgs(
            batch_size=job.padded_rows,
            iters=steps,
            steps_per_report=1,
            max_seq_length=job.row_length,
            adapter_file=str(adapter / "adapters.safetensors"),  # written at the end
            steps_per_save=10**9,
        ),
        training_callback=collect,
    )
    answer(
        targets,
        collect.seconds,
        steps=steps,
        losses=collect.losses,
        wall_seconds=time.perf_counter() - started,
        device=str(mx.default_device()),
    )


if __name__ == "__main__":
    main()
