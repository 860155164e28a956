"""Where a chat template puts the answers: conversations as text with the answers' places.

An answer begins where the generation prompt of the turns before it ends, and ends with the
end-of-turn token that the template writes behind it: exactly what the model has to write by
itself. So the places are found by rendering prompts, not by knowing templates.

Templates are code from the Hub. They run in transformers' sandbox, through
``apply_chat_template``, and what they do is observed on a made-up conversation first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from speakeasy.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, str]

# Llama 3.2's and other templates write today's date. A run that is resumed tomorrow must see the
# tokens of today, so the date is always the one that Llama's templates fall back to. They take it
# as a variable; others call strftime_now, and for them a macro takes that function's place.
_DATE_STRING = "26 Jul 2024"
_DATE_PARTS = {
    "%d": "26", "%b": "Jul", "%B": "July", "%m": "07", "%Y": "2024", "%y": "24",
    "%A": "Friday", "%a": "Fri", "%H": "12", "%M": "00", "%S": "00",
}  # fmt: skip
_FIXED_DATE = (
    "{%- macro strftime_now(format) -%}{{- format"
    + "".join(f".replace('{code}', '{text}')" for code, text in _DATE_PARTS.items())
    + " -}}{%- endmacro +%}"
)

# What templates are observed on.
_EXCHANGE: list[Message] = [
    {"role": "user", "content": "hola"},
    {"role": "assistant", "content": "bon dia"},
]


class LayoutError(ModelError):
    """A template refuses a conversation, or puts it in a form whose answers cannot be found."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Place of one assistant turn in a rendered text, in characters.

    Attributes:
        start: where the generation prompt of the turns before it ends.
        end: where its end-of-turn token begins.
        end_of_turn: text of that token.
        content: the answer as the template has it, without white space around it.
    """

    start: int
    end: int
    end_of_turn: str
    content: str


@dataclass(frozen=True, slots=True)
class LaidOut:
    """A conversation as the template writes it, with its answers from left to right."""

    text: str
    answers: tuple[Answer, ...]


class ChatLayout:
    """How one tokenizer's chat template lays out conversations.

    Args:
        tokenizer: gives the special tokens and the template sandbox.
        template: the Jinja text.

    Attributes:
        folds_system: the system message is put in front of the first user message, with a blank
            line between. So it is for templates that refuse a system message (Gemma 2, Mistral
            0.1), that lose it when an assistant turn comes last, or that move it to the last user
            turn (Mistral Nemo), where a shorter conversation is no prefix of a longer one.

    Raises:
        ModelError: the template fails on a plain conversation of two exchanges, or closes an answer
            with no special token, so that a model could not learn to stop.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
        self._tokenizer = tokenizer
        self._template = _FIXED_DATE + template if "strftime_now" in template else template
        special = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
        special.update(tokenizer.all_special_tokens)
        longest_first = sorted(filter(None, special), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        try:
            self._prompt_excess, self._header = self._learn_prompt()
            self.folds_system = not self._keeps_system_in_front()
            self.probe = self.conversation(_EXCHANGE * 2)
        except LayoutError as error:
            raise ModelError(
                f"{tokenizer.name_or_path or 'the tokenizer'}: {error} (tried on a plain "
                "conversation); put another chat_template into its tokenizer_config.json"
            ) from error

    def conversation(self, messages: Sequence[Message]) -> LaidOut:
        """A whole conversation, ending with an assistant turn, and all its answers.

        Raises:
            LayoutError: see ``prompt``; or an answer does not stand in the text as it was given.
        """
        return self._locate(messages, with_prompt=False)

    def prompt(self, messages: Sequence[Message]) -> LaidOut:
        """The text after which the next answer follows, and the answers before it.

        Raises:
            LayoutError: a message contains the text of a control token, which would act as one;
                or the template raises; or an earlier answer does not stand in the text as given.
        """
        return self._locate(messages, with_prompt=True)

    def _locate(self, messages: Sequence[Message], with_prompt: bool) -> LaidOut:
        for number, message in enumerate(messages, 1):
            if control := self._special.search(message["content"]):
                raise LayoutError(
                    f"message {number} contains the control token {control.group()} as text"
                )
        given = len(messages)
        messages = fold_system(messages) if self.folds_system else list(messages)
        first_number = given - len(messages) + 1  # messages are numbered as they were given
        places = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        prompts = self._prompt_texts([messages[:i] for i in places])
        text = self._prompt_texts([messages])[0] if with_prompt else self._render([messages])[0]
        return LaidOut(
            text,
            tuple(
                self._find(text, prompt, messages[:i], messages[i]["content"], i + first_number)
                for prompt, i in zip(prompts, places, strict=True)
            ),
        )

    def _find(
        self, text: str, prompt: str, before: list[Message], content: str, number: int
    ) -> Answer:
        if not text.startswith(prompt):
            # Qwen3 gives the empty think block to the last answer only, and the answer's own
            # reasoning in its place where there is one.
            (prompt,) = self._render([before], add_generation_prompt=True)
            if not text.startswith(prompt):
                raise LayoutError(
                    f"the chat template rewrites the turns before message {number}, so its prompt "
                    "is not the beginning of the conversation"
                )
        end = self._special.search(text, len(prompt))
        if end is None:
            raise LayoutError(f"the chat template puts no end-of-turn token after message {number}")
        written = text[len(prompt) : end.start()].strip()
        if not _spells(written, content):
            raise LayoutError(
                f"the chat template changes the content of message {number}: "
                f"{written[:40]!r} in place of {content.strip()[:40]!r}"
            )
        return Answer(len(prompt), end.start(), end.group(), written)

    def _prompt_texts(self, conversations: list[list[Message]]) -> list[str]:
        texts = self._render(conversations, add_generation_prompt=True, enable_thinking=False)
        return [text.removesuffix(self._prompt_excess) + self._header for text in texts]

    def _learn_prompt(self) -> tuple[str, str]:
        """What to cut from and to add to generation prompts so that answers follow them.

        DeepSeek-R1's prompt opens a think block that its conversations do not have; templates
        that ignore ``add_generation_prompt`` leave the assistant's header to the model. White
        space before an answer is left out of the header: Llama 2's prompt ends at ``[/INST]``
        since its first token carries the space.
        """
        user, assistant = _EXCHANGE
        answer = assistant["content"]
        (text,) = self._render([[user, assistant]])
        (prompt,) = self._render([[user]], add_generation_prompt=True, enable_thinking=False)
        if text.count(answer) != 1:
            raise LayoutError("the chat template does not write an answer of the assistant once")
        common = sum(
            1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(text, prompt, strict=False))
        )
        header = text[common : text.index(answer)]
        return prompt[common:], header if header.strip() else ""

    def _keeps_system_in_front(self) -> bool:
        system = "parla català"
        # The prompts of the first and of the second answer, and the whole.
        messages: list[Message] = [{"role": "system", "content": system}, *_EXCHANGE * 2]
        try:
            texts = self._render([messages])
            texts += self._render([messages[:2], messages[:4]], add_generation_prompt=True)
        except LayoutError:
            return False
        places = {text.find(system) for text in texts}
        return len(places) == 1 and -1 not in places

    def _render(self, conversations: list[list[Message]], **variables: bool) -> list[str]:
        if not conversations:
            return []
        try:
            return self._tokenizer.apply_chat_template(
                conversations,
                chat_template=self._template,
                tokenize=False,
                date_string=_DATE_STRING,
                **variables,
            )
        except Exception as error:  # a template is foreign code: it may raise anything
            raise LayoutError(f"the chat template fails with {_one_line(error)}") from error


def fold_system(messages: Sequence[Message]) -> list[Message]:
    """The messages without a system turn: its text stands before the first user's."""
    if not messages or messages[0]["role"] != "system":
        return list(messages)
    system, first, *rest = messages
    content = system["content"].strip() + "\n\n" + first["content"].lstrip()
    return [{"role": first["role"], "content": content}, *rest]


def _spells(written: str, content: str) -> bool:
    """True when a template wrote the content, trimmed, and at most moved its reasoning block.

    Reasoning templates change the white space in and behind a block (``<think>r</think>a``) or,
    in earlier turns, leave the block out.
    """
    if written == content.strip():
        return True
    _, mark, rest = content.rpartition("</think>")
    squeezed = "".join(written.split())
    return bool(mark) and squeezed in {"".join(content.split()), "".join(rest.split())}


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
