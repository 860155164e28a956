"""Carrying out a recipe: each stage once, again when what it reads has changed.

Each stage's directory holds ``stage.json``: its kind, its plan, fingerprints of all that it
read, and one fingerprint over these. Until the stage has finished, that file lies beside the
directory, as ``.NAME.stage.json``. A stage whose result is there and whose fingerprint is
still the same is passed over; one that was interrupted goes on. What a changed stage made
before is set aside, never deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from speakeasy.errors import InterruptedRun, RunError
from speakeasy.files import occupied, write_json
from speakeasy.plan_files import to_dict
from speakeasy.training.run import Record, read_json
from speakeasy.workflow.places import in_root
from speakeasy.workflow.recipe import Recipe, Stage
from speakeasy.workflow.stages import KINDS, result
from speakeasy.workflow.stages.kind import Follower, Place, Say

MANIFEST = "stage.json"
Action = Literal["run", "resume", "rerun", "skip"]


@dataclass(frozen=True, slots=True)
class Standing:
    """What is to be done about a stage, and why."""

    action: Action
    reason: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """A stage that is finished.

    Attributes:
        action: what had to be done for it.
        seconds: spent on it now.
        result: what it came to, as it stands in its result file.
    """

    stage: Stage
    directory: Path
    action: Action
    seconds: float
    result: Record


def carry_out(recipe: Recipe, root: Path, follower: Follower) -> Iterator[Outcome]:
    """Bring every stage to its end, in order; yields each as it is finished.

    Raises:
        RunError: a stage's directory holds something else.
        InterruptedRun: a signal stopped a stage; its state is saved.
        SpeakeasyError: whatever stands in a stage's way, in one line.
    """
    for number, stage in enumerate(recipe.stages, 1):
        started = time.perf_counter()
        directory = root / stage.name
        found = standing(stage, root, follower.say)
        follower.say(f"stage {number} of {len(recipe.stages)}, {stage.name}: {found.reason}")
        if found.action == "rerun":
            follower.say(f"what it made before is kept in {_set_aside(directory)}")
        if found.action != "skip":
            write_json(_pending(directory), _manifest(stage, root, follower.say))
            try:
                KINDS[stage.kind].carry_out(_place(stage, root), follower)
            except InterruptedRun as error:
                raise InterruptedRun(
                    f"stage {stage.name} stopped, its state is saved; go on with: "
                    f"speakeasy run {recipe.source} --output-dir {root}",
                    error.exit_status - 128,
                ) from error
        if _pending(directory).is_file():  # killed just before this line, it is still there
            os.replace(_pending(directory), directory / MANIFEST)
        seconds = time.perf_counter() - started
        yield Outcome(stage, directory, found.action, seconds, result(stage, directory))


def standings(
    recipe: Recipe, root: Path, say: Say = lambda line: None
) -> Iterator[tuple[Stage, Standing]]:
    """What ``carry_out`` would do, without doing it.

    A stage that reads what an earlier one will make anew is shown as one to look at again.
    """
    settled: set[str] = set()
    for stage in recipe.stages:
        if settled.issuperset(stage.reads) or not occupied(root / stage.name):
            found = standing(stage, root, say)
        else:
            found = Standing("rerun", "again, if what it reads has changed by then")
        if found.action == "skip":
            settled.add(stage.name)
        yield stage, found


def standing(stage: Stage, root: Path, say: Say = lambda line: None) -> Standing:
    """How a stage stands, by what is on the disk.

    Raises:
        RunError: its directory holds something that no recipe made.
    """
    directory = root / stage.name
    if not occupied(directory):
        return Standing("run", "not done yet")
    record = directory / MANIFEST
    if not record.is_file():
        record = _pending(directory)
    if not record.is_file():
        raise RunError(
            f"{directory}: holds something that speakeasy run did not make; choose another "
            "--output-dir"
        )
    then, now = read_json(record), _manifest(stage, root, say)
    if then.get("fingerprint") != now["fingerprint"]:
        return Standing("rerun", f"done again, changed: {', '.join(_changes(then, now))}")
    if not (directory / KINDS[stage.kind].result).is_file():
        return Standing("resume", "goes on where it was left")
    return Standing("skip", "done already, nothing has changed")


def _place(stage: Stage, root: Path) -> Place:
    return Place(root / stage.name, in_root(stage.plan, root))


def _pending(directory: Path) -> Path:
    """Where the record of a stage lies until it has finished."""
    return directory.with_name(f".{directory.name}.{MANIFEST}")


def _manifest(stage: Stage, root: Path, say: Say) -> Record:
    facts = {
        "kind": stage.kind,
        "plan": to_dict(stage.plan),
        "inputs": KINDS[stage.kind].inputs(_place(stage, root), say),
    }
    canonical = json.dumps(facts, sort_keys=True, ensure_ascii=False)
    return {**facts, "fingerprint": hashlib.sha256(canonical.encode()).hexdigest()}


def _changes(then: Record, now: Record) -> list[str]:
    """Names of what differs between two manifests: plan entries as in the recipe, and inputs."""
    before, after = _flat(then), _flat(now)
    names = [
        name
        for name in dict.fromkeys([*before, *after])
        if name != "fingerprint" and before.get(name) != after.get(name)
    ]
    return [name.removeprefix("plan.").removeprefix("inputs.") for name in names]


def _flat(table: Record, prefix: str = "") -> Record:
    out: Record = {}
    for name, value in table.items():
        whole = prefix + name
        out |= _flat(value, f"{whole}.") if isinstance(value, dict) else {whole: value}
    return out


def _set_aside(directory: Path) -> Path:
    """Rename a stage's directory to the first free ``NAME.old-1``, ``NAME.old-2``, ..."""
    number = 1
    while (aside := directory.with_name(f"{directory.name}.old-{number}")).exists():
        number += 1
    directory.rename(aside)
    if _pending(directory).is_file():
        os.replace(_pending(directory), aside / MANIFEST)
    return aside
