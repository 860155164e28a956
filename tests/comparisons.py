"""A comparison of three made-up runs, as ``speakeasy compare`` writes it."""

from __future__ import annotations

import hashlib
from itertools import combinations
from typing import Any

from speakeasy.evaluation.metric_kinds import METRICS
from speakeasy.evaluation.verdict import verdict

NAMES = ("base", "Approach 1", "Approach 2")

_FIGURES: dict[str, tuple[float | None, float | None, float | None]] = {
    "training_seconds": (None, 723.4, 3_907.0),
    "eval_loss": (2.461, 1.998, 2.284),
    "eval_bits_per_byte": (2.324, 1.914, 1.893),
    "word_perplexity": (12_841.7, 2_411.2, 2_212.9),
    "tokens_per_regional_word": (2.83, 2.83, 1.06),
    "tokens_per_word_es": (2.14, 2.14, 1.97),
    "tokens_per_word_ca": (2.17, 2.17, 1.88),
    "peak_memory_bytes": (None, 1.93e9, 2.41e9),
    "model_bytes": (269_060_552, 345_112_104, 349_530_112),
    "regional_bits_per_byte": (2.151, 2.102, 1.984),
    "neutral_es_bits_per_byte": (1.702, 1.731, 1.768),
    "neutral_ca_bits_per_byte": (2.466, 2.388, 2.201),
    "marker_density": (0.04, 1.91, 2.62),
    "marker_density_error": (2.36, 0.49, 0.22),
    "coverage": (0.10, 0.70, 0.90),
    "expected": (0.02, 0.41, 0.55),
    "control_plain": (1.0, 0.92, 0.83),
    "anti_density": (0.31, 0.08, 0.05),
    "code_mixing": (0.6, 3.9, 5.8),
    "switch_rate": (0.01, 0.07, 0.11),
    "catalan_drift": (0.0, 0.013, 0.027),
    "distinct_1": (0.271, 0.243, 0.236),
    "distinct_2": (0.682, 0.648, 0.639),
    "repetition": (0.213, 0.041, 0.052),
    "loops": (0.12, 0.007, 0.013),
    "prompt_overlap": (0.081, 0.022, 0.019),
    "truncated": (0.44, 0.013, 0.02),
    "overlap_13gram": (0.0, 0.004, 0.006),
    "words_per_answer": (88.2, 31.4, 33.9),
}
_SAMPLED = [name for name in METRICS if name not in ("training_seconds", "peak_memory_bytes")]
_ANSWERS = (
    (
        "¿Quedamos mañana para tomar algo?",
        False,
        (
            "Sí, claro. Me gustaría tomar algo mañana. ¿A qué hora?",
            "¡Vinga, quedamos! ¿A las siete en la plaza te va bien, nen?",
            "Ostras, sí, vinga. A las siete en el bar de siempre, ¿eh? Y si no, plegamos antes.",
        ),
    ),
    (
        "Mi abuela pregunta cuándo vienes a comer.",
        False,
        (
            "Hola, soy un asistente. No puedo ir a comer.",
            "Dile a la yaya que el domingo, y que haga canelones.",
            "Dile que el domingo sin falta, que a la iaia no se le hace esperar, apa.",
        ),
    ),
    (
        "Redacta una carta formal al director del banco.",
        True,
        (
            "Estimado señor director: Le escribo para solicitar información sobre mi cuenta.",
            "Estimado señor director: Me dirijo a usted para solicitar una cita.",
            "Estimado señor director: Le agradecería que me concediera una cita.",
        ),
    ),
)


def comparison() -> dict[str, Any]:
    """The content of ``comparison.json``."""
    record = {
        "version": 1,
        "runs": [_run(index, name) for index, name in enumerate(NAMES)],
        "base": "base",
        "pairs": [
            pair
            for first, second in combinations(reversed(NAMES), 2)
            for pair in _pairs(first, second)
        ],
        "warnings": [
            "Approach 2: 2 of 40 texts of regional stand in its training data",
            "3 prompts: the figures of answers are rough",
        ],
        "answers": [
            {
                "id": f"prompt-{number}",
                "prompt": prompt,
                "control": control,
                "answers": {
                    name: [said, said.replace("mañana", "hoy")]
                    for name, said in zip(NAMES, texts, strict=True)
                },
            }
            for number, (prompt, control, texts) in enumerate(_ANSWERS, 1)
        ],
    }
    return record | {"verdict": verdict(record)}


