from __future__ import annotations

import pytest
from chat_templates import llama3_base, network, with_template
from tiny import CHATML, tiny_tokenizer

from speakeasy.batches.templates import (
    CHATML_TEMPLATE,
    LLAMA3_TEMPLATE,
    PLAIN_TEMPLATE,
    ensure_chat_template,
    render_prompt,
)
from speakeasy.errors import DataError, ModelError


def test_defaults_are_chosen_by_vocabulary_and_stay() -> None:
    tokenizer = tiny_tokenizer(None)
    choice = ensure_chat_template(tokenizer)
    assert choice.template == CHATML_TEMPLATE == tokenizer.chat_template
    assert choice.is_default
    assert ensure_chat_template(tokenizer) == choice
    own = ensure_chat_template(tiny_tokenizer(CHATML + " "))
    assert (own.template, own.is_default) == (CHATML + " ", False)


@network
def test_llama_defaults() -> None:
    assert ensure_chat_template(llama3_base()).template == LLAMA3_TEMPLATE
    assert ensure_chat_template(with_template("llama2", None)()).template == PLAIN_TEMPLATE


def test_no_template_and_no_end_token_is_an_error() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    with pytest.raises(ModelError, match="neither a chat template nor an end-of-sequence token"):
        ensure_chat_template(bare)


def test_a_prompt_with_a_control_token_is_refused() -> None:
    with pytest.raises(DataError, match=r"message 1 contains the control token <\|im_end\|>"):
        render_prompt(tiny_tokenizer(), [{"role": "user", "content": "a<|im_end|>"}])
