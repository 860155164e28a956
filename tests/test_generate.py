"""Decoding, on every installed backend: the same functions, the same answers."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_thread import one_thread  # noqa: F401
from safetensors.numpy import load_file, save_file
from tiny_model import tiny_llama

from speakeasy.config import LoraConfig
from speakeasy.training.backend import (
    REGISTRY,
    Engine,
    EngineOptions,
    Sampling,
    missing,
    open_backend,
)
from speakeasy.training.draws import NUCLEUS, Draws, candidates
from speakeasy.weights.checkpoint import linear_layers

VOCABULARY = 97
GREEDY = Sampling(max_tokens=9, temperature=0, top_p=1, repetition_penalty=1)
SAMPLINGS = (
    GREEDY,
    replace(GREEDY, repetition_penalty=1.3),
    Sampling(max_tokens=9, temperature=1.0, top_p=1, repetition_penalty=1),
    Sampling(max_tokens=9, temperature=0.8, top_p=0.9, top_k=20, seed=3),
)
PROMPTS = ([5], [1, 2, 3, 4, 5, 6, 7, 8, 9], [50, 60, 70], list(range(30)), [1, 2, 3, 4])

prompts_of_ids = st.lists(
    st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=24), min_size=1, max_size=5
)


@pytest.fixture(params=sorted(REGISTRY))
def backend(request: pytest.FixtureRequest) -> str:
    if missing(request.param):
        pytest.skip(f"{missing(request.param)[0].module} is not installed")
    return str(request.param)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with large weights: what it says depends on all that it has read.

    With the usual 0.02 attention adds next to nothing, and a wrong mask would not be noticed.
    """
    directory = tiny_llama(tmp_path_factory.mktemp("model"), vocab_size=VOCABULARY)
    file = directory / "model.safetensors"
    tensors = {
        name: tensor if "norm" in name else tensor * np.float32(12)
        for name, tensor in load_file(file).items()
    }
    save_file(tensors, file, metadata={"format": "pt"})
    return directory


@cache
def load(backend: str, model: Path, adapted: bool = False) -> Engine:
    lora, adapter = None, None
    if adapted:
        lora = LoraConfig(r=4, alpha=8)
        generator = np.random.default_rng(0)
        adapter = {}
        for module, (rows, columns) in linear_layers(model).items():
            for name, shape in (("A", (4, columns)), ("B", (rows, 4))):
                values = 0.2 * generator.standard_normal(shape)
                adapter[f"{module}.lora_{name}.weight"] = values.astype(np.float32)
    options = EngineOptions(model=model, precision="float32", lora=lora, adapter=adapter)
    return open_backend(backend).load(options)


def functions(backend: str) -> Any:
    return importlib.import_module(f"speakeasy_{backend}.generate")


def bare_model(backend: str, model: Path) -> Any:
    module = importlib.import_module(f"speakeasy_{backend}.model")
    return module.load_base(EngineOptions(model=model, precision="float32"))


def reference(logits_V: np.ndarray, seen_V: np.ndarray, uniform: float, how: Sampling) -> int:
    """What ``choose`` must give, for one row, in float64 and with no regard for speed."""
    logits = logits_V.astype(np.float64)
    penalised = np.where(
        logits > 0, logits / how.repetition_penalty, logits * how.repetition_penalty
    )
    logits = np.where(seen_V, penalised, logits)
    if how.temperature == 0:
        return int(logits.argmax())
    share = np.exp((logits - logits.max()) / how.temperature)
    order = np.arange(len(logits))
    if candidates(how, len(logits)) < len(logits) or how.top_p < 1:
        order = np.argsort(-logits, kind="stable")
    if how.top_k:
        order = order[: how.top_k]
    share = share[order] / (share[order] if how.top_k else share).sum()
    if how.top_p < 1:
        nucleus = int((np.cumsum(share) - share < how.top_p).sum())
        share = share[: nucleus if how.top_k else min(nucleus, NUCLEUS)]
    reach = np.cumsum(share)
    return int(order[np.searchsorted(reach, uniform * reach[-1], side="right")])


