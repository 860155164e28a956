"""``speakeasy data preview``: one conversation as the model is trained on it."""

from __future__ import annotations

from pathlib import Path

import click

from speakeasy.cli.common import command, console, emit, json_option, model_option, say
from speakeasy.errors import DataError, UsageError


@command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@model_option("Whose tokenizer and chat template.", default="starter")
@click.option("--index", default=1, show_default=True, help="Which conversation, from 1.")
@click.option(
    "--max-length",
    default=1024,
    show_default=True,
    type=click.IntRange(min=1),
    help="Most tokens; a longer conversation loses its oldest turns.",
)
@json_option
def preview(file: Path | None, model: str, index: int, max_length: int, as_json: bool) -> None:
    """Show one conversation of FILE with its targets marked.

    Targets, what the model learns to write, are green, underlined and in ⟦ ⟧. Without FILE, the
    starter conversations.
    """
    from speakeasy.batches.preview import pieces, to_text
    from speakeasy.batches.render import render_conversation
    from speakeasy.batches.templates import ensure_chat_template
    from speakeasy.batches.types import Rejected
    from speakeasy.data.dataset import load_conversations, starter_conversations
    from speakeasy.weights.hub import load_tokenizer, resolve_model

    conversations = load_conversations([file]) if file else starter_conversations()
    if not 1 <= index <= len(conversations):
        raise UsageError(
            f"--index {index}: expected 1 to {len(conversations)}, "
            f"the conversations of {file or 'the starter data'}"
        )
    conversation = conversations[index - 1]
    directory = resolve_model(model, say=say)
    tokenizer = load_tokenizer(directory.path)
    choice = ensure_chat_template(tokenizer)
    item = render_conversation(tokenizer, conversation, max_length)
    if isinstance(item, Rejected):
        raise DataError(f"{item.origin}: {item.reason}")
    runs = pieces(tokenizer, item)
    targets = int(item.is_target_T.sum())
    if as_json:
        emit(
            {
                "id": item.id,
                "origin": str(conversation.origin),
                "model": model,
                "template": choice.reason,
                "tokens": int(item.tokens_T.size),
                "targets": targets,
                "dropped_turns": item.dropped_turns,
                "pieces": [
                    {"text": run.text, "is_target": run.is_target, "tokens": run.tokens}
                    for run in runs
                ],
            }
        )
        return
    say(f"{conversation.origin} ({item.id}); template: {choice.reason}")
    # The text itself is for people too: stdout stays free for --json.
    console().print(to_text(runs), soft_wrap=True)
    dropped = f"; {item.dropped_turns} oldest turns dropped" if item.dropped_turns else ""
    say(f"{item.tokens_T.size:,} tokens, {targets:,} of them targets{dropped}")
