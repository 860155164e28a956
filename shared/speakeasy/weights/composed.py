"""Rows for new tokens, composed of the rows of their pieces as the vocabulary's own tokens are.

Every merge of a BPE tokenizer shows how the row of a whole is related to those of its parts. A
linear map from parts to wholes is learned from all of them (ridge regression, in closed form) and
then composes rows of tokens that the model does not have. Nothing is trained, and the model does
not run: numpy over the embedding matrix and ``tokenizer.json``.

The parts of a token are what is left of it when its last merge is undone, and once more when the
last two levels of merges are. Only words and beginnings of words serve as examples: entries of at
least three characters that, but for a leading space, are letters.

Shapes: N examples, F features, D width.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from speakeasy.errors import ModelError
from speakeasy.weights.directory import read_json_object, tensor_index
from speakeasy.weights.rewrite import EMBEDDING, open_base
from speakeasy.weights.safetensors_io import TensorInfo, read_rows
from speakeasy.weights.trained_rows import TrainedRows
from speakeasy.weights.untrained import untrained_rows

Example = tuple[int, tuple[int, ...]]
"""A token, and the tokens that it is made of."""

RIDGE = 800.0
"""Weight of the penalty, in examples: as if so many of mean size asked for a map of zeros."""

MOST_EXAMPLES = 100_000
MOST_FEATURES = 6_200
MOST_PRODUCTS = 2e12
"""Of N x F x F, the work of the regression: about a minute on two cores."""

_KINDS = (("mean", "first", "last"), ("first", "last"), ("mean",))
"""Which rows of the pieces are features: the first choice that a model's width allows."""

_BLOCK_VALUES = 2**22
_SPACES = "Ġ▁"
_ROUNDING = 2**-8


def composed_rows(
    model: Path, pieces: Sequence[Sequence[int]], *, leave_out: Collection[int] = (), seed: int = 0
) -> np.ndarray | None:
    """Input rows for tokens made of these pieces, (n, D) float32.

    Products are taken in float32, a block of examples at a time, and added up and solved for in
    float64. Memory is that of F x F float64 three times over: 1 GB for a model 2,048 wide.

    Args:
        model: a model's directory, in full precision.
        pieces: for each token the ids of its pieces, one or more.
        leave_out: ids whose rows teach nothing, beside those that training never reached.
        seed: draws the examples where there are more than can be afforded.

    Returns:
        None where merges show nothing: the tokenizer has none, or none whose parts and whole are
        entries.

    Raises:
        ModelError: the directory is unsound, or the model quantised.
    """
    base = open_base(model, "its rows cannot be composed; give the full-precision model")
    info = base.matrix(EMBEDDING)
    found = [
        example
        for example in merge_examples(model, {*leave_out, *untrained_rows(model).tolist()})
        if max(example[0], *example[1]) < info.shape[0]
    ]
    if not found:
        return None
    width = info.shape[1]
    kinds = next((k for k in _KINDS if len(k) * width < MOST_FEATURES), _KINDS[-1])
    most = min(MOST_EXAMPLES, int(MOST_PRODUCTS / (len(kinds) * width + 1) ** 2))
    if len(found) > most:
        order = np.random.Generator(np.random.PCG64([seed, 3])).permutation(len(found))
        found = [found[place] for place in np.sort(order[:most])]
    map_FD = _learned(info, found, kinds)
    blocks = [part_NF @ map_FD for _, part_NF in _blocks(info, pieces, kinds)]
    return np.concatenate(blocks).astype(np.float32)


def merge_examples(model: Path, leave_out: Collection[int] = ()) -> list[Example]:
    """What a tokenizer's merges show, in the order of the merges; empty where it has none.

    Args:
        leave_out: ids that no example may have, as a whole or as a part.

    Raises:
        ModelError: ``tokenizer.json`` is broken.
    """
    file = model / "tokenizer.json"
    spec = (read_json_object(file) if file.is_file() else {}).get("model") or {}
    vocabulary = spec.get("vocab")
    if not spec.get("merges") or not isinstance(vocabulary, dict):
        return []
    parts: dict[str, tuple[str, str]] = {}
    for left, right in _merges(file, spec["merges"]):
        if left in vocabulary and right in vocabulary and left + right in vocabulary:
            parts.setdefault(left + right, (left, right))

    def undone(token: str, levels: int) -> list[str]:
        if not levels or token not in parts:
            return [token]
        return [piece for part in parts[token] for piece in undone(part, levels - 1)]

    found: list[Example] = []
    for whole in parts:
        if len(whole) < 3 or not whole.lstrip(_SPACES).isalpha():
            continue
        for pieces in (undone(whole, 1), undone(whole, 2)):
            example = vocabulary[whole], tuple(vocabulary[piece] for piece in pieces)
            if not (found and found[-1] == example):  # nothing left to undo
                found.append(example)
    out = frozenset(leave_out)
    return [(whole, pieces) for whole, pieces in found if out.isdisjoint((whole, *pieces))]


