"""``speakeasy data``: what the commands print, write, refuse and exit with."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from speakeasy.cli.data_files import FORMAT_CHOICES
from speakeasy.cli.main import main
from speakeasy.data.dataset import load_conversations, starter_conversations
from speakeasy.data.formats import FORMATS


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["data", *map(str, words)])


def run_json(*words: str | Path, status: int = 0) -> dict[str, Any]:
    """The one object on stdout."""
    result = run(*words, "--json")
    assert result.exit_code == status, result.stderr
    return json.loads(result.stdout)


def record(user: str, assistant: str, **fields: object) -> str:
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return json.dumps({"messages": messages, **fields}, ensure_ascii=False)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Two conversations, which are the same, and two problems."""
    path = tmp_path / "mixed.jsonl"
    lines = [record("a", "b"), "oops", record("A", "b", kind="chat"), "caf\xe9"]
    path.write_bytes(b"\n".join(line.encode("latin-1") for line in lines))
    return path


def test_format_choices_are_the_formats() -> None:
    assert FORMAT_CHOICES == FORMATS


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from speakeasy.cli.data import data; data(['--help'], standalone_mode=False);"
        "sys.exit(any(m in sys.modules for m in ('numpy', 'rich', 'speakeasy.data.formats')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_without_a_file_the_starter_data_is_taken_and_named() -> None:
    status = run_json("status")
    assert (status["conversations"], status["starter"], status["verdict"]) == (1008, True, "enough")
    result = run("check")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "starter data" in result.stderr
    assert "No problem" in result.stderr


def test_check_lists_problems_and_duplicates(mixed: Path) -> None:
    report = run_json("check", mixed, status=1)
    assert not report["ok"]
    assert [(problem["file"], problem["line"]) for problem in report["problems"]] == [
        (str(mixed), 2),
        (str(mixed), 4),
    ]
    assert report["duplicates"] == [
        {"exact": True, "similarity": 1.0, "members": [f"{mixed}:1", f"{mixed}:3"]}
    ]
    result = run("check", mixed)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"{mixed}:2: is not JSON" in result.stderr
    assert f"{mixed}:1: exact duplicate of {mixed}:3" in result.stderr


