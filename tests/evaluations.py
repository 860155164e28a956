"""Evaluation directories with made-up figures, for what reads them: quick to make, easy to reckon.

They are what ``speakeasy evaluate`` writes, file for file; ``test_evaluate.py`` makes real ones.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from speakeasy.dialect.lexicon import packaged_lexicon
from speakeasy.evaluation.figures import metrics
from speakeasy.evaluation.measures import AnswerTable, Measurer
from speakeasy.evaluation.result import SETS, VERSION, Evaluation, Score

BYTES, WORDS, TOKENS = 120, 20, 40
"""Of every text that is scored."""
HUMAN_DENSITY = 3.0
PROMPTS = ("¿Quedamos mañana?", "¿Qué tal el fin de semana?", "¿Vienes a cenar?", "¡Cuánto tiempo!")
PLAIN = "Mañana no puedo, pero el sábado estoy libre y me apetece mucho ir al cine con vosotros."
"""An answer without any marker."""
REGIONAL = "Ostras, nen, mañana no puedo, pero el sábado plegamos pronto y vamos a la plaça, apa."


def evaluation_of(
    directory: Path,
    *,
    bits: float,
    neutral: float | None = None,
    spread: float = 0.1,
    answers: Sequence[str] = (PLAIN,),
    prompts: Sequence[str] = PROMPTS,
    items: int = 30,
    tokenizer: str = "old",
    texts: str = "same",
    lineage: Sequence[Mapping[str, Any]] = (),
    regional: float = 2.6,
    changes: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Write an evaluation, and read it back.

    Args:
        bits: bits a byte of every set, but for ``neutral``, that of neutral Spanish.
        spread: standard deviation of bits a byte over items; the items' own part is the same for
            all evaluations, and a tenth of it is drawn from ``bits``.
        answers: given to the prompts in turn.
        tokenizer: its fingerprint.
        texts: fingerprint of the sets.
        changes: of entries of ``evaluation.json``.
    """
    directory.mkdir(parents=True)
    lexicon = packaged_lexicon()
    levels = dict.fromkeys(SETS, bits) | {"neutral_es": neutral or bits}
    hard = np.random.default_rng(1).normal(0, spread, items)
    own = np.random.default_rng(round(1e6 * bits)).normal(0, spread / 10, items)
    scores = [
        Score(
            set=name,
            item=item,
            nats=(levels[name] + hard[item] + own[item] - hard.mean() - own.mean())
            * math.log(2)
            * BYTES,
            bytes=BYTES,
            words=WORDS,
            tokens=TOKENS if tokenizer == "old" else TOKENS - 4,
        )
        for name in SETS
        for item in range(items)
    ]
    measurer = Measurer(lexicon)
    lines = [
        {
            "id": f"prompt-{number}",
            "prompt": prompt,
            "category": "",
            "register": "informal",
            "control": False,
            "expects": ["interjection"],
            "sample": 0,
            "answer": answers[number % len(answers)],
            "tokens": 12,
            "finished": True,
            "measures": measurer.measure(answers[number % len(answers)], prompt),
        }
        for number, prompt in enumerate(prompts)
    ]
    categories = len(lexicon.categories)
    table = AnswerTable(lines, categories=categories, human_density=HUMAN_DENSITY)
    fertility = {
        name: {"words": 100, "tokens": round(100 * value), "tokens_per_word": value}
        for name, value in (("regional", regional), ("es", 2.1), ("ca", 2.2))
    }
    by_set = {name: [score for score in scores if score.set == name] for name in SETS}
    record = {
        "version": VERSION,
        "name": directory.name,
        "model": {
            "name": "starter", "source": "starter", "fingerprint": "f" * 64,
            "tokenizer_fingerprint": tokenizer, "parameters": 134_515_008, "bytes": 269_000_000,
        },
        "run": None,
        "adapter": None,
        "lineage": list(lineage),
        "device": {
            "backend": "torch", "name": "CPU, 2 threads", "precision": "float32",
            "quantization": None,
        },
        "versions": {"speakeasy": "0.1", "python": "3.11", "torch": "2.13.0"},
        "seed": 0,
        "variety": {"name": "Spanish of Catalonia", "matrix": "es", "contact": "ca"},
        "sets": {
            name: {
                "origin": "made up", "fingerprint": f"{texts}-{name}", "items": items,
                "tokens": TOKENS * items, "bytes": BYTES * items, "words": WORDS * items,
                "seen": 0, "longest": 2048, "shortened": 0, "rejected": 0,
            }
            for name in SETS
        },
        "fertility": fertility,
        "answers": {
            "prompts": len(prompts), "samples": 1, "count": len(lines),
            "sampling": {"max_tokens": 64, "temperature": 0.7, "seed": 0},
            "prompts_fingerprint": "p", "lexicon_fingerprint": lexicon.fingerprint,
            "categories": categories, "human": table.values() | {"marker_density": HUMAN_DENSITY},
        },
        "metrics": metrics(lineage, 269_000_000, by_set, fertility, table),
    } | dict(changes or {})  # fmt: skip
    scored = [dataclasses.asdict(score) for score in scores]
    for name, written in (("scores.jsonl", scored), ("answers.jsonl", lines)):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in written)
        (directory / name).write_text(text, encoding="utf-8")
    (directory / "evaluation.json").write_text(json.dumps(record), encoding="utf-8")
    return Evaluation.read(directory)


def run_behind(kind: str, seconds: float, *, finished: bool = True) -> dict[str, Any]:
    """A record of a lineage."""
    return {
        "kind": kind, "run": f"{kind}-1", "backend": "torch", "device": "CPU, 2 threads",
        "seconds": seconds, "steps": 10, "tokens": 20_000, "peak_memory_bytes": 2_400_000_000,
        "data": "what is packaged with speakeasy", "data_fingerprint": "d" * 64, "seed": 1,
        "quantization": None, "precision": "float32", "versions": {"speakeasy": "0.1"},
        "finished": finished, "curve": [[0, 2.7], [40_000, 2.5], [80_000, 2.45]],
    }  # fmt: skip
