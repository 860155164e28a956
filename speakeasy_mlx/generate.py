"""Decoding with an mlx-lm model: left-padded batches, a key-value cache, seeded draws.

``speakeasy_torch.generate`` has the same functions in the same order, and on float32 weights
gives the same tokens. mlx-lm's models and caches are used, not its ``BatchGenerator``: that one
calls a sampler per row, limits its repetition penalty to 20 tokens, prompt included, and
samples from MLX's global generator, which training's dropout draws from too.

B rows still being decoded, P positions of the padded prompts, V vocabulary, K candidates.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from speakeasy.training.backend import Sampling
from speakeasy.training.draws import Draws, candidates

PREFILL = 512
"""Prompt positions of one forward pass; the attention mask is PREFILL x P booleans a row."""


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    stop: Sequence[int],
) -> list[list[int]]:
    """Answer all ``prompts`` as one batch.

    Args:
        model: an mlx-lm model, LoRA layers in it or not.
        prompts: token ids, at least one each; any lengths.
        stop: an answer ends before the first of these.

    Returns:
        The answers' token ids, without the stop token; shorter than ``sampling.max_tokens``
        exactly where the model stopped by itself.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    with closing(_decode(model, prompts, sampling, stop)) as tokens:
        for row, token in tokens:
            answers[row].append(token)
    return answers


def stream(
    model: Any, prompt: Sequence[int], sampling: Sampling, stop: Sequence[int]
) -> Iterator[int]:
    """The token ids of one answer as they are chosen; the same as ``generate`` gives.

    The model is in evaluation mode until the iterator is exhausted or closed.
    """
    with closing(_decode(model, [prompt], sampling, stop)) as tokens:
        for _, token in tokens:
            yield token


def _decode(
    model: Any, prompts: Sequence[Sequence[int]], sampling: Sampling, stop: Sequence[int]
) -> Generator[tuple[int, int], None, None]:
    """Row and token, step by step; rows that have stopped leave the batch.

    Each step is handed to the device before the last one's tokens are read, so that the device
    never waits for Python.
    """
    if not prompts or sampling.max_tokens < 1:
        return
    with _evaluation_mode(model):
        rows = list(range(len(prompts)))
        draws = Draws(prompts, sampling.seed)
        tokens_B1, cache = _prefill(model, prompts)
        seen_BV: Any = None  # as wide as the first logits turn out to be
        chosen_B: mx.array | None = None
        for step in range(sampling.max_tokens + 1):
            if step < sampling.max_tokens:
                logits_BV = model(tokens_B1, cache=cache)[:, -1].astype(mx.float32)
                if seen_BV is None:
                    seen_BV = mx.zeros(logits_BV.shape, dtype=mx.bool_)
                next_B = choose(logits_BV, seen_BV, mx.array(draws.next(rows)), sampling)
                seen_BV = mx.put_along_axis(seen_BV, next_B[:, None], mx.array(True), axis=-1)
                mx.async_eval(next_B, seen_BV)
            if chosen_B is not None:
                chosen: Any = chosen_B.tolist()
                keep = [place for place, token in enumerate(chosen) if token not in stop]
                for place in keep:
                    yield rows[place], chosen[place]
                if not keep:
                    return
                if len(keep) < len(rows):
                    rows = [rows[place] for place in keep]
                    index = mx.array(keep)
                    next_B, seen_BV = next_B[index], seen_BV[index]
                    for layer in cache:
                        layer.filter(index)
            chosen_B, tokens_B1 = next_B, next_B[:, None]
            if step % 256 == 255:
                mx.clear_cache()  # every step had shapes of its own


def choose(
    logits_BV: mx.array, seen_BV: mx.array, uniform_B: mx.array, sampling: Sampling
) -> mx.array:
    """Token_B: repetition penalty, temperature, top-k, top-p and one draw, in this order.

    Args:
        logits_BV: float32.
        seen_BV: bool; tokens that the answer holds already.
        uniform_B: float32 in [0, 1).
    """
    if sampling.repetition_penalty != 1:
        penalty = sampling.repetition_penalty
        punished_BV = mx.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
        logits_BV = mx.where(seen_BV, punished_BV, logits_BV)
    if sampling.temperature == 0:
        return logits_BV.argmax(axis=-1)

    scaled_BV = logits_BV / sampling.temperature
    count = candidates(sampling, scaled_BV.shape[-1])
    narrowed = count < scaled_BV.shape[-1] or sampling.top_p < 1
    scaled_BK, token_BK = _topk(scaled_BV, count) if narrowed else (scaled_BV, None)
    whole = scaled_BK if sampling.top_k else scaled_BV
    share_BK = mx.exp(scaled_BK - mx.logsumexp(whole, axis=-1, keepdims=True))
    reach_BK = mx.cumsum(share_BK, axis=-1)
    if sampling.top_p < 1:
        share_BK = mx.where(reach_BK - share_BK < sampling.top_p, share_BK, 0.0)
        reach_BK = mx.cumsum(share_BK, axis=-1)
    place_B = (reach_BK <= uniform_B[:, None] * reach_BK[:, -1:]).sum(axis=-1)
    place_B = mx.minimum(place_B, count - 1)
    if token_BK is None:
        return place_B
    return mx.take_along_axis(token_BK, place_B[:, None], axis=-1)[:, 0]


def _topk(values_BV: mx.array, count: int) -> tuple[mx.array, mx.array]:
    """The ``count`` largest of each row in falling order, and their places (``torch.topk``)."""
    place_BK = mx.argpartition(-values_BV, kth=count - 1, axis=-1)[:, :count]
    values_BK = mx.take_along_axis(values_BV, place_BK, axis=-1)
    order_BK = mx.argsort(-values_BK, axis=-1)
    return (
        mx.take_along_axis(values_BK, order_BK, axis=-1),
        mx.take_along_axis(place_BK, order_BK, axis=-1),
    )


def _prefill(model: Any, prompts: Sequence[Sequence[int]]) -> tuple[mx.array, list[Any]]:
    """The last token of each prompt, (B, 1), and a cache of all before it.

    Only the cache is evaluated, so the logits of the prompt are never computed.
    """
    caches = [make_prompt_cache(model) for _ in prompts]
    longest = max(map(len, prompts))
    padding = [longest - len(prompt) for prompt in prompts]
    if len(prompts) == 1:
        cache = caches[0]
    else:
        cache = [layers[0].merge(list(layers)) for layers in zip(*caches, strict=True)]
        for layer in cache:
            layer.prepare(left_padding=padding)
    tokens_BP = mx.array([[0] * pad + list(row) for pad, row in zip(padding, prompts, strict=True)])
    for start in range(0, longest - 1, PREFILL):
        model(tokens_BP[:, start : min(start + PREFILL, longest - 1)], cache=cache)
        mx.eval([layer.state for layer in cache])
        mx.clear_cache()
    return tokens_BP[:, -1:], cache


@contextmanager
def _evaluation_mode(model: Any) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
