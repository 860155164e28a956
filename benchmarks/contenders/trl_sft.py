"""TRL's SFTTrainer: ``packing`` (best-fit decreasing, padding-free) or ``padding``, as in its docs.

    python -m benchmarks.contenders.trl_sft JOB packing

Gradient checkpointing, on by default in TRL, is off: faster for TRL, and the same as for all.
Rows of added entries are trained as PEFT's guide has it, with the whole matrices
(``modules_to_save``), which are one in a model that ties them; what is left is then the model.
"""

from __future__ import annotations

import sys
import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

from benchmarks.job import answer, read_job


class Stopwatch(TrainerCallback):
    """Adds up the time between the beginning and the end of steps."""

    seconds = 0.0
    _started = 0.0

    def on_step_begin(self, *arguments: Any, **options: Any) -> None:
        """Start."""
        self._started = time.perf_counter()

    def on_step_end(self, *arguments: Any, **options: Any) -> None:
        """Stop."""
        self.seconds += time.perf_counter() - self._started


def main() -> None:
    """Train, and print the result."""
    job, packing = read_job(), sys.argv[2] == "packing"
    items = job.items()
    data = Dataset.from_list([{"input_ids": ids, "assistant_masks": mask} for ids, mask in items])
    watch = Stopwatch()
    model = AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    tied = model.config.tie_word_embeddings
    matrices = ["embed_tokens"] if tied else ["embed_tokens", "lm_head"]
    whole = {"modules_to_save": matrices, "ensure_weight_tying": tied} if job.trains_added else {}
    with tempfile.TemporaryDirectory() as directory:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=directory,
                packing=packing,
                max_length=job.row_length,
                per_device_train_batch_size=job.rows if packing else job.padded_rows,
                num_train_epochs=1,
                learning_rate=job.learning_rate,
                lr_scheduler_type="constant",
                gradient_checkpointing=False,
                bf16=False,
                use_cpu=True,
                save_strategy="no",
                logging_steps=1,
                report_to="none",
            ),
            train_dataset=data,
            processing_class=tokenizer,
            peft_config=LoraConfig(
                r=job.lora_r,
                lora_alpha=job.lora_alpha,
                target_modules="all-linear",
                task_type="CAUSAL_LM",
                **whole,
            ),
            callbacks=[watch],
        )
        trainer.train()
        if job.trains_added:
            tokenizer.save_pretrained(job.adapter)
            trainer.model.merge_and_unload().save_pretrained(job.adapter)
        else:
            trainer.model.save_pretrained(job.adapter)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    answer(
        sum(sum(mask) for _, mask in items),
        watch.seconds,
        steps=trainer.state.global_step,
        losses=losses,
    )


if __name__ == "__main__":
    main()
