"""Fixtures that many tests share: a tiny model on disk, and one of its engines."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest
from hypothesis import settings
from tiny import VOCABULARY, save_tiny_tokenizer
from tiny_model import tiny_llama

from speakeasy.training.backend import REGISTRY, missing

# float32 on every machine's CPU (speakeasy_torch/processor.py), in what tests start as well.
if platform.machine() in ("x86_64", "AMD64"):
    os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")

# A deadline would fail on a busy machine, and a draw of the day makes failures that come and go.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two blocks with a tokenizer of 480 entries; read only."""
    directory = tmp_path_factory.mktemp("tiny-llama")
    tiny_llama(directory, vocab_size=VOCABULARY, embedding_scale=0.2)
    save_tiny_tokenizer(directory)
    return directory


@pytest.fixture(params=sorted(REGISTRY))
def backend_name(request: pytest.FixtureRequest) -> str:
    """Every registered backend in turn; one that is not installed fails the test."""
    name = request.param
    lacking = missing(name)
    if lacking:
        pytest.fail(f"backend {name} is registered but {lacking[0].module} is not installed")
    return name
