"""The plan of a training run, as frozen dataclasses whose values are checked.

``run.toml`` in a run directory is such a plan with every choice made, so that it says all that
is needed to do the run again (``plan_files`` writes and reads it).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from speakeasy.errors import UsageError

BackendName = Literal["auto", "mlx", "torch"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Schedule = Literal["constant", "linear", "cosine"]
Pretrained = Literal["rows", "rows+lora", "full"]


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
        dora: train the length of each row of an adapted weight apart from its direction
            (https://arxiv.org/abs/2402.09353).
    """

    r: int = 64
    alpha: float = 16.0
    dropout: float = 0.0
    rslora: bool = False
    targets: str = "all-linear"
    dora: bool = False

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
        rows_rate: the rate of trained embedding rows, as a multiple of the learning rate.
    """

    learning_rate: float = 1e-3
    schedule: Schedule = "cosine"
    warmup_ratio: float = 0.05
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    rows_rate: float = 4.0

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"--learning-rate {self.learning_rate}: expected a number above 0")
        if not 0 <= self.warmup_ratio <= 1:
            raise UsageError(f"--warmup-ratio {self.warmup_ratio}: expected a share from 0 to 1")
        if not 0 < self.rows_rate < math.inf:
            raise UsageError(f"--rows-rate {self.rows_rate}: expected a number above 0")
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
class CorpusConfig:
    """Raw text to learn, and text that keeps the model from forgetting.

    Attributes:
        paths: files or directories of text; empty for the packaged texts.
        evaluation: the same, held out; empty for a seeded share of ``paths``.
        replay: neutral text that is mixed in; empty for the packaged texts in plain Spanish. A
            seeded share of it is held out, too: what it loses is what the model forgets.
        replay_share: share of the training tokens that come from ``replay``; 0 for none.
        max_length: tokens of a row. Documents are cut to it, and not shortened.
        holdout: share of documents held out.
    """

    paths: tuple[str, ...] = ()
    evaluation: tuple[str, ...] = ()
    replay: tuple[str, ...] = ()
    replay_share: float = 0.2
    max_length: int = 1024
    holdout: float = 0.05

    def __post_init__(self) -> None:
        _at_least("--max-length", self.max_length, 16, "a row's length")
        if not 0 < self.holdout < 1:
            raise UsageError(f"--holdout {self.holdout}: expected a share between 0 and 1")
        if not 0 <= self.replay_share < 1:
            raise UsageError(f"--replay {self.replay_share}: expected a share from 0 up to 1")


@dataclass(frozen=True, slots=True)
class JobConfig:
    """What every training job has, whatever it learns from.

    Attributes:
        model: ``starter``, a directory in Hugging Face format, or a name on the Hub.
        use_4bit: hold the frozen base in 4 bits (NF4 through bitsandbytes; MLX's affine 4 bits).
        fsdp: divide the frozen blocks among the processes (torch), for models that do not fit.
        gradient_checkpointing: recompute activations in the backward pass; None lets the
            pre-flight decide by memory (torch) or leaves it off (MLX).
        compile: have torch.compile make programs of the decoder's blocks; torch alone.
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
    fsdp: bool = False
    gradient_checkpointing: bool | None = None
    compile: bool = False
    num_epochs: int = 3
    max_steps: int = 0
    batch_size: int = 4
    grad_accumulation: int = 1
    eval_every: int = 0
    save_every: int = 25
    patience: int = 0
    seed: int = 0
    report_to: tuple[str, ...] = ()
    lora: LoraConfig = field(default_factory=LoraConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        for name in ("num_epochs", "batch_size", "grad_accumulation", "save_every"):
            _at_least("--" + name.replace("_", "-"), getattr(self, name), 1, "the number")
        for name in ("max_steps", "eval_every", "patience", "seed"):
            _at_least("--" + name.replace("_", "-"), getattr(self, name), 0, "the number")
        if self.seed >= 1 << 32:
            raise UsageError(f"--seed {self.seed}: expected a number below 2**32")
        if self.fsdp and self.use_4bit:
            raise UsageError(
                "--fsdp: a base in 4 bits (--use-4bit) cannot be divided; leave one of them out"
            )

    @property
    def rows_per_step(self) -> int:
        """Packed rows that one optimizer step sees."""
        return self.batch_size * self.grad_accumulation

    @property
    def row_length(self) -> int:
        """Tokens of a packed row."""
        raise NotImplementedError

    @property
    def trains_lora(self) -> bool:
        """Whether an adapter is trained."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class TrainConfig(JobConfig):
    """LoRA on conversations.

    Attributes:
        train_rows: ``auto`` trains, beside the adapter, the embedding rows of chat tokens that
            the base has never seen; ``new`` those of a vocabulary's added entries, too.
    """

    train_rows: Literal["auto", "new"] = "auto"
    data: DataConfig = field(default_factory=DataConfig)

    @property
    def row_length(self) -> int:
        """Tokens of a packed row."""
        return self.data.max_length

    @property
    def trains_lora(self) -> bool:
        """Always."""
        return True


@dataclass(frozen=True, slots=True)
class PretrainConfig(JobConfig):
    """Continued pre-training on raw text.

    Attributes:
        train: ``rows`` (those of a vocabulary's added entries), ``rows+lora`` (an adapter too,
            merged at the end), or ``full`` (every weight).
        fit_rows: tokens of text on which rows of added entries that were never trained are fitted
            to the base's own predictions first (``training.fit_rows``); 0 leaves them as they are.
    """

    num_epochs: int = 1
    train: Pretrained = "rows+lora"
    fit_rows: int = 40_000
    corpus: CorpusConfig = field(default_factory=CorpusConfig)

    def __post_init__(self) -> None:
        JobConfig.__post_init__(self)
        _at_least("--fit-rows", self.fit_rows, 0, "the number")
        if self.train == "full" and self.use_4bit:
            raise UsageError("--use-4bit: --train full changes every weight; leave one of them out")
        if self.train == "full" and self.fsdp:
            raise UsageError(
                "--fsdp: divides frozen weights, and --train full freezes none; leave one of them "
                "out"
            )
        if self.train == "full" and self.precision not in ("auto", "float32"):
            raise UsageError(
                f"--precision {self.precision}: --train full keeps the weights in float32; leave "
                "it out"
            )

    @property
    def row_length(self) -> int:
        """Tokens of a packed row."""
        return self.corpus.max_length

    @property
    def trains_lora(self) -> bool:
        """Whether an adapter is trained."""
        return self.train == "rows+lora"
