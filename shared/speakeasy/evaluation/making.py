"""The evaluations that a comparison needs: found where they are, or made, each of them once.

Whatever comes after the first is scored on the first's texts and asked its prompts. An evaluation
is known again by what it was made of: the files' contents and not their names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from speakeasy import __version__, plan_files
from speakeasy.corpus.documents import text_files
from speakeasy.data.dataset import find_files
from speakeasy.errors import RunError
from speakeasy.evaluation.evaluate import evaluate
from speakeasy.evaluation.plan import PACKAGED, EvaluationPlan
from speakeasy.evaluation.result import Evaluation, is_evaluation
from speakeasy.vocab.progress import Bar
from speakeasy.weights.fingerprint import fingerprint, tokenizer_fingerprint
from speakeasy.weights.hub import resolve_model

BASE = "base"
"""What the evaluation of the model before any training is called."""
_RUN_FILES = ("run.toml", "evaluations.jsonl", "summary.json")
"""They tell a run from any other, and from itself before it went on."""
_CODE = 12

Say = Callable[[str], None]


class Maker:
    """Gives the evaluation of whatever is asked for.

    Args:
        folder: where those that have to be made are put.
        plan: how they are made.
    """

    def __init__(self, folder: Path, plan: EvaluationPlan, say: Say, bar: Bar) -> None:
        self._folder = folder
        self._plan = plan
        self._say = say
        self._bar = bar

    def of_run(self, path: Path) -> Evaluation:
        """Of a run; or the one that ``path`` holds.

        Raises:
            RunError: ``path`` is neither.
        """
        if is_evaluation(path):
            return self._followed(Evaluation.read(path))
        if not (path / "run.toml").is_file():
            raise RunError(
                f"{path}: neither a run nor an evaluation; expected a directory that speakeasy "
                "train, pretrain or evaluate made"
            )
        files = [path / name for name in _RUN_FILES if (path / name).is_file()]
        plan = replace(self._plan, run=str(path), model=None, adapter=None, name="")
        return self._made(path.resolve().name, plan, _contents(files))

    def of_base(self, source: Path | str) -> Evaluation:
        """Of a model before any training; or the one that ``source`` holds.

        Raises:
            SpeakeasyError: there is no such model.
        """
        if is_evaluation(Path(source)):
            return self._followed(Evaluation.read(Path(source)))
        return self.of_model(str(source), BASE)

    def of_model(self, source: str, name: str = "") -> Evaluation:
        """Of a model, such as an exported one.

        Args:
            name: what people are to call it; empty for the last part of ``source``.

        Raises:
            SpeakeasyError: there is no such model.
        """
        name = name or Path(source).name
        model = resolve_model(source, say=self._say).path
        plan = replace(self._plan, model=source, run=None, adapter=None, name=name)
        return self._made(name, plan, [fingerprint(model), tokenizer_fingerprint(model)])

    def _followed(self, found: Evaluation) -> Evaluation:
        """Whatever comes after the first is evaluated like it."""
        if self._plan.like is None:
            self._plan = replace(
                self._plan, like=str(found.path), eval_files=(), texts=(), neutral_es=(),
                neutral_ca=(), max_items=0, prompts=PACKAGED, limit=0, lexicon=None,
            )  # fmt: skip
        return found

    def _made(self, name: str, plan: EvaluationPlan, subject: list[str]) -> Evaluation:
        facts = json.dumps([__version__, subject, _material(plan)], sort_keys=True)
        key = hashlib.sha256(facts.encode()).hexdigest()[:_CODE]
        place = self._folder / f"{name}-{key}"
        if is_evaluation(place):
            self._say(f"{name}: evaluated already, in {place}")
            return self._followed(Evaluation.read(place))
        self._say(f"evaluating {name}")
        return self._followed(evaluate(plan, place, say=self._say, bar=self._bar))


def _material(plan: EvaluationPlan) -> dict[str, Any]:
    """The plan with contents in the place of names; without what is evaluated."""
    facts = plan_files.to_dict(plan)
    for field in ("model", "run", "adapter", "name"):
        facts.pop(field, None)
    facts |= dict(_files(plan))
    if plan.like is not None:
        facts["like"] = made_on(Evaluation.read(Path(plan.like)))
    return facts


def _files(plan: EvaluationPlan) -> Iterator[tuple[str, list[str]]]:
    yield "eval_files", _contents(find_files([Path(path) for path in plan.eval_files]))
    for field in ("texts", "neutral_es", "neutral_ca"):
        yield field, _contents(text_files([Path(path) for path in getattr(plan, field)]))
    if plan.prompts != PACKAGED:
        yield "prompts", _contents([Path(plan.prompts)])
    if plan.lexicon is not None:
        yield "lexicon", _contents([Path(plan.lexicon)])


def made_on(found: Evaluation) -> list[Any]:
    """What an evaluation was made on and with: prompts, sampling, lexicon, and texts by set."""
    keys = ("prompts_fingerprint", "lexicon_fingerprint", "sampling", "samples")
    sets = {name: scored["fingerprint"] for name, scored in found.sets.items()}
    return [*(found.record["answers"][key] for key in keys), sets]


def _contents(files: list[Path]) -> list[str]:
    """sha256 of each file.

    Raises:
        RunError: one cannot be read.
    """
    digests = []
    for path in files:
        try:
            with path.open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise RunError(f"{path}: {error.strerror or error}; check the path") from error
    return digests
