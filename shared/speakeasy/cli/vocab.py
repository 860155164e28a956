"""``speakeasy vocab``: the group of the commands about a model's vocabulary."""

from __future__ import annotations

from speakeasy.cli.common import group
from speakeasy.cli.vocab_check import check
from speakeasy.cli.vocab_expand import expand
from speakeasy.cli.vocab_suggest import suggest


@group()
def vocab() -> None:
    """Give a model words of its own.

    A tokenizer writes words that it does not know in pieces. 'check' says what words cost a model
    today, 'suggest' finds in your texts the words that would save most, and 'expand' adds words
    to a model without harm to others. The guide's 24 words are the default.

    \b
    From a model to one with a vocabulary of its own:
      speakeasy vocab check --train-file chats.jsonl
      speakeasy vocab suggest chats.jsonl corpus/ --output words.txt
      speakeasy vocab expand --words words.txt --output-dir models/expanded
      speakeasy pretrain --model models/expanded --output-dir models/pretrained

    \b
    A file of words has an entry a line:
      # a comment
      xafogor            a word: bare, after a space, capitalized, and both
      "¡Xafogor"         in quotation marks: this very form and no other
    """


for subcommand in (check, expand, suggest):
    vocab.add_command(subcommand)
