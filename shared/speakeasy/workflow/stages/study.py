"""Stage ``study``: pairs of answers, made ready for people who are not told whose they are.

::

    pairs.jsonl     a line a pair: id, the prompt, the answers left and right, and their flags
    key.json        which side of which pair is whose; not for those who judge
    study.json      how many pairs there are and how many were flagged; written last
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from speakeasy.errors import RunError
from speakeasy.evaluation.result import Evaluation
from speakeasy.files import new_directory, write_json, write_text
from speakeasy.training.run import Record
from speakeasy.workflow.plans import StudyPlan
from speakeasy.workflow.stages import digests
from speakeasy.workflow.stages.kind import Follower, Inputs, Place, Say

PAIRS_FILE = "pairs.jsonl"
KEY_FILE = "key.json"
_ABOUT = ("prompt", "category", "register", "control")
_ID_BYTES = 6


class Study:
    """A blind study of two evaluations."""

    result = "study.json"

    def inputs(self, place: Place, say: Say) -> Inputs:
        """Both evaluations."""
        plan = place.plan
        assert isinstance(plan, StudyPlan)
        return {
            "first": digests.of_evaluation(Path(plan.first)),
            "second": digests.of_evaluation(Path(plan.second)),
        }

    def carry_out(self, place: Place, follower: Follower) -> None:
        """Pair the answers, draw their sides, and write them and the key apart."""
        plan = place.plan
        assert isinstance(plan, StudyPlan)
        both = Evaluation.read(Path(plan.first)), Evaluation.read(Path(plan.second))
        pairs, key = make_study(*both, samples=plan.samples, seed=plan.seed)
        lines = [json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs]
        with new_directory(place.directory) as directory:
            write_text(directory / PAIRS_FILE, "".join(lines))
            write_json(directory / KEY_FILE, key)
            write_json(directory / self.result, _summary(pairs, plan.seed))
        follower.say(f"{len(pairs):,} pairs of answers, without names, in {PAIRS_FILE}")


def make_study(
    first: Evaluation, second: Evaluation, *, samples: int = 0, seed: int = 0
) -> tuple[list[Record], Record]:
    """Pairs of answers to the same prompt and with the same sample number, and their key.

    Order and ids are drawn; so are the sides, with each evaluation to the left in half of the pairs
    (or one more).

    Args:
        samples: the first so many answers to each prompt; 0 for all.

    Raises:
        RunError: the two were not asked the same.
    """
    if first.record["answers"].get("prompts_fingerprint") != second.record["answers"].get(
        "prompts_fingerprint"
    ):
        raise RunError(
            f"{second.path}: was not asked the same prompts as {first.path}; evaluate it again, "
            "like the first"
        )
    answered = list(_paired(first.answers, second.answers, samples))
    if not answered:
        raise RunError(f"{second.path}: shares no answered prompt with {first.path}")
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(answered))
    swapped = generator.permutation(np.arange(len(answered)) % 2).astype(bool)
    pairs, places = [], {}
    for name, number, swap in zip(_ids(generator, len(answered)), order, swapped, strict=True):
        sides = answered[number][::-1] if swap else answered[number]
        left, right = sides
        pairs.append(
            {
                "id": name,
                **{field: left.get(field) for field in _ABOUT},
                "left": left["answer"],
                "right": right["answer"],
                "flags": _flags(left, right),
            }
        )
        places[name] = {
            "prompt": left["id"],
            "sample": left["sample"],
            "left": "second" if swap else "first",
            "right": "first" if swap else "second",
        }
    named = {"first": _identity(first), "second": _identity(second)}
    return pairs, {"version": 1, "seed": seed, **named, "pairs": places}


def _paired(
    first: Sequence[Record], second: Sequence[Record], samples: int
) -> Iterator[tuple[Record, Record]]:
    others = {(answer["id"], answer["sample"]): answer for answer in second}
    for answer in first:
        other = others.get((answer["id"], answer["sample"]))
        if other is not None and (not samples or answer["sample"] < samples):
            yield answer, other


def _ids(generator: np.random.Generator, count: int) -> Iterator[str]:
    """Names that say nothing, each once."""
    seen: set[str] = set()
    while len(seen) < count:
        name = generator.bytes(_ID_BYTES).hex()
        if name not in seen:
            seen.add(name)
            yield name


def _flags(left: Record, right: Record) -> list[str]:
    """What makes a pair unfit for judgement, or nearly so."""
    flags = []
    for side, answer in (("left", left), ("right", right)):
        if not answer["answer"].strip():
            flags.append(f"{side} is empty")
        elif not answer["finished"]:
            flags.append(f"{side} is cut off")
    if left["answer"].split() == right["answer"].split():
        flags.append("identical")
    return flags


def _identity(evaluation: Evaluation) -> dict[str, Any]:
    model = evaluation.record["model"]
    return {
        "name": evaluation.name,
        "evaluation": evaluation.path.name,
        "fingerprint": model.get("fingerprint"),
        "run": evaluation.record.get("run"),
    }


def _summary(pairs: Sequence[Record], seed: int) -> Record:
    flags = [flag for pair in pairs for flag in pair["flags"]]
    return {
        "version": 1,
        "seed": seed,
        "pairs": len(pairs),
        "prompts": len({pair["prompt"] for pair in pairs}),
        "empty": sum(flag.endswith("is empty") for flag in flags),
        "cut_off": sum(flag.endswith("is cut off") for flag in flags),
        "identical": flags.count("identical"),
    }
