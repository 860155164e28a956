"""Which number of threads and which precision suit a CPU, as it is measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from speakeasy_torch import processor  # noqa: E402

LOOK = """
import json, torch
from speakeasy_torch.engine import describe_device
usual = torch.get_num_threads()
device = describe_device()
print(json.dumps([usual, torch.get_num_threads(), device.name, device.precision]))
"""


def look(**environment: str) -> list:
    """What a new process settles on: threads before and after, the device's name, its precision."""
    known = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", LOOK],
        env=known | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@given(st.dictionaries(st.integers(1, 128), st.floats(1, 1e12), min_size=1), st.integers(0, 10**6))
def test_only_a_clear_gain_moves_the_number_of_threads(rates, drawn):
    usual = sorted(rates)[drawn % len(rates)]
    chosen = processor.fastest(rates, usual)
    assert chosen in rates
    if chosen != usual:
        assert rates[chosen] > processor.THREADS_GAIN * rates[usual]
    assert max(rates.values()) <= processor.THREADS_GAIN * rates[usual] or chosen != usual


def test_a_user_who_names_the_threads_is_obeyed():
    usual, settled, name, _ = look(OMP_NUM_THREADS="1")
    assert (usual, settled, name) == (1, 1, "CPU, 1 threads")


def test_threads_are_settled_within_what_torch_would_take():
    usual, settled, name, _ = look()
    assert 1 <= settled <= usual
    assert name == f"CPU, {settled} threads"


def test_float32_on_a_cpu_that_is_held_to_avx2():
    assert look(ATEN_CPU_CAPABILITY="avx2")[3] == "float32"


@pytest.mark.parametrize(("gain", "expected"), [(2.0, True), (1.1, False), (0.05, False)])
def test_bfloat16_where_it_is_clearly_faster(monkeypatch, gain, expected):
    processor.prefers_bfloat16.cache_clear()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(processor, "_has_bfloat16", lambda: True)
    monkeypatch.setattr(processor, "settle_threads", lambda: 1)
    monkeypatch.setattr(processor, "_rate", lambda kind: gain if kind is torch.bfloat16 else 1.0)
    assert processor.prefers_bfloat16() is expected
    processor.prefers_bfloat16.cache_clear()


def test_the_engine_is_imported_without_torchs_compiler_and_leaves_it_switched_on() -> None:
    code = """
import os, sys
import speakeasy_torch.engine
print("torch._inductor.compile_fx" in sys.modules, "TORCHDYNAMO_DISABLE" in os.environ)
"""
    known = {key: value for key, value in os.environ.items() if key != "TORCHDYNAMO_DISABLE"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=known
    )
    assert done.stdout.split() == ["False", "False"]
