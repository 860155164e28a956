"""An evaluation directory, as ``evaluate`` writes it and everything else reads it.

::

    evaluation.json     the figures and all that is known of the model; written last, so that its
                        presence says that the evaluation is whole
    scores.jsonl        a line a scored item: set, item, nats, bytes, words, tokens
    answers.jsonl       a line an answer, with the counts of ``evaluation.measures``
    sets/NAME.jsonl     the texts that were scored, so that another model can be scored on them
    prompts.jsonl       the prompts that were answered
    lexicon.toml        the lexicon, where it is not the packaged one

The item of a score is its line's number, from 0, in the file of its set: the same number is the
same text, whatever the model and its tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speakeasy.errors import RunError
from speakeasy.training.run import Record, read_json, read_jsonl

RECORD_FILE = "evaluation.json"
SCORES_FILE = "scores.jsonl"
ANSWERS_FILE = "answers.jsonl"
PROMPTS_FILE = "prompts.jsonl"
LEXICON_FILE = "lexicon.toml"
SETS_FOLDER = "sets"
SETS = ("conversations", "regional", "neutral_es", "neutral_ca")
"""Names of the sets that are scored."""
VERSION = 1
_KEYS = ("name", "model", "lineage", "sets", "fertility", "answers", "metrics")
_SCORE_KEYS = ("set", "item", "nats", "bytes", "words", "tokens")
_ANSWER_KEYS = ("id", "prompt", "control", "sample", "answer", "tokens", "finished", "measures")


@dataclass(frozen=True, slots=True)
class Score:
    """What a model made of one text.

    Attributes:
        set: one of ``SETS``.
        item: number of the text in its set.
        nats: loss of its targets, summed.
        bytes, words: UTF-8 bytes and white-space separated words that the targets spell.
        tokens: targets.
    """

    set: str
    item: int
    nats: float
    bytes: int
    words: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure.

    Attributes:
        value: None where it cannot be had; never NaN or infinite.
        interval: 95%, by bootstrap; None where nothing was sampled.
        better: ``lower``, ``higher``, ``near`` (to what people do), or None where none is.
        samples: how many conversations or prompts it rests on; 0 where that means nothing.
    """

    value: float | None
    interval: tuple[float, float] | None
    better: str | None
    unit: str
    samples: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An evaluation that is whole.

    Attributes:
        path: its directory.
        record: the content of ``evaluation.json``.
        scores: in the order of sets and items.
        answers: the lines of ``answers.jsonl``.
    """

    path: Path
    record: Record
    scores: tuple[Score, ...]
    answers: tuple[Record, ...]

    @classmethod
    def read(cls, path: Path) -> Evaluation:
        """Read a directory that ``evaluate`` made.

        Raises:
            RunError: it holds no evaluation, one of another version, or one that is broken.
        """
        file = path / RECORD_FILE
        if not file.is_file():
            raise RunError(
                f"{path}: no {RECORD_FILE}; expected a directory that speakeasy evaluate made"
            )
        record = read_json(file)
        version = record.get("version") if isinstance(record, dict) else None
        if version != VERSION:
            raise RunError(
                f"{file}: version {version!r}; expected {VERSION}: evaluate the model again"
            )
        for key in _KEYS:
            if key not in record:
                raise RunError(f"{file}: has no {key!r}; copy the directory again, or evaluate")
        scores = [
            Score(**{key: line[key] for key in _SCORE_KEYS})
            for line in _lines(path / SCORES_FILE, _SCORE_KEYS)
        ]
        answers = _lines(path / ANSWERS_FILE, _ANSWER_KEYS)
        count = record["answers"]["count"]
        items = sum(found["items"] for found in record["sets"].values())
        for name, found, expected in (
            (ANSWERS_FILE, len(answers), count),
            (SCORES_FILE, len(scores), items),
        ):
            if found != expected:
                raise RunError(
                    f"{path / name}: {found:,} whole lines, but {RECORD_FILE} says {expected:,}; "
                    "copy the directory again"
                )
        return cls(path, record, tuple(scores), tuple(answers))

    @property
    def name(self) -> str:
        """What people call it."""
        return self.record["name"]

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """The figures by name."""
        return {name: _metric(found) for name, found in self.record["metrics"].items()}

    @property
    def sets(self) -> Mapping[str, Record]:
        """What is known of each set."""
        return self.record["sets"]

    @property
    def lineage(self) -> list[Record]:
        """The runs behind the model, oldest first."""
        return self.record["lineage"]

    def scores_of(self, name: str) -> dict[int, Score]:
        """The scores of one set by item."""
        return {score.item: score for score in self.scores if score.set == name}


def is_evaluation(path: Path) -> bool:
    """Whether a directory holds an evaluation that is whole."""
    return (path / RECORD_FILE).is_file()


def _metric(found: Mapping[str, Any]) -> Metric:
    interval = found["interval"]
    return Metric(
        value=found["value"],
        interval=None if interval is None else (interval[0], interval[1]),
        better=found["better"],
        unit=found["unit"],
        samples=found["samples"],
    )


def _lines(file: Path, keys: tuple[str, ...]) -> list[Record]:
    """The lines of a file, each with all of ``keys``."""
    lines = read_jsonl(file)
    for number, line in enumerate(lines, 1):
        missing = [key for key in keys if not isinstance(line, dict) or key not in line]
        if missing:
            raise RunError(f"{file}:{number}: has no {missing[0]!r}; copy the directory again")
    return lines
