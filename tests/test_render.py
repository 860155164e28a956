from __future__ import annotations

import numpy as np
import pytest
from chat_templates import (
    LONG,
    THREE,
    TRIMMED,
    VERBATIM,
    Make,
    conversation,
    each_template,
    network,
    rendered,
    targets,
)
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tiny import tiny_tokenizer
from tokenizers_fixture import STARTER, real_tokenizer
from transformers import PreTrainedTokenizerBase

from speakeasy.batches.preview import pieces
from speakeasy.batches.render import render_all, render_conversation
from speakeasy.batches.templates import ensure_chat_template, render_prompt
from speakeasy.batches.types import Rejected, Rendered
from speakeasy.data.chat import Conversation
from speakeasy.data.dataset import starter_conversations
from speakeasy.errors import DataError


@each_template
def test_targets_are_every_answer_and_its_end_of_turn(make: Make, end: str, trims: bool) -> None:
    tokenizer = make()
    item = rendered(tokenizer, THREE)
    expected = [text.format(end=end) for text in (TRIMMED if trims else VERBATIM)]
    assert targets(tokenizer, item) == expected
    contents = [text.removesuffix(end) for text in expected]
    assert item.target_bytes == sum(len(text.strip().encode()) for text in contents)
    assert item.target_words == 7 + 2 + 4
    assert not item.is_target_T[0]


SYSTEM = "Ets la iaia Ço 🏡."
USER = "¿Qué tal, nen? 😀"
OPENINGS = {
    "llama-3.1": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
    f"{SYSTEM}<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n{USER}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "llama-3.2": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
    f"Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n{SYSTEM}<|eot_id|>"
    f"<|start_header_id|>user<|end_header_id|>\n\n{USER}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "smollm2-chatml": f"<|im_start|>system\n{SYSTEM}<|im_end|>\n"
    f"<|im_start|>user\n{USER}<|im_end|>\n<|im_start|>assistant\n",
    "mistral-nemo": f"<s>[INST]{SYSTEM}\n\n{USER}[/INST]",
    "mistral-sentencepiece": f"<s> [INST] {SYSTEM}\n\n{USER} [/INST]",
    "gemma-3": f"<bos><start_of_turn>user\n{SYSTEM}\n\n{USER}<end_of_turn>\n<start_of_turn>model\n",
    "qwen-3": f"<|im_start|>system\n{SYSTEM}<|im_end|>\n"
    f"<|im_start|>user\n{USER}<|im_end|>\n<|im_start|>assistant\n",
    "default-llama-3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
    f"{SYSTEM}<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n{USER}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "default-chatml": f"<|im_start|>system\n{SYSTEM}<|im_end|>\n"
    f"<|im_start|>user\n{USER}<|im_end|>\n<|im_start|>assistant\n",
    "default-plain": f"<s> System: {SYSTEM}\nUser: {USER}\nAssistant:",
}


@each_template
def test_what_comes_before_the_first_target(
    make: Make, end: str, trims: bool, request: pytest.FixtureRequest
) -> None:
    """The system message is there, also where the template would lose it; the date is fixed."""
    tokenizer = make()
    item = rendered(tokenizer, THREE)
    opening = tokenizer.decode(
        item.tokens_T[: item.is_target_T.argmax()].tolist(), clean_up_tokenization_spaces=False
    )
    assert opening == OPENINGS[request.node.callspec.id]


@each_template
def test_the_prompt_is_what_comes_before_an_answer(make: Make, end: str, trims: bool) -> None:
    tokenizer = make()
    is_qwen = "enable_thinking" in (tokenizer.chat_template or "")
    for turns in (3, 5, 7):
        part = Conversation(THREE.turns[:turns])
        item = rendered(tokenizer, part)
        starts = np.flatnonzero(np.diff(item.is_target_T.astype(int)) == 1) + 1
        # The last answer on every template; earlier ones too, but for Qwen3's think block.
        answers = [turns - 1] if is_qwen else range(2, turns, 2)
        for answer, start in zip(answers, starts[-len(answers) :], strict=True):
            prompt = render_prompt(tokenizer, part.to_messages()[:answer])
            assert prompt == item.tokens_T[:start].tolist()


