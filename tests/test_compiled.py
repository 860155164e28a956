"""torch.compile's programs of the blocks: the same losses and gradients, and none made twice."""

from __future__ import annotations

import shutil
import sysconfig
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli import speakeasy
from engines import LORA, open_engine, packed, random_items
from one_thread import one_thread  # noqa: F401

from speakeasy.batches.types import PackedBatch
from speakeasy.errors import BackendError

pytestmark = pytest.mark.filterwarnings("default")  # torch's compiler warns while it reads code
COMPILER = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++")))
    or not Path(sysconfig.get_path("include"), "Python.h").exists(),
    reason="torch.compile needs a C++ compiler and Python's headers",
)


@COMPILER
@pytest.mark.parametrize("kind", ["plain", "recomputed"])
def test_losses_and_gradients_are_those_of_the_blocks_as_they_are(
    tiny_directory: Path, kind: str
) -> None:
    """Over batches of other lengths and other numbers of conversations, without a new program."""
    import torch

    options: dict[str, Any] = {"gradient_checkpointing": kind == "recomputed"}
    batches = [packed(random_items(count, seed=count), rows=2) for count in (6, 3, 9)]
    shapes = {(batch.token_count, int(batch.segments_BT.max())) for batch in batches}
    assert len(shapes) == len(batches)
    expected = outcome(open_engine("torch", tiny_directory, **options), batches)
    engine = open_engine("torch", tiny_directory, compile=True, **options)
    float(engine.accumulate(batches[0], 1.0))
    engine.discard()
    made = programs()
    with torch._dynamo.config.patch(error_on_recompile=True):
        found = outcome(engine, batches)
    assert programs() == made > 0
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    assert found[1] == pytest.approx(expected[1], rel=1e-5)
    for name, moment in expected[2].items():
        largest = np.abs(moment).max()
        np.testing.assert_allclose(found[2][name], moment, rtol=0, atol=1e-5 * largest)


@COMPILER
def test_dora(tiny_directory: Path) -> None:
    batches = [packed(random_items(6), rows=2)]
    lora = replace(LORA, dora=True, targets="q_proj")
    expected = outcome(open_engine("torch", tiny_directory, lora=lora), batches)
    found = outcome(open_engine("torch", tiny_directory, lora=lora, compile=True), batches)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    assert found[1] == pytest.approx(expected[1], rel=1e-5)


def test_recomputed_dropout_is_refused(tiny_directory: Path) -> None:
    lora = replace(LORA, dropout=0.3)
    with pytest.raises(BackendError, match="leave one of them out"):
        open_engine("torch", tiny_directory, lora=lora, compile=True, gradient_checkpointing=True)


def test_no_compiler_is_one_line(tiny_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def fail(*args: Any, **options: Any) -> Any:
        raise RuntimeError("no g++ on PATH\nand more")

    monkeypatch.setattr(torch, "compile", lambda *args, **options: fail)
    with pytest.raises(BackendError, match=r"^--compile: .*\(no g\+\+ on PATH\); expected .*$"):
        open_engine("torch", tiny_directory, compile=True)


def test_mlx_refuses(tiny_directory: Path, tmp_path: Path) -> None:
    done = speakeasy(
        *("train", "--compile", "--backend", "mlx", "--model", tiny_directory, "--dry-run"),
        *("--output-dir", tmp_path / "run"),
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: --compile: is for the torch")


def outcome(engine: Any, batches: list[PackedBatch]) -> tuple[list[float], float, dict]:
    """The losses of the batches, and the norm and the mean of their gradients."""
    losses = []
    for step, batch in enumerate(batches):
        engine.seed_step(step)
        losses.append(float(engine.accumulate(batch, 1 / batch.target_count)))
    norm = engine.apply(1e-3)
    return losses, norm, engine.moments()[0]


def programs() -> int:
    """How many graphs were compiled in this process."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])
