"""A small real tokenizer, made in-process: byte-level BPE with ChatML tokens."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCABULARY = 480
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@cache
def _serialized() -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from speakeasy.data.dataset import starter_conversations

    lines = [turn.content for c in starter_conversations()[:120] for turn in c.turns]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        lines,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=list(SPECIAL),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    return tokenizer.to_str()


def tiny_tokenizer(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """A new tokenizer of 480 entries (ids 0 to 2 are special); always the same one.

    Args:
        template: its chat template; None for a tokenizer that brings none.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_serialized()),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )


def save_tiny_tokenizer(directory: Path, template: str | None = CHATML) -> None:
    """Write the tokenizer's files (tokenizer.json and its configuration) into a directory."""
    tiny_tokenizer(template).save_pretrained(directory)
