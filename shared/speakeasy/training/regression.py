"""A logistic regression of new tokens on what a model knows: how ``fit_rows`` finds their rows.

At each position the logits of the old tokens are settled; all that counts of them is the log of
their summed exponentials. Those of the new tokens are products of the hidden state with their rows,
which alone are moved.

Shapes: N positions, R new tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

BATCH = 1024
MOST_EPOCHS = 8
RATE = 0.016
"""Adam's rate, as a share of the root mean square of the pieces' output rows."""
PENALTY = 5e-5
"""Weight of the mean over rows of the squared distance to where each began, in that unit."""
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True, slots=True)
class States:
    """What the base knows at some positions.

    Attributes:
        hidden_ND: last hidden states, float32.
        log_sums_N: log of the sum of exp(logit) over the old tokens.
        places_N: which of the fitted rows is due, -1 for an old token.
    """

    hidden_ND: np.ndarray
    log_sums_N: np.ndarray
    places_N: np.ndarray

    def __len__(self) -> int:
        return len(self.places_N)

    def batches(self, order_N: np.ndarray) -> Iterator[States]:
        """All positions in this order, ``BATCH`` at a time."""
        for start in range(0, len(order_N), BATCH):
            part = order_N[start : start + BATCH]
            yield States(self.hidden_ND[part], self.log_sums_N[part], self.places_N[part])

    def loss(self, rows_RD: np.ndarray) -> float:
        """Nats a position, see ``fit_rows``."""
        parts = self.batches(np.arange(len(self)))
        return sum(part.nats(rows_RD)[0] for part in parts) / len(self)

    def nats(self, rows_RD: np.ndarray) -> tuple[float, np.ndarray]:
        """Summed loss, and its gradient_NR in the new tokens' logits."""
        logits_NR = self.hidden_ND @ rows_RD.T
        is_new = np.flatnonzero(self.places_N >= 0)
        due = self.places_N[is_new]
        base_N = self.log_sums_N.copy()
        base_N[is_new] = logits_NR[is_new, due]
        largest_N = np.maximum(self.log_sums_N, logits_NR.max(axis=1))
        shares_NR = np.exp(logits_NR - largest_N[:, None])
        total_N = shares_NR.sum(axis=1) + np.exp(self.log_sums_N - largest_N)
        shares_NR /= total_N[:, None]
        shares_NR[is_new, due] -= 1
        return float((np.log(total_N) + largest_N - base_N).sum(dtype=np.float64)), shares_NR


def joined(parts: Sequence[States], unit: np.float32) -> States:
    """One after the other, for rows in this unit."""
    hidden_ND = np.concatenate([part.hidden_ND for part in parts])
    hidden_ND *= unit
    return States(
        hidden_ND,
        np.concatenate([part.log_sums_N for part in parts]),
        np.concatenate([part.places_N for part in parts]),
    )


def fit(
    train: States,
    held_out: States,
    start_RD: np.ndarray,
    seed: int,
    advance: Callable[[int], None],
) -> tuple[np.ndarray, float]:
    """The rows of the epoch with the lowest held-out loss, and that loss."""
    best_RD, best = start_RD, held_out.loss(start_RD)
    for rows_RD in _epochs(train, start_RD, seed, advance):
        loss = held_out.loss(rows_RD)
        if not loss < best:
            break
        best_RD, best = rows_RD.copy(), loss
    return best_RD, best


def _epochs(
    train: States, start_RD: np.ndarray, seed: int, advance: Callable[[int], None]
) -> Iterator[np.ndarray]:
    """The rows after each epoch of Adam (arXiv 1412.6980); one array, which goes on changing."""
    generator = np.random.Generator(np.random.PCG64([seed, 4]))
    rows_RD = start_RD.copy()
    first, second = np.zeros_like(rows_RD), np.zeros_like(rows_RD)
    step = 0
    for _ in range(MOST_EPOCHS):
        for batch in train.batches(generator.permutation(len(train))):
            step += 1
            _, errors_NR = batch.nats(rows_RD)
            gradient = errors_NR.T @ batch.hidden_ND / np.float32(len(batch))
            gradient += np.float32(2 * PENALTY / len(rows_RD)) * (rows_RD - start_RD)
            first += np.float32(1 - _BETA1) * (gradient - first)
            second += np.float32(1 - _BETA2) * (gradient * gradient - second)
            spread = np.sqrt(second / np.float32(1 - _BETA2**step)) + np.float32(_EPSILON)
            rows_RD -= np.float32(RATE / (1 - _BETA1**step)) * first / spread
            advance(len(batch))
        yield rows_RD
