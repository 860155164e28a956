"""What a backend is, which ones there are, and which one runs here and why.

This is the only joint between the shared layer and the backends: they are found by name and
imported when one is chosen. Shape suffixes as in ``batches/types.py``.
"""

from __future__ import annotations

import importlib
import importlib.util
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from speakeasy.batches.types import PackedBatch
from speakeasy.config import BackendName, LoraConfig, OptimizerConfig, Precision
from speakeasy.errors import BackendError
from speakeasy.training.group import ALONE, Group
from speakeasy.training.launcher import Launched, launched
from speakeasy.training.rate import Measure, best_rate
from speakeasy.weights.trained_rows import TrainedRows

Tensors = Mapping[str, np.ndarray]
"""Canonical name -> float32 array."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """A Python package that a backend needs, and the line that installs it."""

    module: str
    install: str


REGISTRY: Mapping[str, tuple[str, tuple[Requirement, ...]]] = {
    "mlx": (
        "speakeasy_mlx.engine",
        (
            Requirement("mlx", "pip install 'speakeasy-lm[mlx]'"),
            Requirement("mlx_lm", "pip install 'speakeasy-lm[mlx]'"),
        ),
    ),
    "torch": (
        "speakeasy_torch.engine",
        (
            Requirement("torch", "pip install 'speakeasy-lm[torch]'"),
            Requirement("peft", "pip install 'speakeasy-lm[torch]'"),
        ),
    ),
}
"""Backend name -> (module of its engine, what it needs)."""


@dataclass(frozen=True, slots=True)
class Device:
    """What a backend would compute on.

    Attributes:
        kind: ``cuda``, ``metal`` or ``cpu``.
        name: as a person would say it.
        memory: bytes that a plan may use.
        precision: what ``--precision auto`` means there, and
        reason: why.
    """

    kind: str
    name: str
    memory: int
    precision: Precision
    reason: str


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What an engine is loaded with.

    Attributes:
        model: directory in Hugging Face format.
        precision: type of the frozen weights and of the activations; never ``auto``.
        compile: have torch.compile make programs of the decoder's blocks; torch alone.
        lora: shape of the adapter; None for none.
        adapter: canonical LoRA tensors to start from (float32, see ``weights.adapters``). Without
            magnitudes, DoRA starts from the rows' lengths, so that it changes nothing yet.
        rows: rows of the embedding and output matrices that have values of their own; trained
            where there is an optimizer.
        full: train every weight of the model, held in float32.
        fsdp: divide the frozen blocks among the processes of ``group`` (torch). Then all of them
            make every pass: of no rows, or of the same ones, where they have nothing else.
        optimizer: None for an engine that only evaluates and generates.
        seed: of the dropout.
        group: the processes whose gradients ``apply`` adds up.
    """

    model: Path
    precision: Precision
    use_4bit: bool = False
    gradient_checkpointing: bool = False
    compile: bool = False
    lora: LoraConfig | None = None
    adapter: Mapping[str, np.ndarray] | None = None
    rows: TrainedRows | None = None
    full: bool = False
    fsdp: bool = False
    optimizer: OptimizerConfig | None = None
    seed: int = 0
    group: Group = ALONE


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen; temperature 0 takes the likeliest.

    Attributes:
        max_tokens: longest answer, in tokens.
        top_p: sample from the likeliest tokens that together have this probability.
        top_k: sample from so many of the likeliest tokens; 0 for all.
        repetition_penalty: divides the positive logits, and multiplies the negative ones, of the
            tokens that the answer holds already (1 does nothing; Keskar et al. 2019,
            https://arxiv.org/abs/1909.05858, section 4.1).
    """

    max_tokens: int = 256
    temperature: float = 0.7
    top_p: float = 0.95
    top_k: int = 0
    repetition_penalty: float = 1.1
    seed: int = 0


class Scalar(Protocol):
    """A number that may still be on its way from the device; ``float()`` waits for it."""

    def __float__(self) -> float: ...


class Engine(Protocol):
    """The arithmetic of one run. Both backends have these and no more.

    A step is any number of ``accumulate`` calls and one ``apply``. Names and orientation of
    tensors that cross this line are canonical (``weights.adapters``, ``weights.trained_rows``; a
    model that is trained whole has its own names), their type float32.

    Attributes:
        lanes: how many rows a batch should have for each that goes through the model at once: it
            goes through in parts, side by side, that are no larger together (``batches.lanes``).
    """

    lanes: int

    def accumulate(self, batch: PackedBatch, scale: float) -> Scalar:
        """Add the gradient of ``scale`` x (sum of the batch's target losses, nats).

        Returns the sum of the target losses, not scaled. A batch may have no rows, and then adds
        nothing.
        """
        ...

    def apply(self, learning_rate: float) -> float:
        """Clip, take one AdamW step, clear the gradients; returns the norm before clipping.

        The gradient is the sum of those of all processes of the group; one that accumulated nothing
        adds zero. If the norm is not finite nothing is changed but the gradients cleared.
        """
        ...

    def discard(self) -> None:
        """Forget the gradients accumulated since the last step."""
        ...

    def token_losses(self, batch: PackedBatch) -> np.ndarray:
        """Losses_BT float32, nats; 0 where there is no target. Dropout is off.

        A batch may have no rows.
        """
        ...

    def predictions(self, batch: PackedBatch, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the model knows at each target, and how sure it is of all tokens but a few.

        Args:
            ids: tokens that are left out, (K,) int64.

        Returns:
            For the targets in row order, hidden_ND: the states that logits are made of, so that a
            token's logit is the product with its output row; and log_sums_N: log of the sum of
            exp(logit) over all tokens but ``ids``. Both float32. Dropout is off.
        """
        ...

    def next_logits(self, tokens_BT: np.ndarray) -> np.ndarray:
        """Logits_BTV float32 of whole rows without padding; for comparisons, not for training."""
        ...

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, stop: Sequence[int]
    ) -> list[list[int]]:
        """One answer a prompt, as ids without the stop token."""
        ...

    def stream(
        self, prompt: Sequence[int], sampling: Sampling, stop: Sequence[int]
    ) -> Iterator[int]:
        """The ids of one answer as they are chosen; the same as ``generate`` gives."""
        ...

    def seed_step(self, step: int) -> None:
        """Seed the dropout for a step, so that a resumed run draws what an unbroken one draws."""
        ...

    def trainables(self) -> Tensors:
        """Canonical name -> value, float32."""
        ...

    def moments(self) -> tuple[Tensors, Tensors]:
        """AdamW's first and second moments, by the same names."""
        ...

    def restore(self, trainables: Tensors, first: Tensors, second: Tensors, step: int) -> None:
        """Take over a training state; ``step`` counts the AdamW steps behind it."""
        ...

    def set_trainables(self, trainables: Tensors) -> None:
        """Put weights in place and leave the optimizer alone."""
        ...

    def device_peak_bytes(self) -> int | None:
        """High-water mark of the device's own memory; None where it is the process's."""
        ...


class Backend(Protocol):
    """What the module of an engine offers."""

    def describe_device(self) -> Device:
        """The device that an engine would run on."""
        ...

    def matmul_rate(self, precision: Precision, measure: Measure = best_rate) -> float:
        """Floating-point operations a second of a large square product, measured now."""
        ...

    def load(self, options: EngineOptions) -> Engine:
        """Load a model, put the adapter in, make the optimizer."""
        ...

    def join(self) -> Group:
        """Connect with the processes that the launcher started; called once, before all else.

        Raises:
            BackendError: they cannot be reached.
        """
        ...


@dataclass(frozen=True, slots=True)
class Selection:
    """A backend and why it was chosen."""

    name: str
    reason: str


def missing(name: str) -> list[Requirement]:
    """What a backend needs and this Python does not have."""
    return [need for need in REGISTRY[name][1] if importlib.util.find_spec(need.module) is None]


def apple_silicon() -> bool:
    """True on a Mac with Apple's own processor."""
    return platform.system() == "Darwin" and platform.machine() == "arm64"


def select(wanted: BackendName = "auto") -> Selection:
    """Choose a backend.

    Raises:
        BackendError: the one asked for, or every one, is not installed; says the line that
            installs it. Or it is not the one whose processes were started.
    """
    if (found := launched()) is not None:
        return _as_started(found, wanted)
    if wanted != "auto":
        lacking = missing(wanted)
        if lacking:
            raise BackendError(
                f"--backend {wanted}: {lacking[0].module} is not installed; "
                f"install it with: {lacking[0].install}"
            )
        return Selection(wanted, "asked for with --backend")
    order = ("mlx", "torch") if apple_silicon() else ("torch", "mlx")
    home = "Apple Silicon" if apple_silicon() else f"{platform.system()} {platform.machine()}"
    for name in order:
        if not missing(name):
            if name == order[0]:
                return Selection(name, f"{home}: {name} is the backend for this machine")
            return Selection(name, f"{order[0]} is not installed; {name} is")
    need = missing(order[0])[0]
    raise BackendError(f"no backend is installed; install one with: {need.install}")


def _as_started(found: Launched, wanted: BackendName) -> Selection:
    """The backend of the launcher: the processes of a run cannot mix."""
    if wanted not in ("auto", found.backend):
        starter = "mlx.launch" if wanted == "mlx" else "torchrun"
        raise BackendError(
            f"--backend {wanted}: {found.launcher} starts processes of {found.backend}, and the "
            f"processes of a run cannot mix; leave it out, or start with {starter}"
        )
    if lacking := missing(found.backend):
        raise BackendError(
            f"{found.launcher} started this process, and {lacking[0].module} is not installed; "
            f"install it with: {lacking[0].install}"
        )
    return Selection(found.backend, f"started by {found.launcher}")


def join() -> Group:
    """The processes that were started together; a group of one where this one is alone.

    Raises:
        BackendError: their backend is not installed, or they cannot reach each other.
    """
    found = launched()
    return ALONE if found is None else open_backend(select().name).join()


def select_again(before: BackendName, wanted: BackendName | None) -> Selection:
    """Choose a backend for a run that goes on.

    Args:
        before: the one it was on.
        wanted: what was asked for; None to stay where that is possible.

    Raises:
        BackendError: as ``select``.
    """
    if wanted is not None or launched() is not None:
        return select(wanted or "auto")
    if not missing(before):
        return Selection(before, "as until now")
    return Selection(select().name, f"{before}, which the run was on, is not installed here")


def open_backend(name: str) -> Backend:
    """Import the module of a backend's engine."""
    try:
        return importlib.import_module(REGISTRY[name][0])
    except (ImportError, OSError) as error:
        reason, install = str(error).splitlines()[0], REGISTRY[name][1][0].install
        raise BackendError(
            f"backend {name}: found, but it cannot be imported ({reason}); install it again "
            f"with: {install}"
        ) from error
