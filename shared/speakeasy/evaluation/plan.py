"""What is to be evaluated, on what, and how: in TOML's types, so that a recipe can hold it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from speakeasy.config import BackendName, Precision
from speakeasy.errors import UsageError
from speakeasy.training.backend import Sampling
from speakeasy.training.inference import Speaker

PACKAGED = "packaged"
"""The prompts that come with the package."""
ANSWER_TOKENS = 128
"""Longest answer of an evaluation, in tokens."""


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """One evaluation.

    Attributes:
        model: as for ``resolve_model``; None for the run's or the adapter's base, or ``starter``.
        adapter: directory of an adapter in PEFT's or mlx-lm's format, or of a run.
        run: directory of a run; of pre-training, its model is evaluated.
        name: what people are to call it; empty for the run's or the model's directory name.
        like: directory of an evaluation whose sets, prompts, sampling and lexicon are taken over,
            so that the two can be compared; what else is given here for these is then refused.
        eval_files: files of conversations; empty for those that the run held out.
        texts: regional text; empty for what pre-training holds out of its text.
        neutral_es, neutral_ca: plain Spanish and Catalan; empty for the packaged texts.
        max_items: take only so many items of each set, chosen by a fixed seed; 0 for all.
        prompts: a file that ``dialect.prompts`` reads, or ``packaged``.
        limit: only the first so many prompts; 0 for all.
        samples: answers to each prompt; each has a seed of its own.
        lexicon: a file in the form of the packaged one; None for that.
        batch_size: answers at a time.
        report_to: trackers that get the figures.
    """

    model: str | None = None
    adapter: str | None = None
    run: str | None = None
    backend: BackendName = "auto"
    precision: Precision = "auto"
    use_4bit: bool = False
    name: str = ""
    like: str | None = None
    eval_files: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    neutral_es: tuple[str, ...] = ()
    neutral_ca: tuple[str, ...] = ()
    max_items: int = 0
    prompts: str = PACKAGED
    limit: int = 0
    samples: int = 2
    sampling: Sampling = field(default_factory=lambda: Sampling(max_tokens=ANSWER_TOKENS))
    lexicon: str | None = None
    batch_size: int = 32
    report_to: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for option, value, least in (
            ("--max-items", self.max_items, 0),
            ("--limit", self.limit, 0),
            ("--samples", self.samples, 1),
            ("--batch-size", self.batch_size, 1),
        ):
            if value < least:
                raise UsageError(f"{option} {value}: the number must be at least {least}")
        if self.samples > 1 and self.sampling.temperature == 0:
            raise UsageError(
                f"--samples {self.samples}: --temperature 0 gives the same answer every time; "
                "leave one of them out"
            )

    @property
    def speaker(self) -> Speaker:
        """Which model is to speak."""
        return Speaker(
            model=self.model,
            adapter=_path(self.adapter),
            run=_path(self.run),
            backend=self.backend,
            precision=self.precision,
            use_4bit=self.use_4bit,
        )


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name)