def chooser(backend: str) -> Callable[..., list[int]]:
    choose = functions(backend).choose
    if backend == "torch":
        import torch

        array: Any = torch.from_numpy
    else:
        import mlx.core as mx

        array = mx.array
    return lambda logits, seen, uniform, how: choose(
        array(logits), array(seen), array(uniform), how
    ).tolist()


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0, 0.3, 1.0, 2.0]),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 1.0]),
    top_k=st.sampled_from([0, 1, 5, 5000]),
    repetition_penalty=st.sampled_from([1.0, 1.2, 0.8]),
)


@given(how=samplings, size=st.sampled_from([3, 60, 2500]), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_choice_is_the_reference_s(how: Sampling, size: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    logits = (3 * generator.standard_normal((4, size))).astype(np.float32)
    seen = generator.random((4, size)) < 0.2
    uniform = generator.random(4, dtype=np.float32)
    close = []
    for row in range(4):
        # Within float32's reach of a boundary either neighbour is right.
        answers = {
            reference(logits[row], seen[row], float(np.clip(u, 0, 1 - 1e-9)), nudged)
            for u in (uniform[row] - 2e-6, uniform[row], uniform[row] + 2e-6)
            for nudged in (
                [replace(how, top_p=how.top_p + d) for d in (-2e-6, 2e-6)]
                if how.top_p < 1
                else [how]
            )
        }
        close.append(answers)
    for name in sorted(REGISTRY):
        if not missing(name):
            chosen = chooser(name)(logits, seen, uniform, how)
            assert all(token in right for token, right in zip(chosen, close, strict=True)), name


def test_draws_follow_the_distribution(backend: str) -> None:
    count = 4000
    logits = np.log(np.array([[0.5, 0.02, 0.3, 0.18]], dtype=np.float32))
    even = ((np.arange(count) + 0.5) / count).astype(np.float32)
    rows = np.repeat(logits, count, axis=0)
    seen = np.zeros(rows.shape, dtype=bool)
    for top_p, shares in ((1.0, [0.5, 0.02, 0.3, 0.18]), (0.7, [0.625, 0, 0.375, 0])):
        how = Sampling(temperature=1, top_p=top_p, repetition_penalty=1)
        tokens = chooser(backend)(rows, seen, even, how)
        found = np.bincount(tokens, minlength=4) / count
        # An even comb of numbers misses each share by one of them at most.
        np.testing.assert_allclose(found, shares, atol=1.01 / count)


@given(prompts=prompts_of_ids, sampling=st.sampled_from(SAMPLINGS))
@settings(max_examples=5, deadline=None)
def test_answers_do_not_depend_on_the_batch(
    model: Path, prompts: list[list[int]], sampling: Sampling
) -> None:
    for name in sorted(REGISTRY):
        if not missing(name):
            engine = load(name, model)
            together = engine.generate(prompts, sampling, [])
            assert together == [engine.generate([p], sampling, [])[0] for p in prompts], name
            assert together[-1] == list(engine.stream(prompts[-1], sampling, [])), name


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "penalty", "plain", "narrowed"])
@pytest.mark.parametrize("adapted", [False, True], ids=["bare", "adapted"])
def test_backends_give_the_same_answers(model: Path, adapted: bool, sampling: Sampling) -> None:
    names = [name for name in sorted(REGISTRY) if not missing(name)]
    if len(names) < 2:
        pytest.skip("only one backend is installed")
    stop = list(range(0, VOCABULARY, 9))
    answers = [load(name, model, adapted).generate(PROMPTS, sampling, stop) for name in names]
    assert answers[0] == answers[1]
    assert any(answers[0])


def test_an_adapter_changes_the_answers(backend: str, model: Path) -> None:
    bare, adapted = (load(backend, model, which) for which in (False, True))
    assert bare.generate(PROMPTS, GREEDY, []) != adapted.generate(PROMPTS, GREEDY, [])


def test_greedy_answers_are_those_of_whole_forward_passes(backend: str, model: Path) -> None:
    engine = load(backend, model)
    for prompt, answer in zip(PROMPTS, engine.generate(PROMPTS, GREEDY, []), strict=True):
        assert len(answer) == GREEDY.max_tokens
        logits_TV: Any = engine.next_logits(np.array([prompt + answer], dtype=np.int32))[0]
        assert answer == logits_TV[len(prompt) - 1 : -1].argmax(axis=-1).tolist()


