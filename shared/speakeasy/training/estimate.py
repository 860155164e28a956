"""What a job will take before it is begun: memory, time and disk.

Memory is ``training.memory``'s estimate. Time is counted arithmetic over a rate that is measured
here, so it holds for the machine that it is asked on, within a factor of two. Nothing is loaded:
a plan can be costed for a model that a stage before it will make.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from speakeasy.config import JobConfig, Precision, PretrainConfig, TrainConfig
from speakeasy.training import state
from speakeasy.training.backend import Device
from speakeasy.training.memory import MemoryEstimate
from speakeasy.training.merging import kept_as_sums
from speakeasy.training.planning import trainable_parameters
from speakeasy.training.preflight import Placement, place
from speakeasy.weights.adapters import block_layers, select_layers
from speakeasy.weights.checkpoint import ModelShape

EFFICIENCY = {"cpu": 0.45, "cuda": 0.4, "metal": 0.4}
"""Share of a plain matrix product's rate that a step reaches: the rest goes into norms,
activations, rotary embeddings, small products and moving memory. On two CPU cores the starter model
reached 0.4 to 0.85 with PyTorch and 0.5 to 0.85 with MLX; the GPUs' figures are not measured."""
BYTES_PER_TOKEN = 2.9
"""UTF-8 bytes of Spanish and Catalan text that a token stands for, where no tokenizer is at hand:
2.6 with SmolLM2's, 3.2 with Llama 3's."""
UNCERTAINTY = "within a factor of two"


@dataclass(frozen=True, slots=True)
class Reading:
    """How much a job reads in one epoch.

    Attributes:
        train_tokens: learned from.
        eval_tokens: held out, and read at each evaluation.
        target_share: share of the tokens that are scored; 1 for raw text.
        segment_tokens: length of the conversation or piece within which a token attends
            (``memory.attended``).
    """

    train_tokens: int
    eval_tokens: int
    target_share: float = 1.0
    segment_tokens: int = 1024

    @classmethod
    def of_bytes(
        cls,
        count: int,
        *,
        bytes_per_token: float = BYTES_PER_TOKEN,
        holdout: float = 0.05,
        target_share: float = 1.0,
        segment_tokens: int = 1024,
    ) -> Reading:
        """From the UTF-8 bytes of the text, of which a share is held out."""
        tokens = count / bytes_per_token
        held_out = round(tokens * holdout)
        return cls(round(tokens) - held_out, held_out, target_share, segment_tokens)


@dataclass(frozen=True, slots=True)
class JobEstimate:
    """What a job takes.

    Attributes:
        precision: of the base and of the activations, never ``auto``.
        placement: how it is laid into memory.
        fits: whether that memory is there.
        seconds: of steps and evaluations; loading and writing come on top.
        disk_bytes: what the run directory holds at its largest.
        trainable: parameters that are trained.
        how: the figures behind ``seconds`` and their uncertainty, in a line.
    """

    precision: Precision
    placement: Placement
    fits: bool
    seconds: float
    disk_bytes: int
    trainable: int
    how: str

    @property
    def memory(self) -> MemoryEstimate:
        """What a step holds at once."""
        return self.placement.estimate


def estimate_job(
    config: JobConfig,
    shape: ModelShape,
    device: Device,
    *,
    backend: str,
    reading: Reading,
    rate: float,
    added_rows: int = 0,
) -> JobEstimate:
    """What a job would take on a device.

    Args:
        config: the plan; its data is not read, and its precision may be ``auto``.
        shape: of the model; of one whose vocabulary is still to be expanded, the base's with the
            larger ``vocab_size`` (``with_rows``).
        backend: its name.
        rate: floating-point operations a second of a matrix product at the plan's precision, as
            ``Backend.matmul_rate`` measures them.
        added_rows: vocabulary entries whose rows are trained.

    Raises:
        UsageError: ``--lora-targets`` names no layer.
    """
    config = replace(config, precision=_precision(config, device))
    trainable = _trainable(config, shape, added_rows)
    placement = place(
        config, shape, trainable, backend, device, segment=reading.segment_tokens, force=True
    )
    learned, read = _tokens(config, reading)
    recomputed = placement.gradient_checkpointing
    flops = learned * step_flops(config, shape, reading, recomputed=recomputed)
    flops += read * forward_flops(config, shape, reading)
    efficiency = EFFICIENCY[device.kind]
    return JobEstimate(
        precision=config.precision,
        placement=placement,
        fits=placement.estimate.total <= device.memory,
        seconds=flops / (rate * efficiency),
        disk_bytes=_disk(config, shape, trainable),
        trainable=trainable,
        how=(
            f"{flops / 1e12:,.1f} TFLOP ({learned:,} tokens learned, {read:,} scored) at "
            f"{efficiency:.0%} of {rate / 1e9:,.0f} GFLOP/s measured in {config.precision}; "
            f"{UNCERTAINTY}" + ("; taking weights out of 4 bits not counted" * config.use_4bit)
        ),
    )


