"""How much memory a plan needs, and how much a run has taken.

The estimate counts what a step must hold at once: the frozen weights, the trainable weights
with their gradients and AdamW's moments, the activations that the backward pass needs, and one
chunk of logits. Nothing in it grows with batch x vocabulary.
"""

from __future__ import annotations

import dataclasses
import resource
import sys
from dataclasses import dataclass

from speakeasy.config import LoraConfig, Precision
from speakeasy.weights.checkpoint import ModelShape

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""bitsandbytes' NF4 with double quantisation: 4 bits, an 8-bit scale for 64 weights, and a
float32 for 256 scales (https://arxiv.org/abs/2305.14314, section 3). MLX's 4 bits take 0.5625."""
LOGITS_CHUNK = 64 * 2**20
OVERHEAD = {"torch": 500 * 2**20, "mlx": 250 * 2**20}
"""What the process holds before a model is loaded: the interpreter and the framework."""


def peak_process_bytes() -> int:
    """High-water mark of this process's resident memory."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes, by what holds them."""

    weights: int
    adapter: int
    activations: int
    logits: int
    overhead: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(dataclasses.astuple(self))


def estimate(
    shape: ModelShape,
    lora: LoraConfig,
    adapter_parameters: int,
    *,
    backend: str,
    precision: Precision,
    use_4bit: bool,
    row_length: int,
    rows_per_pass: int,
    gradient_checkpointing: bool,
) -> MemoryEstimate:
    """Memory of a training step.

    Args:
        adapter_parameters: trainable parameters.
        rows_per_pass: packed rows that go through the model at once.
    """
    width = BYTES[precision]
    head = shape.vocab_size * shape.hidden_size
    embeddings = head * (1 if shape.tied else 2)
    linears = shape.parameter_count - embeddings
    weights = embeddings * width + linears * (NF4_BYTES if use_4bit else width)
    positions = row_length * rows_per_pass
    per_block = _activation_floats(shape, lora, backend, row_length)
    kept = shape.layers * (shape.hidden_size if gradient_checkpointing else per_block)
    working = per_block if gradient_checkpointing else 0
    return MemoryEstimate(
        weights=int(weights),
        adapter=16 * adapter_parameters,
        activations=int(positions * (kept + working) * width),
        logits=3 * LOGITS_CHUNK,
        overhead=OVERHEAD[backend],
    )


def _activation_floats(shape: ModelShape, lora: LoraConfig, backend: str, row_length: int) -> int:
    """Numbers that one position leaves behind in one block for the backward pass."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    norms = 2 * 3 * hidden
    attention = 3 * query + 4 * key + 2 * hidden
    mlp = 4 * inner + hidden
    if backend == "mlx":
        attention += 2 * shape.heads * row_length
    return norms + attention + mlp + 7 * lora.r
