"""Agreed votes as training data: what each trainer's format can hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli import speakeasy
from rating_studies import answered, make_study

from speakeasy.rating.study import ITEMS_FILE, Study

SYSTEM = ["system", "Eres amable."]
EARLIER = [["user", "Hola."], ["assistant", "Bones."]]


@pytest.fixture(scope="module")
def voted(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Of each three items, one has a system message and one has earlier turns as well."""
    study = make_study(tmp_path_factory.mktemp("p") / "study", items=13, places=8)
    store = answered(study, raters=8)
    store.close_study()
    store.end()
    lines = [json.loads(line) for line in (study.path / ITEMS_FILE).read_text().splitlines()]
    for line in lines:
        line["history"] = ([], [SYSTEM], [SYSTEM, *EARLIER])[line["item"] % 3]
    (study.path / ITEMS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Study.read(study.path)


def written(place: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for name in ("train.jsonl", "valid.jsonl")
        if (place / name).exists()
        for line in (place / name).read_text(encoding="utf-8").splitlines()
    ]


def test_conversations_keep_their_turns(voted: Study, tmp_path: Path) -> None:
    words = ("--output-dir", tmp_path / "p", "--min-share", 0.5, "--json")
    done = speakeasy("rate", "preferences", voted.path, *words).result
    assert done["turns"] == 0
    prompts = {
        line["prompt"][-1]["content"]: line["prompt"][:-1] for line in written(tmp_path / "p")
    }
    assert prompts
    for item in voted.items:
        if item.prompt in prompts:
            before = [(turn["role"], turn["content"]) for turn in prompts[item.prompt]]
            assert before == list(item.history)


def test_nobody_else_speaks_in_the_users_turn(voted: Study, tmp_path: Path) -> None:
    """``DPODataset`` of mlx-lm-lora makes one user turn of the prompt: no other fits."""
    words = ("--output-dir", tmp_path / "p", "--min-share", 0.5, "--format", "mlx-lm-lora")
    done = speakeasy("rate", "preferences", voted.path, *words, "--json").result
    lines = written(tmp_path / "p")
    assert done["turns"] > 0
    assert done["train"] + done["valid"] == len(lines)
    assert done["judged"] == len(lines) + done["few"] + done["split"] + done["turns"]
    histories = {item.prompt: item.history for item in voted.items}
    for line in lines:
        history = histories[line["prompt"]]
        assert len(history) <= 1
        assert line.get("system") == (history[0][1] if history else None)


def test_no_pair_left_is_an_error(voted: Study, tmp_path: Path) -> None:
    words = ("--output-dir", tmp_path / "p", "--min-votes", 99)
    done = speakeasy("rate", "preferences", voted.path, *words, check=False)
    assert done.returncode == 1
    assert "no pair is left of 12 judged (12 with too few votes" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "p").exists()