def with_rows(shape: ModelShape, added: int) -> ModelShape:
    """The shape of a model after its vocabulary was expanded by ``added`` entries."""
    elements = added * shape.hidden_size * (1 if shape.tied else 2)
    width = shape.bytes_on_disk / shape.parameter_count
    return replace(
        shape,
        vocab_size=shape.vocab_size + added,
        parameter_count=shape.parameter_count + elements,
        bytes_on_disk=shape.bytes_on_disk + round(elements * width),
    )


def forward_flops(config: JobConfig, shape: ModelShape, reading: Reading) -> float:
    """Operations that scoring one token takes.

    2 for each weight that a token is multiplied with (Kaplan et al. 2020,
    https://arxiv.org/abs/2001.08361, table 1), the output matrix and the last block's feed-forward
    part at scored tokens alone, an adapter not where it is part of a sum (``merging``); and
    4 x width x context for attention in each block, where the mean context of a causal segment
    is half its length.
    """
    products = 2 * _weights(shape, reading) + 2 * _added_adapter(config, shape, reading)
    return products + _attention(shape, reading) + _head(shape, reading)


def step_flops(
    config: JobConfig, shape: ModelShape, reading: Reading, *, recomputed: bool
) -> float:
    """Operations that learning from one token takes.

    The backward pass costs twice the forward pass, once for the gradient in the inputs and once
    for that in the weights (Hoffmann et al. 2022, https://arxiv.org/abs/2203.15556, appendix F);
    frozen weights need the first alone. Attention has no weights, and its backward pass costs
    twice the forward all the same. Recomputed activations cost the blocks' forward pass again.
    """
    weights, adapter = _weights(shape, reading), _adapter(config, shape, reading)
    attention = _attention(shape, reading)
    blocks = 2 * weights + 2 * _added_adapter(config, shape, reading) + attention
    whole = isinstance(config, PretrainConfig) and config.train == "full"
    backward = (4 if whole else 2) * weights + 4 * adapter + 2 * attention
    head = (3 if whole else 2) * _head(shape, reading)
    return blocks * (2 if recomputed else 1) + backward + head


def _weights(shape: ModelShape, reading: Reading) -> float:
    return sum(
        out * into * _share(name, shape, reading)
        for name, (out, into) in block_layers(shape).items()
    )


def _adapter(config: JobConfig, shape: ModelShape, reading: Reading) -> float:
    if not config.trains_lora:
        return 0.0
    return _factors(config, select_layers(block_layers(shape), config.lora.targets), shape, reading)


def _added_adapter(config: JobConfig, shape: ModelShape, reading: Reading) -> float:
    """The part of it that is added at every token instead of to the weights. The backward pass is
    as long for both: a sum saves a product in the inputs' gradient and has yet to make ``A x``."""
    summed = _factors(config, kept_as_sums(shape, config), shape, reading)
    return _adapter(config, shape, reading) - summed


def _factors(
    config: JobConfig, layers: Mapping[str, tuple[int, int]], shape: ModelShape, reading: Reading
) -> float:
    return sum(
        (out + into) * config.lora.r * _share(name, shape, reading)
        for name, (out, into) in layers.items()
    )


def _share(layer: str, shape: ModelShape, reading: Reading) -> float:
    """Of the tokens that pass a layer: after the last attention, those that are scored."""
    last = layer.startswith(f"model.layers.{shape.layers - 1}.mlp.")
    return reading.target_share if last else 1.0


def _attention(shape: ModelShape, reading: Reading) -> float:
    return 4 * shape.layers * shape.heads * shape.head_dim * reading.segment_tokens / 2


def _head(shape: ModelShape, reading: Reading) -> float:
    return 2 * shape.vocab_size * shape.hidden_size * reading.target_share


def _precision(config: JobConfig, device: Device) -> Precision:
    if config.precision != "auto":
        return config.precision
    whole = isinstance(config, PretrainConfig) and config.train == "full"
    return "float32" if whole else device.precision


def _trainable(config: JobConfig, shape: ModelShape, added_rows: int) -> int:
    assert isinstance(config, TrainConfig | PretrainConfig)
    layers = select_layers(block_layers(shape), config.lora.targets) if config.trains_lora else {}
    rows = added_rows * shape.hidden_size * (1 if shape.tied else 2)
    if isinstance(config, PretrainConfig) and config.train == "full":
        rows = 0
    return trainable_parameters(config, shape, layers, None) + rows


def _tokens(config: JobConfig, reading: Reading) -> tuple[int, int]:
    """Tokens that are learned from, and that are scored, in the whole job."""
    per_step = config.rows_per_step * config.row_length
    learned = reading.train_tokens * config.num_epochs
    if config.max_steps:
        learned = config.max_steps * per_step
    every = config.eval_every * per_step or max(reading.train_tokens, 1)
    evaluations = 1 + max(1, round(learned / every))
    fitted = config.fit_rows if isinstance(config, PretrainConfig) else 0
    return learned, evaluations * reading.eval_tokens + fitted


def _disk(config: JobConfig, shape: ModelShape, trainable: int) -> int:
    """The newest states, the best, and one that is being written, each of weights and two
    moments in float32; and the adapter, or the model that pre-training writes."""
    states = (state.KEPT + 2) * 12 * trainable
    return states + (shape.bytes_on_disk if isinstance(config, PretrainConfig) else 4 * trainable)
