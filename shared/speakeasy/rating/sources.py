"""Where the answers of a study come from: evaluations, which all answered the same prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from speakeasy.dialect.prompts import Prompt, read_prompts
from speakeasy.errors import RunError, UsageError
from speakeasy.evaluation.result import PROMPTS_FILE, Evaluation
from speakeasy.rating.study import Record


@dataclass(frozen=True, slots=True)
class Candidate:
    """Two systems' answers to one prompt, before it is decided whether to ask people.

    Attributes:
        prompt: with what was said before it.
        sample: number of the answers among those to this prompt.
        systems: numbers of both.
        answers: the lines of their ``answers.jsonl``.
    """

    prompt: Prompt
    sample: int
    systems: tuple[int, int]
    answers: tuple[Record, Record]

    @property
    def texts(self) -> tuple[str, str]:
        """What both said."""
        return self.answers[0]["answer"], self.answers[1]["answer"]


def check_comparable(evaluations: Sequence[Evaluation]) -> None:
    """Refuse evaluations that were not asked the same.

    Raises:
        UsageError: fewer than two, or one twice.
        RunError: other prompts.
    """
    if len(evaluations) < 2:
        raise UsageError("--runs: a study compares two models at least; name another")
    names = [evaluation.name for evaluation in evaluations]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--runs: two are called {name!r}; evaluate one with another --name")
    first, *others = evaluations
    asked = first.record["answers"].get("prompts_fingerprint")
    for other in others:
        if other.record["answers"].get("prompts_fingerprint") != asked:
            raise RunError(
                f"{other.path}: was not asked the same prompts as {first.path}; evaluate it again "
                f"with --like {first.path}"
            )


def candidates(evaluations: Sequence[Evaluation], samples: int) -> list[Candidate]:
    """Every prompt, sample and two systems that answered it.

    Args:
        samples: the first so many answers to each prompt; 0 for all.
    """
    prompts = {prompt.id: prompt for prompt in _prompts(evaluations[0].path)}
    found = []
    for first, second in combinations(range(len(evaluations)), 2):
        pairs = _paired(evaluations[first].answers, evaluations[second].answers)
        for mine, theirs in pairs:
            if not samples or mine["sample"] < samples:
                prompt = prompts.get(mine["id"]) or Prompt(mine["id"], mine["prompt"])
                found.append(Candidate(prompt, mine["sample"], (first, second), (mine, theirs)))
    if not found:
        raise RunError(f"{evaluations[0].path}: shares no answered prompt with the others")
    return found


def identity(evaluation: Evaluation) -> Record:
    """What is known of a model; for the key."""
    model = evaluation.record["model"]
    return {
        "name": evaluation.name,
        "evaluation": evaluation.path.name,
        "fingerprint": model.get("fingerprint"),
        "run": evaluation.record.get("run"),
    }


def figures(evaluation: Evaluation) -> dict[str, float | None]:
    """The automatic figures, for their correlation with people's judgement."""
    return {name: metric.value for name, metric in evaluation.metrics.items()}


def _prompts(path: Path) -> Sequence[Prompt]:
    file = path / PROMPTS_FILE
    return read_prompts(file) if file.is_file() else ()


def _paired(
    first: Sequence[Record], second: Sequence[Record]
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    others = {(answer["id"], answer["sample"]): answer for answer in second}
    for answer in first:
        other = others.get((answer["id"], answer["sample"]))
        if other is not None:
            yield answer, other