def untouched(model: Path, rows: TrainedRows, pieces: Mapping[int, Sequence[int]]) -> list[int]:
    """Those of some added entries whose input rows are still what ``add_rows`` made of them.

    That is the mean of their pieces' rows, to within the rounding of bfloat16, or one row that
    several of them share.

    Args:
        rows: the entries' rows as the model has them, and maybe others.
        pieces: id of each entry -> ids of its pieces.

    Raises:
        ModelError: a piece has no row.
    """
    info = tensor_index(model)[EMBEDDING]
    if (largest := max((max(parts) for parts in pieces.values()), default=0)) >= info.shape[0]:
        raise ModelError(
            f"{model}: expansion.json has an entry made of token {largest}, and {EMBEDDING} only "
            f"{info.shape[0]} rows; expand the model again"
        )
    chosen = [place for place, id in enumerate(rows.ids.tolist()) if id in pieces]
    if not chosen:
        return []
    ids = rows.ids[chosen].tolist()
    found_ND = rows.embedding[chosen]
    means = [part for _, part in _blocks(info, [pieces[id] for id in ids], ("mean",))]
    means_ND = np.concatenate(means)[:, :-1]
    distances_N = np.linalg.norm(found_ND - means_ND, axis=1)
    is_mean_N = distances_N <= _ROUNDING * np.linalg.norm(means_ND, axis=1)
    _, places_N, counts = np.unique(found_ND, axis=0, return_inverse=True, return_counts=True)
    kept_N = is_mean_N | (counts[places_N.reshape(-1)] > 1)
    return [id for id, kept in zip(ids, kept_N.tolist(), strict=True) if kept]


def _merges(file: Path, merges: list[Any]) -> Iterator[tuple[str, str]]:
    """Pairs of entries: files have them as "a b", newer ones as [a, b]."""
    for merge in merges:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2:
            raise ModelError(f"{file}: {merge!r} is no merge; take the tokenizer from its maker")
        yield pair[0], pair[1]


def _learned(info: TensorInfo, found: Sequence[Example], kinds: Sequence[str]) -> np.ndarray:
    """The map_FD from features to rows, float64; its last row, a constant, is not penalised."""
    width = info.shape[1]
    features = len(kinds) * width + 1
    gram_FF = np.zeros((features, features))
    products_FD = np.zeros((features, width))
    wholes = np.array([whole for whole, _ in found])
    for start, part_NF in _blocks(info, [pieces for _, pieces in found], kinds):
        targets_ND = _rows(info, wholes[start : start + len(part_NF)])
        gram_FF += part_NF.T @ part_NF
        products_FD += part_NF.T @ targets_ND
    diagonal = np.einsum("ff->f", gram_FF)[:-1]  # a view that can be written to
    diagonal += RIDGE * diagonal.mean() / len(found)
    return np.linalg.solve(gram_FF, products_FD)


def _blocks(
    info: TensorInfo, pieces: Sequence[Sequence[int]], kinds: Sequence[str]
) -> Iterator[tuple[int, np.ndarray]]:
    """Features_NF float32 of tokens made of pieces, in blocks, each with the place it begins at."""
    step = max(1, _BLOCK_VALUES // (len(kinds) * info.shape[1] + 1))
    for start in range(0, len(pieces), step):
        part = pieces[start : start + step]
        lengths = np.array([len(one) for one in part])
        firsts = np.cumsum(lengths) - lengths
        rows = _rows(info, np.concatenate([np.asarray(one, dtype=np.int64) for one in part]))
        known = {
            "mean": np.add.reduceat(rows, firsts) / lengths[:, None].astype(np.float32),
            "first": rows[firsts],
            "last": rows[firsts + lengths - 1],
        }
        constant = np.ones((len(part), 1), dtype=np.float32)
        yield start, np.hstack([*(known[kind] for kind in kinds), constant])


def _rows(info: TensorInfo, ids: np.ndarray) -> np.ndarray:
    """Rows of these ids, float32; each is read once."""
    unique, places = np.unique(ids, return_inverse=True)
    return read_rows(info, unique.tolist()).astype(np.float32)[places]
