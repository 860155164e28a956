from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from speakeasy.errors import AdapterError
from speakeasy.weights.peft_patterns import pattern_of, values_of

MODULES = [
    f"model.layers.{block}.{name}"
    for block in (0, 1, 11)
    for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj")
] + ["model.embed_tokens", "lm_head"]
PATTERNS = [
    "q_proj", "self_attn.q_proj", "proj", ".*_proj", "layers.1.mlp.up_proj", "^model.*up_proj",
    r"model\.layers\.(0|11)\..*", "layers.1", "lm_head", "q_proj|o_proj", "model.embed_tokens",
    "mlp.up_proj$", "", ".*", "head",
]  # fmt: skip


@settings(deadline=None)  # the first example imports PEFT
@given(st.dictionaries(st.sampled_from(PATTERNS), st.integers(1, 64)))
def test_patterns_are_read_as_peft_reads_them(pattern: dict[str, int]) -> None:
    from peft.utils.other import get_pattern_key

    expected = {
        module: pattern[key]
        for module in MODULES
        if (key := get_pattern_key(pattern.keys(), module)) in pattern
    }
    assert values_of({"rank_pattern": pattern}, "rank_pattern", MODULES, "file") == expected


@given(
    st.lists(st.sampled_from(MODULES), unique=True, min_size=1).flatmap(
        lambda some: st.tuples(
            st.just(some), st.dictionaries(st.sampled_from(some), st.sampled_from([1, 2, 3]))
        )
    )
)
def test_a_pattern_says_what_it_was_made_of(case: tuple[list[str], dict[str, int]]) -> None:
    modules, values = case
    pattern = pattern_of(values, modules)
    assert len(pattern) <= len(values)
    assert values_of({"alpha_pattern": pattern}, "alpha_pattern", modules, "file") == values


def test_one_name_stands_for_modules_that_are_alike() -> None:
    alike = {module: 3 for module in MODULES if module.endswith("q_proj")}
    assert pattern_of(alike, MODULES) == {"q_proj": 3}


@pytest.mark.parametrize(
    "pattern", [["q_proj"], {"q_proj": "3"}, {"q_proj": True}, {"q_proj": None}, {"(": 3}]
)
def test_what_is_no_pattern_is_refused(pattern: Any) -> None:
    with pytest.raises(AdapterError, match="rank_pattern"):
        values_of({"rank_pattern": pattern}, "rank_pattern", MODULES, "file")


@pytest.mark.timeout(60)
@given(st.text("ab.w+*?2,{}()|[]!", max_size=40))
@example("(a+)+!")
@example(".*.*.*!")
@example("a{99999999999}")
@example("(" * 5000 + ")" * 5000)
def test_no_expression_takes_for_ever(expression: str) -> None:
    with contextlib.suppress(AdapterError):
        values_of({"rank_pattern": {expression: 3}}, "rank_pattern", ["a" * 80], "file")
