"""Two or more models side by side: ``comparison.json``, and the reports that are made of it.

::

    comparison.json     the figures of each, the differences of each pair, the verdict; written last
    report.md           the same for people, as Markdown
    report.html         the same as one page that needs no other file
    evaluations/NAME/   the evaluations that had to be made

The evaluations are kept when something goes wrong later, and are not made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from pathlib import Path

from speakeasy.errors import RunError, UsageError
from speakeasy.evaluation import result
from speakeasy.evaluation.differences import pairs
from speakeasy.evaluation.making import BASE, Maker
from speakeasy.evaluation.markdown import markdown
from speakeasy.evaluation.plan import EvaluationPlan
from speakeasy.evaluation.result import Evaluation
from speakeasy.evaluation.tables import spoken
from speakeasy.evaluation.verdict import verdict
from speakeasy.files import disk_errors, occupied, write_json, write_text
from speakeasy.training import trackers
from speakeasy.training.run import Record
from speakeasy.vocab.progress import Bar, no_bar

RECORD_FILE = "comparison.json"
MARKDOWN_FILE = "report.md"
HTML_FILE = "report.html"
EVALUATIONS = "evaluations"
VERSION = 1
FEW_PROMPTS = 10
"""Fewer prompts than these tell little."""

Say = Callable[[str], None]
_COPIED = (
    "model", "run", "lineage", "device", "versions", "seed", "variety", "sets", "fertility",
    "answers", "metrics",
)  # fmt: skip


def compare(
    paths: Sequence[Path],
    directory: Path,
    *,
    base: Path | str | None = None,
    labels: Sequence[str] = (),
    plan: EvaluationPlan | None = None,
    report_to: Sequence[str] = (),
    say: Say = lambda line: None,
    bar: Bar = no_bar,
) -> Record:
    """Evaluate what is not evaluated yet, compare, and write ``directory``.

    Args:
        paths: runs or evaluations, in the order of the table. What all are scored on and asked is
            that of the first.
        directory: new, empty, or of an earlier comparison, whose reports are then replaced.
        base: the model before any training: a name or directory of a model, or an evaluation.
        labels: names for people, one a path; else those of the evaluations.
        plan: how to evaluate runs that have no evaluation yet.
        say: called with a line about each choice, and with each warning.
        bar: opens a progress bar.

    Returns:
        the content of ``comparison.json``.

    Raises:
        SpeakeasyError: whatever stands in the way, in one line.
    """
    count = len(paths) + (base is not None)
    if count < 2:
        raise UsageError(f"RUN: {count} given; expected two or more, or one and --base")
    if labels and len(labels) != len(paths):
        raise UsageError(f"--label: {len(labels)} given for {len(paths)} RUNs; give one for each")
    _require_place(directory)
    trackers.check_installed(report_to)
    maker = Maker(directory / EVALUATIONS, plan or EvaluationPlan(), say, bar)
    found = [maker.of_run(path) for path in paths]
    before = None if base is None else maker.of_base(base)
    named = _named([*([before] if before else []), *found], labels, has_base=before is not None)
    comparison = compared(named, base=named[0][0] if before else None, directory=directory)
    for line in comparison["warnings"]:
        say(f"warning: {line}")
    with disk_errors(str(directory), "the evaluations are kept; free some space"):
        from speakeasy.evaluation.report.page import report_page  # draws pictures: slow to import

        directory.mkdir(parents=True, exist_ok=True)
        write_text(directory / MARKDOWN_FILE, markdown(comparison))
        write_text(directory / HTML_FILE, report_page(comparison))
        write_json(directory / RECORD_FILE, comparison)
    _report(comparison, directory, report_to, say)
    return comparison


def compared(
    named: Sequence[tuple[str, Evaluation]], *, base: str | None, directory: Path
) -> Record:
    """The content of ``comparison.json``.

    Args:
        named: evaluations with a name each, in the order of the table.
        base: name of the model before any training; None for none.
        directory: from which the evaluations' places are told.
    """
    comparison: Record = {
        "version": VERSION,
        "runs": [_run(name, found, directory) for name, found in named],
        "base": base,
        "pairs": list(pairs(named)),
        "warnings": _warnings(named),
        "answers": _answers(named),
    }
    return comparison | {"verdict": verdict(comparison)}


def read_comparison(directory: Path) -> Record:
    """The content of ``comparison.json``.

    Raises:
        RunError: there is none, or of another version.
    """
    file = directory / RECORD_FILE
    if not file.is_file():
        raise RunError(f"{directory}: no {RECORD_FILE}; expected what speakeasy compare made")
    comparison = result.read_json(file)
    if comparison.get("version") != VERSION:
        raise RunError(f"{file}: another version than {VERSION}; compare again")
    return comparison


def _require_place(directory: Path) -> None:
    known = any((directory / name).exists() for name in (RECORD_FILE, EVALUATIONS))
    if occupied(directory) and not known:
        raise RunError(f"{directory}: holds something else; choose another --output-dir")


def _named(
    found: Sequence[Evaluation], labels: Sequence[str], *, has_base: bool
) -> list[tuple[str, Evaluation]]:
    """Evaluations with names that differ: the labels, or their own, numbered where they must be."""
    given = [*([BASE] if has_base else []), *labels] if labels else []
    named: list[tuple[str, Evaluation]] = []
    taken: set[str] = set()
    for place, evaluation in enumerate(found):
        name = wanted = given[place] if given else evaluation.name
        number = 2
        while name in taken:
            name, number = f"{wanted} ({number})", number + 1
        taken.add(name)
        named.append((name, evaluation))
    return named


def _run(name: str, found: Evaluation, directory: Path) -> Record:
    try:
        place = str(found.path.resolve().relative_to(directory.resolve()))
    except ValueError:
        place = found.path.name
    record = {key: found.record[key] for key in _COPIED}
    return {"name": name, "evaluation": place, **record}


def _answers(named: Sequence[tuple[str, Evaluation]]) -> list[Record]:
    """Prompt by prompt, what each said; only prompts that the first was asked."""
    shown: dict[str, Record] = {}
    for name, found in named:
        for line in found.answers:
            if found is named[0][1]:
                about = {key: line[key] for key in ("id", "prompt", "control")}
                shown.setdefault(line["id"], about | {"answers": {}})
            if line["id"] in shown:
                shown[line["id"]]["answers"].setdefault(name, []).append(line["answer"])
    return list(shown.values())


def _warnings(named: Sequence[tuple[str, Evaluation]]) -> list[str]:
    """What a reader must know before believing the table."""
    lines = []
    for (one, first), (other, second) in combinations(named, 2):
        lines += [f"{one} and {other} {what}" for what in _unlike(first, second)]
    for name, found in named:
        lines += [f"{name}: {what}" for what in _doubts(found)]
    fewest = min(found.record["answers"]["prompts"] for _, found in named)
    if fewest < FEW_PROMPTS:
        lines.append(f"{fewest} prompts: the figures of answers are rough")
    return lines


def _unlike(first: Evaluation, second: Evaluation) -> Iterator[str]:
    """What sets two apart, besides what they are compared for."""
    differing, cut = [], []
    for key in first.sets:
        mine, yours = first.sets[key], second.sets[key]
        if mine["fingerprint"] != yours["fingerprint"]:
            differing.append(spoken(key))
        elif any(mine[part] != yours[part] for part in ("shortened", "rejected")):
            cut.append(spoken(key))
    if differing:
        yield f"were scored on other texts: {', '.join(differing)}"
    if cut:
        yield f"left out or shortened other texts that were too long: {', '.join(cut)}"
    mine, yours = first.record["answers"], second.record["answers"]
    for key, what in (
        ("prompts_fingerprint", "were asked other prompts"),
        ("lexicon_fingerprint", "were measured with other lexicons"),
        ("sampling", "drew their answers otherwise"),
        ("samples", "gave other numbers of answers to a prompt"),
    ):
        if mine[key] != yours[key]:
            yield what
    yield from _trained_otherwise(first, second)


def _trained_otherwise(first: Evaluation, second: Evaluation) -> Iterator[str]:
    """In what the LoRA runs behind two models differ that no approach asks for."""
    mine, yours = _last_training(first), _last_training(second)
    if mine is None or yours is None:
        return
    tokenizers = {one.record["model"]["tokenizer_fingerprint"] for one in (first, second)}
    # The fingerprint is of tokens: it tells nothing across tokenizers, where names must do.
    key = "data_fingerprint" if len(tokenizers) == 1 else "data"
    if mine[key] != yours[key]:
        yield "were trained on other conversations"
    if mine["seed"] != yours["seed"]:
        yield "were trained with other seeds"


def _last_training(found: Evaluation) -> Record | None:
    """The newest run of LoRA behind a model; None without one."""
    return next((part for part in reversed(found.lineage) if part["kind"] == "train"), None)


def _doubts(found: Evaluation) -> Iterator[str]:
    """What makes the figures of one look better or worse than they are."""
    for key, scored in found.sets.items():
        if scored["seen"]:
            yield (
                f"{scored['seen']:,} of {scored['items']:,} texts of {spoken(key)} "
                "stand in its training data"
            )
    for part in found.lineage:
        if not part["finished"]:
            yield f"the run {part['run']} has not finished"


def _report(comparison: Record, directory: Path, names: Sequence[str], say: Say) -> None:
    if not names:
        return
    figures = {
        f"comparison/{run['name']}/{name}": metric["value"]
        for run in comparison["runs"]
        for name, metric in run["metrics"].items()
    }
    plan = {"runs": [run["evaluation"] for run in comparison["runs"]]}
    trackers.report(names, trackers.Subject(directory, plan), figures, say)
