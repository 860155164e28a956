"""Random numbers for sampling, the same on both backends and in every batch.

A token is drawn by inverting the cumulative distribution at one uniform number. The numbers of
a row come from a generator of its own, seeded with the sampling seed and the prompt: an answer
depends on model, prompt and sampling alone, not on what else is in the batch or on which
backend it runs, and the generators that training draws from are never touched.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from speakeasy.training.backend import Sampling

NUCLEUS = 1024
"""Without ``top_k``, ``top_p`` looks among so many of the likeliest tokens: sorting a whole
vocabulary at every step can cost as much as a small model's forward pass (8 rows of 49,152 on
two cores: 30 ms for all, 3 ms for these)."""


class Draws:
    """A stream of uniform numbers for each prompt of a batch; equal prompts get equal streams."""

    def __init__(self, prompts: Sequence[Sequence[int]], seed: int) -> None:
        self._generators = [np.random.default_rng([seed, *prompt]) for prompt in prompts]

    def next(self, rows: Sequence[int]) -> np.ndarray:
        """Uniform_B float32 in [0, 1): the next number of each of ``rows``."""
        return np.array(
            [self._generators[row].random(dtype=np.float32) for row in rows], dtype=np.float32
        )


def candidates(sampling: Sampling, vocabulary: int) -> int:
    """How many of the likeliest tokens a sample is drawn from; ``vocabulary`` for all."""
    count = sampling.top_k or (NUCLEUS if sampling.top_p < 1 else vocabulary)
    return min(count, vocabulary)
