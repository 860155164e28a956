"""What a job will take: arithmetic counted by hand, on made-up models and machines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_model import tiny_llama

from speakeasy.batches.types import Rendered
from speakeasy.config import CorpusConfig, DataConfig, LoraConfig, PretrainConfig, TrainConfig
from speakeasy.training import rate
from speakeasy.training.backend import REGISTRY, Device, missing, open_backend
from speakeasy.training.estimate import (
    EFFICIENCY,
    Reading,
    estimate_job,
    forward_flops,
    step_flops,
    with_rows,
)
from speakeasy.training.memory import attended
from speakeasy.training.merging import bytes_beside, pays
from speakeasy.training.outlook import (
    ADDED,
    EVERY_WEIGHT,
    FOUR_BITS,
    FULL,
    Amounts,
    outlook,
)
from speakeasy.training.rate import best_rate
from speakeasy.weights.adapters import block_layers
from speakeasy.weights.checkpoint import ModelShape, linear_layers, model_shape

CPU = Device("cpu", "a CPU", 10**12, "float32", "")
TINY = ModelShape(
    model_type="llama", layers=2, hidden_size=8, intermediate_size=16, heads=4, kv_heads=2,
    head_dim=2, vocab_size=100, tied=True, max_positions=512, parameter_count=2000, dtype="F32",
    bytes_on_disk=8000, quantization=None,
)  # fmt: skip
# A block of TINY: q and o 8 x 8, k and v 4 x 8, gate, up and down 16 x 8.
FORWARD = 3 * 128
BLOCK = 2 * 64 + 2 * 32 + FORWARD
FORWARD_ADAPTER = 4 * 3 * (16 + 8)
ADAPTER = 4 * (2 * (8 + 8) + 2 * (4 + 8)) + FORWARD_ADAPTER
READING = Reading(1000, 100, target_share=0.5, segment_tokens=10)
PLAN = TrainConfig(lora=LoraConfig(r=4), data=DataConfig(max_length=64))


def test_the_arithmetic_of_a_token() -> None:
    # Half of the tokens are scored, and the others not needed behind the last attention.
    weights, adapter = 2 * BLOCK - FORWARD / 2, 2 * ADAPTER - FORWARD_ADAPTER / 2
    attention = 2 * 4 * 8 * 5  # blocks x 4 x width x half of the segment
    head = 2 * 100 * 8 * 0.5
    forward = 2 * weights + 2 * adapter + attention + head
    assert forward_flops(PLAN, TINY, READING) == forward
    # Backward: the head's and the frozen weights' inputs, all of the adapter, attention twice.
    learning = forward + head + 2 * weights + 4 * adapter + 2 * attention
    assert step_flops(PLAN, TINY, READING, recomputed=False) == learning
    again = 2 * weights + 2 * adapter + attention
    assert step_flops(PLAN, TINY, READING, recomputed=True) == learning + again


def test_an_adapter_that_is_part_of_a_sum_costs_nothing_forward() -> None:
    exact = replace(PLAN, precision="float32")
    adapter = 2 * ADAPTER - FORWARD_ADAPTER / 2
    for flops in (forward_flops, lambda *plan: step_flops(*plan, recomputed=False)):
        assert flops(PLAN, TINY, READING) - flops(exact, TINY, READING) == 2 * adapter
    # A weight that is stored in 32 bits lies there twice; of one in 16 bits, half as much more.
    assert bytes_beside(TINY, exact) == 4 * 2 * BLOCK
    assert bytes_beside(replace(TINY, dtype="BF16"), exact) == 2 * 2 * BLOCK
    others = (LoraConfig(r=4, dropout=0.1), LoraConfig(r=4, dora=True))
    for kept in (
        PLAN,
        replace(exact, use_4bit=True),
        *(replace(exact, lora=one) for one in others),
    ):
        assert bytes_beside(TINY, kept) == 0
    # Of Llama 3.2 1B's layers at rank 64, the narrow keys and values alone.
    assert (pays(512, 2048, 64), pays(2048, 2048, 64), pays(8192, 2048, 64)) == (True, False, False)


def test_a_model_that_is_trained_whole_takes_six_operations_a_weight() -> None:
    """Kaplan et al.'s 6 N, where attention is left out."""
    nothing = Reading(1, 0, target_share=1.0, segment_tokens=0)
    weights = 2 * BLOCK + 100 * 8  # the output matrix, which is the embedding matrix too
    flops = step_flops(PretrainConfig(train="full"), TINY, nothing, recomputed=False)
    assert flops == 6 * weights


def test_time_is_arithmetic_over_the_rate() -> None:
    found = estimate_job(PLAN, TINY, CPU, backend="torch", reading=READING, rate=1e6)
    exact = replace(PLAN, precision="float32")  # what "auto" is there
    learned = 3 * 1000 * step_flops(exact, TINY, READING, recomputed=False)
    scored = 4 * 100 * forward_flops(exact, TINY, READING)  # before, and after each epoch
    assert found.seconds == pytest.approx((learned + scored) / (EFFICIENCY["cpu"] * 1e6))
    twice = estimate_job(PLAN, TINY, CPU, backend="torch", reading=READING, rate=2e6)
    assert twice.seconds == pytest.approx(found.seconds / 2)
    assert "3,000 tokens learned, 400 scored" in found.how
    assert "within a factor of two" in found.how