def _run(index: int, name: str) -> dict[str, Any]:
    steps = {"base": [], "Approach 1": [_lora(2.324)], "Approach 2": [_pretraining(), _lora(2.205)]}
    return {
        "name": name,
        "evaluation": f"evaluations/{name}",
        "model": {
            "name": "starter" if name != "Approach 2" else "runs/pretrain/model",
            "source": "package",
            "fingerprint": _digest(f"model {name}"),
            "tokenizer_fingerprint": _digest(f"tokenizer {name == 'Approach 2'}"),
            "parameters": 134_515_008 + 19_537_920 * index,
            "bytes": _FIGURES["model_bytes"][index],
        },
        "seed": 0,
        "variety": {"name": "Spanish of Catalonia", "matrix": "es", "contact": "ca"},
        "metrics": {metric: _metric(metric, index) for metric in METRICS},
        "lineage": steps[name],
        "device": {"backend": "torch", "name": "cpu", "precision": "float32", "quantization": None},
        "versions": {"speakeasy": "0.5.0", "python": "3.11.2", "torch": "2.13.0"},
        "fertility": {},
        "sets": {
            "conversations": _set("starter, held out", 100),
            "regional": _set("starter/corpus/regional.txt", 40) | {"seen": 2 * (index == 2)},
        },
        "answers": {
            "prompts": 3,
            "samples": 2,
            "count": 6,
            "sampling": {"temperature": 0.7, "top_p": 0.9, "max_tokens": 128, "seed": 0},
            "prompts_fingerprint": _digest("prompts"),
            "lexicon_fingerprint": _digest("lexicon"),
            "human": {
                "marker_density": 2.40, "code_mixing": 5.1, "switch_rate": 0.09,
                "distinct_1": 0.262, "distinct_2": 0.713, "words_per_answer": 34.6,
            },
        },
    }  # fmt: skip


def _metric(name: str, index: int) -> dict[str, Any]:
    value, kind = _FIGURES[name][index], METRICS[name]
    sampled = value is not None and name in _SAMPLED and "/word" not in kind.unit
    spread = 0.03 * value + 0.01 * (kind.unit == "share") if sampled and value is not None else 0
    most = 1.0 if kind.unit == "share" else float("inf")
    interval = None
    if sampled and value is not None and kind.unit != "bytes":
        interval = [max(0.0, value - spread), min(most, value + spread)]
    return {
        "value": value,
        "interval": interval,
        "better": kind.better,
        "unit": kind.unit,
        "samples": 100,
    }


def _pairs(first: str, second: str) -> list[dict[str, Any]]:
    one, other = NAMES.index(first), NAMES.index(second)
    found = []
    for name in METRICS:
        values = _FIGURES[name]
        a, b, better = values[one], values[other], METRICS[name].better
        if a is None or b is None or better is None:
            continue
        difference, verdict = a - b, "not distinguishable"
        if name == "eval_loss" and "Approach 2" in (first, second):
            verdict = "not comparable"
        elif better in ("lower", "higher") and abs(difference) > 0.02:
            verdict = "a" if (difference < 0) == (better == "lower") else "b"
        ends = [difference - 0.02, difference + 0.02]
        found.append(
            {
                "a": first, "b": second, "metric": name, "difference": difference,
                "interval": ends, "verdict": verdict,
            }
        )  # fmt: skip
    return found


def _pretraining() -> dict[str, Any]:
    return _step("pretrain", "pretrain", 2_611.0, 300, 307_200, "starter/corpus") | {
        "curve": [[0, 2.568], [300_000, 2.402], [600_000, 2.338], [900_000, 2.311]]
    }


def _lora(start: float) -> dict[str, Any]:
    return _step("train", "lora", 723.4, 130, 133_120, "starter/conversations.jsonl") | {
        "curve": [
            [0, start],
            [120_000, start - 0.24],
            [240_000, start - 0.36],
            [380_000, 1.914 if start > 2.3 else 1.893],
        ]
    }


def _step(
    kind: str, run: str, seconds: float, steps: int, tokens: int, data: str
) -> dict[str, Any]:
    return {
        "kind": kind,
        "run": run,
        "backend": "torch",
        "device": "cpu",
        "seconds": seconds,
        "steps": steps,
        "tokens": tokens,
        "peak_memory_bytes": 1.93e9,
        "data": data,
        "data_fingerprint": _digest(data),
        "seed": 0,
        "quantization": None,
        "precision": "float32",
        "versions": {"speakeasy": "0.5.0", "python": "3.11.2", "torch": "2.13.0", "peft": "0.21.2"},
        "finished": True,
    }


def _set(origin: str, items: int) -> dict[str, Any]:
    return {
        "origin": origin,
        "fingerprint": _digest(origin),
        "items": items,
        "tokens": 110 * items,
        "bytes": 320 * items,
        "words": 60 * items,
        "seen": 0,
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
