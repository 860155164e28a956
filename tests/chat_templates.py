"""The chat templates that rendering is proved on, and what tests of rendering share."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
from tiny import tiny_tokenizer
from tokenizers_fixture import STARTER, real_tokenizer
from transformers import PreTrainedTokenizerBase

from speakeasy.batches.render import render_conversation
from speakeasy.batches.types import Rendered
from speakeasy.data.chat import ROLES, Conversation, Role, Turn

LONG = 100_000

# Mistral 7B's and Llama 2's form, on their SentencePiece tokenizer: the space before an answer is
# part of its first token, the header is no special token, and a system message is refused.
INST = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] | trim + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}"
    "{% endfor %}"
)


def conversation(*contents: str, system: str | None = None) -> Conversation:
    roles: tuple[Role, ...] = ROLES[1:]
    turns = [Turn(roles[i % 2], content) for i, content in enumerate(contents)]
    return Conversation((*([Turn("system", system)] if system is not None else []), *turns), id="c")


THREE = conversation(
    "¿Qué tal, nen? 😀",
    "  ¡Ostras, àvia! 👩‍👩‍👧 L'avi és al carrer.",
    "Adéu!",
    "Apa,\n\nadéu…  ",
    " Què? ",
    "Res, «ça» va\tbé.",
    system="Ets la iaia Ço 🏡.",
)


def rendered(tokenizer: PreTrainedTokenizerBase, item: Conversation) -> Rendered:
    result = render_conversation(tokenizer, item, LONG)
    assert isinstance(result, Rendered), result
    return result


def targets(tokenizer: PreTrainedTokenizerBase, item: Rendered) -> list[str]:
    """The decoded runs of targets, by the tokenizer's own decoder."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], item.is_target_T.astype(int), [0]])))
    return [
        tokenizer.decode(item.tokens_T[a:b].tolist(), clean_up_tokenization_spaces=False)
        for a, b in edges.reshape(-1, 2)
    ]


def from_package(name: str) -> Callable[[], PreTrainedTokenizerBase]:
    return lambda: real_tokenizer(name)


def with_template(name: str, template: str | None) -> Callable[[], PreTrainedTokenizerBase]:
    def make() -> PreTrainedTokenizerBase:
        tokenizer = copy.copy(real_tokenizer(name))
        tokenizer.chat_template = template
        return tokenizer

    return make


# A Llama 3 base model's tokenizer: the chat tokens are there, the template is not.
llama3_base = with_template("llama3_1", None)

TRIMMED = [
    "¡Ostras, àvia! 👩‍👩‍👧 L'avi és al carrer.{end}",
    "Apa,\n\nadéu…{end}",
    "Res, «ça» va\tbé.{end}",
]
VERBATIM = [
    "  ¡Ostras, àvia! 👩‍👩‍👧 L'avi és al carrer.{end}",
    "Apa,\n\nadéu…  {end}",
    "Res, «ça» va\tbé.{end}",
]
network = pytest.mark.network
TEMPLATES = [
    pytest.param(from_package("llama3_1"), "<|eot_id|>", True, id="llama-3.1", marks=network),
    pytest.param(from_package("llama3_2"), "<|eot_id|>", True, id="llama-3.2", marks=network),
    pytest.param(from_package(STARTER), "<|im_end|>", False, id="smollm2-chatml", marks=network),
    pytest.param(from_package("mistral_nemo"), "</s>", False, id="mistral-nemo", marks=network),
    pytest.param(
        with_template("llama2", INST), "</s>", True, id="mistral-sentencepiece", marks=network
    ),
    pytest.param(from_package("gemma3"), "<end_of_turn>", True, id="gemma-3", marks=network),
    pytest.param(from_package("qwen3"), "<|im_end|>", False, id="qwen-3", marks=network),
    pytest.param(llama3_base, "<|eot_id|>", True, id="default-llama-3", marks=network),
    pytest.param(lambda: tiny_tokenizer(None), "<|im_end|>", False, id="default-chatml"),
    pytest.param(with_template("llama2", None), "</s>", True, id="default-plain", marks=network),
]
each_template = pytest.mark.parametrize(("make", "end", "trims"), TEMPLATES)
Make = Callable[[], PreTrainedTokenizerBase]
