"""Readers: each format, each refusal, and that no bytes whatever make them crash or lose a line."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speakeasy.data import json_array, records
from speakeasy.data.chat import Conversation, Turn
from speakeasy.data.formats import FORMATS, Format, detect, read_conversations
from speakeasy.data.records import Problem
from speakeasy.data.tables import read_table

USER = {"role": "user", "content": "Bon dia!"}
ASSISTANT = {"role": "assistant", "content": "Bon dia, nen!"}
SYSTEM = {"role": "system", "content": "Eres del barrio."}

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
CONTENTS = TEXTS.filter(str.strip)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, str]]:
    """Messages of a sound conversation."""
    system = [{"role": "system", "content": draw(CONTENTS)}] if draw(st.booleans()) else []
    pairs = draw(st.lists(st.tuples(CONTENTS, CONTENTS), min_size=1, max_size=3))
    return system + [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


def read(path: Path, format: Format | None = None) -> list[Conversation | Problem]:
    return list(read_conversations(path, format))


def read_text(folder: Path, text: str | bytes, name: str = "x.jsonl") -> list[Any]:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read(path)


def reason(folder: Path, record: object) -> str:
    """Why the only record of a file is refused."""
    (problem,) = read_text(folder, json.dumps(record))
    assert isinstance(problem, Problem), problem
    assert problem.raw == json.dumps(record).encode()
    return problem.reason


def contents(item: Conversation | Problem) -> list[tuple[str, str]]:
    assert isinstance(item, Conversation), item
    return [(turn.role, turn.content) for turn in item.turns]


# Each format ------------------------------------------------------------------------------


def test_messages_keep_id_and_fields(tmp_path: Path) -> None:
    record = {"id": 7, "kind": "chat", "tags": ["a"], "messages": [SYSTEM, USER, ASSISTANT]}
    (item,) = read_text(tmp_path, "\n" + json.dumps(record) + "\n", "barri.jsonl")
    assert item.turns == (
        Turn("system", "Eres del barrio."),
        Turn("user", "Bon dia!"),
        Turn("assistant", "Bon dia, nen!"),
    )
    assert item.id == "7"
    assert item.fields == {"kind": "chat", "tags": ["a"]}
    assert (item.origin.line, item.domain) == (2, "barri")


def test_without_id_the_place_names_a_conversation(tmp_path: Path) -> None:
    (item,) = read_text(tmp_path, json.dumps({"messages": [USER, ASSISTANT]}))
    assert item.id == "x:1"


def test_text_parts_are_joined(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "Bon "}, {"type": "text", "text": "dia!"}]
    (item,) = read_text(
        tmp_path, json.dumps({"messages": [{"role": "user", "content": parts}, ASSISTANT]})
    )
    assert contents(item)[0] == ("user", "Bon dia!")


@pytest.mark.parametrize(
    ("user", "assistant", "who", "what"),
    [("human", "gpt", "from", "value"), ("user", "assistant", "role", "content")],
)
def test_sharegpt(tmp_path: Path, user: str, assistant: str, who: str, what: str) -> None:
    messages = [{who: user, what: "Hola"}, {who: assistant, what: "Ei!"}]
    record = {"conversations": messages, "system": "Breve.", "lang": "ca"}
    (item,) = read_text(tmp_path, json.dumps(record))
    assert contents(item) == [("system", "Breve."), ("user", "Hola"), ("assistant", "Ei!")]
    assert item.fields == {"lang": "ca"}


def test_alpaca_with_input_history_and_system(tmp_path: Path) -> None:
    record = {
        "instruction": "Traduce.",
        "input": "Good morning",
        "output": "Bon dia",
        "system": "Breve.",
        "history": [["Hola", "Ei!"]],
    }
    (item,) = read_text(tmp_path, json.dumps(record))
    assert contents(item) == [
        ("system", "Breve."),
        ("user", "Hola"),
        ("assistant", "Ei!"),
        ("user", "Traduce.\n\nGood morning"),
        ("assistant", "Bon dia"),
    ]
    assert item.fields == {}


def test_alpaca_without_input(tmp_path: Path) -> None:
    (item,) = read_text(tmp_path, json.dumps({"instruction": "a", "input": "", "output": "b"}))
    assert contents(item) == [("user", "a"), ("assistant", "b")]


@pytest.mark.parametrize(
    ("prompt", "completion"), [("Bon dia!", "Bon dia, nen!"), ([USER], [ASSISTANT])]
)
def test_prompt_completion(tmp_path: Path, prompt: object, completion: object) -> None:
    (item,) = read_text(tmp_path, json.dumps({"prompt": prompt, "completion": completion}))
    assert contents(item) == [("user", "Bon dia!"), ("assistant", "Bon dia, nen!")]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("start", [b"", records.UTF8_BOM])
def test_csv_with_a_conversation_a_row(tmp_path: Path, delimiter: str, start: bytes) -> None:
    table = StringIO()
    writer = csv.writer(table, delimiter=delimiter)
    writer.writerows([["prompt", "completion", "system", "domain"], ["a\nb", 'c, "d"; e', "", "x"]])
    (item,) = read_text(tmp_path, start + table.getvalue().encode(), "t.csv")
    assert contents(item) == [("user", "a\nb"), ("assistant", 'c, "d"; e')]
    assert (item.domain, item.origin.line) == ("x", 2)


def test_csv_with_a_message_a_row(tmp_path: Path) -> None:
    rows = (
        "conversation_id,role,content,kind\n7,user,a,k\n7,assistant,b,k\n"
        "8,user,c,\n8,assistant,d,\n"
    )
    first, second = read_text(tmp_path, rows, "t.csv")
    assert (first.id, contents(first)) == ("7", [("user", "a"), ("assistant", "b")])
    assert first.fields == {"kind": "k"}
    assert (second.id, second.origin.line) == ("8", 4)


def test_csv_broken_row_spoils_the_conversations_beside_it(tmp_path: Path) -> None:
    rows = (
        "conversation_id,role,content\n1,user,a\n1,assistant,b\n2,user\n2,user,c\n2,assistant,d\n"
        "3,user,e\n3,assistant,f\n"
    )
    items = read_text(tmp_path, rows, "t.csv")
    found = [(item.origin.line, isinstance(item, Problem)) for item in items]
    assert sorted(found) == [(2, True), (4, True), (5, True), (7, False)]


def test_csv_conversation_in_two_places_is_a_problem(tmp_path: Path) -> None:
    rows = "conversation_id,role,content\n" + "1,user,a\n1,assistant,b\n2,user,a\n2,assistant,b\n"
    items = read_text(tmp_path, rows + "1,user,c\n1,assistant,d\n", "t.csv")
    assert [isinstance(item, Problem) for item in items] == [False, False, True]
    assert "ended further up" in items[2].reason


def test_csv_with_a_wrong_header_refuses_every_row(tmp_path: Path) -> None:
    items = read_text(tmp_path, "question,answer\na,b\nc,d\n", "t.csv")
    assert [item.origin.line for item in items] == [1, 2, 3]
    assert "expected prompt, completion or conversation_id, role, content" in items[0].reason


@pytest.mark.parametrize("name", ["x.json", "x.txt"])
def test_array_of_records(tmp_path: Path, name: str) -> None:
    good = {"messages": [USER, {"role": "assistant", "content": 'a "]},[{" b\\'}]}
    text = json.dumps([good, good], indent=1)
    first, second = read_text(tmp_path, records.UTF8_BOM + b"\n " + text.encode(), name)
    assert contents(first) == contents(second)
    assert contents(first)[1] == ("assistant", 'a "]},[{" b\\')
    lines = text.splitlines()
    assert (first.origin.line, second.origin.line) == (3, lines.index(" {", 2) + 2)


def test_array_goes_on_behind_a_broken_element(tmp_path: Path) -> None:
    good = json.dumps({"messages": [USER, ASSISTANT]})
    items = read_text(tmp_path, f"[\n{good},\n{{'a': 1}},\n{good}\n,5]", "x.json")
    assert [isinstance(item, Problem) for item in items] == [False, True, False, True]
    assert [item.origin.line for item in items] == [2, 3, 4, 5]


@pytest.mark.parametrize("text", ["[{}", '[{"a": "', "[{}] x", "[", "[{},"])
def test_array_that_does_not_end_well_has_a_problem_at_its_end(tmp_path: Path, text: str) -> None:
    last = read_text(tmp_path, text, "x.json")[-1]
    assert isinstance(last, Problem)
    assert 'expected "]"' in last.reason


@given(st.lists(conversations(), max_size=4), st.integers(1, 50), st.sampled_from([None, 1]))
def test_array_elements_do_not_depend_on_chunks(
    made: list[list[dict[str, str]]], chunk: int, indent: int | None
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_array, "_CHUNK_BYTES", chunk)
        path = Path(folder) / "x.json"
        path.write_text(json.dumps([{"messages": item} for item in made], indent=indent))
        items = read(path)
    assert [item.to_messages() for item in items if isinstance(item, Conversation)] == made
    assert len(items) == len(made)


# Detection --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "format"),
    [
        ({"messages": []}, "messages"),
        ({"conversations": []}, "sharegpt"),
        ({"instruction": "", "output": ""}, "alpaca"),
        ({"prompt": "", "completion": ""}, "prompt-completion"),
        ({"text": ""}, "messages"),
    ],
)
def test_detection_by_fields(tmp_path: Path, record: object, format: Format) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("broken\n" + json.dumps(record) + "\n")
    found = detect(path)
    assert found.format == format
    assert ("line 2" in found.reason) != ("text" in record)  # type: ignore[operator]


def test_detection_by_suffix_and_override(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("prompt,completion\na,b\n")
    assert detect(path).format == "csv"
    other = path.rename(tmp_path / "x.txt")
    assert all(isinstance(item, Problem) for item in read(other))
    assert [contents(item) for item in read(other, "csv")] == [[("user", "a"), ("assistant", "b")]]


# Refusals ---------------------------------------------------------------------------------


def test_the_line_that_the_user_reads(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    bot = {"role": "bot", "content": "Hola"}
    path.write_text("\n" * 16 + json.dumps({"messages": [USER, ASSISTANT, bot]}))
    (problem,) = read(path)
    assert str(problem) == (
        f'{path}:17: message 3 has role "bot"; expected system, user or assistant'
    )


TOOL_CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {}}]}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([], "no messages"),
        ([ASSISTANT], "message 1 is from the assistant; expected the user to begin"),
        ([SYSTEM, ASSISTANT], "message 2 is from the assistant"),
        ([USER], "ends with a user message"),
        ([SYSTEM], "ends with a system message"),
        ([USER, ASSISTANT, USER], "ends with a user message"),
        ([USER, USER, ASSISTANT], "messages 1 and 2 are both from the user"),
        ([USER, ASSISTANT, ASSISTANT], "messages 2 and 3 are both from the assistant"),
        ([USER, SYSTEM, ASSISTANT], "message 2 is from the system"),
        ([SYSTEM, SYSTEM, USER, ASSISTANT], "message 2 is from the system"),
        ([USER, TOOL_CALL], 'message 2 has "tool_calls"'),
        ([USER, {"role": "tool", "content": "4"}], "message 2 is from a tool"),
        ([IMAGE, ASSISTANT], 'message 1 has a part of type "image_url"'),
        ([{"role": "user", "content": []}, ASSISTANT], "message 1 is empty"),
        ([{"role": "user", "content": " \n"}, ASSISTANT], "message 1 is empty"),
        ([{"role": "user"}, ASSISTANT], "message 1 has null as its content"),
        ([{"role": "user", "content": 5}, ASSISTANT], "message 1 has a number as its content"),
        ([{"role": "user", "content": "a\0b"}, ASSISTANT], "message 1 holds a NUL"),
        ([{"role": "user", "content": "\ud83d"}, ASSISTANT], "half of a surrogate pair"),
        ([{"role": ["user"], "content": "a"}, ASSISTANT], 'role ["user"]'),
        ([{"role": "a\x1b[2J\x9b\u2028", "content": "a"}], r'role "a\u001b[2J\x9b\u2028"'),
        ([USER, {**ASSISTANT, "weight": 0}], "weight 0"),
        (["Hola", "Ei"], "message 1 is text; expected an object"),
        ({"role": "user"}, '"messages" is an object; expected an array'),
    ],
)
def test_refused_messages(tmp_path: Path, messages: object, expected: str) -> None:
    assert expected in reason(tmp_path, {"messages": messages})


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ([USER, ASSISTANT], "is an array; expected one JSON object"),
        ({"text": "a"}, 'has no "messages"; expected messages (fields here: "text")'),
        ({"messages": [USER, ASSISTANT], "tools": [{}]}, "offers tools"),
        ({"messages": [USER, ASSISTANT], "id": [1]}, '"id" is an array'),
        ({"conversations": [{"from": "bot", "value": "a"}]}, 'message 1 is from "bot"'),
        ({"conversations": [{"from": "observation", "value": "a"}]}, "message 1 is from a tool"),
        ({"conversations": ["a"]}, "message 1 is text"),
        ({"conversations": [], "messages": 5}, '"messages" is a number'),
        ({"instruction": "a", "output": ""}, '"output" is empty'),
        ({"instruction": "a", "output": "b", "history": 5}, '"history" is a number'),
        ({"instruction": "a", "output": "b", "history": ["a"]}, "expected [question, answer]"),
        ({"prompt": "a", "completion": None}, '"completion" has null as its content'),
        ({"prompt": [USER], "completion": [5]}, "message 2 is a number"),
    ],
)
def test_refused_records(tmp_path: Path, record: object, expected: str) -> None:
    assert expected in reason(tmp_path, record)


def test_a_record_of_another_format_is_named(tmp_path: Path) -> None:
    lines = [{"messages": [USER, ASSISTANT]}, {"prompt": "a", "completion": "b"}]
    items = read_text(tmp_path, "\n".join(map(json.dumps, lines)))
    assert "it looks like prompt-completion" in items[1].reason


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"messages": "caf\xe9"}', "byte 18 of the record (0xe9) is not UTF-8"),
        (b'\xff\xfe{\0"\0', "the file is UTF-16"),
        (b'{"messages": "a\0"}', "NUL byte at column 16"),
        (b'{"messages": [{"role": "us', "ends within the JSON"),
        (b'{"messages": [', "ends within the JSON"),
        (b"{'messages': []}", "is not JSON at column 2"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b'{"a": 1e999}', "too large a number"),
        (b'{"a": ' + b"1" * 5000 + b"}", "is not JSON"),
        (b'{"a": "\\ud800"}', "U+D800, half of a surrogate pair"),
        (b"[" * 100_000, "nested too deeply"),
        (b"5", "is a number; expected one JSON object"),
    ],
)
def test_broken_lines(tmp_path: Path, line: bytes, expected: str) -> None:
    good = json.dumps({"messages": [USER, ASSISTANT]}).encode()
    (problem, after) = read_text(tmp_path, line + b"\r\n \r\n" + good)
    assert expected in problem.reason
    assert problem.raw == line
    assert isinstance(after, Conversation)
    assert after.origin == records.Origin(tmp_path / "x.jsonl", 3)


@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
def test_a_huge_record_is_passed_over(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MAX_RECORD_BYTES", 200)
    good = json.dumps({"messages": [USER, ASSISTANT]})
    lines = [good, json.dumps({"a": "x" * 1000}), good]
    text = "\n".join(lines) if name == "x.jsonl" else "[" + ",\n".join(lines) + "]"
    items = read_text(tmp_path, text, name)
    assert [isinstance(item, Problem) for item in items] == [False, True, False]
    assert [item.origin.line for item in items] == [1, 2, 3]
    assert len(items[1].raw) == 200


# Properties -------------------------------------------------------------------------------

GOOD_FILES: dict[str, bytes] = {
    "x.jsonl": "\n".join(
        json.dumps({"messages": [SYSTEM, USER, ASSISTANT], "n": n}) for n in range(4)
    ).encode(),
    "y.jsonl": b'{"prompt": "a\\u00e0", "completion": "b"}\r\n' * 2,
    "x.json": json.dumps([{"messages": [USER, ASSISTANT]}] * 3, indent=1).encode(),
    "x.csv": 'prompt,completion,k\n¡Nen!,Ei,1\n"a\nb",c,2\nd,e,3\n'.encode(),
    "y.csv": b"conversation_id,role,content\n1,user,a\n1,assistant,b\n2,user,c\n2,assistant,d\n",
}
SPLICES = st.lists(
    st.tuples(st.integers(0, 500), st.integers(0, 20), st.binary(max_size=8)), max_size=4
)


def mutate(data: bytes, splices: list[tuple[int, int, bytes]]) -> bytes:
    for at, removed, inserted in splices:
        at = at % (len(data) + 1)
        data = data[:at] + inserted + data[at + removed :]
    return data


@given(st.sampled_from(sorted(GOOD_FILES)), SPLICES, st.sampled_from([None, *FORMATS]))
def test_no_bytes_crash_a_reader(
    name: str, splices: list[tuple[int, int, bytes]], format: Format | None
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(mutate(GOOD_FILES[name], splices))
        lines = path.read_bytes().count(b"\n") + 1
        for item in read(path, format):
            assert item.origin is not None
            assert 1 <= item.origin.line <= lines
            if isinstance(item, Problem):
                assert item.reason.isprintable()  # one line, nothing that drives a terminal


@given(st.sampled_from(["x.jsonl", "x.json"]), SPLICES)
def test_json_records_and_problems_together_are_the_whole_file(
    name: str, splices: list[tuple[int, int, bytes]]
) -> None:
    data = mutate(GOOD_FILES[name], splices)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        pieces = b"".join(item.raw for item in records.read_records(path))
    between = b" \t\n\r\v\f,[]"  # what may stand between the elements of an array
    data = data.removeprefix(records.UTF8_BOM)
    assert pieces.translate(None, between) == data.translate(None, between)


@given(SPLICES)
def test_every_line_is_a_conversation_or_a_problem(splices: list[tuple[int, int, bytes]]) -> None:
    data = mutate(GOOD_FILES["x.jsonl"], splices)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.jsonl"
        path.write_bytes(data)
        items = read(path)
    lines = data.removeprefix(records.UTF8_BOM).split(b"\n")
    filled = [number for number, line in enumerate(lines, 1) if line.strip()]
    assert [item.origin.line for item in items if item.origin] == filled
    for item in items:
        if isinstance(item, Problem):
            assert item.raw == lines[item.origin.line - 1].rstrip(b"\r")


@given(st.lists(st.tuples(CONTENTS, CONTENTS), max_size=4))
def test_csv_round_trip(pairs: list[tuple[str, str]]) -> None:
    table = StringIO()
    csv.writer(table).writerows([("prompt", "completion"), *pairs])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.csv"
        path.write_bytes(table.getvalue().encode())
        items = read(path)
    expected = [[("user", user), ("assistant", assistant)] for user, assistant in pairs]
    assert [contents(item) for item in items] == expected


@given(SPLICES)
def test_csv_rows_and_problems_together_are_the_whole_file(
    splices: list[tuple[int, int, bytes]],
) -> None:
    header, body = GOOD_FILES["x.csv"].split(b"\n", 1)
    body = mutate(body, splices)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.csv"
        path.write_bytes(header + b"\n" + body)
        pieces = b"".join(item.raw for item in read_table(path))
    assert pieces.split() == body.split()


MAKERS: dict[Format, Callable[[list[dict[str, str]]], dict[str, Any]]] = {
    "messages": lambda messages: {"messages": messages},
    "sharegpt": lambda messages: {
        "conversations": [
            {
                "from": {"user": "human", "assistant": "gpt"}.get(item["role"], "system"),
                "value": item["content"],
            }
            for item in messages
        ]
    },
    "prompt-completion": lambda messages: {"prompt": messages[:-1], "completion": messages[-1:]},
}


@given(conversations(), st.sampled_from(sorted(MAKERS)), st.booleans())
def test_formats_agree(messages: list[dict[str, str]], format: Format, ascii_only: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.jsonl"
        record = MAKERS[format](messages)
        path.write_text(json.dumps(record, ensure_ascii=ascii_only), encoding="utf-8")
        assert detect(path).format == format
        (item,) = read(path)
    assert isinstance(item, Conversation)
    assert item.to_messages() == messages