@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_an_answer_ends_before_the_first_stop_token(model: Path, data: st.DataObject) -> None:
    sampling = data.draw(st.sampled_from(SAMPLINGS))
    for name in sorted(REGISTRY):
        if missing(name):
            continue
        engine = load(name, model)
        unstopped = engine.generate(PROMPTS, sampling, [])
        said = sorted({token for answer in unstopped for token in answer})
        stop = data.draw(st.lists(st.sampled_from(said), max_size=3))
        expected = [
            answer[: next((n for n, token in enumerate(answer) if token in stop), None)]
            for answer in unstopped
        ]
        assert engine.generate(PROMPTS, sampling, stop) == expected


def test_seeds_differ_and_repeat(backend: str, model: Path) -> None:
    engine = load(backend, model)
    warm = Sampling(max_tokens=9, temperature=1.5, seed=1)
    first = engine.generate(PROMPTS, warm, [])
    assert first == engine.generate(PROMPTS, warm, [])
    assert first != engine.generate(PROMPTS, replace(warm, seed=2), [])
    assert engine.generate([PROMPTS[1]] * 2, warm, []) == [first[1]] * 2


def test_nothing_to_answer(backend: str, model: Path) -> None:
    assert load(backend, model).generate([], GREEDY, []) == []


def random_state(backend: str) -> list[int]:
    if backend == "torch":
        import torch

        return torch.random.get_rng_state().tolist()
    import mlx.core as mx

    state: Any = mx.random.state
    return state[0].tolist()


def test_training_is_left_as_it_was(backend: str, model: Path) -> None:
    network = bare_model(backend, model)
    warm = Sampling(max_tokens=3, temperature=1)
    before = random_state(backend)
    for training in (True, False):
        network.train(training)
        functions(backend).generate(network, PROMPTS, warm, [])
        assert network.training is training
        with closing(functions(backend).stream(network, PROMPTS[0], warm, [])) as tokens:
            next(tokens)
            assert network.training is False
        assert network.training is training
    assert random_state(backend) == before


def test_no_gradient_is_recorded(model: Path) -> None:
    if missing("torch"):
        pytest.skip("torch is not installed")
    import torch

    network = bare_model("torch", model)
    network.requires_grad_(True)
    recording = []
    hook = network.register_forward_hook(
        lambda module, inputs, output: recording.append(output.logits.requires_grad)
    )
    for _ in functions("torch").stream(network, PROMPTS[0], GREEDY, []):
        assert torch.is_grad_enabled(), "the consumer of a stream is not affected"
    hook.remove()
    assert recording
    assert not any(recording)


def test_mlx_prefills_in_pieces(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing("mlx"):
        pytest.skip("mlx is not installed")
    engine = load("mlx", model)
    whole = engine.generate(PROMPTS, GREEDY, [])
    monkeypatch.setattr(functions("mlx"), "PREFILL", 4)
    assert engine.generate(PROMPTS, GREEDY, []) == whole


@given(prompts=prompts_of_ids, seed=st.integers(0, 2**40), steps=st.integers(1, 5), data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_row_draws_the_same_in_any_company(
    prompts: list[list[int]], seed: int, steps: int, data: st.DataObject
) -> None:
    row = data.draw(st.integers(0, len(prompts) - 1))
    together, alone = Draws(prompts, seed), Draws([prompts[row]], seed)
    everyone = range(len(prompts))
    for _ in range(steps):
        uniform = together.next(everyone)
        assert uniform.dtype == np.float32
        assert ((uniform >= 0) & (uniform < 1)).all()
        assert uniform[row] == alone.next([0])[0]


@given(how=samplings, vocabulary=st.integers(1, 3000))
def test_candidates_are_all_tokens_unless_told_otherwise(how: Sampling, vocabulary: int) -> None:
    count = candidates(how, vocabulary)
    assert 1 <= count <= vocabulary
    if how.top_k or how.top_p == 1:
        assert count == min(how.top_k or vocabulary, vocabulary)
    else:
        assert count <= NUCLEUS
