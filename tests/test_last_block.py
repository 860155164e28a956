"""The last block at scored positions alone: the same losses and gradients as of all positions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from engines import open_engine, packed, random_items
from one_thread import one_thread  # noqa: F401


@pytest.mark.parametrize("recomputed", [False, True])
def test_losses_and_gradients_are_those_of_all_positions(
    backend_name: str, tiny_directory: Path, recomputed: bool
) -> None:
    batch = packed(random_items(6))
    assert 0 < batch.target_count < batch.token_count
    outcomes = []
    for narrow in (False, True):
        engine = open_engine(backend_name, tiny_directory, gradient_checkpointing=recomputed)
        assert engine._narrow
        engine._narrow = narrow
        losses_BT = engine.token_losses(batch)
        engine.accumulate(batch, 1 / batch.target_count)
        norm = engine.apply(1e-3)
        first, _ = engine.moments()
        outcomes.append((losses_BT, norm, first))
    (whole, norm, moments), (found, found_norm, found_moments) = outcomes
    np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-6)
    assert found_norm == pytest.approx(norm, rel=1e-5)
    for name, moment in moments.items():
        largest = np.abs(moment).max()
        np.testing.assert_allclose(found_moments[name], moment, rtol=0, atol=1e-5 * largest)
