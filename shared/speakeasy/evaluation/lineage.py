"""The runs behind a model: what they took, how they learned, and what they read.

A model may have been pre-trained (a run that left the model) and then adapted (a run that left an
adapter). Their records stand in the run directories, which are followed as far as they are there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from speakeasy.config import CorpusConfig, PretrainConfig, TrainConfig
from speakeasy.corpus.documents import read_documents
from speakeasy.data.chat import Conversation
from speakeasy.errors import RunError
from speakeasy.training.ancestry import ancestors, data_names
from speakeasy.training.inference import Speaker, given_run
from speakeasy.training.prepare import conversations, take
from speakeasy.training.raw_text import (
    NEUTRAL_HOLDOUT,
    corpus_files,
    document_draws,
    replay_files,
)
from speakeasy.training.run import Record, Run
from speakeasy.weights.hub import ModelDirectory


@dataclass(frozen=True, slots=True)
class Subject:
    """What is evaluated, before it is loaded.

    Attributes:
        speaker: what ``Responder.open`` takes: of a pre-training run, its model.
        run: the run that was given, or that the adapter lies in; None for neither.
    """

    speaker: Speaker
    run: Run | None


def find_subject(speaker: Speaker) -> Subject:
    """Tell runs of either kind, adapters inside of runs, and models apart.

    Raises:
        UsageError: both an adapter and a run are given.
        RunError: the run is not there; or it is a pre-training run and a model is given as well.
    """
    adapter = speaker.adapter
    run = given_run(speaker.run, adapter)
    if run is None and adapter is not None and (adapter.parent / "run.toml").is_file():
        beside = Run(adapter.parent)
        if beside.adapter.resolve() == adapter.resolve():
            return Subject(replace(speaker, adapter=None, run=beside.path), beside)
    if run is None or not run.is_pretraining:
        return Subject(speaker, run)
    if speaker.model is not None:
        raise RunError(
            f"{run.path}: a pre-training run, whose result is a whole model; leave out --model "
            f"{speaker.model}"
        )
    whole = Speaker(
        model=str(run.path),
        backend=speaker.backend,
        precision=speaker.precision,
        use_4bit=speaker.use_4bit,
    )
    return Subject(whole, run)


def runs_behind(model: ModelDirectory, run: Run | None) -> list[Run]:
    """The runs that made a model and its adapter, oldest first.

    Args:
        model: the base of the adapter, or a whole model.
        run: the run that the adapter comes from, where it is known.
    """
    made = [
        Run(path)
        for _, path in ancestors(model)
        if path is not None and (path / "run.toml").is_file()
    ]
    newest = [run] if run is not None and not run.is_pretraining else []
    return [*reversed(made), *newest]


def run_record(run: Run) -> Record:
    """What is known of a run, for ``evaluation.json``; as far as it went, if it has not finished.

    ``peak_memory_bytes`` is the device's high-water mark where the device has a memory of its own,
    else the process's. ``curve`` is a list of [bytes seen, bits per byte of the run's own held-out
    set]: bytes of the targets, so that runs with different tokenizers share an axis.
    """
    config, environment = run.config, run.environment
    summary = run.summary or _so_far(run)
    device_peak = summary["device_peak_memory_bytes"]
    return {
        "kind": "pretrain" if isinstance(config, PretrainConfig) else "train",
        "run": run.path.resolve().name,
        "backend": environment["backend"],
        "device": environment["device"],
        "seconds": summary["seconds"],
        "steps": summary["steps"],
        "tokens": summary["tokens"],
        "peak_memory_bytes": device_peak or summary["peak_memory_bytes"],
        "data": data_names(config),
        "data_fingerprint": environment["data_fingerprint"],
        "seed": config.seed,
        "quantization": environment["quantization"],
        "precision": environment["precision"],
        "versions": {
            "speakeasy": environment["speakeasy"],
            "python": environment["python"],
            **environment["packages"],
        },
        "finished": run.summary is not None,
        "curve": learning_curve(run),
    }


def _so_far(run: Run) -> Record:
    """The figures of ``summary.json``, from the log of a run that has not finished.

    Raises:
        RunError: it has not taken a step.
    """
    steps = run.steps()
    if not steps:
        raise RunError(f"{run.path}: has taken no step yet; go on with: {run.resume_command}")
    before = [0, *(record["tokens"] for record in steps[:-1])]
    seconds = sum(
        (record["tokens"] - tokens) / record["tokens_per_second"]
        for record, tokens in zip(steps, before, strict=True)
    )
    last = steps[-1]
    return {
        "steps": last["step"],
        "tokens": last["tokens"],
        "seconds": seconds,
        "peak_memory_bytes": max(record["peak_memory_bytes"] for record in steps),
        "device_peak_memory_bytes": last["device_peak_memory_bytes"],
    }


def learning_curve(run: Run) -> list[list[float]]:
    """Pairs of bytes seen and bits per byte of the held-out set, one an evaluation.

    The log has nats a token, bits a byte and tokens of each step; bytes follow from these. Where
    a step was evaluated again (on a base that is held otherwise), the last figure counts.
    """
    seen, targets, at = 0.0, 0, {0: 0}
    for record in run.steps():
        nats = record["loss"] * (record["target_tokens"] - targets)
        targets = record["target_tokens"]
        if record["bits_per_byte"]:
            seen += nats / math.log(2) / record["bits_per_byte"]
        at[record["step"]] = round(seen)
    scored = {record["step"]: record["eval_bits_per_byte"] for record in run.evaluations()}
    return [[at[step], scored[step]] for step in sorted(scored) if step in at]


def conversation_text(conversation: Conversation) -> str:
    """What is said in a conversation, without saying who says it."""
    return "\n".join(turn.content for turn in conversation.turns)


def training_texts(runs: Sequence[Run]) -> Iterator[str]:
    """Everything that the runs learned from: a conversation or a document at a time.

    Raises:
        DataError: a file is not there any more, or cannot be read.
    """
    for run in runs:
        config = run.config
        if isinstance(config, TrainConfig):
            learned, _, _ = conversations(config.data, config.seed)
            for conversation in take(learned, config.data.max_train, config.seed):
                yield conversation_text(conversation)
        else:
            yield from _learned_documents(config.corpus, config.seed)


def _learned_documents(corpus: CorpusConfig, seed: int) -> Iterator[str]:
    holdout = 0.0 if corpus.evaluation else corpus.holdout
    yield from split_documents(corpus_files(corpus), holdout, seed, held_out=False)
    if corpus.replay_share:
        yield from split_documents(replay_files(corpus), NEUTRAL_HOLDOUT, seed, held_out=False)


def split_documents(
    files: Sequence[Path], holdout: float, seed: int, *, held_out: bool
) -> Iterator[str]:
    """One side of the documents of some files, as pre-training draws the sides.

    Of a corpus so large that its share exceeds what pre-training holds out at most
    (``raw_text.HELD_OUT_TOKENS``), the rest of the share was learned, too; where it begins depends
    on the tokenizer.
    """
    draw = document_draws(seed)
    for document in read_documents(files):
        if (draw() < holdout) == held_out:
            yield document.text