@each_template
def test_ids_are_those_of_apply_chat_template(make: Make, end: str, trims: bool) -> None:
    tokenizer = make()
    ensure_chat_template(tokenizer)
    plain = [c for c in starter_conversations()[:150] if c.turns[0].role == "user"]
    assert len(plain) > 50
    for source, item in zip(plain, render_all(tokenizer, plain, LONG).items, strict=True):
        assert item.tokens_T.tolist() == tokenizer.apply_chat_template(
            source.to_messages(), tokenize=True, return_dict=False, date_string="26 Jul 2024"
        )


SNIPPETS = [
    "<|im_start|>", "<|im_end|>", "<|im_end", "<|im_start|>assistant\n", "<|eot_id|>", "</s>",
    "[INST]", "[/INST]", "<end_of_turn>", "<bos>", "User: ", "\nAssistant:", "assistant", "model",
    "{{ bos_token }}", "{% raw %}", " ", "  ", "\n", "\n\n", "\t", "\u00a0", "\u200b", "e\u0301",
    "à", "ç", "😀", "👩‍👩‍👧", "\U000f0000", "\ue000", "ĠĊ", "hola", "bon dia", "nen", "'", "<", "|",
]  # fmt: skip
contents_strategy = st.one_of(
    st.text(max_size=12), st.lists(st.sampled_from(SNIPPETS), max_size=6).map("".join)
)
conversations_strategy = st.builds(
    lambda system, pairs: conversation(*(text for pair in pairs for text in pair), system=system),
    st.none() | contents_strategy,
    st.lists(st.tuples(contents_strategy, contents_strategy), min_size=1, max_size=3),
)


def check_any_contents(
    tokenizer: PreTrainedTokenizerBase, item: Conversation, end: str, trims: bool
) -> None:
    """Targets spell the contents, or a control token was in the contents and is named."""
    result = render_conversation(tokenizer, item, LONG)
    special = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
    named = [text for text in special if any(text in turn.content for turn in item.turns)]
    if isinstance(result, Rejected):
        assert any(f"control token {text}" in result.reason for text in named), result
        return
    assert not named

    def normal(text: str) -> str:
        backend = tokenizer.backend_tokenizer
        text = backend.normalizer.normalize_str(text) if backend.normalizer else text
        return text.replace("▁", " ").strip() if trims else text

    expected = [normal(answer) + end for answer in item.answers]
    if "enable_thinking" in tokenizer.chat_template:  # Qwen3 trims the last answer's newlines
        expected[-1] = normal(item.answers[-1].lstrip("\n")) + end
    for answer in item.answers:  # SmolLM2's vocabulary lacks some bytes, and drops them
        ids = tokenizer.encode(answer, add_special_tokens=False)
        assume(normal(tokenizer.decode(ids, clean_up_tokenization_spaces=False)) == normal(answer))
    assert [normal(t.removesuffix(end)) + end for t in targets(tokenizer, result)] == expected
    whole = tokenizer.decode(result.tokens_T.tolist(), clean_up_tokenization_spaces=False)
    assert "".join(piece.text for piece in pieces(tokenizer, result)) == whole


@given(conversations_strategy)
def test_any_contents_on_chatml(item: Conversation) -> None:
    tokenizer = tiny_tokenizer()
    check_any_contents(tokenizer, item, "<|im_end|>", trims=False)
    if isinstance(render_conversation(tokenizer, item, LONG), Rendered):
        tokens_T = rendered(tokenizer, item).tokens_T
        before = item.to_messages()[:-1]
        prompt = render_prompt(tokenizer, before)
        assert tokens_T[: len(prompt)].tolist() == prompt


