"""Which chat template a tokenizer speaks, and prompts in it.

A tokenizer that brings no template gets a default, which is a function of its vocabulary alone:

1. ``<|start_header_id|>`` and ``<|eot_id|>`` are known: Llama 3's headers (the tokenizer of a
   Llama 3 *base* model has these tokens and no template);
2. ``<|im_start|>`` and ``<|im_end|>`` are known: ChatML;
3. otherwise plain text, ``User: ...`` and ``Assistant: ...``, each answer closed by the
   tokenizer's end-of-sequence token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from speakeasy.batches.encode import Encoder
from speakeasy.batches.layout import ChatLayout, LayoutError, Message
from speakeasy.errors import DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LLAMA3_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
    " + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
    "{% endif %}"
)
"""As in Meta's model card of Llama 3: header, blank line, trimmed content, ``<|eot_id|>``."""

CHATML_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""ChatML without a system message of its own."""

PLAIN_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ message['role'] | capitalize + ': ' + message['content'] | trim"
    " + (eos_token if message['role'] == 'assistant' else '') + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""For a tokenizer without chat tokens. The prompt ends at the colon, not at the space behind it:
the tokenizers in question have words with the space in front as one piece."""


@dataclass(frozen=True, slots=True)
class TemplateChoice:
    """A chat template and where it comes from.

    Attributes:
        template: the Jinja text.
        reason: one phrase for the user.
        is_default: True when the template is ours because the tokenizer brought none.
    """

    template: str
    reason: str
    is_default: bool


def ensure_chat_template(tokenizer: PreTrainedTokenizerBase) -> TemplateChoice:
    """The tokenizer's own chat template, or else a default, which is set on the tokenizer.

    Setting it lets everything that saves or uses the tokenizer later agree with training.
    Calling this again gives the same answer.

    Raises:
        ModelError: no template, and no token that could end an answer.
    """
    known = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    if {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"} <= known:
        default, form = LLAMA3_TEMPLATE, "it has Llama 3's header tokens: Llama 3's form"
    elif {"<|im_start|>", "<|im_end|>"} <= known:
        default, form = CHATML_TEMPLATE, "it has <|im_start|> and <|im_end|>: ChatML"
    else:
        default, form = PLAIN_TEMPLATE, f"it has no chat tokens: plain text, {tokenizer.eos_token}"
    reason = f"the tokenizer has no chat template and {form}"
    if tokenizer.chat_template:
        template = tokenizer.get_chat_template()
        if template == default:
            return TemplateChoice(default, reason, is_default=True)
        return TemplateChoice(template, "the tokenizer's own chat template", is_default=False)
    if default is PLAIN_TEMPLATE and not tokenizer.eos_token:
        raise ModelError(
            f"{tokenizer.name_or_path}: the tokenizer has neither a chat template nor an "
            "end-of-sequence token, so no answer could end; set eos_token in tokenizer_config.json"
        )
    tokenizer.chat_template = default
    return TemplateChoice(default, reason, is_default=True)


def render_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Token ids after which the model writes the next assistant turn.

    Thinking is switched off where the template has that switch, and a system message goes where
    training puts it. The ids are a prefix of the training conversation's up to that turn's first
    target, with one exception: Qwen3 gives an empty think block to the last answer of a
    conversation only, so the prompt of an *earlier* answer ends with a block that training does
    not show there.

    Args:
        tokenizer: a fast tokenizer.
        messages: OpenAI chat messages, the last one the user's.

    Raises:
        DataError: a message contains the text of a control token, or the template refuses it.
        ModelError: the template cannot be used at all.
    """
    layout = ChatLayout(tokenizer, ensure_chat_template(tokenizer).template)
    try:
        prompt = layout.prompt(messages)
        return Encoder(tokenizer, layout).encode([prompt])[0].ids
    except LayoutError as error:
        raise DataError(f"prompt: {error}") from error
