from __future__ import annotations

import pytest
from chat_templates import LONG, conversation, rendered, targets
from tiny import CHATML, tiny_tokenizer

from speakeasy.batches.render import render_all, render_conversation
from speakeasy.batches.templates import render_prompt
from speakeasy.batches.types import Rejected
from speakeasy.errors import ModelError


def test_dates_are_fixed_for_templates_that_ask_the_clock() -> None:
    tokenizer = tiny_tokenizer("{{ strftime_now('%Y-%m-%d %B') }}\n" + CHATML)
    text = tokenizer.decode(rendered(tokenizer, conversation("a", "b")).tokens_T.tolist())
    assert text == (
        "2024-07-26 July\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
    )


TURN = "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
SYSTEM_LAST = TURN.replace("m.content", "(messages[0].content if loop.last else '') + m.content")


@pytest.mark.parametrize(
    "body",
    [
        "{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TURN,
        "{% if m.role != 'system' %}" + TURN + "{% endif %}",
        "{% if m.role == 'user' and messages[0].role == 'system' %}" + SYSTEM_LAST
        + "{% elif m.role != 'system' %}" + TURN + "{% endif %}",
    ],
    ids=["refuses", "loses", "moves"],
)  # fmt: skip
def test_a_system_message_that_the_template_cannot_place_is_folded(body: str) -> None:
    tokenizer = tiny_tokenizer("{% for m in messages %}" + body + "{% endfor %}" + PROMPT)
    folded = rendered(tokenizer, conversation("s\n\na", "b", "c", "d"))
    item = rendered(tokenizer, conversation("a", "b", "c", "d", system="s"))
    assert item.tokens_T.tolist() == folded.tokens_T.tolist()
    assert targets(tokenizer, item) == ["b<|im_end|>", "d<|im_end|>"]


def test_a_template_without_generation_prompt_gets_one() -> None:
    tokenizer = tiny_tokenizer(CHATML.split("{% if add")[0])
    item = rendered(tokenizer, conversation("a", "b"))
    assert targets(tokenizer, item) == ["b<|im_end|>"]
    prompt = tokenizer.decode(render_prompt(tokenizer, [{"role": "user", "content": "a"}]))
    assert prompt == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"


def test_a_prompt_that_opens_a_think_block_is_cut_to_what_training_shows() -> None:
    """DeepSeek-R1's distillations: the prompt ends with <think>, conversations have none."""
    tokenizer = tiny_tokenizer(CHATML.replace("assistant\\n", "assistant\\n<think>\\n"))
    item = rendered(tokenizer, conversation("a", "b"))
    assert targets(tokenizer, item) == ["b<|im_end|>"]
    prompt = tokenizer.decode(render_prompt(tokenizer, [{"role": "user", "content": "a"}]))
    assert prompt == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{{ m.nothing.at_all }}{% endfor %}", "fails with UndefinedError"),
        ("{% for", "fails with TemplateSyntaxError"),
        ("{{ raise_exception('never') }}", "fails with TemplateError: never"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "fails with SecurityError"),
        ("{{ messages | length }}", "does not write an answer"),
        ("{% for m in messages %}{{ m.role + m.content }}{% endfor %}", "no end-of-turn token"),
    ],
)
def test_a_broken_template_is_one_clear_error(template: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        render_all(tiny_tokenizer(template), [conversation("a", "b")], LONG)
    assert "\n" not in str(caught.value)


def test_a_template_that_changes_an_answer_rejects_it() -> None:
    tokenizer = tiny_tokenizer(CHATML.replace("message['content']", "message['content'].lower()"))
    result = render_conversation(tokenizer, conversation("a", "Bon Dia"), LONG)
    assert isinstance(result, Rejected)
    assert "changes the content of message 2: 'bon dia' in place of 'Bon Dia'" in result.reason
