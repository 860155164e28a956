"""``speakeasy corpus``: what the commands print, write, refuse and exit with."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from speakeasy.cli.corpus import corpus
from speakeasy.corpus.filters import FILTERS
from speakeasy.corpus.starter import starter_text_files, starter_texts
from speakeasy.errors import SpeakeasyError

PAGE = Path(__file__).parents[1] / "docs" / "corpus.md"


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(corpus, list(map(str, words)))


def run_json(*words: str | Path) -> dict[str, Any]:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from speakeasy.cli.corpus import corpus;"
        "corpus(['build', '--help'], standalone_mode=False);"
        "sys.exit(any(m in sys.modules for m in ('numpy', 'rich', 'speakeasy.corpus.build')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_status_takes_the_packaged_texts() -> None:
    status = run_json("status")
    assert (status["documents"], status["starter"], status["verdict"]) == (160, True, "too little")
    result = run("status")
    assert result.stdout == ""
    assert "the texts that come with speakeasy" in result.stderr
    assert "Verdict: too little" in result.stderr
    assert "10 MB to 1 GB are recommended" in result.stderr


def test_build_then_status(tmp_path: Path) -> None:
    files = starter_text_files("ca", "es", "es-ca")
    output = tmp_path / "corpus"
    record = run_json("build", *files, "--output-dir", output, "--jobs", "1")
    assert record["documents"] == 230
    assert record["output_dir"] == str(output)
    status = run_json("status", output)
    assert (status["documents"], status["bytes"]) == (230, record["bytes"])
    assert {name: item["documents"] for name, item in status["languages"].items()} == {
        "ca": 80,
        "es": 150,  # es-ca is Spanish to whoever counts letters
    }


def test_build_in_words(tmp_path: Path) -> None:
    source = tmp_path / "x.txt"
    line = " ".join(starter_texts("ca")[0].text.split())
    source.write_text(f"{line}\n{line}\nCurt.\n", encoding="utf-8")
    (tmp_path / "empty.txt").touch()
    result = run("build", tmp_path, "--output-dir", tmp_path / "a", "--jobs", "1")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "dropped, too_short: 1" in result.stderr
    assert "dropped, duplicate: 1" in result.stderr
    assert "empty.txt: is empty" in result.stderr
    assert "language ca: 1 documents" in result.stderr


def test_status_says_what_a_build_dropped(tmp_path: Path) -> None:
    words = starter_texts("ca")[0].text.split()
    (tmp_path / "x.txt").write_text("\n".join(" ".join(words) for _ in range(3)), encoding="utf-8")
    built = run_json("build", tmp_path / "x.txt", "--output-dir", tmp_path / "a", "--jobs", "1")
    assert built["documents"] == 1
    status = run_json("status", tmp_path / "a")
    assert status["near_duplicates"] == 0
    assert status["removed_by_builds"] == {"duplicate": 2, "near_duplicate": 0}
    assert "2 exact, 0 near" in run("status", tmp_path / "a").stderr
    assert run_json("status")["removed_by_builds"] == {"duplicate": 0, "near_duplicate": 0}
    (tmp_path / "a" / "corpus.json").write_text("[]", encoding="utf-8")
    assert "not a record" in str(run("status", tmp_path / "a").exception)


def test_an_error_is_one_line(tmp_path: Path) -> None:
    result = run("build", tmp_path / "none", "--output-dir", tmp_path / "a")
    assert isinstance(result.exception, SpeakeasyError)
    assert "\n" not in str(result.exception)
    assert "no such file or directory" in str(result.exception)


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("speakeasy.corpus.work.os.fsync", full)
    result = run("build", *starter_text_files(), "--output-dir", tmp_path / "a", "--jobs", "1")
    assert isinstance(result.exception, SpeakeasyError)
    assert "what is done is kept" in str(result.exception)
    assert not (tmp_path / "a").exists()


def test_the_page_names_every_option_and_filter_and_no_other() -> None:
    page = PAGE.read_text(encoding="utf-8")
    known = {
        option
        for subcommand in corpus.commands.values()
        for parameter in subcommand.params
        for option in parameter.opts
        if option.startswith("--")
    }
    used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", page))
    assert used == known
    called = set(re.findall(r"speakeasy corpus ([a-z]+)", page))
    assert called == set(corpus.commands)
    section = page.split("## What is dropped, and why")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `([a-z_]+)` \|", section, re.MULTILINE)) == {
        *FILTERS,
        "language",
        "duplicate",
        "near_duplicate",
    }
