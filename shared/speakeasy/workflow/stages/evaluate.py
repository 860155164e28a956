"""Stage ``evaluate``: an ordinary evaluation directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from speakeasy.corpus.starter import starter_text_files
from speakeasy.data.dataset import find_files, starter_files
from speakeasy.evaluation.evaluate import evaluate
from speakeasy.evaluation.plan import PACKAGED, EvaluationPlan
from speakeasy.evaluation.result import RECORD_FILE
from speakeasy.training.run import Run
from speakeasy.workflow.stages import digests
from speakeasy.workflow.stages.kind import Follower, Inputs, Place, Say


class Evaluate:
    """``evaluate`` as a stage."""

    result = RECORD_FILE

    def inputs(self, place: Place, say: Say) -> Inputs:
        """The model, what it is scored on, what it is asked, and the lexicon."""
        plan = place.plan
        assert isinstance(plan, EvaluationPlan)
        return _subject(plan, say) | _questions(plan)

    def carry_out(self, place: Place, follower: Follower) -> None:
        """Score, ask and measure."""
        plan = place.plan
        assert isinstance(plan, EvaluationPlan)
        evaluate(plan, place.directory, say=follower.say, bar=follower.counting)


def _subject(plan: EvaluationPlan, say: Say) -> Inputs:
    found: Inputs = {}
    base = plan.model or "starter"
    beside = plan.run or plan.adapter
    if beside is not None:
        directory = Path(beside)
        is_run = (directory / "run.toml").is_file()
        if is_run and Run(directory).is_pretraining:
            return digests.of_model(beside, say)
        if is_run:
            base = plan.model or Run(directory).config.model
        found["run" if plan.run else "adapter"] = digests.of_adapter(directory)
    return digests.of_model(base, say) | found


def _questions(plan: EvaluationPlan) -> Inputs:
    if plan.like is not None:
        return {"like": digests.of_questions(Path(plan.like))}
    conversations = find_files([Path(file) for file in plan.eval_files]) or starter_files()
    lexicon = [Path(plan.lexicon)] if plan.lexicon else [digests.dialect_file("lexicon.toml")]
    asked = plan.prompts
    prompts = digests.dialect_file("prompts.toml") if asked == PACKAGED else Path(asked)
    return {
        "held-out conversations": digests.of_files(conversations),
        "regional text": _texts(plan.texts, "ca", "es-ca"),
        "neutral Spanish": _texts(plan.neutral_es, "es"),
        "neutral Catalan": _texts(plan.neutral_ca, "ca-neutral"),
        "prompts": digests.of_files([prompts]),
        "lexicon": digests.of_files(lexicon),
    }


def _texts(paths: Sequence[str], *packaged: str) -> str:
    return digests.of_texts(paths) if paths else digests.of_files(starter_text_files(*packaged))
