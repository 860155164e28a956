"""A batch in parts side by side: nothing lost, nothing twice, and the numbers of one whole row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import LORA, ROW, open_engine, packed, random_items
from hypothesis import given
from hypothesis import strategies as st

from speakeasy.batches.lanes import Division, divide
from speakeasy.batches.pack import build_batch, pack
from speakeasy.batches.types import IGNORED, PackedBatch, Rendered
from speakeasy.training.backend import Engine
from speakeasy.weights.trained_rows import TrainedRows


@given(seed=st.integers(0, 99), count=st.integers(1, 30), lanes=st.integers(1, 4))
def test_each_conversation_with_a_target_is_in_one_part_whole(
    seed: int, count: int, lanes: int
) -> None:
    batch = packed(random_items(count, seed=seed))
    division = divide(batch, lanes)
    assert len(division.lanes) == lanes
    in_lanes = [part for lane in division.lanes for part in lane]
    parts = [*in_lanes, *division.alone]
    for part in parts:
        for own, whole in (
            (part.batch.tokens_BT, batch.tokens_BT),
            (part.batch.labels_BT, batch.labels_BT),
            (part.batch.items_BT, batch.items_BT),
        ):
            np.testing.assert_array_equal(own[0], whole.ravel()[part.places_M])
        changes = np.flatnonzero(np.diff(part.batch.items_BT[0]))
        np.testing.assert_array_equal(changes, np.flatnonzero(np.diff(part.batch.segments_BT[0])))
    items = batch.items_BT.ravel()
    scored = set(items[batch.labels_BT.ravel() != IGNORED].tolist())
    places = np.concatenate([part.places_M for part in parts])
    assert sorted(places) == np.flatnonzero(np.isin(items, list(scored))).tolist()
    assert all(part.batch.token_count <= ROW // lanes for part in in_lanes)
    assert all(part.batch.token_count <= ROW for part in division.alone)


def test_lanes_are_equally_long_and_what_is_left_over_goes_alone() -> None:
    division = divide(_of_lengths([14, 14, 14]), 2)
    assert _lengths(division) == ([[14], [14]], [14])
    lanes, alone = _lengths(divide(_of_lengths([40, 22, 21, 22, 21]), 2))
    assert [sum(lane) for lane in lanes] == [43, 43]
    assert alone == [40]


@pytest.mark.parametrize("kind", ["merged", "added", "rows", "dora"])
def test_two_lanes_give_the_numbers_of_one(
    tiny_directory: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    batch = packed(random_items(12), rows=4)
    outcomes = []
    for lanes in (1, 2, 2):
        engine = _opened(tiny_directory, monkeypatch, lanes, kind)
        assert engine.lanes == lanes
        scored_BT = engine.token_losses(batch)
        losses = [float(engine.accumulate(batch.rows(start, start + 2), 0.01)) for start in (0, 2)]
        norm = engine.apply(1e-3)
        first, _ = engine.moments()
        again_BT = engine.token_losses(batch)
        outcomes.append((scored_BT, losses, norm, first, again_BT))
    (scored_BT, losses, norm, first, again_BT), found, twice = outcomes
    np.testing.assert_allclose(found[0], scored_BT, rtol=1e-5, atol=1e-5)
    assert found[1] == pytest.approx(losses, rel=1e-5)
    assert found[2] == pytest.approx(norm, rel=1e-5)
    for name, moment in first.items():
        largest = np.abs(moment).max()
        np.testing.assert_allclose(found[3][name], moment, rtol=0, atol=1e-5 * largest)
        np.testing.assert_array_equal(twice[3][name], found[3][name])
    np.testing.assert_allclose(found[4], again_BT, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(twice[4], found[4])


def test_what_goes_wrong_in_a_lane_is_raised(
    tiny_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = _opened(tiny_directory, monkeypatch, 2, "merged")
    before = engine.trainables()

    def fails(*arguments: Any) -> None:
        raise MemoryError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_loss_and_gradient", fails)
        with pytest.raises(MemoryError, match="out of memory"):
            engine.accumulate(packed(random_items(12), rows=2), 1.0)
    after = engine.trainables()
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    "options", [{"gradient_checkpointing": True}, {"lora": None, "full": True, "adapter": None}]
)
def test_one_lane_where_they_would_disturb_each_other(
    tiny_directory: Path, options: dict[str, Any]
) -> None:
    assert open_engine("mlx", tiny_directory, **options).lanes == 1


def _of_lengths(lengths: list[int]) -> PackedBatch:
    items = [
        Rendered(np.arange(length, dtype=np.int32), np.arange(length) > 0, 0, 0)
        for length in lengths
    ]
    chosen = pack(lengths, ROW, seed=0)
    return build_batch(items, chosen, ROW)


def _lengths(division: Division) -> tuple[list[list[int]], list[int]]:
    """Of each part of each lane, and of those alone."""
    lanes = [[part.batch.token_count for part in lane] for lane in division.lanes]
    return lanes, [part.batch.token_count for part in division.alone]


def _opened(directory: Path, monkeypatch: pytest.MonkeyPatch, lanes: int, kind: str) -> Engine:
    changes: dict[str, Any] = {}
    if kind == "rows":
        values_RD = np.full((3, 32), 0.1, dtype=np.float32)
        changes["rows"] = TrainedRows(np.array([5, 9, 200]), values_RD, None)
    if kind == "dora":
        changes["lora"] = replace(LORA, dora=True)
    monkeypatch.setattr("speakeasy_mlx.engine.lane_count", lambda options: lanes)
    monkeypatch.setattr("speakeasy_mlx.merged.pays", lambda *sizes: kind == "merged")
    return open_engine("mlx", directory, **changes)
