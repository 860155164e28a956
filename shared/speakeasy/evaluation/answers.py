"""A model's answers to prompts: several to each, in batches, every draw seeded."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from speakeasy.dialect.prompts import Prompt, packaged_prompts, read_prompts
from speakeasy.evaluation.plan import PACKAGED, EvaluationPlan
from speakeasy.evaluation.result import PROMPTS_FILE
from speakeasy.files import write_text
from speakeasy.training.backend import Sampling
from speakeasy.training.inference import Responder
from speakeasy.training.run import Record
from speakeasy.vocab.progress import Bar, no_bar


@dataclass(frozen=True, slots=True)
class Questions:
    """What is asked, and how.

    Attributes:
        prompts: in the order of their file.
        samples: answers to each; sample number s is drawn with the seed plus s.
    """

    prompts: tuple[Prompt, ...]
    samples: int
    sampling: Sampling

    @property
    def fingerprint(self) -> str:
        """sha256 of all that is asked: two evaluations with the same one put the same prompts."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()

    @property
    def lines(self) -> list[str]:
        """A line of JSON a prompt, in the form that ``dialect.prompts`` reads."""
        return [json.dumps(_value(prompt), ensure_ascii=False) for prompt in self.prompts]

    def write(self, directory: Path) -> None:
        """Keep the prompts in an evaluation's directory."""
        write_text(directory / PROMPTS_FILE, "".join(f"{line}\n" for line in self.lines))


def _value(prompt: Prompt) -> dict[str, Any]:
    fields = {
        "id": prompt.id,
        "messages": prompt.to_messages(),
        "category": prompt.category,
        "register": prompt.register,
        "expects": list(prompt.expects),
        "control": prompt.control,
        "seed": prompt.seed,
    }
    return {name: value for name, value in fields.items() if value not in ("", [], False)}


def questions_of(plan: EvaluationPlan, like: Path | None, earlier: Record | None) -> Questions:
    """The prompts of a plan; or those of an evaluation that it follows, with its sampling.

    Args:
        like: that evaluation's directory, and
        earlier: the ``answers`` of its ``evaluation.json``.

    Raises:
        DataError: the file of prompts cannot be read.
    """
    if like is not None and earlier is not None:
        sampling = Sampling(**earlier["sampling"])
        return Questions(read_prompts(like / PROMPTS_FILE), earlier["samples"], sampling)
    given = plan.prompts
    prompts = packaged_prompts() if given == PACKAGED else read_prompts(Path(given))
    return Questions(prompts[: plan.limit or None], plan.samples, plan.sampling)


def ask(
    responder: Responder, questions: Questions, *, batch_size: int, bar: Bar = no_bar
) -> list[Record]:
    """All answers: the samples of a prompt together, the prompts in their order.

    An answer does not depend on the batch that it is given in (in float32), so prompts of a like
    length are put together.

    Returns:
        The lines of ``answers.jsonl``, without their measures.

    Raises:
        UsageError: a prompt leaves no room for the answer. Raised before anything is answered.
        DataError: the chat template refuses a prompt; the same.
    """
    prompts = sorted(questions.prompts, key=lambda prompt: len(prompt.text))
    messages = [prompt.to_messages() for prompt in prompts]
    records = {}
    with bar("answering", len(prompts) * questions.samples) as advance:
        for sample in range(questions.samples):
            seeded = replace(questions.sampling, seed=questions.sampling.seed + sample)
            upcoming = iter(prompts)
            for answers in responder.answer(messages, seeded, batch_size):
                for answer in answers:
                    prompt = next(upcoming)
                    records[prompt.id, sample] = {
                        **_about(prompt),
                        "sample": sample,
                        "answer": answer.text,
                        "tokens": len(answer.tokens),
                        "finished": answer.finished,
                    }
                advance(len(answers))
    return [
        records[prompt.id, sample]
        for prompt in questions.prompts
        for sample in range(questions.samples)
    ]


def check_room(responder: Responder, questions: Questions) -> None:
    """Refuse prompts that cannot be answered, before anything slow begins.

    Raises:
        UsageError, DataError: as ``ask``.
    """
    responder.answer([prompt.to_messages() for prompt in questions.prompts], questions.sampling)


def _about(prompt: Prompt) -> Record:
    return {
        "id": prompt.id,
        "prompt": prompt.text,
        "category": prompt.category,
        "register": prompt.register,
        "control": prompt.control,
        "expects": list(prompt.expects),
    }


def sampling_record(sampling: Sampling) -> Record:
    """How tokens are chosen, for ``evaluation.json``."""
    return dataclasses.asdict(sampling)
