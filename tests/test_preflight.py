"""Memory estimates and where a plan is placed, on made-up machines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import tiny_llama

from speakeasy.config import DataConfig, LoraConfig, TrainConfig
from speakeasy.errors import DoesNotFitError
from speakeasy.training.backend import Device
from speakeasy.training.memory import MemoryEstimate, estimate
from speakeasy.training.preflight import place
from speakeasy.weights.checkpoint import ModelShape, model_shape

LLAMA_8B = ModelShape(
    model_type="llama",
    layers=32,
    hidden_size=4096,
    intermediate_size=14336,
    heads=32,
    kv_heads=8,
    head_dim=128,
    vocab_size=128256,
    tied=False,
    max_positions=131072,
    parameter_count=8_030_261_248,
    dtype="BF16",
    bytes_on_disk=16_060_522_496,
    quantization=None,
)
ADAPTER = 167_772_160  # rank 64 on every linear layer
CONFIG = TrainConfig(precision="bfloat16", batch_size=8, data=DataConfig(max_length=2048))


def gpu(gigabytes: float) -> Device:
    return Device("cuda", "a GPU", int(gigabytes * 1e9), "bfloat16", "")


def test_a_large_gpu_takes_the_whole_batch_at_once() -> None:
    chosen = place(CONFIG, LLAMA_8B, ADAPTER, "torch", gpu(640))
    assert (chosen.rows_per_pass, chosen.gradient_checkpointing) == (8, False)


def test_a_cpu_takes_one_row_at_a_time() -> None:
    cpu = Device("cpu", "CPU", 10**12, "float32", "")
    chosen = place(replace(CONFIG, precision="float32"), LLAMA_8B, ADAPTER, "torch", cpu)
    assert (chosen.rows_per_pass, chosen.gradient_checkpointing) == (1, False)


def test_less_memory_means_fewer_rows_then_recomputing() -> None:
    seen = []
    for tenths in range(4000, 150, -5):
        try:
            chosen = place(CONFIG, LLAMA_8B, ADAPTER, "torch", gpu(tenths / 10))
        except DoesNotFitError:
            break
        assert chosen.estimate.total <= tenths * 1e8
        seen.append((chosen.gradient_checkpointing, -chosen.rows_per_pass))
    assert seen == sorted(seen)
    assert seen[0] == (False, -8)
    assert (False, -1) in seen
    assert seen[-1] == (True, -1)


def test_the_refusal_says_what_would_fit() -> None:
    with pytest.raises(DoesNotFitError, match="it would fit with --use-4bit") as caught:
        place(CONFIG, LLAMA_8B, ADAPTER, "torch", gpu(16))
    assert "training needs about" in str(caught.value)


@pytest.mark.parametrize(("backend", "kind"), [("torch", "cuda"), ("mlx", "metal")])
def test_an_8b_model_in_4_bits_at_2048_tokens_fits_16_gb(backend: str, kind: str) -> None:
    device = Device(kind, "16 GB", int(16e9), "bfloat16", "")
    four_bits = replace(CONFIG, use_4bit=True, gradient_checkpointing=True)
    chosen = place(four_bits, LLAMA_8B, ADAPTER, backend, device, segment=2048)
    assert chosen.rows_per_pass >= 1


def test_the_refusal_of_the_hopeless_and_how_to_overrule_it() -> None:
    with pytest.raises(DoesNotFitError, match=r"take a smaller model.*--force"):
        place(CONFIG, LLAMA_8B, ADAPTER, "torch", gpu(2))
    assert place(CONFIG, LLAMA_8B, ADAPTER, "torch", gpu(2), force=True).rows_per_pass == 1


def test_processes_of_torch_are_told_to_divide_the_model_where_that_helps() -> None:
    with pytest.raises(DoesNotFitError, match=r"it would fit with --fsdp( |$)") as caught:
        place(CONFIG, LLAMA_8B, ADAPTER, "torch", gpu(16), processes=4)
    options = str(caught.value).split("fit with ")[1].split()
    recomputed = True if "--gradient-checkpointing" in options else None
    divided = replace(CONFIG, fsdp=True, gradient_checkpointing=recomputed)
    place(divided, LLAMA_8B, ADAPTER, "torch", gpu(16), processes=4)
    with pytest.raises(DoesNotFitError, match="it would fit with --use-4bit"):
        place(CONFIG, LLAMA_8B, ADAPTER, "mlx", gpu(16), processes=4)
    with pytest.raises(DoesNotFitError) as caught:
        place(divided, LLAMA_8B, ADAPTER, "torch", gpu(2), processes=4)
    assert "4bit" not in str(caught.value)


def test_of_a_divided_model_a_process_holds_its_part_and_two_blocks() -> None:
    config = replace(CONFIG, batch_size=1)
    whole = place(config, LLAMA_8B, ADAPTER, "torch", gpu(640), processes=8).estimate
    config = replace(config, fsdp=True)
    divided = place(config, LLAMA_8B, ADAPTER, "torch", gpu(640), processes=8).estimate
    embeddings = 2 * 2 * LLAMA_8B.vocab_size * LLAMA_8B.hidden_size
    blocks = whole.weights - embeddings
    assert divided.weights == pytest.approx(embeddings + blocks * (1 / 8 + 2 / 32), abs=1)
    assert replace(divided, weights=whole.weights) == whole


def test_recomputing_is_not_decided_for_the_user_on_mlx() -> None:
    mac = Device("metal", "a Mac", int(20e9), "bfloat16", "")
    with pytest.raises(DoesNotFitError):
        place(CONFIG, LLAMA_8B, ADAPTER, "mlx", mac)


@given(
    rows=st.integers(1, 8),
    length=st.sampled_from([256, 1024, 4096]),
    backend=st.sampled_from(["mlx", "torch"]),
    use_4bit=st.booleans(),
)
def test_nothing_grows_with_rows_times_vocabulary(
    rows: int, length: int, backend: str, use_4bit: bool
) -> None:
    """Twice the rows, twice the activations; a vocabulary only counts through its matrices."""

    def activations(rows: int, shape: ModelShape = LLAMA_8B) -> int:
        needed = estimate(
            shape, LoraConfig(), ADAPTER, backend=backend, kind="cpu", precision="bfloat16",
            use_4bit=use_4bit, row_length=length, segment=length, rows_per_pass=rows,
            gradient_checkpointing=False,
        )  # fmt: skip
        return needed.activations

    assert activations(2 * rows) == pytest.approx(2 * activations(rows), rel=1e-6)
    assert activations(rows, replace(LLAMA_8B, vocab_size=32000)) == activations(rows)


@pytest.mark.parametrize("backend", ["mlx", "torch"])
@pytest.mark.parametrize("use_4bit", [False, True])
def test_dora_takes_more(backend: str, use_4bit: bool) -> None:
    """Of activations; and of weights, of which mlx-lm keeps those that it took out of 4 bits."""

    def needed(lora: LoraConfig) -> MemoryEstimate:
        return estimate(
            LLAMA_8B, lora, ADAPTER, backend=backend, kind="cpu", precision="bfloat16",
            use_4bit=use_4bit, row_length=1024, segment=1024, rows_per_pass=1,
            gradient_checkpointing=False,
        )  # fmt: skip

    plain, dora = needed(LoraConfig()), needed(LoraConfig(dora=True))
    assert dora.activations > 1.1 * plain.activations
    more = dora.weights - plain.weights
    assert (more > 13e9) if backend == "mlx" and use_4bit else (0.5e9 < more < 2e9)


def test_weights_are_counted_as_they_are_stored(tmp_path: Path) -> None:
    shape = model_shape(tiny_llama(tmp_path, vocab_size=480))
    needed = estimate(
        shape, LoraConfig(r=4), 1000, backend="torch", kind="cpu", precision="float32",
        use_4bit=False, row_length=64, segment=64, rows_per_pass=1, gradient_checkpointing=False,
    )  # fmt: skip
    assert needed.weights == pytest.approx(shape.bytes_on_disk, rel=0.05)
    assert needed.trainable == 16 * 1000


def step(backend: str, kind: str, *, segment: int = 1024, whole: bool = False) -> MemoryEstimate:
    """A step of Llama 3 8B in one place."""
    return estimate(
        LLAMA_8B, LoraConfig(), ADAPTER, backend=backend, kind=kind, precision="bfloat16",
        use_4bit=False, row_length=1024, segment=segment, rows_per_pass=1,
        gradient_checkpointing=False, whole=whole,
    )  # fmt: skip


def test_only_mlx_keeps_scores_of_each_segment() -> None:
    more = step("mlx", "metal").activations - step("mlx", "metal", segment=256).activations
    assert more == 2 * 32 * 32 * 1024 * (1024 - 256)  # bytes x blocks x heads x tokens x context
    assert step("torch", "cuda") == step("torch", "cuda", segment=256)


def test_what_a_cpu_alone_needs_is_not_counted_on_a_gpu() -> None:
    """Holes in the heap; and a whole model's state, which is saved from the process's memory."""
    holes = step("torch", "cpu").heap_holes
    assert holes == pytest.approx(0.25 * step("torch", "cpu").activations, abs=1)
    for backend, kind in (("torch", "cuda"), ("mlx", "metal"), ("mlx", "cpu")):
        assert step(backend, kind).heap_holes == 0
    assert step("torch", "cuda", whole=True).trainable == 16 * ADAPTER
    assert step("torch", "cpu", whole=True).trainable == 28 * ADAPTER


def test_conversations_shorter_than_a_row_leave_room_on_mlx() -> None:
    cpu = Device("cpu", "CPU", 10**12, "float32", "")
    config = replace(CONFIG, precision="float32")
    needed = [
        place(config, LLAMA_8B, ADAPTER, "mlx", cpu, segment=segment).estimate.activations
        for segment in (300, 2048, None, 9999)
    ]
    assert needed[0] < needed[1] == needed[2] == needed[3]