def test_steps_count_where_they_are_given() -> None:
    config = replace(PLAN, max_steps=10, eval_every=5, batch_size=2)
    found = estimate_job(config, TINY, CPU, backend="torch", reading=READING, rate=1e6)
    assert f"{10 * 2 * 64:,} tokens learned, 300 scored" in found.how


def test_what_is_trained_and_what_lies_on_the_disk() -> None:
    found = estimate_job(PLAN, TINY, CPU, backend="torch", reading=READING, rate=1e6, added_rows=5)
    assert found.trainable == 2 * ADAPTER + 5 * 8
    assert found.disk_bytes == 4 * 12 * found.trainable + 4 * found.trainable
    assert found.memory.trainable == 16 * found.trainable
    pretrained = PretrainConfig(train="rows", corpus=CorpusConfig(max_length=64))
    rows = estimate_job(
        pretrained, replace(TINY, tied=False), CPU, backend="torch", reading=READING, rate=1e6,
        added_rows=5,
    )  # fmt: skip
    assert rows.trainable == 2 * 5 * 8
    assert rows.disk_bytes == 4 * 12 * rows.trainable + TINY.bytes_on_disk


def test_automatic_precision_is_the_device_s_and_whole_models_stay_exact() -> None:
    gpu = Device("cuda", "a GPU", 10**12, "bfloat16", "")
    found = estimate_job(PLAN, TINY, gpu, backend="torch", reading=READING, rate=1e6)
    assert (found.precision, found.fits) == ("bfloat16", True)
    whole = PretrainConfig(train="full")
    found = estimate_job(whole, TINY, gpu, backend="torch", reading=READING, rate=1e6)
    assert (found.precision, found.trainable) == ("float32", TINY.parameter_count)
    small = replace(gpu, memory=1000)
    assert not estimate_job(PLAN, TINY, small, backend="torch", reading=READING, rate=1e6).fits


@pytest.mark.parametrize("tied", [True, False])
def test_the_shape_says_what_the_files_say(tied: bool, tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "small", vocab_size=100, tied=tied)
    shape = model_shape(model)
    assert block_layers(shape) == linear_layers(model)
    larger = model_shape(tiny_llama(tmp_path / "large", vocab_size=107, tied=tied))
    assert with_rows(shape, 7) == larger


def test_readings() -> None:
    assert Reading.of_bytes(3000, bytes_per_token=3, holdout=0.1) == Reading(900, 100)
    assert attended([10, 10]) == 10
    assert attended([1, 99]) == 98  # (1 + 9801) / 100


def test_the_fastest_of_several_calls_counts() -> None:
    calls = []
    assert best_rate(lambda: calls.append(0), 1, seconds=0.01) > 0
    assert len(calls) >= 2


def test_all_calls_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, pauses = [0.0], iter([5.0, 0.02, 0.04, 0.04])

    def call() -> None:
        clock[0] += next(pauses)

    monkeypatch.setattr(rate, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    assert rate.mean_rate(call, 1, seconds=0.09) == pytest.approx(30)  # at its fastest 50


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_each_backend_measures_its_rate(name: str) -> None:
    assert not missing(name)
    assert 1e8 < open_backend(name).matmul_rate("float32") < 1e16


LLAMA_1B = ModelShape(
    model_type="llama", layers=16, hidden_size=2048, intermediate_size=8192, heads=32, kv_heads=8,
    head_dim=64, vocab_size=128_256, tied=True, max_positions=131_072,
    parameter_count=1_235_814_400, dtype="BF16", bytes_on_disk=2_471_628_800, quantization=None,
)  # fmt: skip


def amounts() -> Amounts:
    import numpy as np

    item = Rendered(np.zeros(200, np.int32), np.arange(200) < 120, 360, 60)
    return Amounts.like([item, item])


def test_the_guide_s_amounts() -> None:
    found = amounts()
    assert found.conversations == Reading(190_000, 10_000, 0.6, 200)
    tokens = 10_000_000 / 3
    assert found.text.train_tokens + found.text.eval_tokens == pytest.approx(tokens, abs=1)


def test_the_guide_s_cards_are_checked() -> None:
    first, second = (outlook(n, LLAMA_1B, "torch", CPU, 1e11, amounts()) for n in (1, 2))
    assert [held["base"] for held in first["held"]] == [FULL, FOUR_BITS]
    assert [held["base"] for held in second["held"]] == [FULL, FOUR_BITS, EVERY_WEIGHT]
    for facts, sizes in ((first, [8, 16]), (second, [16, 24])):
        for held in facts["held"]:
            assert [card["gigabytes"] for card in held["cards"]] == sizes
            fits = [card["fits"] for card in held["cards"]]
            assert fits == sorted(fits)  # the larger card holds what the smaller one does
    # 16 bytes a weight are 19.8 GB: the guide's minimum of 16 GB is too little for all weights.
    assert [card["fits"] for card in second["held"][2]["cards"]] == [False, True]
    assert all(card["fits"] for card in first["held"][0]["cards"])
    assert second["held"][0]["seconds"] > first["held"][0]["seconds"]
    expanded = with_rows(LLAMA_1B, ADDED).bytes_on_disk
    assert second["held"][0]["disk_bytes"] > 2 * expanded


def test_a_quantised_model_has_one_way_and_no_pretraining() -> None:
    quantised = replace(LLAMA_1B, quantization="mlx 4-bit")
    [held] = outlook(1, quantised, "mlx", CPU, 1e11, amounts())["held"]
    assert held["base"] == "mlx 4-bit"
    assert outlook(2, quantised, "mlx", CPU, 1e11, amounts())["held"] == []
