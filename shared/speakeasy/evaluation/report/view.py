"""What the report shows beside the tables of ``evaluation.tables``, as rows for the template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from speakeasy.evaluation.metric_kinds import METRICS
from speakeasy.evaluation.tables import (
    NONE,
    Cell,
    data_size,
    duration,
    figure_text,
    interval_text,
    variety_of,
)
from speakeasy.training.run import Record

SETS: Mapping[str, str] = {
    "conversations": "Conversations",
    "regional": "Regional text",
    "neutral_es": "Neutral text",
    "neutral_ca": "Contact language",
}
"""What people call the sets that are scored."""
_CODE = 12
"""Letters of a fingerprint that are shown."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of two models.

    Attributes:
        cell: first minus second.
        verdict: who is better, or that nobody knows.
    """

    label: str
    cell: Cell
    verdict: str


@dataclass(frozen=True, slots=True)
class Duel:
    """All differences of two models, by name."""

    first: str
    second: str
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class Answers:
    """What every model said to one prompt: names and answers, in the order of the comparison."""

    prompt: str
    control: bool
    cards: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """What was run on what, for one model: names and values."""

    name: str
    facts: tuple[tuple[str, str], ...]


def duels(comparison: Record) -> tuple[Duel, ...]:
    """What can be said of each two models."""
    variety = variety_of(comparison)
    found: dict[tuple[str, str], list[Difference]] = {}
    for pair in comparison["pairs"]:
        name, first, second = pair["metric"], pair["a"], pair["b"]
        winner = {"a": f"{first} is better", "b": f"{second} is better"}
        found.setdefault((first, second), []).append(
            Difference(
                METRICS[name].label_for(variety),
                _difference(name, pair),
                winner.get(pair["verdict"], pair["verdict"]),
            )
        )
    return tuple(Duel(*both, tuple(listed)) for both, listed in found.items())


def _difference(name: str, pair: Record) -> Cell:
    if pair["difference"] is None:
        return Cell(NONE, "")
    return Cell(figure_text(name, pair["difference"]), interval_text(name, pair["interval"]))


def answers(comparison: Record) -> tuple[Answers, ...]:
    """The prompts with everybody's answers."""
    names = [run["name"] for run in comparison["runs"]]
    return tuple(
        Answers(
            line["prompt"],
            line["control"],
            tuple((name, tuple(line["answers"].get(name, ()))) for name in names),
        )
        for line in comparison["answers"]
    )


def facts(comparison: Record) -> tuple[Facts, ...]:
    """What was run on what, with which seeds and versions."""
    return tuple(Facts(run["name"], tuple(_facts_of(run))) for run in comparison["runs"])


def _facts_of(run: Record) -> Iterator[tuple[str, str]]:
    model = run["model"]
    yield "Model", f"{model['name']} ({model['parameters']:,} parameters)"
    yield (
        "Fingerprints",
        (f"model {_code(model['fingerprint'])}, tokenizer {_code(model['tokenizer_fingerprint'])}"),
    )
    for part in run["lineage"]:
        yield _step_of(part)
    device = run["device"]
    yield "Evaluated on", _machine(device["backend"], device["name"], device)
    yield "Answers", _sampling(run["answers"])
    for name, scored in run["sets"].items():
        yield SETS[name], _set(scored)
    yield "Versions", _versions(run["versions"])
    yield "Evaluation", run["evaluation"]


def _step_of(part: Record) -> tuple[str, str]:
    """A run of the lineage: what it did, how long, on which data."""
    kind = "Pre-training" if part["kind"] == "pretrain" else "Training"
    return kind, (
        f"{part['run']}: {part['steps']:,} steps, {part['tokens']:,} tokens, "
        f"{duration(part['seconds'])}, {data_size(part['peak_memory_bytes'])}, "
        f"seed {part['seed']}, {_machine(part['backend'], part['device'], part)}; "
        f"data {part['data']} ({_code(part['data_fingerprint'])}); {_versions(part['versions'])}"
    )


def _machine(backend: str, name: str, how: Record) -> str:
    held = how["precision"], how["quantization"]
    return ", ".join(str(part) for part in (backend, name, *held) if part)


def _set(scored: Record) -> str:
    seen = scored["seen"]
    known = "unknown" if seen is None else f"{seen:,}"
    return (
        f"{scored['origin']}: {scored['items']:,} texts, {data_size(scored['bytes'])}, "
        f"{scored['tokens']:,} tokens ({_code(scored['fingerprint'])}); seen in training: {known}"
    )


def _sampling(asked: Record) -> str:
    how = ", ".join(f"{key} {value}" for key, value in asked["sampling"].items())
    return (
        f"{asked['count']:,} to {asked['prompts']:,} prompts "
        f"({_code(asked['prompts_fingerprint'])}), {asked['samples']} each; {how}; "
        f"lexicon {_code(asked['lexicon_fingerprint'])}"
    )


def _versions(versions: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version)


def _code(fingerprint: str) -> str:
    return fingerprint[:_CODE]
