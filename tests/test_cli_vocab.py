"""``speakeasy vocab check`` and ``suggest`` as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli import speakeasy
from vocabularies import GUIDE, GUIDE_PHRASES

from speakeasy.cli.common import console
from speakeasy.data.dataset import starter_conversations
from speakeasy.vocab.suggest import DEFAULT_ENTRIES
from speakeasy.vocab.words import load_words


@pytest.fixture
def model(tiny_directory: Path) -> Path:
    return tiny_directory


@pytest.fixture(autouse=True)
def _fresh_console() -> None:
    console.cache_clear()  # it keeps the stderr of the command before


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    lines = [json.dumps(item.to_record()) for item in starter_conversations()[:80]]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def test_check_counts_the_guide_s_words(model: Path) -> None:
    result = speakeasy("vocab", "check", "--model", model, "--json").result
    words = {row["word"]: row for row in result["words"]}
    assert set(words) == {*GUIDE, *GUIDE_PHRASES}
    assert words["àvia"]["category"] == "family"
    for word in GUIDE:
        assert set(words[word]["after"].values()) == {1}
    assert words["si us plau"]["after"] == words["si us plau"]["before"]
    reasons = {item["form"]: item["reason"] for item in result["skipped"]}
    assert set(GUIDE_PHRASES) <= set(reasons)
    assert "--phrases" in reasons["si us plau"]
    assert result["mean_after"]["bare"] < result["mean_before"]["bare"]
    assert result["new_entries"] > 50
    assert result["saving"] is None


def test_check_takes_the_options_of_expand(model: Path, tmp_path: Path) -> None:
    with_phrases = speakeasy(
        "vocab", "check", "--model", model, "--phrases", "--categories", "phrases", "--json"
    ).result
    after = {row["word"]: row["after"] for row in with_phrases["words"]}
    assert set(after["si us plau"].values()) == {1}
    assert "ostras" not in after
    merges = speakeasy(
        "vocab", "check", "--model", model, "--mode", "merges", "--categories", "family", "--json"
    ).result
    assert merges["mode"] == "merges"
    assert any("after a space only" in item["reason"] for item in merges["skipped"])
    file = tmp_path / "words.txt"
    file.write_text('xafogor\n" mandra"\n', encoding="utf-8")
    own = speakeasy("vocab", "check", "--model", model, "--words", file, "--json").result
    xafogor, mandra = own["words"]
    assert set(xafogor["after"].values()) == {1}
    assert mandra["after"]["after a space"] == 1
    assert mandra["after"]["bare"] == mandra["before"]["bare"] > 1
    full = speakeasy(
        "vocab", "check", "--model", model, "--lexicon", "full", "--categories", "food", "--json"
    ).result
    assert {row["category"] for row in full["words"]} == {"food"}


def test_check_says_whether_it_is_worth_it(model: Path, chats: Path, tmp_path: Path) -> None:
    args = ("vocab", "check", "--model", model, "--train-file", chats)
    poor = speakeasy(*args)
    assert "Verdict: not worth a new vocabulary" in poor.stderr
    assert f"speakeasy vocab suggest {chats} --output words.txt" in poor.stderr
    assert "no entry for 'apa va' (and 7 more): is several words" in poor.stderr
    saving = speakeasy(*args, "--json").result["saving"]
    assert saving["worth_it"] is False
    assert 0 < saving["share"] < saving["threshold"]
    words = tmp_path / "words.txt"
    speakeasy("vocab", "suggest", chats, "--model", model, "--output", words)
    rich = speakeasy(*args, "--words", words)
    assert "Verdict: worth trying" in rich.stderr


def test_check_takes_the_packaged_conversations(model: Path) -> None:
    result = speakeasy("vocab", "check", "--model", model, "--train-file", "starter", "--json")
    answers = sum(len(item.answers) for item in starter_conversations())
    assert result.result["saving"]["answers"] == answers


def test_check_shows_a_table(model: Path) -> None:
    done = speakeasy("vocab", "check", "--model", model)
    assert done.stdout == ""
    for text in ("ostras", "family", "mean", "one token in all four places", "24 words before"):
        assert text in done.stderr


def test_suggest_writes_a_file_that_words_takes(model: Path, chats: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    args = ("vocab", "suggest", chats, "--model", model, "--entries", 40, "--output", words)
    result = speakeasy(*args, "--json").result
    assert len(result["entries"]) == 40
    assert result["files"] == [str(chats)]
    assert [row["entries"] for row in result["curve"]][:2] == [24, 40]
    shares = [row["answers"] for row in result["curve"]]
    assert shares == sorted(shares)
    assert shares[0] > 0
    forms = [form for word in load_words(words) for form in word.forms]
    assert sorted(forms) == sorted(item["form"] for item in result["entries"])
    lines = words.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# Suggested by 'speakeasy vocab suggest' for ")
    first = result["entries"][0]
    assert f"count {first['count']}, {first['tokens']} tokens, saves {first['saves']:,}" in lines[4]
    again = speakeasy(*args, "--force", "--json").result
    assert again["entries"] == result["entries"]
    other = speakeasy(*args, "--force", "--seed", 1, "--json").result
    assert other["held_out_tokens"] != result["held_out_tokens"]


def test_suggest_shows_tables(model: Path) -> None:
    done = speakeasy("vocab", "suggest", "--model", model)
    assert done.stdout == ""
    for text in (
        "taking the conversations and texts",
        f"the first of {DEFAULT_ENTRIES} forms",
        f"... and {DEFAULT_ENTRIES - 30} more",
        "saved on text held out",
        "answers",
        "2,000",
        "forms could have an entry",
    ):
        assert text in done.stderr


def test_suggest_leaves_forms_of_few_tokens_out_unless_told(model: Path) -> None:
    """Without --entries, what the docs recommend; with it, whatever saves most."""
    args = ("vocab", "suggest", "--model", model, "--json")
    proposed, most, told = (
        speakeasy(*args, *more).result
        for more in ((), ("--entries", 300), ("--entries", 300, "--min-tokens", 4))
    )
    assert (proposed["min_tokens"], most["min_tokens"], told["min_tokens"]) == (4, 2, 4)
    assert proposed["entries"] == told["entries"]
    assert min(item["tokens"] for item in proposed["entries"]) == 4
    assert sum(item["saves"] for item in most["entries"]) > sum(
        item["saves"] for item in proposed["entries"]
    )


def test_suggest_by_distinctiveness(model: Path, chats: Path) -> None:
    args = ("vocab", "suggest", chats, "--model", model, "--entries", 30, "--distinctive")
    result = speakeasy(*args, "--json").result
    assert all(item["times_spanish"] > 1 for item in result["entries"])
    assert "times Spanish" in speakeasy(*args).stderr


def test_suggest_says_when_nothing_could_be_held_out(model: Path, tmp_path: Path) -> None:
    story = tmp_path / "story.txt"
    story.write_text("xafogor " * 20, encoding="utf-8")
    done = speakeasy("vocab", "suggest", story, "--model", model)
    assert "Too little text to hold any out" in done.stderr
    result = speakeasy("vocab", "suggest", story, "--model", model, "--json").result
    assert result["held_out_tokens"] == {}


def test_suggest_overwrites_nothing(model: Path, chats: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken.txt"
    taken.write_text("mine", encoding="utf-8")
    for output, message in (
        (taken, "exists; choose another name, or add --force"),
        (tmp_path, "is a directory"),
        (chats, "is read as well"),
    ):
        done = speakeasy(
            "vocab", "suggest", chats, "--model", model, "--output", output, check=False
        )
        assert done.returncode == 2
        assert message in done.stderr
    assert taken.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("check", "--categories", "food"), "--categories food: expected one of interjections"),
        (("check", "--words", "none.txt"), "none.txt: cannot be read"),
        (("check", "--train-file", "none.jsonl"), "none.jsonl: no such file"),
        (("suggest", "none"), "none: no such file or directory"),
        (("suggest", "--eval-fraction", "1"), "--eval-fraction 1.0: expected a number between"),
        (("suggest", "--entries", "0"), "0 is not in the range"),
    ],
)
def test_what_cannot_be_is_one_line(model: Path, words: tuple[str, ...], message: str) -> None:
    done = speakeasy("vocab", *words, "--model", model, "--json", check=False)
    assert done.returncode in (1, 2)
    assert message in done.result["error"]
    assert done.stderr.splitlines()[-1].startswith("error: ")


def test_help_teaches_with_examples() -> None:
    for name in ("check", "suggest"):
        text = speakeasy("vocab", name, "--help").stdout
        assert "Examples:" in text
        assert f"speakeasy vocab {name}" in text
    assert "vocab expand" in speakeasy("vocab", "--help").stdout
