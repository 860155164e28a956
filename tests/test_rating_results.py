"""What comes of a study: the report, the export, the pairs for training, all only when due."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cli import speakeasy
from rating_studies import SYSTEMS, answered, make_study

from speakeasy.rating.analysis import analyse
from speakeasy.rating.key import Key
from speakeasy.rating.report.page import report_page
from speakeasy.rating.study import Study
from speakeasy.rating.unblind import ballots_of, read_votes

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HEAVY = ("torch", "transformers", "tokenizers", "mlx", "mlx_lm", "peft", "numpy", "scipy")


@pytest.fixture(scope="module")
def voted(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = make_study(tmp_path_factory.mktemp("r") / "study", items=14, places=8, gold=2)
    store = answered(study, raters=8)
    store.close_study()
    store.end()
    return study


@pytest.fixture(scope="module")
def record(voted: Study) -> dict[str, Any]:
    return analyse(voted, read_votes(voted), Key.read(voted.path))


def test_ballots_name_the_models_behind_the_sides(voted: Study) -> None:
    key = Key.read(voted.path)
    ballots = ballots_of(voted, read_votes(voted), key)
    assert len(ballots) == 8 * 15
    for ballot in ballots:
        slot = voted.schedule[ballot.rater][ballot.position]
        owners = key.owners[ballot.item]
        expected = owners[::-1] if slot.swapped else owners
        assert (ballot.left, ballot.right, ballot.repeats) == (*expected, slot.repeats)
        if key.better[ballot.item] is not None:
            assert ballot.choice == ballot.gold
        assert ballot.ratings is not None
        assert ballot.ratings[0]["grammar"] in (4, None)


def test_the_report_finds_who_was_liked(record: dict[str, Any]) -> None:
    (found,) = record["all"]["preferences"]
    assert found["differs"]
    assert found["score"] > 0.8
    assert record["verdict"][0].startswith(f"People prefer {SYSTEMS[0]} to {SYSTEMS[1]}")
    assert record["all"]["quality"]["gold"]["value"] == 1.0
    assert record["participation"]["finished"] == 8
    assert record["kept"] is None


def test_the_same_votes_give_the_same_bytes(voted: Study, tmp_path: Path) -> None:
    for name in ("a", "b"):
        speakeasy("rate", "report", voted.path, "--output-dir", tmp_path / name)
    for file in ("report.json", "report.md", "report.html"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    speakeasy("rate", "report", voted.path, "--output-dir", tmp_path / "a")  # replaces its own
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("keep")
    done = speakeasy("rate", "report", voted.path, "--output-dir", tmp_path / "other", check=False)
    assert done.returncode == 2
    assert (tmp_path / "other" / "mine.txt").read_text() == "keep"


def test_careless_raters_are_left_out_of_the_second_reading(tmp_path: Path) -> None:
    study = make_study(tmp_path / "s", items=14, places=8, gold=2)
    store = answered(study, raters=8)
    store.connection.execute(
        "UPDATE vote SET seconds = 1 "
        "WHERE assignment IN (SELECT id FROM assignment WHERE rater = 3)"
    )
    store.close_study()
    found = analyse(study, read_votes(study), Key.read(study.path))
    assert found["excluded"] == {"2": ["seconds"]}
    assert found["kept"]["raters"] == 7
    assert "Without 1 rater whom the rules leave out, it is the same." in found["verdict"]
    store.end()


def test_too_few_are_not_distinguished(tmp_path: Path) -> None:
    study = make_study(tmp_path / "s")
    store = answered(study, raters=2)
    store.close_study()
    found = analyse(study, read_votes(study), Key.read(study.path))
    assert "too few for any verdict" in found["verdict"][0]
    assert found["warnings"]
    store.end()


def test_nobody_has_voted(tmp_path: Path) -> None:
    study = make_study(tmp_path / "s")
    done = speakeasy("rate", "report", study.path, check=False)
    assert done.stderr.startswith(f"error: {study.path}: nobody has been invited yet")
    speakeasy("rate", "invite", study.path)
    speakeasy("rate", "close", study.path)
    done = speakeasy("rate", "report", study.path, "--json")
    assert done.result["verdict"][0].endswith("nobody has judged a pair of them.")


def test_an_open_study_stays_blind(tmp_path: Path) -> None:
    study = make_study(tmp_path / "s")
    store = answered(study, raters=2)
    for words in (("report",), ("preferences", "--output-dir", tmp_path / "p")):
        done = speakeasy("rate", words[0], study.path, *words[1:], check=False)
        assert done.returncode == 1
        assert "still open" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    speakeasy("rate", "export", study.path, "--output-dir", tmp_path / "x")
    for file in (tmp_path / "x").iterdir():
        text = file.read_text(encoding="utf-8").lower()
        for word in ("zebra", "okapi", "gold", "model"):
            assert word not in text, (file.name, word)
    store.end()


def test_the_export_is_whole(voted: Study, tmp_path: Path) -> None:
    done = speakeasy("rate", "export", voted.path, "--output-dir", tmp_path / "x", "--json").result
    again = speakeasy("rate", "export", voted.path, "--output-dir", tmp_path / "y", "--json").result
    assert done["hash"] == again["hash"]
    place = tmp_path / "x"
    sums = (place / "SHA256SUMS").read_text()
    assert hashlib.sha256(sums.encode()).hexdigest() == done["hash"]
    for line in sums.splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((place / name).read_bytes()).hexdigest() == digest
    rows = [json.loads(line) for line in (place / "votes.jsonl").read_text().splitlines()]
    assert len(rows) == done["votes"] == 8 * 15
    assert {row["left_model"] for row in rows} == {*SYSTEMS, None}
    with (place / "votes.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [row["choice"] for row in table] == [row["choice"] for row in rows]
    assert {row["comment"] for row in table} == {"", "'=1+1"}  # no formula in a spreadsheet


def test_recordings_are_exported_with_a_manifest(tmp_path: Path) -> None:
    from io import BytesIO

    from speakeasy.rating.recordings import save

    study = make_study(tmp_path / "s")
    store = answered(study, raters=1)
    save(study, store, store.raters()[0], "market", BytesIO(b"fLaC" + bytes(99)), claimed=2.5)
    speakeasy("rate", "export", study.path, "--output-dir", tmp_path / "x")
    (line,) = (tmp_path / "x" / "recordings.jsonl").read_text().splitlines()
    found = json.loads(line)
    assert (found["dialogue"], found["rater"], found["seconds"]) == ("market", 1, 2.5)
    audio = (tmp_path / "x" / "audio" / found["file"]).read_bytes()
    assert hashlib.sha256(audio).hexdigest() == found["sha256"]
    store.end()


def test_only_agreed_pairs_become_training_data(voted: Study, tmp_path: Path) -> None:
    place = tmp_path / "p"
    done = speakeasy(
        "rate", "preferences", voted.path, "--output-dir", place, "--min-share", 0.8, "--json"
    ).result
    key = Key.read(voted.path)
    ballots = [b for b in ballots_of(voted, read_votes(voted), key) if b.real]
    lines = [
        json.loads(line)
        for file in sorted(place.iterdir())
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    assert len(lines) == done["train"] + done["valid"]
    assert done["judged"] == 12
    by_prompt = {line["prompt"][-1]["content"]: line for line in lines}
    for item in voted.items[:12]:
        own = [ballot for ballot in ballots if ballot.item == item.number]
        won = [0, 0]
        for ballot in own:
            if ballot.choice in ("left", "right"):
                owner = ballot.left if ballot.choice == "left" else ballot.right
                won[key.owners[item.number].index(owner)] += 1
        agreed = max(won) / len(own) >= 0.8
        assert (item.prompt in by_prompt) == agreed
        if agreed:
            chosen = by_prompt[item.prompt]["chosen"]
            assert chosen == [{"role": "assistant", "content": item.answers[won.index(max(won))]}]


def test_the_other_format_is_text(voted: Study, tmp_path: Path) -> None:
    """As ``mlx_lm_lora.trainer.datasets.DPODataset`` reads it: three strings."""
    words = ("--output-dir", tmp_path / "p", "--format", "mlx-lm-lora", "--valid-share", 0.3)
    speakeasy("rate", "preferences", voted.path, *words)
    train, valid = (
        [json.loads(line) for line in (tmp_path / "p" / name).read_text().splitlines()]
        for name in ("train.jsonl", "valid.jsonl")
    )
    for line in (*train, *valid):
        assert set(line) == {"prompt", "chosen", "rejected"}
        assert all(isinstance(text, str) for text in line.values())
    assert not {line["prompt"] for line in train} & {line["prompt"] for line in valid}


def test_the_page_escapes_what_people_and_models_say(record: dict[str, Any]) -> None:
    bad = "<script>alert(1)</script>"
    changed = json.loads(json.dumps(record)) | {"systems": [bad, SYSTEMS[1]]}
    changed["plan"]["title"] = bad
    changed["items"][0]["answers"][0]["text"] = bad
    page = report_page(changed)
    assert "<script" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_page_in_a_browser(record: dict[str, Any]) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width in (360, 1_280):
            page = browser.new_page(viewport={"width": width, "height": 900})
            noises: list[str] = []
            page.on("console", lambda message, noises=noises: noises.append(message.text))
            page.set_content(report_page(record))
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            plots = page.evaluate(
                "[...document.querySelectorAll('svg')].map(e => e.getBoundingClientRect().height)"
            )
            assert len(plots) == 5
            assert min(plots) > 40
            assert noises == []
        browser.close()


@pytest.fixture
def without_heavy_libraries(tmp_path: Path) -> dict[str, str]:
    """An environment in which importing any of them fails."""
    (tmp_path / "block").mkdir()
    (tmp_path / "block" / "sitecustomize.py").write_text(
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {HEAVY!r}:\n"
        "            raise ImportError(name + ' is not to be imported')\n"
        "sys.meta_path.insert(0, Block())\n"
    )
    return os.environ | {"PYTHONPATH": str(tmp_path / "block")}


def test_rating_needs_no_heavy_library_and_starts_in_a_second(
    tmp_path: Path, without_heavy_libraries: dict[str, str]
) -> None:
    study = make_study(tmp_path / "s")
    best: dict[str, float] = {}
    for words in (
        ["--help"], ["invite", study.path], ["status", study.path], ["close", study.path],
        ["serve", "--help"],
    ):  # fmt: skip
        for _ in range(2):
            started = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "speakeasy", "rate", *map(str, words)],
                env=without_heavy_libraries, check=True, capture_output=True,
            )  # fmt: skip
            took = time.perf_counter() - started
            best[words[0]] = min(best.get(words[0], took), took)
    assert max(best.values()) < 1.0, best


def test_serving_needs_no_heavy_library(
    tmp_path: Path, without_heavy_libraries: dict[str, str]
) -> None:
    study = make_study(tmp_path / "s")
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "speakeasy", "rate", "serve", str(study.path), "--port", "0"],
        env=without_heavy_libraries, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    assert process.stderr.readline().startswith("serving ")
    took = time.perf_counter() - started
    second = speakeasy("rate", "serve", study.path, "--port", 0, check=False)
    assert "is being served already" in second.stderr
    process.terminate()
    assert process.wait(timeout=20) == 0
    process.stderr.close()
    assert took < 2.0  # under a second on a free core
