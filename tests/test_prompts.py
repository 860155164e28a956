from __future__ import annotations

import json
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from speakeasy.dialect.prompts import REGISTERS, Prompt, packaged_prompts, read_prompts
from speakeasy.errors import DataError, UsageError

SEED_PROMPTS = {
    "Responde a un saludo informal en español catalán",
    "Usa expresiones regionales para expresar sorpresa",
    "Despídete de un amigo usando expresiones de Barcelona",
}

lines_of_text = st.text(
    st.characters(exclude_categories=("C", "Z"), include_characters=" "), min_size=1
).filter(str.strip)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_packaged_prompts_are_what_the_guide_and_the_controls_ask_for() -> None:
    prompts = packaged_prompts()
    assert len(prompts) == len({prompt.id for prompt in prompts}) == 91
    assert {prompt.text for prompt in prompts if prompt.seed} == SEED_PROMPTS
    assert all(prompt.register in REGISTERS and prompt.category for prompt in prompts)
    assert all(prompt.control == (not prompt.expects) for prompt in prompts)


def test_packaged_prompts_by_category() -> None:
    chosen = packaged_prompts(["greeting", "farewell"])
    assert {prompt.category for prompt in chosen} == {"greeting", "farewell"}
    assert [p for p in packaged_prompts() if p in chosen] == list(chosen)
    with pytest.raises(UsageError, match=r"--category gretting: .*expected one of bar, .*greeting"):
        packaged_prompts(["gretting"])


def test_messages_of_a_prompt() -> None:
    prompt = Prompt("a", "hola", history=(("system", "old"), ("user", "x"), ("assistant", "y")))
    assert [m["role"] for m in prompt.to_messages()] == ["system", "user", "assistant", "user"]
    assert prompt.to_messages("new")[0] == {"role": "system", "content": "new"}
    assert len(prompt.to_messages("new")) == 4
    assert Prompt("a", "hola").to_messages() == [{"role": "user", "content": "hola"}]


@given(texts=st.lists(lines_of_text, min_size=1))
def test_text_file_is_a_prompt_a_line(
    texts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write(tmp_path_factory.mktemp("p") / "mine.txt", "\n\n".join(texts) + "\r\n")
    assert [prompt.text for prompt in read_prompts(path)] == [text.strip() for text in texts]
    assert [p.id for p in read_prompts(path)] == [f"mine:{2 * n + 1}" for n in range(len(texts))]


def test_toml_file_reads_back_what_was_written(tmp_path: Path) -> None:
    entries = [
        {"id": p.id, "text": p.text, "category": p.category, "register": p.register,
         "expects": list(p.expects), "control": p.control, "seed": p.seed}
        for p in packaged_prompts()
    ]  # fmt: skip
    path = write(tmp_path / "copy.toml", tomli_w.dumps({"prompt": entries}))
    assert read_prompts(path) == packaged_prompts()


def test_jsonl_file_takes_prompts_and_conversations(tmp_path: Path) -> None:
    records = [
        {"prompt": "Hola", "category": "greeting"},
        {"id": "b", "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "u1"},
            {"role": "assistant", "content": "a1"},
            {"role": "user", "content": "u2"},
            {"role": "assistant", "content": "the answer to be had"},
        ]},
    ]  # fmt: skip
    path = write(tmp_path / "x.jsonl", "\ufeff" + "\n".join(map(json.dumps, records)) + "\n")
    first, second = read_prompts(path)
    assert first == Prompt("x:1", "Hola", category="greeting")
    assert second == Prompt(
        "b", "u2", history=(("system", "s"), ("user", "u1"), ("assistant", "a1"))
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", '[[prompt]]\ntext = "a"\n\n[[prompt]]\ntext = 3\n', r"a\.toml:4: text is 3"),
        ("a.toml", '[[prompt]]\ntext = "a"\n\n[[prompt]]\ntxt = "b"\n', r"a\.toml:4: .*'text'"),
        ("a.toml", '[[prompt]]\ntext = "a\n', r"a\.toml:2: not TOML"),
        ("a.toml", 'prompt = "a"\n', r"a\.toml: prompt is no list"),
        ("a.toml", 'prompt = ["a"]\n', r"a\.toml:1: is a str"),
        ("a.toml", '[[prompt]]\ntext = "a"\nregister = "posh"\n', r":1: register is 'posh'"),
        ("a.toml", '[[prompt]]\ntext = "a"\nexpects = "x"\n', r":1: expects is 'x'"),
        ("a.toml", '[[prompt]]\ntext = "a"\ncontrol = 1\n', r":1: control is 1"),
        ("a.toml", "", r"a\.toml: holds no prompts"),
        ("a.jsonl", '{"prompt": "a"}\n\n{"prompt": \n', r"a\.jsonl:3: not JSON"),
        ("a.jsonl", '{"prompt": "a"}\n["b"]\n', r"a\.jsonl:2: is a list"),
        ("a.jsonl", '{"prompt": "a", "messages": []}', r"a\.jsonl:1: expected either"),
        ("a.jsonl", '{"messages": []}', r"a\.jsonl:1: no message of the user's"),
        ("a.jsonl", '{"messages": [{"role": "bot", "content": "x"}]}', r"message 1 has role 'bot'"),
        ("a.jsonl", '{"id": "x", "prompt": "a"}\n{"id": "x", "prompt": "b"}', r":2: id 'x' is"),
        ("a.jsonl", '{"prompt": "  "}', r"a\.jsonl:1: prompt is '  '"),
        ("a.txt", "\n \n", r"a\.txt: holds no prompts"),
        ("a.csv", "x", r"a\.csv: expected a file of prompts: \.toml, \.jsonl or \.txt"),
    ],
)
def test_problems_are_named_with_their_place(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_prompts(write(tmp_path / name, text))
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.txt: cannot be read: No such file"):
        read_prompts(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes("hola\nadéu\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.txt:2: not UTF-8"):
        read_prompts(tmp_path / "latin.txt")
