"""The plan of a training run: frozen dataclasses, to TOML and back without loss.

``run.toml`` in a run directory is such a plan with every choice made, so that it says all that
is needed to do the run again.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from speakeasy.errors import RunError, UsageError

BackendName = Literal["auto", "mlx", "torch"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Schedule = Literal["constant", "linear", "cosine"]
T = TypeVar("T")


def _at_least(option: str, value: float, least: float, what: str) -> None:
    if not value >= least or math.isinf(value):
        raise UsageError(f"{option} {value}: {what} must be at least {least}")


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """Shape and scale of the adapter (Hu et al. 2021, https://arxiv.org/abs/2106.09685).

    Attributes:
        r: rank of the two factors.
        alpha: the update is scaled by alpha / r (alpha / sqrt(r) with ``rslora``).
        dropout: probability with which an input of the adapter is zeroed in training.
        rslora: rank-stabilised scale (https://arxiv.org/abs/2312.03732).
        targets: ``all-linear``, ``attention``, ``mlp``, or names of layers with commas between.
    """

    r: int = 64
    alpha: float = 16.0
    dropout: float = 0.0
    rslora: bool = False
    targets: str = "all-linear"

    def __post_init__(self) -> None:
        _at_least("--lora-r", self.r, 1, "rank")
        if not 0 < self.alpha < math.inf:
            raise UsageError(f"--lora-alpha {self.alpha}: alpha must be above 0")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"--lora-dropout {self.dropout}: expected a share from 0 up to 1")

    @property
    def scale(self) -> float:
        """The factor that the low-rank update is multiplied with."""
        return self.alpha / (math.sqrt(self.r) if self.rslora else self.r)


@dataclass(frozen=True, slots=True)
class OptimizerConfig:
    """AdamW with bias correction (https://arxiv.org/abs/1711.05101), the same on both backends.

    Attributes:
        learning_rate: the peak, reached after warm-up.
        schedule: what follows the warm-up: ``constant``, or ``linear`` or ``cosine`` to zero.
        warmup_ratio: share of all steps in which the rate rises linearly to its peak.
        max_grad_norm: gradients are scaled down to this global L2 norm; 0 leaves them alone.
    """

    learning_rate: float = 1e-3
    schedule: Schedule = "cosine"
    warmup_ratio: float = 0.05
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"--learning-rate {self.learning_rate}: expected a number above 0")
        if not 0 <= self.warmup_ratio <= 1:
            raise UsageError(f"--warmup-ratio {self.warmup_ratio}: expected a share from 0 to 1")
        _at_least("--max-grad-norm", self.max_grad_norm, 0, "the norm")
        _at_least("--weight-decay", self.weight_decay, 0, "weight decay")


@dataclass(frozen=True, slots=True)
class DataConfig:
    """What is learned and what is held out.

    Attributes:
        train: files or directories of conversations; empty for the packaged starter data.
        evaluation: the same, held out; empty for a seeded share of ``train``.
        format: name of the reader, or ``auto``.
        max_length: tokens of a packed row, and so of the longest conversation.
        max_train: take only the first so many conversations of a seeded order; 0 for all.
        max_eval: the same for the held-out set.
        holdout: share held out of ``train`` where ``evaluation`` is empty.
    """

    train: tuple[str, ...] = ()
    evaluation: tuple[str, ...] = ()
    format: str = "auto"
    max_length: int = 1024
    max_train: int = 0
    max_eval: int = 0
    holdout: float = 0.05

    def __post_init__(self) -> None:
        _at_least("--max-length", self.max_length, 16, "a row's length")
        _at_least("--max-train", self.max_train, 0, "the number")
        _at_least("--max-eval", self.max_eval, 0, "the number")
        if not 0 < self.holdout < 1:
            raise UsageError(f"--holdout {self.holdout}: expected a share between 0 and 1")


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """A whole training run.

    Attributes:
        model: ``starter``, a directory in Hugging Face format, or a name on the Hub.
        use_4bit: hold the frozen base in 4 bits (NF4 through bitsandbytes; MLX's affine 4 bits).
        gradient_checkpointing: recompute activations in the backward pass; None lets the
            pre-flight decide by memory (torch) or leaves it off (MLX).
        num_epochs: passes over the data, where ``max_steps`` is 0.
        max_steps: optimizer steps; 0 to go by epochs.
        batch_size: packed rows of a step (times ``grad_accumulation``).
        eval_every: steps between evaluations; 0 for the end of each epoch and of the run.
        save_every: steps between saved states.
        patience: stop after so many evaluations without a new best; 0 never.
    """

    model: str = "starter"
    backend: BackendName = "auto"
    precision: Precision = "auto"
    use_4bit: bool = False
    gradient_checkpointing: bool | None = None
    num_epochs: int = 3
    max_steps: int = 0
    batch_size: int = 4
    grad_accumulation: int = 1
    eval_every: int = 0
    save_every: int = 25
    patience: int = 0
    seed: int = 0
    report_to: tuple[str, ...] = ()
    data: DataConfig = field(default_factory=DataConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        for name in ("num_epochs", "batch_size", "grad_accumulation", "save_every"):
            _at_least("--" + name.replace("_", "-"), getattr(self, name), 1, "the number")
        for name in ("max_steps", "eval_every", "patience", "seed"):
            _at_least("--" + name.replace("_", "-"), getattr(self, name), 0, "the number")
        if self.seed >= 1 << 32:
            raise UsageError(f"--seed {self.seed}: expected a number below 2**32")

    @property
    def rows_per_step(self) -> int:
        """Packed rows that one optimizer step sees."""
        return self.batch_size * self.grad_accumulation


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain values in TOML's types: tuples become lists, None is left out."""
    out: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            out[item.name] = to_dict(value)
        elif value is not None:
            out[item.name] = list(value) if isinstance(value, tuple) else value
    return out


def from_dict(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """The dataclass ``kind`` from nested plain values.

    Args:
        where: file that the values come from, for messages.

    Raises:
        RunError: an unknown key, or a value of the wrong type.
        UsageError: a value out of range.
    """
    hints = get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise RunError(f"{where}: unknown key {unknown[0]!r}; expected one of {sorted(hints)}")
    arguments = {}
    for name, value in values.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise RunError(f"{where}: {name} = {value!r}: expected a table")
            arguments[name] = from_dict(hint, value, f"{where}: [{name}]")  # type: ignore[arg-type]
        else:
            arguments[name] = _convert(value, hint, f"{where}: {name}")
    return kind(**arguments)


def _convert(value: Any, hint: Any, where: str) -> Any:
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise RunError(f"{where} = {value!r}: expected one of {list(get_args(hint))}")
        return value
    if get_origin(hint) is tuple:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise RunError(f"{where} = {value!r}: expected a list of strings")
        return tuple(value)
    kinds = get_args(hint) or (hint,)
    if float in kinds and type(value) is int:
        return float(value)
    if type(value) not in kinds:
        names = " or ".join(kind.__name__ for kind in kinds if kind is not type(None))
        raise RunError(f"{where} = {value!r}: expected {names}")
    return value


def dump(config: Any) -> str:
    """The plan as TOML text."""
    import tomli_w

    return tomli_w.dumps(to_dict(config))


def load(kind: type[T], path: Path) -> T:
    """Read a plan that ``dump`` wrote.

    Raises:
        RunError: the file is missing, is no TOML, or has a wrong key or value.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path}: not found; is {path.parent} a run directory?") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: not a TOML file ({error})") from None
    return from_dict(kind, values, str(path))
