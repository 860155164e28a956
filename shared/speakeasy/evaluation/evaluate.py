"""A whole evaluation: from what was planned to a directory with figures, scores and answers."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from speakeasy import plan_files
from speakeasy.data.chat import Conversation
from speakeasy.dialect.lexicon import load_lexicon, packaged_lexicon
from speakeasy.errors import DataError, RunError, UsageError
from speakeasy.evaluation.answers import ask, check_room, questions_of
from speakeasy.evaluation.lineage import (
    find_subject,
    runs_behind,
    training_texts,
)
from speakeasy.evaluation.measures import Measurer
from speakeasy.evaluation.plan import PACKAGED, EvaluationPlan
from speakeasy.evaluation.record import Material, record_of
from speakeasy.evaluation.result import (
    ANSWERS_FILE,
    LEXICON_FILE,
    RECORD_FILE,
    SCORES_FILE,
    Evaluation,
)
from speakeasy.evaluation.scoring import Scored, score_sets
from speakeasy.evaluation.sets import SeenItems, TextSet, gather_sets, write_sets
from speakeasy.evaluation.surface import Ngram, training_ngrams
from speakeasy.files import disk_errors, new_directory, occupied, write_json, write_text
from speakeasy.training import trackers
from speakeasy.training.inference import Responder
from speakeasy.training.run import Record
from speakeasy.vocab.progress import Bar, no_bar

Say = Callable[[str], None]


def evaluate(
    plan: EvaluationPlan,
    directory: Path,
    *,
    say: Say = lambda line: None,
    bar: Bar = no_bar,
) -> Evaluation:
    """Score, ask, measure, and write ``directory``, whole or not at all.

    Args:
        directory: new or empty.
        say: called with a line about each choice, and before slow steps.
        bar: opens a progress bar.

    Raises:
        SpeakeasyError: whatever stands in the way, in one line.
    """
    if occupied(directory):
        raise RunError(f"{directory}: already exists and is not empty; choose another directory")
    trackers.check_installed(plan.report_to)
    material = _gather(plan, say)
    responder = material.responder
    scored = score_sets(
        responder,
        material.sets,
        rows_per_pass=1 if responder.device.kind == "cpu" else plan.batch_size,
        bar=bar,
    )
    for name, found in scored.items():
        if found.shortened or found.rejected:
            say(
                f"warning: {name}: {found.shortened} shortened to {found.longest:,} tokens and "
                f"{found.rejected} not scored; another tokenizer may take them whole"
            )
    lines = ask(responder, material.questions, batch_size=plan.batch_size, bar=bar)
    human = _human_answers(material.sets)
    seen, known = _compare_with_training(material, [*lines, *human], say)
    measurer = Measurer(material.lexicon, seen=known)
    for line in (*lines, *human):
        line["measures"] = measurer.measure(line["answer"], line["prompt"])
    record = record_of(plan.name, material, scored, seen, lines, human)
    with (
        disk_errors(str(directory), "nothing was written; free some space"),
        new_directory(directory) as folder,
    ):
        _write(plan, folder, material, scored, lines, record)
    _report(plan, directory, record, say)
    return Evaluation.read(directory)


def _gather(plan: EvaluationPlan, say: Say) -> Material:
    like = None if plan.like is None else Path(plan.like)
    earlier = None if like is None else _followed(plan, like)
    custom = _lexicon_file(plan)
    lexicon = load_lexicon(custom) if custom else packaged_lexicon()
    subject = find_subject(plan.speaker)
    responder = Responder.open(subject.speaker, say)
    runs = runs_behind(responder.model, subject.run)
    sets = gather_sets(plan, runs)
    for one in sets:
        say(f"{one.name}: {len(one.items):,} texts: {one.origin}")
    questions = questions_of(plan, like, earlier)
    check_room(responder, questions)
    return Material(subject, responder, runs, sets, questions, lexicon)


def _followed(plan: EvaluationPlan, like: Path) -> Record:
    """The ``answers`` of the evaluation that is followed.

    Raises:
        UsageError: something is given that is taken from there.
        RunError: there is no evaluation.
    """
    given = {
        "--eval-file": plan.eval_files,
        "--text": plan.texts,
        "--neutral-es": plan.neutral_es,
        "--neutral-ca": plan.neutral_ca,
        "--max-items": plan.max_items,
        "--prompts": plan.prompts != PACKAGED,
        "--limit": plan.limit,
        "--lexicon": plan.lexicon,
    }
    for option, value in given.items():
        if value:
            raise UsageError(f"{option}: --like {like} brings its own; give one of them")
    return Evaluation.read(like).record["answers"]


def _lexicon_file(plan: EvaluationPlan) -> Path | None:
    """The lexicon that is given, or of the evaluation that is followed; None for the packaged."""
    if plan.like is not None and (kept := Path(plan.like) / LEXICON_FILE).is_file():
        return kept
    return Path(plan.lexicon) if plan.lexicon else None


def _human_answers(sets: Sequence[TextSet]) -> list[Record]:
    """What people answered in the held-out conversations, as lines of answers."""
    lines = []
    conversations = [item for one in sets for item in one.items if isinstance(item, Conversation)]
    for number, conversation in enumerate(conversations):
        said = ""
        for turn in conversation.turns:
            if turn.role == "assistant":
                lines.append(
                    {
                        "id": str(number),
                        "prompt": said,
                        "control": False,
                        "expects": [],
                        "answer": turn.content,
                        "finished": True,
                    }
                )
            said = turn.content
    return lines


def _compare_with_training(
    material: Material, lines: Sequence[Record], say: Say
) -> tuple[dict[str, int] | None, frozenset[Ngram] | None]:
    """What of the sets, and which 13-grams of answers, stand in what the model was trained on.

    Only the runs that are known are looked at; without one, nothing can be said of answers, and of
    the sets that no run here has learned them. Both None where the texts cannot be read any more.
    """
    items = SeenItems(material.sets)
    if not material.runs:
        return items.counts, None
    say("comparing with the training texts")
    answers = [line["answer"] for line in lines]
    try:
        known = training_ngrams(answers, items.watch(training_texts(material.runs)))
    except DataError as error:
        say(f"warning: the training texts cannot be compared with: {error}")
        return None, None
    for name, count in items.counts.items():
        if count:
            say(f"warning: {name}: {count:,} of the texts stand in the training data word for word")
    return items.counts, known


def _write(
    plan: EvaluationPlan,
    folder: Path,
    material: Material,
    scored: Mapping[str, Scored],
    lines: Sequence[Record],
    record: Record,
) -> None:
    write_sets(material.sets, folder)
    material.questions.write(folder)
    if (custom := _lexicon_file(plan)) is not None:
        shutil.copyfile(custom, folder / LEXICON_FILE)
    scores = [dataclasses.asdict(score) for found in scored.values() for score in found.scores]
    for name, records in ((SCORES_FILE, scores), (ANSWERS_FILE, lines)):
        text = "".join(
            json.dumps(each, ensure_ascii=False, allow_nan=False) + "\n" for each in records
        )
        write_text(folder / name, text)
    write_json(folder / RECORD_FILE, record)


def _report(plan: EvaluationPlan, directory: Path, record: Record, say: Say) -> None:
    if plan.report_to:
        figures = {f"evaluation/{name}": one["value"] for name, one in record["metrics"].items()}
        subject = trackers.Subject(directory, plan_files.to_dict(plan))
        trackers.report(plan.report_to, subject, figures, say)