def test_check_prints_some_and_reports_all(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("oops\n" * 50)
    result = run("check", path)
    assert result.stderr.count("is not JSON") == 20
    assert "... and 30 more problems" in result.stderr
    assert len(run_json("check", path, status=1)["problems"]) == 50


def test_status_in_words(mixed: Path) -> None:
    result = run("status", mixed)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "2 conversations, 2 problems" in result.stderr
    assert "too few" in result.stderr


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    result = run("status", tmp_path / "none.jsonl")
    assert result.exit_code == 1
    assert result.stderr == (
        f"error: {tmp_path}/none.jsonl: no such file or directory; check the spelling\n"
    )


def test_import_refuses_problems_and_writes_nothing(mixed: Path, tmp_path: Path) -> None:
    result = run("import", mixed, "--output", tmp_path / "out.jsonl")
    assert result.exit_code == 1
    assert f"{mixed}:2: is not JSON" in result.stderr
    assert "1 more; --rejects FILE" in result.stderr
    assert list(tmp_path.iterdir()) == [mixed]


def test_import_keeps_everything_with_rejects(mixed: Path, tmp_path: Path) -> None:
    output, rejects = tmp_path / "out.jsonl", tmp_path / "rejects.jsonl"
    report = run_json("import", mixed, "--output", output, "--rejects", rejects)
    assert (report["conversations"], report["problems"]) == (2, 2)
    first, second = (json.loads(line) for line in rejects.read_text().splitlines())
    assert (first["origin"], first["raw"]) == (f"{mixed}:2", "oops")
    assert "is not JSON" in first["reason"]
    assert base64.b64decode(second["raw_base64"]) == b"caf\xe9"
    one, two = (json.loads(line) for line in output.read_text().splitlines())
    assert (one["id"], one["domain"]) == ("mixed:1", "mixed")
    assert two["kind"] == "chat"


def test_import_without_a_sound_record_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("oops\n")
    result = run("import", path, "--output", tmp_path / "o", "--rejects", tmp_path / "r")
    assert result.exit_code == 1
    assert "nothing was written" in result.stderr
    assert list(tmp_path.iterdir()) == [path]


def test_import_overwrites_on_request_only_and_never_its_source(
    mixed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text("precious")
    source = tmp_path / "good.jsonl"
    source.write_text(record("a", "b"))
    refused = run("import", source, "--output", output)
    assert (refused.exit_code, output.read_text()) == (2, "precious")
    assert "add --force" in refused.stderr
    assert run("import", source, "--output", source, "--force").exit_code == 2
    twice = run("import", source, "--output", output, "--rejects", output, "--force")
    assert twice.exit_code == 2
    assert output.read_text() == "precious"
    assert run("import", source, "--output", output, "--force").exit_code == 0
    assert len(load_conversations([output])) == 1


def test_nfc_on_request_only(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "plaça")
    source = tmp_path / "x.jsonl"
    source.write_text(record(decomposed, "b"), encoding="utf-8")
    plain, normal = tmp_path / "plain.jsonl", tmp_path / "normal.jsonl"
    report = run_json("import", source, "--output", plain)
    assert (report["not_nfc"], report["normalized"]) == (1, 0)
    assert run_json("import", source, "--output", normal, "--nfc")["normalized"] == 1
    texts = [load_conversations([path])[0].turns[0].content for path in (plain, normal)]
    assert texts == [decomposed, "plaça"]


def test_import_then_read_gives_the_same(tmp_path: Path) -> None:
    source, output = tmp_path / "x.csv", tmp_path / "out.jsonl"
    source.write_text('prompt,completion,kind\n¿Què?,Res,chat\n"a\nb",c,\n', encoding="utf-8")
    assert run_json("import", source, "--output", output)["files"][0]["format"] == "csv"
    before, after = load_conversations([source]), load_conversations([output])
    assert [item.turns for item in after] == [item.turns for item in before]
    assert [item.id for item in after] == ["x:2", "x:3"]
    assert [item.fields for item in after] == [
        {"kind": "chat", "domain": "x"},
        {"kind": "", "domain": "x"},
    ]


def test_split_writes_both_parts_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "split"
    report = run_json("split", "--output_dir", folder, "--eval_count", "100", "--seed", "3")
    assert (report["train"], report["eval"], report["starter"]) == (908, 100, True)
    assert sum(row["eval"] for row in report["strata"].values()) == 100
    train = load_conversations([folder / "train.jsonl"])
    held_out = load_conversations([folder / "eval.jsonl"])
    packaged = {item.id: item for item in starter_conversations()}
    assert {item.id for item in train + held_out} == set(packaged)
    for item in train + held_out:
        assert item.turns == packaged[item.id].turns
        assert item.fields["domain"] == packaged[item.id].domain
    again = run("split", "--output-dir", folder)
    assert again.exit_code == 1
    assert "already exists" in again.stderr


def test_split_prints_a_table(tmp_path: Path) -> None:
    source = tmp_path / "x.jsonl"
    kinds = ["chat"] * 10 + ["roleplay"] * 20
    lines = [record(f"u{n} v{n}", f"w{n} x{n}", kind=kind) for n, kind in enumerate(kinds)]
    source.write_text("\n".join(lines))
    result = run("split", source, "--output-dir", tmp_path / "s", "--by", "kind")
    assert (result.exit_code, result.stdout) == (0, "")
    rows = [line.split() for line in result.stderr.splitlines()]
    assert ["chat", "9", "1"] in rows
    assert ["roleplay", "18", "2"] in rows
    assert ["all", "27", "3"] in rows


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--by", "topic"], 2, "--by topic: no conversation has this field"),
        (["--eval-count", "5", "--eval-fraction", "0.5"], 2, "cannot be combined"),
        (["--eval-fraction", "2"], 2, "--eval-fraction 2.0"),
    ],
)
def test_split_refusals(tmp_path: Path, words: list[str], status: int, message: str) -> None:
    result = run("split", "--output-dir", tmp_path / "s", *words)
    assert result.exit_code == status
    assert message in result.stderr
    assert not (tmp_path / "s").exists()


def test_split_refuses_problems(mixed: Path, tmp_path: Path) -> None:
    result = run("split", mixed, "--output-dir", tmp_path / "s")
    assert result.exit_code == 1
    assert "speakeasy data check" in result.stderr
    assert not (tmp_path / "s").exists()
