"""What each kind of stage reads and does.

A stage is a directory that holds ``stage.json`` (see ``execute``) and what the stage made: a
train stage is an ordinary run directory, an answers stage has ``answers.json``.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from speakeasy.data.dataset import find_files, starter_files
from speakeasy.dialect.prompts import Prompt, packaged_prompts
from speakeasy.files import new_directory, write_json
from speakeasy.training import session as sessions
from speakeasy.training.backend import select_again
from speakeasy.training.inference import Responder, Speaker
from speakeasy.training.loop import Watcher
from speakeasy.training.planning import plan
from speakeasy.training.run import Record, Run, read_json
from speakeasy.weights.checkpoint import fingerprint, tokenizer_fingerprint
from speakeasy.weights.hub import resolve_model
from speakeasy.workflow.recipe import AnswersPlan, Stage

MANIFEST = "stage.json"
Inputs = dict[str, str]
Say = Callable[[str], None]


class Follower(Protocol):
    """Someone who is told how a recipe is getting on."""

    def say(self, line: str) -> None:
        """A line for people."""

    def planned(self, session: sessions.Session) -> None:
        """Training is about to begin with this plan."""

    def training(self, session: sessions.Session, run: Run) -> AbstractContextManager[Watcher]:
        """What follows a training run, its plan's experiment trackers included."""
        ...

    def counting(self, what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """What follows ``total`` units of work; it is called with the number of units done."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where a stage works.

    Attributes:
        root: directory of the whole recipe, in which each stage has one by its name.
        manifest: what goes into ``stage.json``.
    """

    root: Path
    stage: Stage
    manifest: Record

    @property
    def directory(self) -> Path:
        """The stage's own directory."""
        return self.root / self.stage.name


class Kind(Protocol):
    """What the recipe's engine needs to know of a kind of stage.

    Attributes:
        result: the file that is there only when the stage has finished.
    """

    result: str

    def inputs(self, stage: Stage, root: Path, say: Say) -> Inputs:
        """Fingerprints of all that the stage reads beside its plan, by what they are of."""
        ...

    def carry_out(self, place: Place, follower: Follower) -> None:
        """Do it, from the start or from where it was left; ends by writing ``result``."""
        ...


class Train:
    """LoRA on conversations: a run directory."""

    result = "summary.json"

    def inputs(self, stage: Stage, root: Path, say: Say) -> Inputs:
        """The base model, its tokenizer, and the files of both sides of the data."""
        model = resolve_model(stage.plan.model, say=say).path
        data = stage.plan.data
        return {
            "model": fingerprint(model),
            "tokenizer": tokenizer_fingerprint(model),
            "training data": _digest(_files(data.train) if data.train else starter_files()),
            "held-out data": _digest(_files(data.evaluation)),
        }

    def carry_out(self, place: Place, follower: Follower) -> None:
        """Start the run, or go on with it."""
        resumed = (place.directory / MANIFEST).is_file()
        config = Run.open(place.directory).config if resumed else place.stage.plan
        selection = select_again(config.backend, None) if resumed else None
        session = plan(config, selection=selection, say=follower.say, bar=follower.counting)
        follower.planned(session)
        before = Run.open(place.directory) if resumed else None
        opened = sessions.open_engine(session, before, say=follower.say)
        if not resumed:
            with new_directory(place.directory) as directory:
                Run.create(directory, session.config, sessions.environment(session))
                write_json(directory / MANIFEST, place.manifest)
        run = Run.open(place.directory)
        with follower.training(session, run) as watcher:
            sessions.train(session, run, opened, watcher)


class Answers:
    """The base model's and the trained model's answers, side by side."""

    result = "answers.json"

    def inputs(self, stage: Stage, root: Path, say: Say) -> Inputs:
        """The prompts' texts, the base model, and the adapter."""
        run = Run(root / stage.plan.run)
        texts = "\0".join(prompt.text for prompt in _prompts(stage.plan))
        return {
            "prompts": hashlib.sha256(texts.encode()).hexdigest(),
            "model": fingerprint(resolve_model(run.config.model, say=say).path),
            "adapter": _digest(sorted(run.adapter.iterdir())),
        }

    def carry_out(self, place: Place, follower: Follower) -> None:
        """Ask both, one after the other, and write what they said."""
        plan = place.stage.plan
        run = Run(place.root / plan.run)
        config = run.config
        how: Mapping[str, Any] = {"backend": config.backend, "precision": config.precision}
        base = Speaker(model=config.model, use_4bit=config.use_4bit, **how)
        trained = Speaker(run=run.path, **how)
        before = _ask(base, "the base model", plan, follower)
        after = _ask(trained, "the trained model", plan, follower)
        answers = [
            {"id": prompt.id, "prompt": prompt.text, "base": then, "trained": now}
            for prompt, then, now in zip(_prompts(plan), before, after, strict=True)
        ]
        sampling = dataclasses.asdict(plan.sampling)
        with new_directory(place.directory) as directory:
            write_json(directory / MANIFEST, place.manifest)
            write_json(directory / self.result, {"sampling": sampling, "answers": answers})


KINDS: Mapping[str, Kind] = {"train": Train(), "answers": Answers()}
"""By the names of ``recipe.PLANS``."""


def result(stage: Stage, directory: Path) -> Record:
    """What a finished stage came to."""
    return read_json(directory / KINDS[stage.kind].result)


def _prompts(plan: AnswersPlan) -> list[Prompt]:
    known = {prompt.id: prompt for prompt in packaged_prompts()}
    return [known[name] for name in plan.prompts]


def _ask(speaker: Speaker, who: str, plan: AnswersPlan, follower: Follower) -> list[str]:
    responder = Responder.open(speaker, follower.say)
    messages = [prompt.to_messages() for prompt in _prompts(plan)]
    texts = []
    with follower.counting(f"asking {who}", len(messages)) as advance:
        # One at a time: a batch would be done sooner, and show nothing until then.
        for answers in responder.answer(messages, plan.sampling, batch_size=1):
            texts += [answer.text for answer in answers]
            advance(len(answers))
    return texts


def _files(paths: Iterable[str]) -> list[Path]:
    return find_files([Path(path) for path in paths])


def _digest(files: Iterable[Path]) -> str:
    """sha256 of files' contents, in the order given."""
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()
