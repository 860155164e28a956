"""What the guide's two approaches would take of a model: here, and on the cards that it names.

The guide's table of hardware says 8 GB of graphics memory, better 16, for approach 1 (LoRA on
conversations), and 16, better 24, for approach 2 (new entries, pre-training on raw text, LoRA).
Nothing of it is believed: each job is laid out with the guide's settings and held against each
card. Cards are taken with PyTorch in bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from speakeasy.batches.types import Rendered
from speakeasy.config import JobConfig, PretrainConfig, TrainConfig
from speakeasy.training.backend import Device
from speakeasy.training.estimate import (
    JobEstimate,
    Reading,
    estimate_job,
    with_rows,
)
from speakeasy.training.memory import attended
from speakeasy.weights.checkpoint import ModelShape

CARDS = {1: (8, 16), 2: (16, 24)}
"""Approach -> gigabytes of the guide's minimum and recommended cards."""
CARD_SHARE = 0.95
"""Of a card's memory that is left beside the driver's context and a display."""
CONVERSATIONS, EPOCHS = 1_000, 3
RAW_BYTES = 10_000_000
"""The least of raw text that the guide recommends."""
ADDED = 100
"""Entries that approach 2 adds: the guide's words in their forms."""
FULL, FOUR_BITS, EVERY_WEIGHT = "full precision", "4-bit", "every weight trained"

Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Amounts:
    """What is read: conversations by approach 1, raw text before them by approach 2."""

    conversations: Reading
    text: Reading

    @classmethod
    def like(cls, items: Sequence[Rendered]) -> Amounts:
        """The guide's amounts of conversations such as these, and of text such as their answers."""
        lengths = [len(item.tokens_T) for item in items]
        targets = sum(int(item.is_target_T.sum()) for item in items)
        tokens, mean = sum(lengths), sum(lengths) / len(items)
        holdout = TrainConfig().data.holdout
        learned = round(CONVERSATIONS * (1 - holdout) * mean)
        conversations = Reading(
            learned,
            round(CONVERSATIONS * holdout * mean),
            target_share=targets / tokens,
            segment_tokens=attended(lengths),
        )
        spelled = sum(item.target_bytes for item in items) / targets
        return cls(conversations, Reading.of_bytes(RAW_BYTES, bytes_per_token=spelled))


def outlook(
    approach: int,
    shape: ModelShape,
    backend: str,
    device: Device,
    rate: float,
    amounts: Amounts,
) -> Facts:
    """One approach, as plain values for JSON.

    Args:
        approach: 1 or 2.
        rate: of ``Backend.matmul_rate`` at the device's precision.

    Returns:
        ``work`` in words; and for each way to hold the base, in ``held``: whether it fits here,
        what it takes, and whether it fits each of the guide's cards.
    """
    held = [
        _held(name, list(jobs), shape, backend, device, rate)
        for name, jobs in _ways(approach, shape, amounts)
    ]
    return {"approach": approach, "work": _work(approach), "held": held}


def _work(approach: int) -> str:
    conversations = f"LoRA on {CONVERSATIONS:,} conversations, {EPOCHS} epochs"
    if approach == 1:
        return conversations
    return f"{ADDED} new entries, pre-training on {RAW_BYTES / 1e6:.0f} MB of text, {conversations}"


@dataclass(frozen=True, slots=True)
class _Job:
    config: JobConfig
    reading: Reading
    added: int = 0


def _ways(
    approach: int, shape: ModelShape, amounts: Amounts
) -> Iterator[tuple[str, Iterator[_Job]]]:
    """Ways to hold the base, each with the jobs that follow one another."""
    if shape.quantization is not None:
        if approach == 1:
            yield shape.quantization, _jobs(1, amounts, {})
        return
    yield FULL, _jobs(approach, amounts, {})
    yield FOUR_BITS, _jobs(approach, amounts, {"use_4bit": True})
    if approach == 2:
        yield EVERY_WEIGHT, iter([_Job(PretrainConfig(train="full"), amounts.text, ADDED)])


def _jobs(approach: int, amounts: Amounts, options: Facts) -> Iterator[_Job]:
    if approach == 2:
        yield _Job(PretrainConfig(**options), amounts.text, ADDED)
    train = TrainConfig(num_epochs=EPOCHS, **options)
    yield _Job(train, amounts.conversations, ADDED if approach == 2 else 0)


def _held(
    name: str,
    jobs: list[_Job],
    shape: ModelShape,
    backend: str,
    device: Device,
    rate: float,
) -> Facts:
    here = [_estimate(job, shape, backend, device, rate) for job in jobs]
    leanest = max(here, key=lambda job: job.memory.total)
    expanded = with_rows(shape, ADDED).bytes_on_disk if any(job.added for job in jobs) else 0
    approach = 2 if expanded else 1
    return {
        "base": name,
        "precision": here[0].precision,
        "memory_bytes": leanest.memory.total,
        "fits": all(job.fits for job in here),
        "rows_per_pass": leanest.placement.rows_per_pass,
        "gradient_checkpointing": leanest.placement.gradient_checkpointing,
        "seconds": sum(job.seconds for job in here),
        "how": [job.how for job in here],
        "disk_bytes": expanded + sum(job.disk_bytes for job in here),
        "cards": [_on_card(size, jobs, shape) for size in CARDS[approach]],
    }


def _on_card(gigabytes: int, jobs: list[_Job], shape: ModelShape) -> Facts:
    memory = round(CARD_SHARE * gigabytes * 2**30)
    card = Device("cuda", f"a card of {gigabytes} GB", memory, "bfloat16", "")
    found = [_estimate(job, shape, "torch", card, rate=1.0) for job in jobs]
    leanest = max(found, key=lambda job: job.memory.total)
    return {
        "gigabytes": gigabytes,
        "memory_bytes": leanest.memory.total,
        "fits": all(job.fits for job in found),
        "rows_per_pass": leanest.placement.rows_per_pass,
        "gradient_checkpointing": leanest.placement.gradient_checkpointing,
    }


def _estimate(
    job: _Job, shape: ModelShape, backend: str, device: Device, rate: float
) -> JobEstimate:
    return estimate_job(
        job.config,
        with_rows(shape, job.added) if job.added else shape,
        device,
        backend=backend,
        reading=job.reading,
        rate=rate,
        added_rows=job.added,
    )
