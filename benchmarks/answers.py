"""Evaluation's speed: answers in batches against one by one, and scoring against training's pass.

    python -m benchmarks.answers --backend torch --prompts 16 --tokens 64

The starter model in float32, on the CPU. Answers: the packaged prompts, each answered with exactly
as many tokens (no stop token), so that both ways do the same work; one by one is ``generate`` with
one prompt at a time, which has the key-value cache, too. Scoring: the packaged held-out
conversations through ``score_sets``, against the forward pass of a training step on the same
conversations, packed as training packs them. Contenders take turns, and the medians of the rounds
are compared. On a machine that others use as well, set OMP_NUM_THREADS=1: threads that wait for
each other cost batches more than single answers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from speakeasy.batches.pack import build_batch, pack
from speakeasy.batches.pieces import item_lengths
from speakeasy.batches.render import render_all
from speakeasy.batches.templates import render_prompt
from speakeasy.config import DataConfig
from speakeasy.dialect.prompts import packaged_prompts
from speakeasy.evaluation.plan import ANSWER_TOKENS, EvaluationPlan
from speakeasy.evaluation.scoring import score_sets
from speakeasy.evaluation.sets import TextSet, gather_sets
from speakeasy.training.backend import Sampling
from speakeasy.training.inference import Responder, Speaker

TARGET = 3.0
"""How many times faster batches are to be than one by one."""
NOISE = 0.95
"""Of the rate of a forward pass; medians of few rounds differ by so much without a reason."""


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="auto", choices=["auto", "mlx", "torch"])
    parser.add_argument("--model", default="starter")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=ANSWER_TOKENS)
    parser.add_argument("--batch-size", type=int, default=EvaluationPlan().batch_size)
    parser.add_argument("--conversations", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    speaker = Speaker(model=args.model, backend=args.backend, precision="float32")
    responder = Responder.open(speaker, print_to_nobody)
    found = {
        "backend": responder.selection.name,
        "device": responder.device.name,
        "answers": measure_answers(responder, args),
        "scoring": measure_scoring(responder, args),
    }
    print(json.dumps(found, indent=2))


def print_to_nobody(line: str) -> None:
    """Choices are not the benchmark's business."""


def in_turns(contenders: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each contender; they take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in seconds.items()}


def measure_answers(responder: Responder, args: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second in batches and one by one, and whether the tokens are the same."""
    sampling = Sampling(max_tokens=args.tokens)
    prompts = [
        render_prompt(responder.tokenizer, prompt.to_messages())
        for prompt in packaged_prompts()[: args.prompts]
    ]
    prompts.sort(key=len)
    engine, got = responder.engine, dict[str, list[list[int]]]()

    def answer(name: str, size: int) -> None:
        got[name] = []
        for start in range(0, len(prompts), size):
            got[name] += engine.generate(prompts[start : start + size], sampling, ())

    engine.generate(prompts[:1], Sampling(max_tokens=2), ())  # warm
    seconds = in_turns(
        {
            "batches": lambda: answer("batches", args.batch_size),
            "one by one": lambda: answer("one by one", 1),
        },
        args.rounds,
    )
    tokens = len(prompts) * args.tokens
    same = sum(a == b for a, b in zip(got["batches"], got["one by one"], strict=True))
    times = seconds["one by one"] / seconds["batches"]
    return {
        "answers": len(prompts),
        "batch_size": args.batch_size,
        "tokens_per_second": {name: tokens / taken for name, taken in seconds.items()},
        "times_faster": times,
        "at_least": TARGET,
        "met": times >= TARGET,
        "same_answers": same,
    }


def measure_scoring(responder: Responder, args: argparse.Namespace) -> dict[str, Any]:
    """Real tokens a second of ``score_sets`` and of the forward pass on training's rows."""
    plan = EvaluationPlan(max_items=args.conversations)
    (chosen,) = (one for one in gather_sets(plan, []) if one.name == "conversations")
    row_length = DataConfig().max_length
    items = render_all(responder.tokenizer, list(chosen.items), row_length).items
    rows = pack(item_lengths(items), row_length, seed=0)

    def forward() -> None:
        for row in rows:
            responder.engine.token_losses(build_batch(items, [row], row_length))

    def score() -> None:
        score_sets(responder, [TextSet(chosen.name, chosen.origin, chosen.items)])

    score()  # warm
    seconds = in_turns({"scoring": score, "training's forward pass": forward}, args.rounds)
    tokens = sum(item_lengths(items))
    rates = {name: tokens / taken for name, taken in seconds.items()}
    return {
        "conversations": len(items),
        "tokens_per_second": rates,
        "met": rates["scoring"] >= NOISE * rates["training's forward pass"],
    }


if __name__ == "__main__":
    main()
