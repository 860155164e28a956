"""Where the cost of added entries lies, and which rows they had best begin with.

    python -m benchmarks.added_rows --entries 2000

The starter model reads unseen conversations in its old tokens, and only has to predict the new
ones: that is the predicting side of an added entry, and every kind of rows is tried on it. Then it
reads the new tokens too, which is what counts. Nothing is trained but the rows of the fit
(``training.regression``). It shares its work directory with ``benchmarks.vocabulary``, and takes
five minutes on two cores.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.vocabulary import ROW, Bench
from speakeasy.batches.render import render_all
from speakeasy.batches.types import IGNORED, PackedBatch, Rendered
from speakeasy.config import CorpusConfig
from speakeasy.data.dataset import load_conversations
from speakeasy.training.backend import Engine, EngineOptions, open_backend
from speakeasy.training.evaluate import held_out_loss
from speakeasy.training.raw_text import prepare_text
from speakeasy.training.regression import States, fit, joined
from speakeasy.weights import trained_rows
from speakeasy.weights.added import added_pieces
from speakeasy.weights.composed import composed_rows
from speakeasy.weights.fingerprint import tokenizer_fingerprint
from speakeasy.weights.hub import load_tokenizer

ONE = np.float32(1)
PRIOR = 2
"""Occurrences that the mean over all entries counts as, in the mean of one of them."""


@dataclass(frozen=True, slots=True)
class Read:
    """Texts that the base read in its old tokens.

    Attributes:
        states: at each token of the new tokenisation that is a target.
        first_N: nats of the token's first old piece, and
        rest_N: of its other pieces.
        data_bytes: of the answers; 0 for running text.
    """

    states: States
    first_N: np.ndarray
    rest_N: np.ndarray
    data_bytes: int

    @property
    def old_bits(self) -> float:
        """Bits a byte in the old tokens."""
        return float((self.first_N + self.rest_N).sum()) / math.log(2) / self.data_bytes

    def bits(self, rows_RD: np.ndarray) -> float:
        """Bits a byte where new tokens have these output rows."""
        old = self.first_N[self.states.places_N < 0].sum()
        nats = self.states.loss(rows_RD) * len(self.states) + float(old)
        return nats / math.log(2) / self.data_bytes


def read(engine: Engine, items: Sequence[Rendered], pieces: dict[int, tuple[int, ...]]) -> Read:
    """Let the base read each item in old tokens."""
    ids = np.array(sorted(pieces))
    place_of = {id: place for place, id in enumerate(ids.tolist())}
    states, first, rest = [], [], []
    for item in items:
        tokens = item.tokens_T.tolist()
        spelled = [pieces.get(token, (token,)) for token in tokens]
        ends = np.cumsum([len(parts) for parts in spelled])
        old_T = np.array([piece for parts in spelled for piece in parts], dtype=np.int32)
        chosen = np.flatnonzero(item.is_target_T)
        starts = ends[chosen - 1]
        every = np.concatenate([np.arange(a, b) for a, b in zip(starts, ends[chosen], strict=True)])
        losses_T = engine.token_losses(_batch(old_T, every))[0]
        hidden_ND, log_sums_N = engine.predictions(_batch(old_T, starts), ids)
        places_N = np.array([place_of.get(tokens[place], -1) for place in chosen.tolist()])
        states.append(States(hidden_ND, log_sums_N, places_N))
        first.append(losses_T[starts - 1])
        rest.append([losses_T[a : b - 1].sum() for a, b in zip(starts, ends[chosen], strict=True)])
    return Read(
        joined(states, ONE),
        np.concatenate(first),
        np.concatenate(rest),
        sum(item.target_bytes for item in items),
    )


def _batch(tokens_T: np.ndarray, targets: np.ndarray) -> PackedBatch:
    """One text; the tokens at ``targets`` are due at the positions before them."""
    labels_T = np.full(len(tokens_T), IGNORED, dtype=np.int32)
    labels_T[targets - 1] = tokens_T[targets]
    ones_1T = np.ones((1, len(tokens_T)), dtype=np.int32)
    return PackedBatch(tokens_T[None], ones_1T, labels_T[None], ones_1T - 1)


def first_piece(train: Read, first_RD: np.ndarray) -> np.ndarray:
    """Output rows of the first piece, and the other pieces' mean log-probability along the
    direction in which all hidden states are alike."""
    is_new = train.states.places_N >= 0
    due, nats = train.states.places_N[is_new], train.rest_N[is_new]
    counts = np.bincount(due, minlength=len(first_RD))
    sums = np.bincount(due, nats, minlength=len(first_RD))
    bias_R = -(sums + PRIOR * nats.mean()) / (counts + PRIOR)
    hidden_ND = train.states.hidden_ND.astype(np.float64)
    gram_DD = hidden_ND.T @ hidden_ND / len(hidden_ND) + 1e-3 * np.eye(hidden_ND.shape[1])
    along_D = np.linalg.solve(gram_DD, hidden_ND.mean(axis=0))
    return (first_RD + bias_R[:, None] * along_D).astype(np.float32)


def kinds(
    model: Path, texts: Read, conversations: Read, rows: trained_rows.TrainedRows
) -> Iterator[tuple[str, np.ndarray]]:
    """Rows to begin with, by what they are made of."""
    pieces = added_pieces(model)
    spelled = [pieces[id] for id in rows.ids.tolist()]
    mean_RD = rows.embedding
    firsts = trained_rows.read_from_model(model, [parts[0] for parts in spelled])
    first_RD = firsts.embedding[np.searchsorted(firsts.ids, [parts[0] for parts in spelled])]
    composed_RD = composed_rows(model, spelled, leave_out=rows.ids.tolist())
    assert composed_RD is not None
    yield "mean of the pieces", mean_RD
    yield "first piece", first_RD
    yield "first piece, and the others as a bias", first_piece(texts, first_RD)
    yield "composed", composed_RD
    for source, read_text in (("the packaged texts", texts), ("conversations", conversations)):
        for name, start_RD in (("mean", mean_RD), ("composed", composed_RD)):
            yield f"{name}, fitted to {source}", fitted(read_text.states, start_RD)


def fitted(states: States, start_RD: np.ndarray) -> np.ndarray:
    """Fitted as ``fit_rows`` fits them: a tenth held out, rows in their own unit."""
    unit = np.sqrt(np.square(start_RD).mean())
    cut = len(states) - len(states) // 10
    parts = [
        joined([States(*(getattr(states, name)[part] for name in States.__slots__))], unit)
        for part in (slice(cut), slice(cut, None))
    ]
    return fit(*parts, start_RD / unit, 0, lambda _: None)[0] * unit


def main() -> None:
    """Print a line for each kind of rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--work-dir", type=Path, default=Path("runs/vocabulary"))
    parser.add_argument("--entries", type=int, default=2000)
    parser.add_argument("--conversations", type=int, default=60)
    options = parser.parse_args()
    bench = Bench(options.work_dir, options.conversations, 0, "float32", 0)
    bench.prepare()
    model = bench.expanded(options.entries)
    tokenizer = load_tokenizer(model)
    unseen, train = (
        render_all(tokenizer, load_conversations([bench.work / name]), 1024).items
        for name in ("unseen.jsonl", "train.jsonl")
    )
    prose = prepare_text(
        CorpusConfig(max_length=ROW), tokenizer, tokenizer_fingerprint(model), seed=0, context=ROW
    ).train.items
    pieces = added_pieces(model)
    rows = trained_rows.read_from_model(model, list(pieces))
    engine = open_backend("torch").load(EngineOptions(model=model, precision="float32", rows=rows))
    target = read(engine, unseen, pieces)
    texts, conversations = read(engine, prose, pieces), read(engine, train, pieces)
    print(f"in the old tokens: {target.old_bits:.3f} bits a byte\n")
    print("| rows | new tokens predicted | and read |\n|---|---|---|")
    for name, rows_RD in kinds(model, texts, conversations, rows):
        engine.set_trainables({trained_rows.EMBEDDING + trained_rows.SUFFIX: rows_RD})
        at_once = held_out_loss(engine, unseen, 1024).bits_per_byte
        print(f"| {name} | {target.bits(rows_RD):.3f} | {at_once:.3f} |", flush=True)


if __name__ == "__main__":
    main()
