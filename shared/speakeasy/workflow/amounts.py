"""How much a stage reads, in tokens: from the bytes of the text, since no tokenizer is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from speakeasy.config import CorpusConfig, DataConfig, PretrainConfig, TrainConfig
from speakeasy.corpus.documents import text_files
from speakeasy.data.chat import Conversation
from speakeasy.dialect.prompts import packaged_prompts, read_prompts
from speakeasy.evaluation.plan import PACKAGED, EvaluationPlan
from speakeasy.evaluation.sets import HELD_OUT_BYTES, TextSet, gather_sets
from speakeasy.training.estimate import BYTES_PER_TOKEN, Reading
from speakeasy.training.prepare import conversations, take
from speakeasy.training.raw_text import NEUTRAL_HOLDOUT, corpus_files, replay_files

_TURN_BYTES = 15
"""What a chat template spends on a turn's header and end, in bytes of text."""
_PROMPTS_BYTES = 100_000
"""Of an evaluation directory beside the texts and answers."""


@dataclass(frozen=True, slots=True)
class EvaluationAmount:
    """What an evaluation reads and writes.

    Attributes:
        scored: its ``eval_tokens`` are all that is scored.
        answered: tokens of all answers and their prompts, if each answer is as long as may be.
        disk_bytes: texts, scores and answers.
    """

    scored: Reading
    answered: int
    disk_bytes: int


def reading(config: TrainConfig | PretrainConfig) -> Reading:
    """How much a run reads in an epoch.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    if isinstance(config, PretrainConfig):
        return _reading_text(config.corpus, config.row_length)
    train, held_out = _sides(config.data, config.seed)
    learned = take(train, config.data.max_train, config.seed)
    scored = take(held_out, config.data.max_eval, config.seed)
    count, answers = _bytes(learned)
    return Reading(
        round(count / BYTES_PER_TOKEN),
        round(_bytes(scored)[0] / BYTES_PER_TOKEN),
        target_share=answers / count if count else 1.0,
        segment_tokens=_mean_tokens(count, len(learned)),
    )


def _reading_text(corpus: CorpusConfig, row_length: int) -> Reading:
    learned = _size(corpus_files(corpus))
    held_out = _size(text_files([Path(path) for path in corpus.evaluation]))
    if not corpus.evaluation:
        held_out = min(round(learned * corpus.holdout), HELD_OUT_BYTES)
        learned -= held_out
    if corpus.replay_share:
        # Neutral text is held out, too, and what is left of it is repeated as far as it must be.
        held_out += min(round(_size(replay_files(corpus)) * NEUTRAL_HOLDOUT), HELD_OUT_BYTES)
        learned = round(learned / (1 - corpus.replay_share))
    return Reading(
        round(learned / BYTES_PER_TOKEN),
        round(held_out / BYTES_PER_TOKEN),
        segment_tokens=row_length,
    )


def evaluation_amount(plan: EvaluationPlan, run: object) -> EvaluationAmount:
    """How much an evaluation reads.

    Args:
        run: the plan of the run that is evaluated, where a stage before this one will make it.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    sets = gather_sets(replace(plan, like=None), ())
    if isinstance(run, TrainConfig) and not plan.eval_files:
        _, held_out = _sides(run.data, run.seed)
        chosen = take(held_out, run.data.max_eval, run.seed)
        items = tuple(take(chosen, plan.max_items, 0))
        sets = (TextSet("conversations", "", items), *sets[1:])
    count = sum(len(text.encode()) for one in sets for text in one.texts)
    items_count = sum(len(one.items) for one in sets)
    prompts = packaged_prompts() if plan.prompts == PACKAGED else read_prompts(Path(plan.prompts))
    asked = len(prompts[: plan.limit or None]) * plan.samples
    length = sum(len(prompt.text.encode()) + _TURN_BYTES for prompt in prompts) / len(prompts)
    tokens = plan.sampling.max_tokens + length / BYTES_PER_TOKEN
    return EvaluationAmount(
        Reading(0, round(count / BYTES_PER_TOKEN), 1.0, _mean_tokens(count, items_count)),
        round(asked * tokens),
        count + _PROMPTS_BYTES + round(asked * plan.sampling.max_tokens * 2 * BYTES_PER_TOKEN),
    )


@cache
def _sides(data: DataConfig, seed: int) -> tuple[Sequence[Conversation], Sequence[Conversation]]:
    """What is learned and what is held out; the runs of a recipe mostly share it."""
    train, held_out, _ = conversations(data, seed)
    return train, held_out


def _bytes(items: Sequence[Conversation]) -> tuple[int, int]:
    """UTF-8 bytes of all turns, and of the assistant's."""
    whole = sum(len(turn.content.encode()) + _TURN_BYTES for item in items for turn in item.turns)
    return whole, sum(len(answer.encode()) for item in items for answer in item.answers)


def _mean_tokens(count: int, items: int) -> int:
    return max(1, round(count / BYTES_PER_TOKEN / max(1, items)))


def _size(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)
