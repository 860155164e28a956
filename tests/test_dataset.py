"""Data sets: finding files, refusing the broken, the packaged starter data, figures."""

from __future__ import annotations

import json
import tempfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speakeasy.data.chat import Conversation, Origin, Turn
from speakeasy.data.dataset import (
    find_files,
    load_conversations,
    read_dataset,
    starter_conversations,
    starter_files,
)
from speakeasy.data.status import summarize
from speakeasy.errors import DataError

GOOD = json.dumps(
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
)


def say(user: str, assistant: str, **fields: str) -> Conversation:
    return Conversation((Turn("user", user), Turn("assistant", assistant)), fields=fields)


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_directories_stand_for_their_data_files(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.json", "c.CSV", ".hidden.jsonl", "notes.txt"):
        write(tmp_path / name, GOOD)
    (tmp_path / "deeper.jsonl").mkdir()
    found = find_files([tmp_path / "b.jsonl", tmp_path, tmp_path / "." / "a.json"])
    assert [path.name for path in found] == ["b.jsonl", "a.json", "c.CSV"]


@pytest.mark.parametrize(("name", "expected"), [("none.jsonl", "no such file"), ("", "no data")])
def test_missing_data(tmp_path: Path, name: str, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        find_files([tmp_path / name])


def test_load_raises_at_the_first_problem_with_the_number_of_others(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", GOOD, "oops", GOOD, "oops", "oops")
    with pytest.raises(DataError) as error:
        load_conversations([path])
    assert str(error.value).startswith(f"{path}:2: is not JSON")
    assert str(error.value).endswith(f"(2 more; see all: speakeasy data check {path})")


def test_load_keeps_the_order_of_files(tmp_path: Path) -> None:
    one, two = write(tmp_path / "1.jsonl", GOOD, GOOD), write(tmp_path / "0.jsonl", GOOD)
    assert [item.id for item in load_conversations([one, two])] == ["1:1", "1:2", "0:1"]


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv"])
def test_an_empty_file_is_a_problem(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b" \n\n" if name != "x.csv" else b"prompt,completion\n")
    dataset = read_dataset([path])
    assert [str(problem) for problem in dataset.problems] == [
        f"{path}:1: the file holds no record; expected conversations"
    ]


def test_an_unreadable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.jsonl", GOOD)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything, so chmod proves nothing
    with pytest.raises(DataError, match=r"x\.jsonl: cannot be read \(Permission denied\)"):
        load_conversations([path])


def test_starter_data_is_sound_and_of_the_recommended_size() -> None:
    dataset = read_dataset(starter_files())
    assert dataset.problems == []
    assert (len(dataset.conversations), len(dataset.sources)) == (1008, 18)
    assert dataset.conversations == starter_conversations()
    status = summarize(dataset.conversations)
    assert status.verdict == "enough"
    assert (status.exact_duplicates, status.near_duplicates, status.not_nfc) == (0, 0, 0)
    assert len(status.fields["domain"]) == 18
    assert sum(status.fields["register"].values()) == 1008
    assert len({item.id for item in dataset.conversations}) == 1008


def test_figures() -> None:
    decomposed = unicodedata.normalize("NFD", "¿Dónde está la plaça?")
    first = say(decomposed, "Aquí mismo, nen", domain="city")
    system = Conversation((Turn("system", "Uno dos"), *say("Bon dia", "Apa, adéu").turns))
    status = summarize([first, say(decomposed.upper(), "aquí  mismo, nen", domain="city"), system])
    assert (status.conversations, status.turns, status.words) == (3, 7, 20)
    assert status.answer_words == 8
    assert status.bytes == sum(
        len(turn.content.encode()) for item in (first, first, system) for turn in item.turns
    ) + len("  ") - len(" ")
    assert status.fields == {"domain": {"city": 2, "(none)": 1}}
    assert status.words_percentiles == {0: 6, 10: 6, 50: 7, 90: 7, 99: 7, 100: 7}
    assert status.turns_percentiles == {0: 2, 10: 2, 50: 2, 90: 3, 99: 3, 100: 3}
    assert status.system_share == pytest.approx(1 / 3)
    assert (status.not_nfc, status.exact_duplicates, status.near_duplicates) == (2, 1, 0)
    assert (status.distinct, status.verdict) == (2, "too few")


@pytest.mark.parametrize(
    ("count", "verdict"),
    [(0, "too few"), (999, "too few"), (1000, "enough"), (10_001, "more than needed")],
)
def test_verdict_by_distinct_conversations(count: int, verdict: str) -> None:
    made = [say(f"u{n} v{n} w{n}", f"x{n} y{n}") for n in range(count)]
    assert summarize(made + made[:5]).verdict == verdict


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_nfc_changes_the_form_and_nothing_else(text: str) -> None:
    before = say(text, "b", domain=unicodedata.normalize("NFD", "àvia"))
    after = before.to_nfc()
    assert after.is_nfc
    assert before.is_nfc == (after == before)
    assert after.fields == before.fields
    assert unicodedata.normalize("NFD", after.turns[0].content) == unicodedata.normalize(
        "NFD", text
    )


CHARACTERS = st.characters(exclude_categories=["Cs"])
TEXTS = st.text(CHARACTERS, min_size=1).filter(lambda text: text.strip() and "\0" not in text)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(CHARACTERS),
    st.lists(st.text(CHARACTERS), max_size=2),
    st.dictionaries(st.text(CHARACTERS), st.integers(), max_size=2),
)
FIELDS = st.dictionaries(st.sampled_from(["kind", "domain", "x"]) | TEXTS, VALUES, max_size=4)


@given(TEXTS, TEXTS, TEXTS, FIELDS)
def test_a_written_record_reads_as_the_same_conversation(
    user: str, assistant: str, name: str, fields: dict[str, object]
) -> None:
    for taken in ("id", "messages", "tools", "functions"):
        fields.pop(taken, None)
    turns = (Turn("user", user), Turn("assistant", assistant))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "other.jsonl"
        before = Conversation(turns, name, fields, Origin(Path("barri.jsonl"), 5))
        write(path, json.dumps(before.to_record(), ensure_ascii=False))
        (after,) = load_conversations([path])
    assert (after.turns, after.id, after.domain) == (turns, name, before.domain)
    kept = {key: value for key, value in fields.items() if key != "domain" or value is not None}
    assert after.fields == {"domain": "barri", **kept}
