"""What is checked before the first step: does the plan fit, and how is it to be run?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from speakeasy.config import JobConfig, PretrainConfig, TrainConfig
from speakeasy.errors import DoesNotFitError
from speakeasy.training.backend import Device
from speakeasy.training.memory import MemoryEstimate, estimate
from speakeasy.training.merging import bytes_beside
from speakeasy.weights.checkpoint import ModelShape


@dataclass(frozen=True, slots=True)
class Placement:
    """How a plan is laid into memory; the gradients are the same in every one.

    Attributes:
        rows_per_pass: packed rows that go through the model at once.
        gradient_checkpointing: whether activations are recomputed in the backward pass.
        estimate: what a step then needs.
    """

    rows_per_pass: int
    gradient_checkpointing: bool
    estimate: MemoryEstimate


def place(
    config: JobConfig,
    shape: ModelShape,
    trainable: int,
    backend: str,
    device: Device,
    *,
    segment: int | None = None,
    processes: int = 1,
    force: bool = False,
) -> Placement:
    """The fastest placement that fits: many rows at once on a GPU, one on a CPU (where more
    gain nothing), activations recomputed only if they must be.

    Args:
        config: with precision resolved.
        segment: tokens of the conversation or piece within which a token attends, in the mean over
            tokens; None for the worst, a whole row.
        processes: that train together; a plan may divide the model among them.
        force: take the leanest placement even if it does not fit.

    Raises:
        DoesNotFitError: none fits; says what would.
    """

    def estimated(config: JobConfig, rows: int, checkpointing: bool) -> MemoryEstimate:
        return estimate(
            shape,
            config.lora,
            trainable,
            backend=backend,
            kind=device.kind,
            precision=config.precision,
            use_4bit=config.use_4bit or shape.quantization is not None,
            row_length=config.row_length,
            segment=min(segment or config.row_length, config.row_length),
            rows_per_pass=rows,
            gradient_checkpointing=checkpointing,
            whole=_whole(config),
            beside_sums=bytes_beside(shape, config),
            divided_by=processes if config.fsdp else 1,
        )

    leanest = None
    for rows, checkpointing in _candidates(config, backend, device):
        needed = estimated(config, rows, checkpointing)
        leanest = Placement(rows, checkpointing, needed)
        if needed.total <= device.memory:
            return leanest
    assert leanest is not None
    if force:
        return leanest
    advice = "take a smaller model, or free memory; --force tries all the same"
    for options, changed in _changes(config, can_divide=backend == "torch" and processes > 1):
        if estimated(changed, 1, bool(changed.gradient_checkpointing)).total <= device.memory:
            advice = f"it would fit with {options}"
            break
    raise DoesNotFitError(
        f"training needs about {gigabytes(leanest.estimate.total)} and {device.name} has "
        f"{gigabytes(device.memory)} free; {advice}"
    )


def gigabytes(count: float) -> str:
    """Bytes as people say them."""
    return f"{count / 1e9:.1f} GB"


def _candidates(config: JobConfig, backend: str, device: Device) -> Iterator[tuple[int, bool]]:
    """Rows a pass and checkpointing, from the fastest to the leanest.

    Fewer rows at a time cost little, recomputing costs a third: so rows give way first.
    """
    choice = config.gradient_checkpointing
    allowed = [choice] if choice is not None else [False] if backend == "mlx" else [False, True]
    for checkpointing in allowed:
        rows = 1 if device.kind == "cpu" else config.batch_size
        yield rows, checkpointing
        while rows > 1:
            rows = (rows + 1) // 2
            yield rows, checkpointing


def _changes(config: JobConfig, *, can_divide: bool) -> Iterator[tuple[str, JobConfig]]:
    """Changes that may make a plan fit, those first that cost least.

    Args:
        can_divide: there are processes among which the model can be divided.
    """
    leanest = "--gradient-checkpointing", replace(config, gradient_checkpointing=True)
    yield leanest
    if not _whole(config):
        if can_divide and not config.fsdp and not config.use_4bit:
            yield "--fsdp", replace(config, fsdp=True)
            yield f"--fsdp {leanest[0]}", replace(leanest[1], fsdp=True)
        if not config.fsdp:
            yield "--use-4bit", replace(config, use_4bit=True)
            leanest = f"--use-4bit {leanest[0]}", replace(leanest[1], use_4bit=True)
            yield leanest
    for length in (512, 256):
        if length < config.row_length:
            yield f"{leanest[0]} --max-length {length}", _shorter(leanest[1], length)


def _shorter(config: JobConfig, length: int) -> JobConfig:
    if isinstance(config, TrainConfig):
        return replace(config, data=replace(config.data, max_length=length))
    assert isinstance(config, PretrainConfig)
    return replace(config, corpus=replace(config.corpus, max_length=length))


def _whole(config: JobConfig) -> bool:
    """Whether every weight of the model is trained."""
    return isinstance(config, PretrainConfig) and config.train == "full"
