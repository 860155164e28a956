"""Fingerprints of what stages read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from speakeasy.corpus.documents import text_files
from speakeasy.data.dataset import find_files
from speakeasy.evaluation.making import made_on
from speakeasy.evaluation.result import ANSWERS_FILE, RECORD_FILE, SCORES_FILE, Evaluation
from speakeasy.training.run import Run
from speakeasy.weights.fingerprint import fingerprint, tokenizer_fingerprint
from speakeasy.weights.hub import resolve_model
from speakeasy.workflow.stages.kind import Inputs, Say


def of_files(files: Iterable[Path]) -> str:
    """sha256 of files' contents, in the order given."""
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def of_conversations(paths: Iterable[str]) -> str:
    """Of files and directories of conversations."""
    return of_files(find_files([Path(path) for path in paths]))


def of_texts(paths: Iterable[str]) -> str:
    """Of files and directories of text."""
    return of_files(text_files([Path(path) for path in paths]))


def of_value(value: Any) -> str:
    """Of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def dialect_file(name: str) -> Path:
    """A packaged file: ``lexicon.toml`` or ``prompts.toml``."""
    with resources.as_file(resources.files("speakeasy.dialect") / "data" / name) as path:
        return path


def of_model(name: str, say: Say) -> Inputs:
    """Of a model's weights and of its tokenizer."""
    path = resolve_model(name, say=say).path
    return {"model": fingerprint(path), "tokenizer": tokenizer_fingerprint(path)}


def of_adapter(directory: Path) -> str:
    """Of the files of an adapter, or of a run's: its figures, and the rows trained beside it."""
    run = Run(directory)
    if not (directory / "run.toml").is_file():
        return of_files(sorted(file for file in directory.iterdir() if file.is_file()))
    beside = [file for file in (directory / "summary.json", run.rows) if file.is_file()]
    return of_files([*sorted(run.adapter.iterdir()), *beside])


def of_evaluation(directory: Path) -> str:
    """Of all that an evaluation found.

    Raises:
        RunError: there is no evaluation.
    """
    path = Evaluation.read(directory).path
    files = (RECORD_FILE, SCORES_FILE, ANSWERS_FILE)
    return of_files(path / name for name in files)


def of_questions(directory: Path) -> str:
    """Of what an evaluation was made on and with: texts, prompts, sampling, lexicon.

    Raises:
        RunError: there is no evaluation.
    """
    return of_value(made_on(Evaluation.read(directory)))
