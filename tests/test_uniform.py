from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from adapters import EMBEDDING, assert_same, merged, random_adapter
from hypothesis import given, settings
from hypothesis import strategies as st

from speakeasy.errors import AdapterError
from speakeasy.weights.adapters import Adapter
from speakeasy.weights.uniform import is_uniform, lost_in, restored, uniform

MATRICES = {
    EMBEDDING: (20, 8),
    "model.layers.0.mlp.up_proj": (12, 8),
    "model.layers.1.mlp.up_proj": (12, 8),
    "model.layers.2.mlp.down_proj": (8, 12),
}
INNER = [module for module in MATRICES if module != EMBEDDING]
# Down to where a folded value is no float32 any more: what is lost there must come back, too.
SCALES = st.one_of(st.floats(1e-3, 1e3), st.sampled_from([0.0, -4.0, 1e-30, 1e-44, 1e30]))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_one_rank_and_scale_mean_the_same_and_can_be_taken_back(data: st.DataObject) -> None:
    dora = data.draw(st.booleans())
    modules = INNER if dora else list(MATRICES)
    adapter = random_adapter(
        MATRICES,
        modules,
        r=data.draw(st.integers(1, 9)),
        alpha=data.draw(SCALES),
        ranks=data.draw(st.dictionaries(st.sampled_from(modules), st.integers(1, 9))),
        alphas=data.draw(st.dictionaries(st.sampled_from(modules), SCALES)),
        rslora=data.draw(st.booleans()),
        dora=dora,
        seed=data.draw(st.integers(0, 100)),
    )
    one = uniform(adapter)
    assert is_uniform(one)
    assert one.r == max(adapter.r if not adapter.ranks else 0, *map(adapter.rank, modules))
    fields = (adapter.r, adapter.alpha, adapter.rslora, adapter.ranks, adapter.alphas)
    assert_same(restored(one, *fields, lost_in(one, adapter)), adapter)
    for module in modules:
        change = merged(without_magnitudes(adapter), module, np.zeros(MATRICES[module]))
        found = merged(without_magnitudes(one), module, np.zeros(MATRICES[module]))
        # Below the smallest normal float32 (1e-38) rounding is no longer relative.
        gap = np.linalg.norm(found - change)
        assert gap <= 1e-6 * np.linalg.norm(change) + 1e-35 * abs(one.scale(module))


def without_magnitudes(adapter: Adapter) -> Adapter:
    """The adapter without DoRA's magnitudes."""
    kept = {n: t for n, t in adapter.tensors.items() if not n.endswith("magnitude_vector")}
    return replace(adapter, tensors=kept)


def test_powers_of_two_are_folded_exactly() -> None:
    """One alpha and ranks of 2, 4 and 8, as rank_pattern is mostly used: nothing to be kept."""
    ranks = dict(zip(INNER, (2, 4, 8), strict=True))
    adapter = random_adapter(MATRICES, MATRICES, r=4, alpha=12.0, ranks=ranks)
    assert lost_in(uniform(adapter), adapter) == {}


def test_other_ratios_need_the_matrix_from_before() -> None:
    """More floats go in than come out, so no rule could find them again."""
    adapter = random_adapter(MATRICES, INNER, alphas={INNER[0]: 11.0}, r=8)
    assert list(lost_in(uniform(adapter), adapter)) == [f"{INNER[0]}.lora_B.weight"]


def test_what_is_uniform_stays_as_it_is() -> None:
    adapter = random_adapter(MATRICES, INNER, rslora=True)
    assert uniform(adapter) is adapter


def test_values_that_no_float32_can_be_are_refused() -> None:
    adapter = random_adapter(MATRICES, INNER, r=1, alpha=1.0, alphas={INNER[0]: 1.9})
    name = f"{INNER[0]}.lora_B.weight"
    huge = replace(adapter, tensors={**adapter.tensors, name: np.full((12, 1), 3e38, np.float32)})
    with pytest.raises(AdapterError, match="too large for float32"):
        uniform(huge)
