"""Documents read from where they lie, and the packaged texts."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speakeasy.corpus.documents import LINE_BYTES, Document, read_documents
from speakeasy.corpus.plain_text import read_pieces, tell_layout
from speakeasy.corpus.starter import STARTER_NAMES, starter_texts
from speakeasy.errors import DataError

WRAPPED = "Una frase llarga que va\nd'una línia a l'altra fins\nque s'acaba aquí.\n\nUna altra.\n"


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_packaged_texts() -> None:
    counts = {name: len(starter_texts(name)) for name in STARTER_NAMES}
    assert counts == {"ca": 80, "es-ca": 80, "es": 70, "ca-neutral": 25}
    documents = starter_texts()
    assert [document.language for document in documents] == ["ca"] * 80 + ["es-ca"] * 80
    assert len({document.id for document in documents}) == 160
    assert documents[0].id == "ca-001"
    assert documents[0].text.startswith("A dos quarts de vuit")
    assert not any("|" in document.text or "\n\n" in document.text for document in documents)
    with pytest.raises(DataError, match=r"en: no packaged text; expected one of ca, es-ca"):
        starter_texts("en")


@pytest.mark.parametrize(
    ("text", "layout"),
    [
        ("# a-1 | ca | tema\nText.\n", "headed"),
        ("Primera frase.\nSegona frase.\nUn títol\n", "lines"),
        (WRAPPED, "whole"),
        ("una línia que es trenca al marge i que\nno acaba mai de cap manera\n", "whole"),
        ("", "whole"),
    ],
)
def test_layouts(text: str, layout: str) -> None:
    assert tell_layout(text) == layout


def test_a_text_file_by_each_layout(tmp_path: Path) -> None:
    headed = "# x-1 | es-ca | a: b\nUno.\n\nDos.\n\n# x-2 | ca | c\nTres.\n"
    (one, two), (first, second), (whole,) = (
        list(read_documents([write(tmp_path / name, text)]))
        for name, text in (
            ("h.txt", "\ufeff" + headed),
            ("l.txt", "Primera.\r\nSegona.\r\n"),
            ("w.txt", WRAPPED),
        )
    )
    assert (one.id, one.language, one.text) == ("x-1", "es-ca", "Uno.\n\nDos.")
    assert (two.id, two.origin) == ("x-2", f"{tmp_path}/h.txt:6")
    assert [first.text, second.text, second.id] == ["Primera.", "Segona.", "l:2"]
    assert whole.text == WRAPPED.strip()


@given(st.text(st.sampled_from("ab .\n"), max_size=300), st.integers(3, 40))
def test_no_piece_is_longer_than_the_limit_and_no_word_is_lost(text: str, limit: int) -> None:
    pieces = list(read_pieces(io.StringIO(text), limit=limit))
    assert all(0 < len(piece.text) <= limit for piece in pieces)
    read = "".join("".join(piece.text.split()) for piece in pieces)
    assert read == "".join(text.split())


def test_lines_and_corpus_directories(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    documents = [Document(f"d{n}", f"Text {n}\nmés", "ca", "x") for n in range(3)]
    for number, part in enumerate((documents[:2], documents[2:])):
        lines = "".join(json.dumps(item.to_record()) + "\n" for item in part)
        write(folder / f"part-{number:04}.jsonl", lines)
    write(folder / "corpus.json", "{}")
    write(folder / "notes.txt", "No és part del corpus.")
    assert list(read_documents([folder])) == documents
    bare = write(tmp_path / "bare.jsonl", '{"text": "hola"}\n\n')
    assert list(read_documents([bare, bare])) == [Document("bare:1", "hola", "", f"{bare}:1")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b"oops", r"x.jsonl:1: is not JSON"),
        ("x.jsonl", b'{"a": 1}', r"x.jsonl:1: expected an object whose 'text' is a string"),
        ("x.jsonl", b"[" * 100_000, r"x.jsonl:1: is not JSON"),
        ("x.jsonl", b"a" * (LINE_BYTES + 1), r"x.jsonl:1: longer than"),
        ("x.txt", b"caf\xe9", r"x.txt: is not UTF-8 .*corpus build"),
        ("x.pdf", b"", r"x.pdf: is neither a .txt nor a .jsonl file"),
    ],
)
def test_refusals(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(read_documents([write(tmp_path / name, content)]))


def test_missing_and_empty_paths(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or directory"):
        list(read_documents([tmp_path / "none"]))
    with pytest.raises(DataError, match=r"holds no \.txt or \.jsonl file"):
        list(read_documents([tmp_path]))
