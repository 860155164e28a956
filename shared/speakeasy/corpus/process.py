"""From raw documents to candidates: parsed, cleaned, identified, filtered and fingerprinted.

All work on one document that needs no other document is done here, in this process or another.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from speakeasy.corpus.clean import clean, cut, undecodable, unwrap
from speakeasy.corpus.documents import Document
from speakeasy.corpus.encoding import decode, decode_html
from speakeasy.corpus.filters import reason_to_drop
from speakeasy.corpus.html import html_text
from speakeasy.corpus.language import LanguageFinder
from speakeasy.corpus.minhash import BANDS, bands, content_hash, shingles, signature, words
from speakeasy.corpus.plain_text import DOCUMENT_CHARACTERS
from speakeasy.corpus.sources import Problem, Raw
from speakeasy.corpus.subtitles import subtitles_text
from speakeasy.corpus.wikitext import wikitext_text

ROW = np.dtype(
    [
        ("content", "<u8"),
        ("bands", "<u4", (BANDS,)),
        ("bytes", "<u4"),
        ("utf8", "<u4"),
        ("characters", "<u4"),
        ("words", "<u4"),
        ("source", "<u4"),
        ("language", "u1"),
    ]
)
"""What is kept of a candidate beside its line: ``content`` is its hash, ``bands`` its MinHash
buckets, ``bytes`` those of its line, ``utf8``, ``characters`` and ``words`` those of its text,
``source`` the number of its source's name, ``language`` an index into the wanted ones."""

NO_LANGUAGE = 255


@dataclass(frozen=True, slots=True)
class Rules:
    """What the user decides: the wanted languages, and the least characters of a document."""

    languages: tuple[str, ...]
    min_characters: int


@dataclass(slots=True)
class Candidates:
    """What a batch of raw documents gave.

    Attributes:
        lines: JSON lines of the candidates, one after the other.
        rows: (n,) ``ROW``, in the same order.
        counts: source number -> what was counted: ``read``, ``cut``, ``undecodable_characters``,
            ``dropped:REASON``, ``language:CODE``.
        problems: what the parsers refused.
    """

    lines: bytes = b""
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, ROW))
    counts: dict[int, Counter[str]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def process(batch: Iterable[Raw], rules: Rules) -> Candidates:
    """Everything up to fingerprints, for a batch."""
    finder = LanguageFinder(rules.languages)
    result = Candidates()
    lines: list[bytes] = []
    rows: list[tuple[int, ...]] = []
    buckets: list[np.ndarray] = []
    for raw in batch:
        counts = result.counts.setdefault(raw.number, Counter())
        counts["read"] += 1
        counts["cut"] += raw.cut
        try:
            text = _text(raw)
        except Exception as error:  # a parser's own trouble with one document must not end a build
            result.problems.append(Problem(raw.number, raw.origin, _reason(error)))
            continue
        broken = undecodable(text)
        counts["undecodable_characters"] += broken
        pieces = cut(clean(text), DOCUMENT_CHARACTERS)
        counts["cut"] += len(pieces) - 1
        for place, piece in enumerate(pieces):
            reason = reason_to_drop(
                piece,
                min_characters=rules.min_characters,
                undecodable=broken / max(len(text), 1),
            )
            language = "" if reason else finder.find(piece)
            if reason is None and language and language not in rules.languages:
                counts[f"language:{language}"] += 1
                reason = "language"
            if reason:
                counts[f"dropped:{reason}"] += 1
                continue
            name = f"{raw.id}/{place}" if place else raw.id
            line = to_line(Document(name, piece, language, raw.origin))
            lines.append(line)
            text_words = words(piece)
            buckets.append(bands(signature(shingles(text_words))))
            number = rules.languages.index(language) if language else NO_LANGUAGE
            rows.append((content_hash(text_words), len(line), *_sizes(piece), raw.number, number))
    result.lines = b"".join(lines)
    result.rows = _rows(rows, buckets)
    return result


def to_line(document: Document) -> bytes:
    """A document as a line of a part file."""
    return json.dumps(document.to_record(), ensure_ascii=False).encode() + b"\n"


def _text(raw: Raw) -> str:
    """The running text of a raw document, not cleaned yet."""
    body = raw.body
    if raw.kind == "subtitles" and isinstance(body, bytes):
        return subtitles_text(decode(body))
    if raw.kind == "html" and isinstance(body, bytes):
        return html_text(decode_html(body))
    assert isinstance(body, str)
    return wikitext_text(body) if raw.kind == "wikipedia" else unwrap(body)


def _reason(error: Exception) -> str:
    if isinstance(error, ValueError) and str(error):
        return str(error).splitlines()[0][:200]
    return f"cannot be parsed ({type(error).__name__})"


def _sizes(text: str) -> tuple[int, int, int]:
    """UTF-8 bytes, characters, words."""
    return len(text.encode()), len(text), len(text.split())


def _rows(columns: Sequence[tuple[int, ...]], buckets: Sequence[np.ndarray]) -> np.ndarray:
    """The rows (n,) ``ROW``: all columns but the buckets, in the order of ``ROW``, and those."""
    rows = np.zeros(len(columns), ROW)
    if columns:
        rows["bands"] = np.stack(buckets)
        names = [name for name in ROW.names or () if name != "bands"]
        for name, values in zip(names, zip(*columns, strict=True), strict=True):
            rows[name] = np.array(values, ROW[name])
    return rows
