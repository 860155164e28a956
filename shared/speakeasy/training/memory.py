"""How much memory a plan needs, and how much a run has taken.

The estimate counts what a step must hold at once: the frozen weights, the trainable weights
with their gradients and AdamW's moments, the activations that the backward pass needs, and a
chunk of logits. Nothing in it grows with batch x vocabulary. On a CPU the process is counted, on a
GPU its memory: there is no interpreter in that. ``benchmarks.memory`` holds it against runs.
"""

from __future__ import annotations

import ctypes
import dataclasses
import os
import re
import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from speakeasy.config import LoraConfig, Precision
from speakeasy.weights.checkpoint import ModelShape

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""bitsandbytes' NF4 with double quantisation: 4 bits, an 8-bit scale for 64 weights, and a
float32 for 256 scales (https://arxiv.org/abs/2305.14314, section 3). MLX's 4 bits take 0.5625."""
LOGITS_CHUNK = 64 * 2**20
OVERHEAD = {"torch": 500 * 2**20, "mlx": 250 * 2**20}
"""What the process holds before a model is loaded: the interpreter and the framework. On a GPU,
what the framework sets aside for its own work."""
HEAP_HOLES = 0.25
"""Share of the activations that PyTorch's heap takes on top of them on a CPU. They lie on glibc's
heap, and rows of ever other lengths leave holes that the next ones do not fit into; measured with
the heap trimmed after each step. (MLX keeps a cache of its own and has none.)"""


def peak_process_bytes() -> int:
    """High-water mark of this process's memory.

    Linux's ``ru_maxrss`` would count the process that started this one, too (it survives fork
    and exec), so there it is read from ``/proc``. On a Mac it is the physical footprint, Activity
    Monitor's "Memory": resident memory leaves out what the GPU has of it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if sys.platform != "darwin":
        return peak * 1024
    libc = ctypes.CDLL("/usr/lib/libSystem.B.dylib")
    return footprint_peak(libc.proc_pid_rusage, os.getpid()) or peak


def footprint_peak(proc_pid_rusage: Callable[..., int], process: int) -> int:
    """The largest physical footprint that macOS knows of a process, bytes; 0 if it says nothing.

    Source: ``rusage_info_v4`` in XNU's ``bsd/sys/resource.h``: 16 bytes of a UUID, then 64-bit
    numbers, of which the 29th is ``ri_lifetime_max_phys_footprint``. It has not run on a Mac.
    """
    fields = (ctypes.c_uint64 * 64)()
    return 0 if proc_pid_rusage(process, 4, ctypes.byref(fields)) else fields[2 + 28]


def available_bytes() -> int:
    """Memory that a plan may use on a CPU: what is free, or less where a container says so."""
    free = psutil.virtual_memory().available
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    try:
        return min(free, int(limit.read_text()) - int(used.read_text()))
    except (OSError, ValueError):  # no such files, or the limit is "max"
        return free


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed; every framework has its own words for that."""
    said = str(error).lower()
    signs = ("out of memory", "memory allocation", "can't allocate", "unable to allocate", "malloc")
    return isinstance(error, MemoryError) or any(sign in said for sign in signs)


def attended(lengths: Sequence[int]) -> int:
    """Mean length of the segment that a token lies in, tokens: long segments hold more of them."""
    return round(sum(length * length for length in lengths) / sum(lengths))


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes, by what holds them."""

    weights: int
    trainable: int
    activations: int
    logits: int
    heap_holes: int
    overhead: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(dataclasses.astuple(self))


def estimate(
    shape: ModelShape,
    lora: LoraConfig,
    trainable: int,
    *,
    backend: str,
    kind: str,
    precision: Precision,
    use_4bit: bool,
    row_length: int,
    segment: int,
    rows_per_pass: int,
    gradient_checkpointing: bool,
    whole: bool = False,
    beside_sums: int = 0,
    divided_by: int = 1,
) -> MemoryEstimate:
    """Memory of a training step, in one process.

    Args:
        kind: of the device, see ``backend.Device``.
        segment: tokens of the conversation or piece within which a token attends (``attended``).
        trainable: parameters that are trained: each has a float32 value, its gradient and AdamW's
            two moments.
        rows_per_pass: packed rows that go through the model at once.
        whole: every weight is trained, so none is frozen beside the trained ones; and when a state
            is saved, the process's copies of weights and moments are as large as these.
        beside_sums: bytes of frozen weights beside their sums with adapters (``merging``).
        divided_by: processes among which the blocks are divided. Each holds its part of them, and
            two blocks whole: the one that is computed, and the next, which is gathered meanwhile.
            The embedding and output matrices stay whole. (A model that is converted to another
            type while it is loaded is in the machine's memory once a process; not in a GPU's.)
    """
    width = BYTES[precision]
    head = shape.vocab_size * shape.hidden_size
    embeddings = head * (1 if shape.tied else 2)
    linears = shape.parameter_count - embeddings
    weights = embeddings * width + linears * (NF4_BYTES if use_4bit else width)
    if divided_by > 1:
        share = min(1.0, 1 / divided_by + 2 / shape.layers)
        weights = width * (embeddings + linears * share)
    if shape.quantization is not None:
        weights = shape.bytes_on_disk
    if whole:
        weights = 0
    weights += beside_sums
    positions = row_length * rows_per_pass
    per_block = width * _activation_floats(shape, lora, backend, segment)
    if backend == "torch" and width < 4 and (lora.dora or lora.dropout):
        per_block += 4 * _adapted_inputs(shape)
    if lora.dora:
        per_block += _dora_bytes(shape, backend, width)
        weights += _dora_weights(shape, backend, width, linears, use_4bit, gradient_checkpointing)
    kept = shape.layers * (width * shape.hidden_size if gradient_checkpointing else per_block)
    working = per_block if gradient_checkpointing else 0
    activations = int(positions * (kept + working))
    return MemoryEstimate(
        weights=int(weights) + _unconverted(shape, backend, width),
        trainable=(28 if whole and kind == "cpu" else 16) * trainable,
        activations=activations,
        logits=3 * LOGITS_CHUNK,
        heap_holes=int(HEAP_HOLES * activations) if (backend, kind) == ("torch", "cpu") else 0,
        overhead=OVERHEAD[backend],
    )


def _unconverted(shape: ModelShape, backend: str, width: int) -> int:
    """What MLX keeps of the largest matrix in the file's own type after it was converted to a wider
    one: so much more was measured, with every shape of ``benchmarks.memory``."""
    on_file = shape.bytes_on_disk / shape.parameter_count
    wider = backend == "mlx" and shape.quantization is None and width > 1.5 * on_file
    return int(shape.vocab_size * shape.hidden_size * on_file) if wider else 0


def _adapted_inputs(shape: ModelShape) -> int:
    """Numbers that a position feeds into one block's linear layers; PEFT's own layers, which serve
    DoRA and dropout, keep each of them in float32 beside 16-bit weights."""
    query = shape.heads * shape.head_dim
    return 5 * shape.hidden_size + query + shape.intermediate_size


def _dora_bytes(shape: ModelShape, backend: str, width: int) -> int:
    """What a position leaves behind in one block for the gradient of DoRA's magnitudes: what they
    are multiplied with. mlx-lm multiplies the sum, PEFT the base's and the adapter's part, the
    latter in float32."""
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    outputs = query + 2 * key + 2 * shape.hidden_size + 2 * shape.intermediate_size
    return outputs * (width if backend == "mlx" else width + 4)


def _dora_weights(
    shape: ModelShape,
    backend: str,
    width: int,
    linears: int,
    use_4bit: bool,
    gradient_checkpointing: bool,
) -> int:
    """Copies of weights that DoRA makes: of the largest layer, to measure its rows; and mlx-lm
    keeps what it took out of 4 bits for the backward pass."""
    inner, hidden = shape.intermediate_size, shape.hidden_size
    if backend == "torch":
        return 4 * (inner * inner + 4 * inner * hidden)  # PEFT multiplies with an identity
    kept = linears // (shape.layers if gradient_checkpointing else 1) if use_4bit else 0
    return 4 * 3 * inner * hidden + width * kept


def _activation_floats(shape: ModelShape, lora: LoraConfig, backend: str, segment: int) -> int:
    """Numbers that one position leaves behind in one block for the backward pass: the residual
    stream and what is normalised of it, twice; query, key, value and the result of attention; the
    MLP's two halves and their product; the adapters' inner products. MLX's norms and activation
    keep more, and attention its scores, which PyTorch's kernel makes again."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    if backend == "torch":
        return 4 * hidden + 3 * query + 2 * key + 3 * inner + 7 * lora.r
    norms = 2 * 3 * hidden
    attention = 3 * query + 4 * key + 2 * hidden + shape.heads * segment
    mlp = 4 * inner + hidden
    return norms + attention + mlp + 7 * lora.r
