"""What every contender is given, and what it answers.

All train LoRA of one shape on the same conversations, already tokenised, with the same targets,
for one epoch in float32 on the CPU. Time is that of the training steps alone, memory the
process's high-water mark. Target tokens are those of all assistant turns in the conversations
that a contender went through, whether or not its own loss can single them out.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speakeasy.training.memory import peak_process_bytes


@dataclass(frozen=True)
class Job:
    """A benchmark's task.

    Attributes:
        model: directory in Hugging Face format.
        conversations: JSON lines of OpenAI messages.
        tokens: the same as an .npz of ``tokens``, ``is_target`` and ``lengths``.
        adapter: directory, not there yet, for the adapter, or the model, after the epoch.
        row_length: tokens of a packed row; rows: packed rows of a step.
        padded_rows: conversations of a step for those who pad instead: about as many tokens.
        trains_added: train the rows of the model's added vocabulary entries, beside LoRA.
    """

    model: str
    conversations: str
    held_out: str
    tokens: str
    adapter: str
    row_length: int
    rows: int
    padded_rows: int
    lora_r: int = 64
    lora_alpha: int = 16
    learning_rate: float = 1e-3
    trains_added: bool = False

    def items(self) -> list[tuple[list[int], list[int]]]:
        """(token ids, 1 for each target) of every conversation."""
        stored = np.load(self.tokens)
        ends = np.cumsum(stored["lengths"])
        starts = ends - stored["lengths"]
        return [
            (stored["tokens"][a:b].tolist(), stored["is_target"][a:b].astype(int).tolist())
            for a, b in zip(starts, ends, strict=True)
        ]

    def save(self, path: Path) -> None:
        """Write the job for a contender's process."""
        path.write_text(json.dumps(dataclasses.asdict(self)))


def read_job() -> Job:
    """The job named on the command line."""
    return Job(**json.loads(Path(sys.argv[1]).read_text()))


def answer(target_tokens: int, seconds: float, **more: Any) -> None:
    """Print a contender's result."""
    print(
        json.dumps(
            {
                "target_tokens": target_tokens,
                "seconds": seconds,
                "target_tokens_per_second": target_tokens / seconds,
                "peak_memory_bytes": peak_process_bytes(),
                **more,
            }
        )
    )
