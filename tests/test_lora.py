from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters import EMBEDDING, HEAD, LAYERS, merged, random_adapter
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import tiny_llama

from speakeasy.errors import AdapterError, UsageError
from speakeasy.weights.adapters import check_fits, draw_lora, select_layers, target_names
from speakeasy.weights.checkpoint import fingerprint, linear_layers, weight_matrices

QUERY, UP = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "model"
    return tiny_llama(path, vocab_size=40, layers=LAYERS, tied=False)


@pytest.fixture(scope="module")
def layers(model: Path) -> dict[str, tuple[int, int]]:
    return linear_layers(model)


@pytest.fixture(scope="module")
def matrices(model: Path) -> dict[str, tuple[int, int]]:
    return weight_matrices(model)


# --- what is adapted, and with what it begins ------------------------------------------------

SHAPES = st.dictionaries(
    st.sampled_from([f"model.layers.{b}.{m}" for b in (0, 2, 10) for m in ("mlp.up", "attn.q")]),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    min_size=1,
)


@given(SHAPES, st.integers(1, 70), st.integers(0, 2**31))
def test_a_draw_depends_on_seed_and_name_alone(
    shapes: dict[str, tuple[int, int]], r: int, seed: int
) -> None:
    drawn = draw_lora(shapes, r, seed)
    reversed_order = draw_lora(dict(reversed(shapes.items())), r, seed)
    assert list(drawn) == list(reversed_order)
    for module, (rows, columns) in shapes.items():
        a, b = drawn[f"{module}.lora_A.weight"], drawn[f"{module}.lora_B.weight"]
        assert a.dtype == np.float32
        assert a.shape == (r, columns)
        assert b.shape == (rows, r)
        assert not b.any()
        assert np.abs(a).max() <= np.float32(1 / math.sqrt(columns))
        np.testing.assert_array_equal(
            a, draw_lora({module: (rows, columns)}, r, seed)[f"{module}.lora_A.weight"]
        )
        assert (a != draw_lora(shapes, r, seed + 1)[f"{module}.lora_A.weight"]).any()


def test_a_is_uniform_as_both_libraries_draw_it() -> None:
    columns, r = 400, 500
    a = draw_lora({"model.layers.0.q": (1, columns)}, r, 0)["model.layers.0.q.lora_A.weight"]
    bound = 1 / math.sqrt(columns)
    # 200,000 draws: the standard error of the mean is 0.0013 bounds, of the deviation less.
    assert abs(a.mean()) < 0.006 * bound
    assert a.std() == pytest.approx(bound / math.sqrt(3), rel=0.006)
    assert a.max() > 0.999 * bound
    assert a.min() < -0.999 * bound


@pytest.mark.parametrize(
    ("targets", "count"),
    [
        ("all-linear", 7 * LAYERS),
        ("attention", 4 * LAYERS),
        ("mlp", 3 * LAYERS),
        ("q_proj, v_proj", 2 * LAYERS),
        ("self_attn.q_proj", LAYERS),
        ("model.layers.1.mlp.up_proj,o_proj", LAYERS + 1),
    ],
)
def test_targets_choose_layers_in_order(
    layers: dict[str, tuple[int, int]], targets: str, count: int
) -> None:
    chosen = select_layers(layers, targets)
    assert len(chosen) == count
    assert list(chosen) == [module for module in layers if module in chosen]
    names = target_names(layers, chosen)
    assert select_layers(layers, ",".join(names)) == chosen


@pytest.mark.parametrize("targets", ["wq", "", "q_proj,", "proj", "layers.7.self_attn.q_proj"])
def test_a_target_that_is_not_there_is_named_with_what_is(
    layers: dict[str, tuple[int, int]], targets: str
) -> None:
    with pytest.raises(UsageError, match=r"--lora-targets .*down_proj, gate_proj, up_proj"):
        select_layers(layers, targets)


def test_rank_zero_is_refused(layers: dict[str, tuple[int, int]]) -> None:
    with pytest.raises(UsageError, match="--lora-r 0: rank must be at least 1"):
        draw_lora(layers, 0, 1)


# --- the form --------------------------------------------------------------------------------


