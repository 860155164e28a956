"""Dialogues to record, the two pages they are printed on, and the group ``prompts``."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from cli import speakeasy

from speakeasy.dialect.audio import Dialogue, Line, packaged_dialogues, read_dialogues
from speakeasy.dialect.audio_pages import HTML, LISTENING, MARKDOWN, html_page, markdown_page
from speakeasy.dialect.prompts import packaged_prompts
from speakeasy.errors import DataError

GOOD = """
[[prompt]]
text = "Saluda"

[[audio]]
id = "a"
title = "En la barra"
scenario = "Un bar."
lines = [{speaker = "A", text = "Bon dia."}, {speaker = "B", text = "Hola,  bon dia."}]
note = "Dark l."
"""


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


class Words(HTMLParser):
    """What a reader sees of a page, and the addresses that it would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.seen.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.seen).split())


def test_the_packaged_dialogues_are_all_there() -> None:
    dialogues = packaged_dialogues()
    assert [dialogue.id for dialogue in dialogues] == [f"audio-{n:02}" for n in range(1, 21)]
    assert all(dialogue.note and dialogue.speakers == ("A", "B") for dialogue in dialogues)
    assert dialogues[0].lines[0].text.startswith("Bon dia, Montse.")


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    [dialogue] = read_dialogues(written(tmp_path / "mine.toml", GOOD))
    assert dialogue == Dialogue(
        "a", "En la barra", "Un bar.", (Line("A", "Bon dia."), Line("B", "Hola, bon dia.")),
        "Dark l.",
    )  # fmt: skip
    assert (dialogue.speakers, dialogue.words) == (("A", "B"), 5)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "En la barra"', "", r":5: title is None; expected text"),
        ('scenario = "Un bar."', "scenario = 3", r":5: scenario is 3; expected text"),
        ('note = "Dark l."', 'notes = "x"', r":5: the dialogue has 'notes'; expected id, title"),
        ('note = "Dark l."', 'note = " "', r":5: note is ' '; expected text"),
        ('lines = [{speaker = "A", text = "Bon dia."}, ', "lines = [", "two lines at least"),
        ('{speaker = "A", text = "Bon dia."}', '"Bon dia."', "line 1: is a str; expected speaker"),
        ('speaker = "A"', 'who = "A"', "line 1: it has 'who'; expected speaker, text"),
        ("[[audio]]", "[[sound]]", r"holds 'sound'; expected \[\[prompt\]\] and \[\[audio\]\]"),
        ("Dark l.", 'Dark l."\n[[audio]]\nid = "b', "title is None"),
        ('id = "a"', "id = ", ":6: not TOML"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_line(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    assert old in GOOD
    with pytest.raises(DataError, match=message):
        read_dialogues(written(tmp_path / "mine.toml", GOOD.replace(old, new)))


def test_two_dialogues_of_one_name_and_a_file_without_any(tmp_path: Path) -> None:
    again = GOOD + GOOD.partition("[[audio]]")[2].join(("[[audio]]", ""))
    with pytest.raises(DataError, match="id 'a' is taken by line 5"):
        read_dialogues(written(tmp_path / "twice.toml", again))
    with pytest.raises(DataError, match="holds no dialogues"):
        read_dialogues(written(tmp_path / "none.toml", '[[prompt]]\ntext = "x"\n'))


def test_speakers_do_not_see_what_is_listened_for() -> None:
    dialogues = packaged_dialogues()
    for page in (markdown_page(dialogues), Words(html_page(dialogues)).text):
        for_speakers, for_listeners = page.split(LISTENING)
        for dialogue in dialogues:
            assert dialogue.title in for_speakers
            # Markdown writes [ɛ] as \[ɛ\].
            assert dialogue.note not in for_speakers
            assert dialogue.note in re.sub(r"\\(.)", r"\1", for_listeners)


def test_the_page_for_the_printer_needs_nothing_else_and_escapes_what_it_holds() -> None:
    hostile = Dialogue("x", "<script>", "*&", (Line("A", "<b>"), Line("B", "[a](b)")), "")
    page = html_page([hostile])
    read = Words(page)
    assert {"script", "b", "link", "img"}.isdisjoint(read.tags)
    assert read.loaded == []
    assert "http" not in page
    assert "1. <script> *& (x) A<b> B[a](b)" in read.text.replace(" A <", " A<")
    assert LISTENING not in page
    assert r"**B:** \[a\](b)" in markdown_page([hostile])


def test_both_pages_are_written(tmp_path: Path) -> None:
    done = speakeasy("prompts", "audio", "--output-dir", tmp_path / "new", "--json")
    files = [tmp_path / "new" / name for name in (MARKDOWN, HTML)]
    assert done.result["files"] == [str(file) for file in files]
    assert done.result["dialogues"] == 20
    before = [file.read_bytes() for file in files]
    refused = speakeasy("prompts", "audio", "--output-dir", tmp_path / "new", check=False)
    assert (refused.returncode, "--force" in refused.stderr) == (2, True)
    speakeasy("prompts", "audio", "--output-dir", tmp_path / "new", "--force")
    assert [file.read_bytes() for file in files] == before


def test_dialogues_of_ones_own_are_written(tmp_path: Path) -> None:
    mine = written(tmp_path / "mine.toml", GOOD)
    done = speakeasy("prompts", "audio", "--prompts", mine, "--output-dir", tmp_path)
    assert f"{tmp_path / MARKDOWN}: 1 dialogue\n" in done.stderr
    assert "## 1. En la barra" in (tmp_path / MARKDOWN).read_text(encoding="utf-8")


def test_the_list_shows_every_prompt(tmp_path: Path) -> None:
    listed = speakeasy("prompts", "list", "--json").result
    assert listed["count"] == len(packaged_prompts())
    assert listed["prompts"][0]["id"] == packaged_prompts()[0].id
    mine = written(tmp_path / "mine.txt", "¿Qué tal?\n[bold]Adiós\n")
    shown = speakeasy("prompts", "list", "--prompts", mine)
    assert "[bold]Adiós" in shown.stdout
    assert "2 prompts, 0 of them controls" in shown.stderr
    assert json.dumps(listed)
