"""Answers from a trained model: base, adapter and tokenizer put together and asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers.decoders import DecodeStream

from speakeasy.batches.layout import ChatLayout
from speakeasy.batches.templates import ensure_chat_template, render_prompt
from speakeasy.config import BackendName, LoraConfig, Precision, PretrainConfig
from speakeasy.errors import AdapterError, DataError, ModelError, RunError, UsageError
from speakeasy.training.backend import (
    Device,
    Engine,
    EngineOptions,
    Sampling,
    Selection,
    open_backend,
    select,
)
from speakeasy.training.run import Run
from speakeasy.weights.adapters import Adapter, check_fits, is_uniform, read_adapter, uniform
from speakeasy.weights.checkpoint import fingerprint, linear_layers, model_shape
from speakeasy.weights.directory import read_json_object
from speakeasy.weights.hub import ModelDirectory, load_tokenizer, resolve_model
from speakeasy.weights.trained_rows import load as load_rows
from speakeasy.weights.trained_rows import rows_beside

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said.

    Attributes:
        text: without white space around it.
        tokens: the ids that it was decoded from, without the one that ended it.
        finished: the model ended it by itself, before ``max_tokens``.
    """

    text: str
    tokens: tuple[int, ...]
    finished: bool


@dataclass(frozen=True, slots=True)
class Speaker:
    """Which model is to speak.

    Attributes:
        model: as for ``resolve_model``; None for the run's or the adapter's base, or ``starter``.
        adapter: directory of an adapter in PEFT's or mlx-lm's format, or of a run.
        run: directory of a run; its model and its 4 bits are taken over.
    """

    model: str | None = None
    adapter: Path | None = None
    run: Path | None = None
    backend: BackendName = "auto"
    precision: Precision = "auto"
    use_4bit: bool = False


@dataclass(frozen=True)
class Responder:
    """A loaded model that answers conversations.

    Attributes:
        adapter: where its adapter lies; None for the bare model.
        context: most tokens of prompt and answer together.
        stop: ids of the tokens that end an answer.
    """

    engine: Engine
    tokenizer: Any
    model: ModelDirectory
    adapter: Path | None
    selection: Selection
    device: Device
    precision: Precision
    context: int
    stop: tuple[int, ...]

    @classmethod
    def open(cls, speaker: Speaker, say: Callable[[str], None] = lambda line: None) -> Responder:
        """Find, check and load everything.

        Args:
            say: called with a line about each choice that was made, and before slow steps.

        Raises:
            UsageError: both an adapter and a run are given.
            RunError: the run has no adapter yet.
            ModelError: there is no such model, or it is unsound.
            AdapterError: the adapter is unsound, or was made for another base.
            BackendError: the backend is not installed.
        """
        selection = select(speaker.backend)
        run, directory = find_adapter(speaker)
        adapter = uniform(read_adapter(directory)) if directory else None
        model = resolve_model(_model_name(speaker, run, adapter), say=say)
        say(f"model: {model.source}")
        if adapter:
            check_fits(adapter, linear_layers(model.path), fingerprint(model.path))
            say(f"adapter: {directory}")
        use_4bit = speaker.use_4bit or bool(run and run.config.use_4bit)
        shape = model_shape(model.path)
        if adapter and adapter.base_quantization and not use_4bit and not shape.quantization:
            say(
                f"note: the adapter was trained on a base held in {adapter.base_quantization}; "
                "--use-4bit comes closer to that"
            )
        tokenizer = load_tokenizer(model.path)
        backend = open_backend(selection.name)
        device = backend.describe_device()
        precision = device.precision if speaker.precision == "auto" else speaker.precision
        say(f"backend: {selection.name} ({selection.reason}) on {device.name}, {precision}")
        rows_file = rows_beside(directory) if directory else None
        rows = load_rows(rows_file) if rows_file else None
        if rows is not None and rows_file is not None:
            rows.check_fits(shape, rows_file)
            say(f"rows: {len(rows.ids):,} trained with the adapter")
        options = EngineOptions(
            model=model.path,
            precision=precision,
            use_4bit=use_4bit,
            lora=lora_config(adapter) if adapter else None,
            adapter=adapter.tensors if adapter else None,
            rows=rows,
        )
        return cls(
            engine=backend.load(options),
            tokenizer=tokenizer,
            model=model,
            adapter=directory,
            selection=selection,
            device=device,
            precision=precision,
            context=shape.max_positions,
            stop=stop_tokens(tokenizer, model.path),
        )

    def answer(
        self,
        conversations: Sequence[Messages],
        sampling: Sampling,
        batch_size: int = 8,
    ) -> Iterator[list[Answer]]:
        """Answer many conversations; yields the answers of one batch after the other, in order.

        Batches change the speed only: in float32 an answer is the same in any of them.

        Raises:
            UsageError: a prompt leaves no room for ``sampling.max_tokens``. Raised by the call,
                before anything is answered.
            DataError: the chat template refuses a conversation; the same.
        """
        prompts = [self._prompt(messages, sampling) for messages in conversations]

        def batches() -> Iterator[list[Answer]]:
            for start in range(0, len(prompts), batch_size):
                batch = prompts[start : start + batch_size]
                ids = self.engine.generate(batch, sampling, self.stop)
                yield [self._to_answer(tokens, sampling) for tokens in ids]

        return batches()

    def stream(self, messages: Messages, sampling: Sampling) -> Iterator[str]:
        """One answer in pieces of whole characters as they come; joined and stripped, its text.

        Raises:
            UsageError, DataError: as ``answer``.
        """
        prompt = self._prompt(messages, sampling)
        text = DecodeStream(skip_special_tokens=True)
        for token in self.engine.stream(prompt, sampling, self.stop):
            piece = text.step(self.tokenizer.backend_tokenizer, token)
            if piece:
                yield piece

    def fit(self, messages: Messages, sampling: Sampling) -> tuple[list[Mapping[str, str]], int]:
        """The messages without the oldest exchanges, where the context has no room for all.

        Returns them and the number of messages left out. The system message and the last
        message, which is the user's, always stay.
        """
        system = [message for message in messages[:1] if message["role"] == "system"]
        turns = list(messages[len(system) :])
        dropped = 0
        room = self.context - sampling.max_tokens
        while len(turns) > 1 and len(render_prompt(self.tokenizer, [*system, *turns])) > room:
            second = next(n for n in range(1, len(turns)) if turns[n]["role"] == "user")
            turns = turns[second:]
            dropped += second
        return [*system, *turns], dropped

    def _prompt(self, messages: Messages, sampling: Sampling) -> list[int]:
        try:
            prompt = render_prompt(self.tokenizer, messages)
        except DataError as error:
            raise DataError(f"{_preview(messages)}: {error}") from error
        if len(prompt) + sampling.max_tokens > self.context:
            raise UsageError(
                f"--max-tokens {sampling.max_tokens}: the prompt {_preview(messages)} has "
                f"{len(prompt):,} tokens and the model's context {self.context:,}; "
                "ask for fewer tokens, or shorten the prompt"
            )
        return prompt

    def _to_answer(self, tokens: Sequence[int], sampling: Sampling) -> Answer:
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return Answer(text.strip(), tuple(tokens), finished=len(tokens) < sampling.max_tokens)


