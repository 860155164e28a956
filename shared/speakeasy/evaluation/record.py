"""The content of ``evaluation.json``: the model, the runs behind it, and every figure."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from speakeasy import __version__
from speakeasy.dialect.lexicon import Lexicon
from speakeasy.evaluation.answers import Questions
from speakeasy.evaluation.fertility import fertility, regional_words, running_words
from speakeasy.evaluation.figures import bits_per_byte, metrics
from speakeasy.evaluation.lineage import Subject, run_record
from speakeasy.evaluation.measures import AnswerTable
from speakeasy.evaluation.result import VERSION
from speakeasy.evaluation.scoring import Scored
from speakeasy.evaluation.sets import TextSet
from speakeasy.training.inference import Responder
from speakeasy.training.run import Record, Run
from speakeasy.training.session import installed_packages, quantization
from speakeasy.weights.adapters import read_adapter
from speakeasy.weights.checkpoint import ModelShape, model_shape
from speakeasy.weights.fingerprint import fingerprint, tokenizer_fingerprint
from speakeasy.weights.trained_rows import rows_beside


@dataclass(frozen=True, slots=True)
class Material:
    """Everything that is known before the first text is scored.

    Attributes:
        runs: those behind the model, oldest first.
        sets: in the order of ``result.SETS``.
    """

    subject: Subject
    responder: Responder
    runs: Sequence[Run]
    sets: tuple[TextSet, ...]
    questions: Questions
    lexicon: Lexicon


def record_of(
    name: str,
    material: Material,
    scored: Mapping[str, Scored],
    seen: Mapping[str, int] | None,
    lines: Sequence[Record],
    human: Sequence[Record],
) -> Record:
    """The content of ``evaluation.json``.

    Args:
        name: what to call it; empty for the name of a directory.
        seen: of each set, how many items were trained on; None where that is unknown.
        lines: answers with their measures.
        human: the same of the answers that people gave.
    """
    responder, questions, lexicon = material.responder, material.questions, material.lexicon
    shape = model_shape(responder.model.path)
    lineage = [run_record(run) for run in material.runs]
    spent = {
        "regional": fertility(responder.tokenizer, regional_words(lexicon)),
        "es": fertility(responder.tokenizer, running_words(_texts(material.sets, "neutral_es"))),
        "ca": fertility(responder.tokenizer, running_words(_texts(material.sets, "neutral_ca"))),
    }
    categories = len(lexicon.categories)
    people = AnswerTable(human, categories=categories).values()
    table = AnswerTable(lines, categories=categories, human_density=people["marker_density"])
    model = _model(responder, shape)
    return {
        "version": VERSION,
        "name": name or _name(material),
        "model": model,
        "run": None if material.subject.run is None else str(material.subject.run.path),
        "adapter": None if responder.adapter is None else str(responder.adapter),
        "lineage": lineage,
        "device": {
            "backend": responder.selection.name,
            "name": responder.device.name,
            "precision": responder.precision,
            "quantization": quantization(shape, _in_4bit(material), responder.selection.name),
        },
        "versions": {
            "speakeasy": __version__,
            "python": platform.python_version(),
            **installed_packages(),
        },
        "seed": questions.sampling.seed,
        "variety": dataclasses.asdict(lexicon.variety),
        "sets": {
            one.name: _set_record(one, scored[one.name], None if seen is None else seen[one.name])
            for one in material.sets
        },
        "fertility": spent,
        "answers": {
            "prompts": len(questions.prompts),
            "samples": questions.samples,
            "count": len(lines),
            "sampling": dataclasses.asdict(questions.sampling),
            "prompts_fingerprint": questions.fingerprint,
            "lexicon_fingerprint": lexicon.fingerprint,
            "categories": categories,
            "human": people,
        },
        "metrics": metrics(
            lineage,
            model["bytes"],
            {name: found.scores for name, found in scored.items()},
            spent,
            table,
        ),
    }


def _in_4bit(material: Material) -> bool:
    """As ``Responder.open`` decides it: asked for, or taken over from the run."""
    run = material.subject.run
    taken_over = run is not None and not run.is_pretraining and run.config.use_4bit
    return material.subject.speaker.use_4bit or taken_over


def _texts(sets: Sequence[TextSet], name: str) -> list[str]:
    return next(one.texts for one in sets if one.name == name)


def _name(material: Material) -> str:
    """The name of the run's, the adapter's or the model's directory."""
    responder = material.responder
    if material.subject.run is not None:
        return material.subject.run.path.resolve().name
    if responder.adapter is not None:
        return responder.adapter.resolve().name
    return Path(responder.model.name).name


def _model(responder: Responder, shape: ModelShape) -> Record:
    """What was evaluated; ``bytes`` and ``parameters`` are of base, adapter and trained rows."""
    path, adapter = responder.model.path, responder.adapter
    files = [] if adapter is None else sorted(adapter.glob("*.safetensors"))
    if adapter is not None and (rows := rows_beside(adapter)) is not None and rows not in files:
        files.append(rows)
    tensors = read_adapter(adapter).tensors if adapter is not None else {}
    return {
        "name": responder.model.name,
        "source": responder.model.source,
        "fingerprint": fingerprint(path),
        "tokenizer_fingerprint": tokenizer_fingerprint(path),
        "parameters": shape.parameter_count + sum(tensor.size for tensor in tensors.values()),
        "bytes": shape.bytes_on_disk + sum(file.stat().st_size for file in files),
    }


def _set_record(texts: TextSet, scored: Scored, seen: int | None) -> Record:
    whole = scored.whole
    value, interval, _ = bits_per_byte(scored.scores)
    perplexity = whole.word_perplexity
    return {
        "origin": texts.origin,
        "fingerprint": texts.fingerprint,
        "items": len(scored.scores),
        "tokens": whole.target_tokens,
        "bytes": whole.target_bytes,
        "words": whole.target_words,
        "loss": whole.loss,
        "bits_per_byte": value,
        "bits_per_byte_interval": None if interval is None else list(interval),
        "word_perplexity": perplexity if perplexity < float("inf") else None,
        "seen": seen,
        "longest": scored.longest,
        "shortened": scored.shortened,
        "rejected": scored.rejected,
    }