def test_the_change_of_a_weight_is_that_of_the_definition(
    matrices: dict[str, tuple[int, int]],
) -> None:
    for dora, modules in ((False, [QUERY, UP, EMBEDDING, HEAD]), (True, [QUERY, UP, HEAD])):
        adapter = random_adapter(
            matrices, modules, ranks={UP: 2}, alphas={QUERY: 5.0}, rslora=True, dora=dora
        )
        assert adapter.dora == dora
        assert list(adapter.modules.values()) == [matrices[m] for m in adapter.modules]
        for module in modules:
            weight = np.random.default_rng(0).standard_normal(matrices[module])
            lora = adapter.lora(module)
            changed = weight + lora.scale * (lora.B.astype(np.float64) @ lora.A)
            if lora.magnitude is not None:
                changed *= (lora.magnitude / np.linalg.norm(changed, axis=1))[:, None]
            np.testing.assert_allclose(changed, merged(adapter, module, weight), rtol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"r": 3}, r"shape \(4, 32\), but rank 3"),
        ({"r": 0}, "rank 0"),
        ({"alpha": math.inf}, "alpha inf"),
        ({"ranks": {QUERY: 3}}, "but rank 3"),
        ({"alphas": {QUERY: math.nan}}, "alpha nan"),
        ({"ranks": {"model.layers.2.mlp.up_proj": 3}}, "which is not adapted"),
        ({"targets": ("up_proj",)}, "q_proj is none of its targets"),
        ({"targets": ("q_proj", "up_proj", "v_proj")}, "'v_proj' has no matrices"),
    ],
)
def test_an_adapter_that_contradicts_itself_is_refused(
    matrices: dict[str, tuple[int, int]], change: dict[str, Any], message: str
) -> None:
    adapter = random_adapter(matrices, [QUERY, UP])
    with pytest.raises(AdapterError, match=message):
        replace(adapter, **change)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        (f"{QUERY}.lora_B.weight", None, "q_proj has only one of lora_A and lora_B"),
        (f"{EMBEDDING}.lora_embedding_A", None, "only one of lora_embedding_A and"),
        (
            f"{UP}.lora_magnitude_vector",
            np.ones(64, np.float32),
            "embed_tokens has no lora_magnitude",
        ),
        (f"{QUERY}.lora_A.weight", np.ones((4, 32), np.float64), "float64"),
        (f"{QUERY}.lora_A.weight", np.ones((4, 32, 1), np.float32), "shape"),
        (f"{QUERY}.lora_A.weight", np.ones((4, 0), np.float32), "shape"),
        ("model.norm.lora_A.weight", np.ones((4, 32), np.float32), "'model.norm"),
        (f"{HEAD}.lora_embedding_A", np.ones((4, 40), np.float32), "lm_head"),
    ],
)
def test_tensors_that_are_no_adapter_are_refused(
    matrices: dict[str, tuple[int, int]], name: str, tensor: np.ndarray | None, message: str
) -> None:
    adapter = random_adapter(matrices, [EMBEDDING, QUERY, UP])
    tensors = {**adapter.tensors, name: tensor}
    with pytest.raises(AdapterError, match=message):
        replace(adapter, tensors={n: t for n, t in tensors.items() if t is not None})


def test_magnitudes_have_a_value_a_row(matrices: dict[str, tuple[int, int]]) -> None:
    adapter = random_adapter(matrices, [QUERY, UP], dora=True)
    name = f"{UP}.lora_magnitude_vector"
    with pytest.raises(AdapterError, match=r"shape \(63,\); expected \(64,\)"):
        replace(adapter, tensors={**adapter.tensors, name: adapter.tensors[name][1:]})


def test_an_adapter_of_another_base_is_refused(
    tmp_path: Path, model: Path, layers: dict[str, tuple[int, int]]
) -> None:
    adapter = random_adapter(layers, layers, base_fingerprint="f" * 64)
    check_fits(adapter, layers)
    with pytest.raises(AdapterError, match="same shapes, other weights"):
        check_fits(adapter, layers, fingerprint(model))
    wider = linear_layers(tiny_llama(tmp_path / "wide", vocab_size=9, hidden=64, layers=LAYERS))
    with pytest.raises(AdapterError, match=r"the adapter's is .* made for tiny"):
        check_fits(adapter, wider)
    shorter = linear_layers(tiny_llama(tmp_path / "short", vocab_size=9, layers=LAYERS - 1))
    with pytest.raises(AdapterError, match=r"layers\.2\.\S+: not in this model"):
        check_fits(adapter, shorter)


def test_the_ends_of_a_model_are_matrices_too(
    matrices: dict[str, tuple[int, int]], layers: dict[str, tuple[int, int]]
) -> None:
    adapter = random_adapter(matrices, [EMBEDDING, HEAD])
    check_fits(adapter, matrices)
    with pytest.raises(AdapterError, match=r"lm_head: no backend adapts"):
        check_fits(adapter, layers)