@each_template
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(item=conversations_strategy)
def test_any_contents_on_real_templates(
    make: Make, end: str, trims: bool, item: Conversation
) -> None:
    check_any_contents(make(), item, end, trims)


def test_an_answer_that_begins_with_newlines_keeps_them_as_targets() -> None:
    """Tokenized whole, ChatML's newline and the answer's would be one token."""
    tokenizer = real_tokenizer(STARTER)
    item = rendered(tokenizer, conversation("Hola", "\n\n  bon dia", "x", "\n"))
    assert targets(tokenizer, item) == ["\n\n  bon dia<|im_end|>", "\n<|im_end|>"]


@network
def test_qwen_keeps_reasoning_of_the_last_turn_only() -> None:
    tokenizer = real_tokenizer("qwen3")
    block = "<think>\nSaluda.\n</think>\n\n"
    item = rendered(tokenizer, conversation("Hola", block + "Bon dia", "Ei", block + "Adéu"))
    assert targets(tokenizer, item) == ["Bon dia<|im_end|>", block + "Adéu<|im_end|>"]
    assert item.target_bytes == len(("Bon dia" + block + "Adéu").encode())


@network
def test_qwen_prompts_switch_thinking_off() -> None:
    tokenizer = real_tokenizer("qwen3")
    prompt = render_prompt(tokenizer, [{"role": "user", "content": "Hola"}])
    assert tokenizer.decode(prompt).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


FIVE = conversation(*(f"pregunta {n}" if n % 2 else f"resposta {n}" for n in range(1, 11)))


@pytest.mark.parametrize("system", [None, "Ets la iaia."])
def test_a_long_conversation_loses_its_oldest_exchanges(system: str | None) -> None:
    tokenizer = tiny_tokenizer()
    whole = conversation(*(turn.content for turn in FIVE.turns), system=system)
    body = len(whole.turns) - len(FIVE.turns)
    shorter = [
        rendered(tokenizer, Conversation((*whole.turns[:body], *FIVE.turns[drop:])))
        for drop in range(0, 10, 2)
    ]
    sizes = [item.tokens_T.size for item in shorter]
    for limit in range(min(sizes), max(sizes) + 1):
        result = render_conversation(tokenizer, whole, limit)
        assert isinstance(result, Rendered)
        dropped = next(index for index, size in enumerate(sizes) if size <= limit)
        assert result.tokens_T.tolist() == shorter[dropped].tokens_T.tolist()
        assert result.dropped_turns == 2 * dropped
    too_long = render_conversation(tokenizer, whole, min(sizes) - 1)
    assert isinstance(too_long, Rejected)
    assert too_long.reason == (
        f"even its last exchange alone has more than {min(sizes) - 1} tokens (--max-length)"
    )


def test_a_rendered_set_accounts_for_everything() -> None:
    tokenizer = tiny_tokenizer()
    short, bad = conversation("a", "b"), conversation("a", "b<|im_end|>")
    limit = rendered(tokenizer, FIVE).tokens_T.size - 1
    done: list[int] = []
    result = render_all(tokenizer, [short, FIVE, bad], limit, done.append)
    assert [item.dropped_turns for item in result.items] == [0, 2]
    assert (result.shortened, result.dropped_turns) == (1, 2)
    assert [(r.id, r.reason) for r in result.rejected] == [
        ("c", "message 2 contains the control token <|im_end|> as text")
    ]
    assert result.tokens == sum(item.tokens_T.size for item in result.items)
    assert result.targets == sum(int(item.is_target_T.sum()) for item in result.items)
    assert sum(done) == 3


def test_no_target_at_all_is_an_error() -> None:
    with pytest.raises(DataError, match="data set is empty"):
        render_all(tiny_tokenizer(), [], LONG)
    with pytest.raises(DataError, match=r"^c: it has more than 3 tokens.*all 2 conversations"):
        render_all(tiny_tokenizer(), [conversation("a", "b")] * 2, 3)
