"""What suggest reads: which files are text, and what is held out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from speakeasy.corpus.documents import RECORD_FILE
from speakeasy.data.dataset import starter_conversations
from speakeasy.data.split import hold_out
from speakeasy.errors import DataError, UsageError
from speakeasy.vocab.material import (
    Material,
    answers,
    documents,
    find_material,
    starter_material,
)


def chats(file: Path, number: int = 10) -> Path:
    lines = [json.dumps(item.to_record()) for item in starter_conversations()[:number]]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def texts(file: Path, number: int = 200) -> Path:
    lines = [json.dumps({"text": f"text {n}"}) for n in range(number)]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def test_files_are_told_apart(tmp_path: Path) -> None:
    story = tmp_path / "story.txt"
    story.write_text("Va, nen.\n", encoding="utf-8")
    conversations = chats(tmp_path / "chats.jsonl")
    lines = texts(tmp_path / "lines.jsonl")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    texts(corpus / "part-0000.jsonl")
    (corpus / RECORD_FILE).write_text("{}", encoding="utf-8")
    (tmp_path / ".hidden.txt").write_text("no", encoding="utf-8")
    (tmp_path / "notes.md").write_text("no", encoding="utf-8")
    found = find_material([tmp_path, corpus, story])
    assert found == Material((conversations,), (lines, story, corpus))
    assert found.files == (conversations, lines, story, corpus)
    size = sum(file.stat().st_size for file in (lines, story, corpus / "part-0000.jsonl"))
    assert found.text_bytes == size


def test_starter_material_is_conversations_and_the_regional_texts() -> None:
    material = starter_material()
    assert len(material.conversations) == 18
    assert [file.name for file in material.texts] == ["ca.txt", "es-ca.txt"]


def test_nothing_to_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        find_material([tmp_path / "none"])
    with pytest.raises(DataError, match="holds no file that can be read"):
        find_material([tmp_path])
    assert find_material([]).text_bytes == 0


def test_answers_are_split_by_conversation(tmp_path: Path) -> None:
    material = find_material([chats(tmp_path / "chats.jsonl", 60)])
    parts = answers(material, 0.2, seed=3)
    train, held = hold_out(starter_conversations()[:60], fraction=0.2, seed=3)
    for conversations, side in ((train, False), (held, True)):
        expected = [answer for item in conversations for answer in item.answers]
        assert [part.text for part in parts if part.held_out is side] == expected
    assert answers(Material((), ()), 0.2, seed=3) == []


def test_documents_are_split_by_what_they_say(tmp_path: Path) -> None:
    one, other = texts(tmp_path / "a.jsonl"), texts(tmp_path / "b.jsonl")
    parts = list(documents(Material((), (one, other)), 0.25, seed=0))
    assert parts[:200] == parts[200:]
    assert not parts[0].held_out
    # 200 draws with p 1/4: three standard deviations are 18.
    assert 32 <= sum(part.held_out for part in parts[:200]) <= 68
    assert list(documents(Material((), (one,)), 0.25, seed=1)) != parts[:200]


def test_the_first_document_is_never_held_out(tmp_path: Path) -> None:
    file = texts(tmp_path / "a.jsonl", 1)
    material = Material((), (file, texts(tmp_path / "b.jsonl", 1)))
    for seed in range(5):
        parts = list(documents(material, 0.999, seed=seed))
        assert [part.held_out for part in parts] == [False, False]


@pytest.mark.parametrize("fraction", [0.0, 1.0, float("nan")])
def test_the_share_is_between_none_and_all(tmp_path: Path, fraction: float) -> None:
    text = texts(tmp_path / "a.jsonl")
    with pytest.raises(UsageError, match="--eval-fraction"):
        list(documents(Material((), (text,)), fraction, seed=0))
    with pytest.raises(UsageError, match="--eval-fraction"):
        answers(Material((chats(tmp_path / "c.jsonl"),), ()), fraction, seed=0)
