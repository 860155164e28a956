"""Raw text prepared for the loop: held out, cut, replayed, and kept for the next run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import tiny_tokenizer

from speakeasy.config import CorpusConfig
from speakeasy.errors import DataError
from speakeasy.training.prepare import Prepared
from speakeasy.training.raw_text import prepare_text

ROOT = Path(__file__).parents[1]
LINES = [f"El text número {number} parla de la plaça i del barri." for number in range(60)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPEAKEASY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


def corpus(folder: Path, texts: list[str]) -> str:
    folder.mkdir()
    for number, text in enumerate(texts):
        (folder / f"{number:03}.txt").write_text(text, encoding="utf-8")
    return str(folder)


def prepared(seed: int = 0, **changes: Any) -> Prepared:
    context = changes.pop("context", 4096)
    return prepare_text(
        CorpusConfig(**changes), tiny_tokenizer(), "tokenizer", seed, context=context
    )


def texts(items: Any) -> list[str]:
    tokenizer = tiny_tokenizer()
    return [tokenizer.decode(item.tokens_T[1:].tolist()) for item in items]


def test_both_sides_are_all_of_it_and_share_nothing(tmp_path: Path) -> None:
    path = corpus(tmp_path / "c", LINES)
    found = prepared(paths=(path,), holdout=0.2, replay_share=0.0)
    learned, held_out = texts(found.train.items), texts(found.held_out.items)
    assert sorted(learned + held_out) == sorted(LINES)
    assert 4 <= len(held_out) <= 22
    assert found.train.tokens == sum(len(item.tokens_T) for item in found.train.items)
    assert found.train.targets == found.train.tokens - len(learned)
    other = prepared(seed=1, paths=(path,), holdout=0.2, replay_share=0.0)
    assert texts(other.held_out.items) != held_out
    assert other.fingerprint != found.fingerprint


def test_neutral_text_is_mixed_in_to_its_share_and_held_out(tmp_path: Path) -> None:
    path = corpus(tmp_path / "c", LINES)
    neutral = corpus(tmp_path / "n", [f"Texto neutro número {n}, sin más." for n in range(100)])
    found = prepared(paths=(path,), replay=(neutral,), replay_share=0.3, holdout=0.1)
    replayed = [text for text in texts(found.train.items) if text.startswith("Texto neutro")]
    tokens = sum(
        len(item.tokens_T)
        for item, text in zip(found.train.items, texts(found.train.items), strict=True)
        if text in replayed
    )
    assert tokens / found.train.tokens == pytest.approx(0.3, abs=0.02)
    kept = texts(found.neutral)
    assert 8 <= len(kept) <= 35
    assert not set(kept) & set(replayed)
    assert "30% of the training tokens replayed" in found.origin
    without = prepared(paths=(path,), replay=(neutral,), replay_share=0.0, holdout=0.1)
    assert texts(without.neutral) == kept
    assert not any(text.startswith("Texto neutro") for text in texts(without.train.items))


def test_text_is_tokenized_once(tmp_path: Path, cache: Path) -> None:
    path = corpus(tmp_path / "c", LINES)
    first = prepared(paths=(path,))
    made = {file: file.stat().st_mtime_ns for file in cache.rglob("*.npy")}
    again = prepared(paths=(path,))
    assert {file: file.stat().st_mtime_ns for file in cache.rglob("*.npy")} == made
    assert again.fingerprint == first.fingerprint
    (Path(path) / "000.txt").write_text("Un altre text.", encoding="utf-8")
    assert prepared(paths=(path,)).fingerprint != first.fingerprint


def test_held_out_files_are_scored_whole(tmp_path: Path) -> None:
    found = prepared(
        paths=(corpus(tmp_path / "c", LINES[:50]),),
        evaluation=(corpus(tmp_path / "e", LINES[50:]),),
    )
    assert sorted(texts(found.held_out.items)) == sorted(LINES[50:])
    assert set(LINES[:50]) <= set(texts(found.train.items))


def test_long_documents_are_cut_to_the_row(tmp_path: Path) -> None:
    path = corpus(tmp_path / "c", [" ".join(LINES)] * 3 + LINES)
    found = prepared(paths=(path,), max_length=64, replay_share=0.0)
    assert max(len(item.tokens_T) for item in found.train.items) == 64
    together = np.concatenate([item.tokens_T[1:] for item in found.train.items])
    assert len(together) == found.train.targets


def test_no_piece_is_longer_than_the_model_knows(tmp_path: Path) -> None:
    path = corpus(tmp_path / "c", [" ".join(LINES)] * 3 + LINES)
    found = prepared(paths=(path,), max_length=512, context=48)
    assert max(len(item.tokens_T) for item in found.train.items) == 48


def test_what_is_read_otherwise_is_tokenized_anew(tmp_path: Path) -> None:
    line = '{"text": "El barri."}\n' * 9
    held_out = corpus(tmp_path / "e", LINES[:3])
    for name in ("a.jsonl", "a.txt"):
        (tmp_path / name).write_text(line, encoding="utf-8")
    first, second = (
        prepared(paths=(str(tmp_path / name),), evaluation=(held_out,)).fingerprint
        for name in ("a.jsonl", "a.txt")
    )
    assert first != second


def test_processes_that_tokenize_at_once_do_it_once(tmp_path: Path) -> None:
    path = corpus(tmp_path / "c", LINES)
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from test_raw_text import prepared\n"
        f"print(prepared(paths=({path!r},)).fingerprint)"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for _ in range(3)
    ]
    printed = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    assert len(set(printed)) == 1


def test_too_little_neutral_text_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    config = CorpusConfig(
        paths=(corpus(tmp_path / "c", LINES),),
        replay=(corpus(tmp_path / "n", ["Texto neutro."] * 5),),
        replay_share=0.5,
        holdout=0.1,
    )
    prepare_text(config, tiny_tokenizer(), "tokenizer", 0, context=4096, say=said.append)
    assert any("give more with --replay-path" in line for line in said)


def test_nothing_held_out_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no held-out text"):
        prepared(paths=(corpus(tmp_path / "c", LINES[:2]),), holdout=0.001)
