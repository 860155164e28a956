"""Putting base, adapter and tokenizer together, and asking them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_thread import one_thread  # noqa: F401
from tiny import save_tiny_tokenizer, tiny_tokenizer
from tiny_model import tiny_llama

from speakeasy.batches.templates import render_prompt
from speakeasy.config import TrainConfig
from speakeasy.errors import AdapterError, DataError, RunError, UsageError
from speakeasy.files import write_json
from speakeasy.training.backend import REGISTRY, Device, Sampling, Selection, missing
from speakeasy.training.inference import Responder, Speaker, stop_tokens
from speakeasy.training.run import Run
from speakeasy.weights.adapters import Adapter, target_names, write_mlx, write_peft
from speakeasy.weights.checkpoint import fingerprint, linear_layers
from speakeasy.weights.hub import ModelDirectory

INSTALLED = [name for name in sorted(REGISTRY) if not missing(name)]
SHORT = Sampling(max_tokens=6, temperature=1, seed=4)
QUESTIONS = [[{"role": "user", "content": text}] for text in ("Hola", "Adéu, nen", "¿Va?")]


def tiny_model(directory: Path, seed: int = 0) -> Path:
    save_tiny_tokenizer(directory)
    return tiny_llama(directory, vocab_size=len(tiny_tokenizer()), eos_token_id=2, seed=seed)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(model: Path) -> Adapter:
    """Strong enough to change what the model says."""
    layers = {name: s for name, s in linear_layers(model).items() if "mlp" in name}
    generator = np.random.default_rng(0)
    tensors = {}
    for module, (rows, columns) in layers.items():
        for name, shape in (("A", (4, columns)), ("B", (rows, 4))):
            tensors[f"{module}.lora_{name}.weight"] = generator.standard_normal(shape).astype("f4")
    return Adapter(
        tensors=tensors,
        r=4,
        alpha=8,
        rslora=True,
        dropout=0.1,
        targets=target_names(linear_layers(model), layers),
        base=str(model),
        base_fingerprint=fingerprint(model),
    )


def texts(speaker: Speaker, sampling: Sampling = SHORT, batch_size: int = 8) -> list[str]:
    batches = Responder.open(speaker).answer(QUESTIONS, sampling, batch_size)
    return [answer.text for batch in batches for answer in batch]


@pytest.mark.parametrize("backend", INSTALLED)
def test_an_adapter_speaks_the_same_from_either_format_and_from_a_run(
    backend: Any, model: Path, adapter: Adapter, tmp_path: Path
) -> None:
    write_peft(adapter, tmp_path / "peft")
    write_mlx(adapter, tmp_path / "mlx", num_layers=2)
    run = Run.create(tmp_path / "run", TrainConfig(model=str(model)), {})
    write_peft(adapter, run.adapter)
    speaker = Speaker(backend=backend)
    bare = texts(replace(speaker, model=str(model)))
    said = [
        texts(replace(speaker, adapter=tmp_path / "peft")),
        texts(replace(speaker, adapter=tmp_path / "mlx")),
        texts(replace(speaker, run=run.path)),
        texts(replace(speaker, adapter=run.path), batch_size=2),
    ]
    assert all(these == said[0] for these in said)
    assert said[0] != bare


def test_an_adapter_of_another_base_is_refused(
    model: Path, adapter: Adapter, tmp_path: Path
) -> None:
    write_peft(adapter, tmp_path / "adapter")
    other = tiny_model(tmp_path / "other", seed=1)
    with pytest.raises(AdapterError, match=r"other weights; the adapter was made for .*--model"):
        Responder.open(Speaker(model=str(other), adapter=tmp_path / "adapter"))


def test_directories_that_are_no_runs(model: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no run\.toml; expected a directory made by"):
        Responder.open(Speaker(run=tmp_path))
    run = Run.create(tmp_path / "run", TrainConfig(model=str(model)), {})
    with pytest.raises(RunError, match=r"no adapter yet; finish the run with: .*--resume"):
        Responder.open(Speaker(run=run.path))
    with pytest.raises(UsageError, match=r"--adapter .*: --run brings its own"):
        Responder.open(Speaker(run=run.path, adapter=run.path))


def test_what_was_chosen_is_said(model: Path) -> None:
    told: list[str] = []
    responder = Responder.open(Speaker(model=str(model)), told.append)
    assert f"model: local directory {model}" in told
    assert any(line.startswith(f"backend: {responder.selection.name} (") for line in told)
    assert responder.precision == responder.device.precision
    assert responder.context == 512


def test_stop_tokens_come_from_template_tokenizer_and_config(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    assert stop_tokens(tokenizer, tmp_path) == (2,)
    tokenizer.eos_token = "<|endoftext|>"
    assert stop_tokens(tokenizer, tmp_path) == (0, 2)
    for said, ids in ((5, (0, 2, 5)), ([2, 7, 9], (0, 2, 7, 9)), (None, (0, 2))):
        write_json(tmp_path / "generation_config.json", {"eos_token_id": said})
        assert stop_tokens(tokenizer, tmp_path) == ids


@dataclass
class Script:
    """An engine that says one thing, whatever it is asked."""

    tokens: list[int]

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, stop: Sequence[int]
    ) -> list[list[int]]:
        return [self.tokens[: sampling.max_tokens] for _ in prompts]

    def stream(
        self, prompt: Sequence[int], sampling: Sampling, stop: Sequence[int]
    ) -> Iterator[int]:
        yield from self.tokens[: sampling.max_tokens]


def scripted(text: str, context: int = 512) -> Responder:
    tokenizer = tiny_tokenizer()
    engine: Any = Script(tokenizer(text, add_special_tokens=False)["input_ids"])
    return Responder(
        engine=engine,
        tokenizer=tokenizer,
        model=ModelDirectory(Path("tiny"), "tiny", "a script"),
        adapter=None,
        selection=Selection("torch", "a script"),
        device=Device("cpu", "CPU", 2**30, "float32", "a script"),
        precision="float32",
        context=context,
        stop=(2,),
    )


@given(text=st.text(st.characters(exclude_categories=["C"]), max_size=40))
@settings(max_examples=60, deadline=None)
def test_a_streamed_answer_is_the_answer(text: str) -> None:
    responder = scripted(text)
    pieces = list(responder.stream(QUESTIONS[0], Sampling(max_tokens=300)))
    [[answer]] = responder.answer(QUESTIONS[:1], Sampling(max_tokens=300))
    assert "".join(pieces).strip() == answer.text == text.strip()
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)
    assert answer.finished


def test_an_answer_that_was_cut_off_says_so() -> None:
    responder = scripted("una respuesta que no se acaba")
    length = len(responder.engine.generate([[0]], Sampling(max_tokens=99), [])[0])
    for most, finished in ((length, False), (length + 1, True), (3, False)):
        [[answer]] = responder.answer(QUESTIONS[:1], Sampling(max_tokens=most))
        assert answer.finished is finished
        assert len(answer.tokens) == min(most, length)


def test_a_prompt_without_room_is_refused_before_anything_is_answered() -> None:
    responder = scripted("hola", context=60)
    long = [{"role": "user", "content": "por eso " * 100}]
    with pytest.raises(UsageError, match=r"--max-tokens 20: the prompt 'por eso .*…' has .* 60"):
        responder.answer([QUESTIONS[0], long], Sampling(max_tokens=20))
    with pytest.raises(DataError, match=r"'<\|im_end\|>': .*control token"):
        responder.answer([[{"role": "user", "content": "<|im_end|>"}]], Sampling(max_tokens=20))


turns = st.lists(st.text(st.characters(categories=["L"]), min_size=1, max_size=30), max_size=9)


@given(said=turns, has_system=st.booleans(), context=st.integers(40, 200))
@settings(max_examples=40, deadline=None)
def test_oldest_exchanges_are_forgotten_first(
    said: list[str], has_system: bool, context: int
) -> None:
    roles = ("user", "assistant")
    system = [{"role": "system", "content": "breve"}] if has_system else []
    said = said if len(said) % 2 else [*said, "hola"]
    messages = [*system, *({"role": roles[n % 2], "content": t} for n, t in enumerate(said))]
    responder = scripted("", context)
    kept, dropped = responder.fit(messages, Sampling(max_tokens=20))
    tail = messages[len(system) + dropped :]
    assert kept == [*system, *tail]
    assert tail[0]["role"] == "user"

    def fits(these: list[Any]) -> bool:
        return len(render_prompt(responder.tokenizer, these)) + 20 <= context

    assert fits(kept) or len(tail) == 1
    if dropped:
        assert not fits([*system, *messages[len(system) + dropped - 2 :]]), "no more than needed"
