"""Decoding with a transformers model: left-padded batches, a key-value cache, seeded draws.

``speakeasy_mlx.generate`` has the same functions in the same order, and on float32 weights
gives the same tokens. transformers' own ``generate`` is not used because its answers depend on
the batch: its repetition penalty counts the padding, and its samples share one global generator.

B rows still being decoded, P positions of the padded prompts, V vocabulary, K candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import torch
from transformers import DynamicCache

from speakeasy.training.backend import Sampling
from speakeasy.training.draws import Draws, candidates

Decoder = Callable[[torch.Tensor], torch.Tensor]


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    stop: Sequence[int],
) -> list[list[int]]:
    """Answer all ``prompts`` as one batch.

    Args:
        model: a transformers causal language model, PEFT's layers in it or not.
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


# no_grad, not inference_mode: a buffer that a model makes for itself in here (scaled RoPE does)
# must still be usable by the next training step.
@torch.no_grad()
def _decode(
    model: Any, prompts: Sequence[Sequence[int]], sampling: Sampling, stop: Sequence[int]
) -> Generator[tuple[int, int], None, None]:
    """Row and token, step by step; rows that have stopped leave the batch."""
    if not prompts or sampling.max_tokens < 1:
        return
    with _evaluation_mode(model):
        rows = list(range(len(prompts)))
        draws = Draws(prompts, sampling.seed)
        cache = DynamicCache(config=model.config)
        tokens_BP, mask_BP = _left_pad(prompts, model.device)
        seen_BV: torch.Tensor | None = None
        for step in range(sampling.max_tokens):
            positions = (mask_BP.cumsum(dim=-1) - 1).clamp(min=0)[:, -tokens_BP.shape[1] :]
            logits_BV = (
                model(
                    input_ids=tokens_BP,
                    attention_mask=mask_BP,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                .logits[:, -1]
                .float()
            )
            if seen_BV is None:
                seen_BV = torch.zeros_like(logits_BV, dtype=torch.bool)
            uniform_B = torch.from_numpy(draws.next(rows)).to(logits_BV.device)
            chosen_B = choose(logits_BV, seen_BV, uniform_B, sampling)
            seen_BV.scatter_(1, chosen_B[:, None], True)

            chosen = chosen_B.tolist()
            keep = [place for place, token in enumerate(chosen) if token not in stop]
            for place in keep:
                yield rows[place], chosen[place]
            if not keep or step + 1 == sampling.max_tokens:
                return
            if len(keep) < len(rows):
                rows = [rows[place] for place in keep]
                index = torch.tensor(keep, device=chosen_B.device)
                chosen_B, seen_BV, mask_BP = chosen_B[index], seen_BV[index], mask_BP[index]
                cache.batch_select_indices(index)
            tokens_BP = chosen_B[:, None]
            mask_BP = torch.cat([mask_BP, torch.ones_like(mask_BP[:, :1])], dim=1)


def choose(
    logits_BV: torch.Tensor, seen_BV: torch.Tensor, uniform_B: torch.Tensor, sampling: Sampling
) -> torch.Tensor:
    """Token_B int64: repetition penalty, temperature, top-k, top-p and one draw, in this order.

    Args:
        logits_BV: float32.
        seen_BV: bool; tokens that the answer holds already.
        uniform_B: float32 in [0, 1).
    """
    if sampling.repetition_penalty != 1:
        penalty = sampling.repetition_penalty
        punished_BV = torch.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
        logits_BV = torch.where(seen_BV, punished_BV, logits_BV)
    if sampling.temperature == 0:
        return logits_BV.argmax(dim=-1)

    scaled_BV = logits_BV / sampling.temperature
    count = candidates(sampling, scaled_BV.shape[-1])
    narrowed = count < scaled_BV.shape[-1] or sampling.top_p < 1
    scaled_BK, token_BK = torch.topk(scaled_BV, count) if narrowed else (scaled_BV, None)
    whole = scaled_BK if sampling.top_k else scaled_BV
    share_BK = (scaled_BK - whole.logsumexp(dim=-1, keepdim=True)).exp()
    reach_BK = share_BK.cumsum(dim=-1)
    if sampling.top_p < 1:
        share_BK = torch.where(reach_BK - share_BK < sampling.top_p, share_BK, 0.0)
        reach_BK = share_BK.cumsum(dim=-1)
    place_B = (reach_BK <= uniform_B[:, None] * reach_BK[:, -1:]).sum(dim=-1).clamp(max=count - 1)
    return place_B if token_BK is None else token_BK.gather(1, place_B[:, None])[:, 0]


def _left_pad(
    prompts: Sequence[Sequence[int]], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens_BP int64 with zeros on the left, and mask_BP that is 1 where a token is real."""
    longest = max(map(len, prompts))
    tokens = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(tokens, device=device), torch.tensor(mask, device=device)


@contextmanager
def _evaluation_mode(model: Any) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