def stop_tokens(tokenizer: Any, path: Path) -> tuple[int, ...]:
    """Ids that end an answer, sorted.

    They are the chat template's end-of-turn token, the tokenizer's end of sequence, and what
    ``generation_config.json`` says. No one of them is enough: base models' configs know nothing
    of turns, and the tokenizers of some chat models name a token that their template never uses.

    Raises:
        ModelError: the template cannot be used, or ``generation_config.json`` is not sound.
    """
    layout = ChatLayout(tokenizer, ensure_chat_template(tokenizer).template)
    ends = {tokenizer.convert_tokens_to_ids(answer.end_of_turn) for answer in layout.probe.answers}
    ends.add(tokenizer.eos_token_id)
    file = path / "generation_config.json"
    if file.is_file():
        said = read_json_object(file).get("eos_token_id")
        told = said if isinstance(said, list) else [said]
        if not all(end is None or (type(end) is int and end >= 0) for end in told):
            raise ModelError(f"{file}: eos_token_id is {said!r}; expected ids")
        ends.update(told)
    return tuple(sorted(end for end in ends if end is not None))


def given_run(run: Path | None, adapter: Path | None) -> Run | None:
    """The run that ``--run`` names, or that stands where an adapter was expected; None for none.

    Raises:
        UsageError: both are given.
        RunError: ``--run`` names no run.
    """
    if run and adapter:
        raise UsageError(f"--adapter {adapter}: --run brings its own; give one of them")
    path = run or adapter
    if path is not None and (path / "run.toml").is_file():
        return Run(path)
    if run:
        raise RunError(f"--run {run}: no run.toml; expected a directory made by speakeasy train")
    return None


def find_adapter(speaker: Speaker) -> tuple[Run | None, Path | None]:
    """The run, if one is given, and where its adapter or the adapter that is given lies.

    Raises:
        UsageError: both are given.
        RunError: it is no run, or has no adapter.
    """
    run = given_run(speaker.run, speaker.adapter)
    if run is None:
        return None, speaker.adapter
    path = run.path
    if isinstance(run.config, PretrainConfig):
        raise RunError(
            f"{path}: a pre-training run, whose result is a whole model; give it as --model"
        )
    if not run.adapter.is_dir():
        if run.summary is not None:
            raise RunError(f"{run.adapter}: is gone; put it back, or train again elsewhere")
        raise RunError(f"{path}: has no adapter yet; finish the run with: {run.resume_command}")
    return run, run.adapter


def _model_name(speaker: Speaker, run: Run | None, adapter: Adapter | None) -> str:
    if speaker.model:
        return speaker.model
    if run:
        return run.config.model
    return (adapter.base if adapter else "") or "starter"


def lora_config(adapter: Adapter) -> LoraConfig:
    """The options with which an engine makes room for an adapter of one rank and scale.

    Raises:
        AdapterError: it has several; pass ``uniform`` of it, and its tensors, to the engine.
    """
    if not is_uniform(adapter):
        raise AdapterError("adapter: several ranks or scales; expected one for all modules")
    return LoraConfig(
        r=adapter.r,
        alpha=adapter.alpha,
        rslora=adapter.rslora,
        targets=",".join(adapter.targets),
        dora=adapter.dora,
    )


def _preview(messages: Messages) -> str:
    text = " ".join(messages[-1]["content"].split())
    return repr(text if len(text) <= 40 else text[:39] + "…")
