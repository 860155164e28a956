from __future__ import annotations

import json
from pathlib import Path

import pytest
from chat_templates import conversation, network, rendered
from click.testing import CliRunner
from tiny import tiny_tokenizer
from tokenizers_fixture import STARTER, real_tokenizer

from speakeasy.batches.preview import CLOSE, OPEN, pieces, to_text
from speakeasy.cli.preview import preview
from speakeasy.errors import DataError, UsageError


def test_preview_never_tears_a_character() -> None:
    tokenizer = tiny_tokenizer()
    runs = pieces(tokenizer, rendered(tokenizer, conversation("😀 à", "👩‍👩‍👧 ça")))
    assert [(run.text, run.is_target) for run in runs] == [
        ("<|im_start|>user\n😀 à<|im_end|>\n<|im_start|>assistant\n", False),
        ("👩‍👩‍👧 ça<|im_end|>", True),
        ("\n", False),
    ]
    text = to_text(runs)
    assert f"{OPEN}👩‍👩‍👧 ça<|im_end|>{CLOSE}" in text.plain
    (underlined,) = [span for span in text.spans if "underline" in str(span.style)]
    assert text.plain[underlined.start : underlined.end] == "👩‍👩‍👧 ça<|im_end|>"


@network
def test_the_command_prints_one_json_object() -> None:
    real_tokenizer(STARTER)
    result = CliRunner().invoke(preview, ["--index", "2", "--json"], catch_exceptions=False)
    shown = json.loads(result.stdout)
    assert shown["origin"].endswith("city.jsonl:2")
    assert sum(piece["tokens"] for piece in shown["pieces"]) == shown["tokens"]
    answers = [piece for piece in shown["pieces"] if piece["is_target"]]
    assert sum(piece["tokens"] for piece in answers) == shown["targets"]
    assert answers[0]["text"].startswith("Bon dia. A ver, explíqueme")
    assert all(piece["text"].endswith("<|im_end|>") for piece in answers)


@network
def test_the_command_marks_targets_without_colour(tmp_path: Path) -> None:
    real_tokenizer(STARTER)
    file = tmp_path / "chats.jsonl"
    record = {"messages": conversation("Hola", "Bon dia, àvia").to_messages()}
    file.write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")
    result = CliRunner().invoke(preview, [str(file)], catch_exceptions=False)
    assert result.stdout == ""
    assert f"{OPEN}Bon dia, àvia<|im_end|>{CLOSE}" in result.stderr
    with pytest.raises(UsageError, match="--index 2: expected 1 to 1"):
        CliRunner().invoke(preview, [str(file), "--index", "2"], catch_exceptions=False)
    with pytest.raises(DataError, match=r"chats.jsonl:1: it has more than 5 tokens"):
        CliRunner().invoke(preview, [str(file), "--max-length", "5"], catch_exceptions=False)
