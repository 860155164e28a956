"""Raw text as packed rows see it: documents cut into pieces, kept in memory-mapped files.

A document begins with a start token, so that its first real token is scored, too. A piece has at
most a row's length; the next one begins with the last token of the one before, as context, so that
every token is scored exactly once. On disk a set of pieces is two numpy files: ``tokens.npy``
(int32, all pieces end to end) and ``pieces.npy`` (a record a piece: where it begins, and how many
tokens, bytes and words it has).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from speakeasy.batches.types import Rendered
from speakeasy.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

TOKENS, PIECES = "tokens.npy", "pieces.npy"
RECORD = np.dtype([("start", "<i8"), ("tokens", "<i4"), ("bytes", "<i4"), ("words", "<i4")])
_BATCH, _BATCH_CHARACTERS = 256, 2_000_000
"""Documents, and characters of them, that are tokenized at once."""

Piece = tuple[list[int], int, int]
"""Token ids, and the UTF-8 bytes and words of those that are scored."""


class Pieces(Sequence[Rendered]):
    """A set of pieces on disk, or some of it; every token but a piece's first is a target.

    Args:
        tokens: int32, all pieces end to end.
        records: of type ``RECORD``, one a piece.
    """

    def __init__(self, tokens: np.ndarray, records: np.ndarray) -> None:
        self._tokens = tokens
        self._records = records

    @classmethod
    def open(cls, directory: Path) -> Pieces:
        """What ``write`` wrote, mapped into memory."""
        return cls(
            np.load(directory / TOKENS, mmap_mode="r"), np.load(directory / PIECES, mmap_mode="r")
        )

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> Rendered: ...
    @overload
    def __getitem__(self, index: slice) -> Pieces: ...
    def __getitem__(self, index: int | slice) -> Rendered | Pieces:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        record = self._records[index]
        tokens_T = self._tokens[record["start"] : record["start"] + record["tokens"]]
        is_target_T = np.ones(len(tokens_T), dtype=bool)
        is_target_T[0] = False
        return Rendered(tokens_T, is_target_T, int(record["bytes"]), int(record["words"]))

    def take(self, chosen: np.ndarray) -> Pieces:
        """The pieces of these indices, in their order."""
        return Pieces(self._tokens, self._records[chosen])

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each piece."""
        return self._records["tokens"]

    @property
    def targets(self) -> int:
        """Scored tokens of all pieces."""
        return int(self.lengths.sum(dtype=np.int64)) - len(self)


class Joined(Sequence[Rendered]):
    """Several sequences, one after the other."""

    def __init__(self, *parts: Pieces) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @overload
    def __getitem__(self, index: int) -> Rendered: ...
    @overload
    def __getitem__(self, index: slice) -> list[Rendered]: ...
    def __getitem__(self, index: int | slice) -> Rendered | list[Rendered]:
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        place = range(len(self))[index]
        part = int(np.searchsorted(self._ends, place, side="right"))
        return self._parts[part][place - (int(self._ends[part - 1]) if part else 0)]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each item."""
        return np.concatenate([part.lengths for part in self._parts])


def item_lengths(items: Sequence[Rendered]) -> Sequence[int]:
    """Tokens of each item; of pieces without reading them."""
    if isinstance(items, Pieces | Joined):
        return items.lengths.tolist()
    return [len(item.tokens_T) for item in items]


def write(directory: Path, pieces: Iterable[Piece]) -> Pieces:
    """Write pieces as they come; no more than one is held in memory.

    Write into a directory of ``files.new_directory``.
    """
    records = []
    start = 0
    with (directory / "tokens.raw").open("wb") as file:
        for ids, size, words in pieces:
            file.write(np.asarray(ids, dtype="<i4").tobytes())
            records.append((start, len(ids), size, words))
            start += len(ids)
    _to_npy(directory / "tokens.raw", directory / TOKENS, start)
    np.save(directory / PIECES, np.array(records, dtype=RECORD))
    return Pieces.open(directory)


def _to_npy(raw: Path, target: Path, count: int) -> None:
    """Put numpy's header, which holds the length, before the numbers of a finished file."""
    header = {"descr": "<i4", "fortran_order": False, "shape": (count,)}
    with raw.open("rb") as source, target.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        shutil.copyfileobj(source, file, 1 << 20)
    raw.unlink()


def start_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token before a document: what the tokenizer itself puts there, else ``<|endoftext|>``
    where it is known, else the end-of-sequence token.

    Raises:
        ModelError: the tokenizer has none of these.
    """
    own = tokenizer("a")["input_ids"]
    if len(own) > 1 and own[0] == tokenizer.bos_token_id:
        return own[0]
    known = tokenizer.get_vocab()
    if "<|endoftext|>" in known:
        return known["<|endoftext|>"]
    for found in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        if found is not None:
            return found
    raise ModelError(
        f"{tokenizer.name_or_path}: the tokenizer has no begin- or end-of-sequence token, and no "
        "document could begin; set bos_token in its tokenizer_config.json"
    )


class Cutter:
    """Documents to pieces.

    Args:
        tokenizer: a fast tokenizer. The text of a control token in a document is text.
        row_length: tokens of the longest piece.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, row_length: int) -> None:
        self._tokenizer = _plain(tokenizer)
        self._start = start_token(tokenizer)
        self._row_length = row_length

    def cut(
        self, texts: Iterable[str], advance: Callable[[int], None] = lambda done: None
    ) -> Iterator[list[Piece]]:
        """The pieces of each text; a text of white space alone has none.

        Args:
            advance: called with the number of bytes done.
        """
        for batch in _batches(texts):
            encodings = self._tokenizer.encode_batch_fast(batch, add_special_tokens=False)
            for text, encoding in zip(batch, encodings, strict=True):
                yield list(self._pieces(text, encoding.ids))
                advance(len(text.encode()))

    def _pieces(self, text: str, ids: list[int]) -> Iterator[Piece]:
        if not text.strip():
            return
        if len(ids) < self._row_length:
            yield [self._start, *ids], len(text.encode()), len(text.split())
            return
        offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        whole = [self._start, *ids]
        cuts = [*range(0, len(ids), self._row_length - 1), len(ids)]
        for first, last in pairwise(cuts):  # whole[first] is context, the rest up to last scored
            begin = offsets[first - 1][1] if first else 0
            end = offsets[last - 1][1] if last < len(ids) else len(text)
            scored = text[begin:end]
            yield whole[first : last + 1], len(scored.encode()), len(scored.split())


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if len(batch) == _BATCH or size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _plain(tokenizer: Any) -> Tokenizer:
    """A copy of the tokenizer that takes the text of control tokens for text."""
    from tokenizers import Tokenizer

    copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    copy.encode_special_tokens = True
    return copy
