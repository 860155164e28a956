"""What a stage of each kind is planned with: the content of its ``[stage.plan]``.

``train`` and ``pretrain`` have the plans of runs (``config``), ``evaluate`` that of an evaluation
(``evaluation.plan``); the other kinds have theirs here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from speakeasy.config import PretrainConfig, TrainConfig
from speakeasy.errors import UsageError
from speakeasy.evaluation.plan import EvaluationPlan
from speakeasy.rating.wish import Wish
from speakeasy.vocab.expand import Mode
from speakeasy.weights.rows import Init

Lexicon = Literal["guide", "full"]
PACKAGED_LEXICONS: tuple[str, ...] = get_args(Lexicon)


@dataclass(frozen=True, slots=True)
class ExpandPlan:
    """Words that get an entry in the vocabulary each.

    Attributes:
        model: as for ``resolve_model``.
        words: a file of words (``vocab.words``); None for those of ``lexicon``.
        lexicon: ``guide``, ``full`` (all of the packaged one), or a lexicon's file.
        categories: only words of these; empty for all.
        suggest: instead of any words, the so many forms that save most tokens on ``corpus``.
        corpus: files or directories of text and conversations. With ``suggest`` they are searched,
            and empty stands for what is packaged; else the forms of the words that occur in them
            get entries, too.
        phrases: entries of several words as well.
        init: how new rows begin.
        mode: how the tokenizer reaches new entries.
        allow_collateral: so many other texts may be encoded differently.
    """

    model: str = "starter"
    words: str | None = None
    lexicon: str = "guide"
    categories: tuple[str, ...] = ()
    suggest: int = 0
    corpus: tuple[str, ...] = ()
    phrases: bool = False
    init: Init = "subword"
    mode: Mode = "auto"
    allow_collateral: int = 0

    def __post_init__(self) -> None:
        for name in ("suggest", "allow_collateral"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} = {getattr(self, name)}: expected 0 or more")
        if self.suggest and (self.words or self.categories or self.phrases):
            raise UsageError(
                f"suggest = {self.suggest}: finds the words itself; leave out words, categories "
                "and phrases, or suggest"
            )
        if self.words and self.categories:
            raise UsageError("categories: cannot be combined with words, which have none")


@dataclass(frozen=True, slots=True)
class ComparePlan:
    """Evaluations laid side by side.

    Attributes:
        evaluations: two or more, in the order of the table.
        base: that of the model before any training; None for none.
        report_to: trackers that get the figures.
    """

    evaluations: tuple[str, ...] = ()
    base: str | None = None
    report_to: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.evaluations) + (self.base is not None) < 2:
            raise UsageError(
                f"evaluations = {list(self.evaluations)}: expected two or more evaluations, such "
                'as "stage:NAME" of evaluate stages'
            )


@dataclass(frozen=True, slots=True)
class StudyPlan(Wish):
    """A blind study, made ready; the other attributes are those of ``rating.wish.Wish``.

    Attributes:
        evaluations: two or more.
    """

    evaluations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        Wish.__post_init__(self)
        if len(self.evaluations) < 2:
            raise UsageError(
                f"evaluations = {list(self.evaluations)}: expected two or more evaluations, such "
                'as "stage:NAME" of evaluate stages'
            )


Plan = TrainConfig | PretrainConfig | ExpandPlan | EvaluationPlan | ComparePlan | StudyPlan

PLANS: Mapping[str, type[Plan]] = {
    "expand": ExpandPlan,
    "pretrain": PretrainConfig,
    "train": TrainConfig,
    "evaluate": EvaluationPlan,
    "compare": ComparePlan,
    "study": StudyPlan,
}
"""Kind of stage -> what its plan is."""
