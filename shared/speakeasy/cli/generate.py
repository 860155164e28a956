"""``speakeasy generate`` and ``speakeasy chat``: ask a model, with or without an adapter."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from speakeasy.cli.common import command, emit, json_option, progress, say
from speakeasy.cli.speaker_options import (
    option,
    sampling_of,
    sampling_options,
    speaker_of,
    speaker_options,
)
from speakeasy.errors import UsageError

if TYPE_CHECKING:
    from speakeasy.dialect.prompts import Prompt
    from speakeasy.training.backend import Sampling
    from speakeasy.training.inference import Answer, Responder


@command()
@click.argument("words", metavar="[PROMPT]...", nargs=-1)
@click.option("--prompts", metavar="FILE", help="Prompts from a .toml, .jsonl or .txt file, or "
              "'packaged' for the evaluation prompts.")  # fmt: skip
@click.option("--category", "categories", multiple=True, help="Only prompts of this category.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many prompts.")
@click.option("--system", metavar="TEXT", help="System message before each prompt.")
@option("--samples", type=click.IntRange(min=1), default=1, help="Answers to each prompt.")
@option("--batch-size", type=click.IntRange(min=1), default=8, help="Answers at a time.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False),
              help="Write the answers to this new JSONL file too.")  # fmt: skip
@speaker_options
@sampling_options()
@json_option
def generate(
    words: tuple[str, ...],
    prompts: str | None,
    categories: tuple[str, ...],
    limit: int | None,
    system: str | None,
    samples: int,
    batch_size: int,
    output: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Answer prompts with a model.

    A PROMPT of - is read from the standard input. Answers go to the standard output.

    \b
      speakeasy generate "¿Quedamos mañana?" --run runs/first
      speakeasy generate --prompts packaged --category greeting --samples 3
    """
    chosen = _prompts(words, prompts, categories)[:limit]
    sampling = sampling_of(options)
    if samples > 1 and sampling.temperature == 0:
        raise UsageError(f"--samples {samples}: --temperature 0 gives the same answer every time")
    if output is not None and output.exists():
        raise UsageError(f"--output {output}: exists already; choose another name")
    from speakeasy.training.inference import Responder

    responder = Responder.open(speaker_of(options), say)
    result = _Answers(samples)
    try:
        _ask(responder, chosen, system, sampling, batch_size, result)
    finally:  # on Ctrl-C too: what is there took time to make
        if output is not None and result.records:
            from speakeasy.files import write_text

            lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in result.records)
            write_text(output, "".join(lines))
            say(f"{len(result.records)} of {len(chosen) * samples} answers written to {output}")
    if as_json:
        emit({"answers": result.records, **_about(responder), **result.rates})
        return
    for record in result.records:
        if len(result.records) > 1:
            say(f"[{record['id']}] {record['prompt']}")
        click.echo(record["answer"] + ("\n" if len(result.records) > 1 else ""))
    say(f"{result.tokens} tokens in {result.seconds:.1f} s")


def _prompts(
    words: tuple[str, ...], source: str | None, categories: tuple[str, ...]
) -> tuple[Prompt, ...]:
    from speakeasy.dialect.prompts import Prompt, in_categories, packaged_prompts, read_prompts

    if source is not None:
        if words:
            raise UsageError(f"--prompts {source}: a PROMPT is given as well; give one of them")
        found = packaged_prompts() if source == "packaged" else read_prompts(Path(source))
        return in_categories(found, categories) if categories else found
    if categories:
        raise UsageError(f"--category {categories[0]}: needs --prompts, such as --prompts packaged")
    texts = [sys.stdin.read().strip() if word == "-" else word.strip() for word in words]
    if not texts:
        raise UsageError("no PROMPT: give one, - for the standard input, or --prompts packaged")
    for number, text in enumerate(texts, 1):
        if not text:
            raise UsageError(f"PROMPT {number}: is empty; expected text")
    return tuple(Prompt(id=str(number), text=text) for number, text in enumerate(texts, 1))


@dataclass
class _Answers:
    """What came of it, as it comes."""

    samples: int
    tokens: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    @property
    def rates(self) -> dict[str, float | None]:
        rate = self.tokens / self.seconds if self.seconds else None
        return {"seconds": self.seconds, "tokens_per_second": rate}

    def add(self, prompt: Prompt, sample: int, answer: Answer) -> None:
        record: dict[str, Any] = {"id": prompt.id, "prompt": prompt.text, "answer": answer.text}
        if self.samples > 1:
            record["sample"] = sample
        if prompt.category:
            record["category"] = prompt.category
        self.records.append({**record, "tokens": len(answer.tokens), "finished": answer.finished})
        self.tokens += len(answer.tokens)


def _ask(
    responder: Responder,
    prompts: Sequence[Prompt],
    system: str | None,
    sampling: Sampling,
    batch_size: int,
    result: _Answers,
) -> None:
    """All prompts once a sample; a sample is a seed of its own."""
    messages = [prompt.to_messages(system) for prompt in prompts]
    started = time.perf_counter()
    with progress("answering", len(prompts) * result.samples, "answers") as advance:
        for sample in range(result.samples):
            seeded = replace(sampling, seed=sampling.seed + sample)
            upcoming = iter(prompts)
            for answers in responder.answer(messages, seeded, batch_size):
                for answer in answers:
                    result.add(next(upcoming), sample, answer)
                result.seconds = time.perf_counter() - started
                advance(len(answers))


def _about(responder: Responder) -> dict[str, Any]:
    return {
        "backend": responder.selection.name,
        "reason": responder.selection.reason,
        "precision": responder.precision,
        "model": responder.model.name,
        "adapter": responder.adapter and str(responder.adapter),
    }


@command()
@click.option("--system", metavar="TEXT", help="System message of the conversation.")
@speaker_options
@sampling_options()
@json_option
def chat(system: str | None, as_json: bool, **options: Any) -> None:
    """Talk with a model in the terminal.

    /reset forgets the conversation, /system TEXT sets the system message, /quit or Ctrl-D ends.
    Ctrl-C stops an answer. Lines on the standard input are taken in turn.
    """
    from speakeasy.cli.conversation import Conversation
    from speakeasy.training.inference import Responder

    responder = Responder.open(speaker_of(options), say)
    talk = Conversation(responder, sampling_of(options), sys.stderr if as_json else sys.stdout)
    if system:
        talk.set_system(system)
    talk.run()
    if as_json:
        emit({"messages": talk.messages, **_about(responder)})
