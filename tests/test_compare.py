"""``speakeasy compare``: what it reckons, what it says, and real runs side by side."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli import speakeasy
from evaluations import PLAIN, REGIONAL, evaluation_of, run_behind
from one_thread import one_thread  # noqa: F401
from training_runs import write_conversations

from speakeasy.errors import RunError, UsageError
from speakeasy.evaluation.compare import compare, compared, read_comparison
from speakeasy.evaluation.differences import UNCOMPARABLE, UNDECIDED
from speakeasy.evaluation.metric_kinds import METRICS

NEEDED = (
    "training_seconds", "eval_loss", "eval_bits_per_byte", "word_perplexity",
    "tokens_per_regional_word", "peak_memory_bytes", "model_bytes", "marker_density",
    "marker_density_error", "coverage", "catalan_drift", "distinct_2", "repetition",
    "overlap_13gram",
)  # fmt: skip
"""What the comparison table has to hold for each run."""


def pair_of(comparison: dict[str, Any], metric: str) -> dict[str, Any]:
    (pair,) = (pair for pair in comparison["pairs"] if pair["metric"] == metric)
    return pair


def test_a_comparison_holds_what_it_must(tmp_path: Path) -> None:
    paths = [
        evaluation_of(tmp_path / "lora", bits=2.16, lineage=[run_behind("train", 300)]).path,
        evaluation_of(
            tmp_path / "full", bits=2.10, tokenizer="new", answers=(REGIONAL, PLAIN), regional=1.3,
            lineage=[run_behind("pretrain", 400), run_behind("train", 310)],
        ).path,
    ]  # fmt: skip
    base = evaluation_of(tmp_path / "before", bits=2.31).path
    out = tmp_path / "comparison"
    result = speakeasy(
        "compare", *paths, "--base", base, "--output_dir", out, "--label", "one", "--label", "two",
        "--json",
    ).result  # fmt: skip
    assert read_comparison(out) == {k: v for k, v in result.items() if k != "output_dir"}
    assert [run["name"] for run in result["runs"]] == ["base", "one", "two"]
    for run in result["runs"]:
        assert set(NEEDED) <= run["metrics"].keys() == METRICS.keys()
        assert run["metrics"]["eval_bits_per_byte"]["interval"] is not None
    _, one, two = (run["metrics"] for run in result["runs"])
    assert (one["training_seconds"]["value"], two["training_seconds"]["value"]) == (300, 710)
    assert {path.name for path in out.iterdir()} == {
        "comparison.json", "report.md", "report.html",
    }  # fmt: skip
    text = (out / "report.md").read_text()
    guide = text[text.index("## The guide's table") :]
    labels = [line.split("|")[1].strip() for line in guide.splitlines() if line.startswith("|")]
    assert labels[2:7] == [
        "Training time", "Final eval loss", "Tokens per regional word", "Memory", "Model size",
    ]  # fmt: skip
    assert "not comparable across tokenizers" in guide
    assert "| 5 min 0 s | 11 min 50 s |" in guide
    assert result["verdict"]["winner"] == "two"
    shown = speakeasy("compare", *paths, "--base", base, "--output-dir", out).stderr
    assert "By these figures, take" in shown
    assert f"report: {out / 'report.html'}" in shown


def test_differences_are_paired(tmp_path: Path) -> None:
    """Two models that differ by 0.01 on every text, among texts that differ by 0.5."""
    one = evaluation_of(tmp_path / "one", bits=2.00, spread=0.5)
    other = evaluation_of(tmp_path / "other", bits=2.01, spread=0.5)
    shifted = [score for score in one.scores if score.set == "conversations"]
    for score in shifted:
        assert score.nats != other.scores_of("conversations")[score.item].nats
    pair = pair_of(
        compared([("one", one), ("other", other)], base=None, directory=tmp_path),
        "eval_bits_per_byte",
    )
    assert pair["difference"] == pytest.approx(-0.01, abs=1e-12)
    low, high = pair["interval"]
    alone = np.ptp(one.record["metrics"]["eval_bits_per_byte"]["interval"])
    assert high - low < alone / 4  # a tenth of the spread is a model's own


@pytest.mark.parametrize(
    ("bits", "expected"), [(2.0, "a"), (2.6, "b"), (2.301, UNDECIDED), (2.3, UNDECIDED)]
)
def test_which_side_is_better(tmp_path: Path, bits: float, expected: str) -> None:
    one = evaluation_of(tmp_path / "one", bits=bits)
    other = evaluation_of(tmp_path / "other", bits=2.3)
    found = compared([("one", one), ("other", other)], base=None, directory=tmp_path)
    assert pair_of(found, "eval_bits_per_byte")["verdict"] == expected
    assert pair_of(found, "eval_loss")["difference"] == pytest.approx(
        (bits - 2.3) * math.log(2) * 120 / 40
    )


def test_what_was_not_measured_on_the_same_is_not_compared(tmp_path: Path) -> None:
    one = evaluation_of(tmp_path / "one", bits=2.0)
    other = evaluation_of(
        tmp_path / "other", bits=2.3, texts="others", tokenizer="new",
        lineage=[run_behind("train", 3, finished=False)],
    )  # fmt: skip
    other.record["answers"]["prompts_fingerprint"] = "q"
    other.record["sets"]["regional"]["seen"] = 3
    found = compared([("one", one), ("other", other)], base=None, directory=tmp_path)
    assert {pair["verdict"] for pair in found["pairs"]} == {UNCOMPARABLE}
    assert found["warnings"] == [
        "one and other were scored on other texts: conversations, regional, neutral es, neutral ca",
        "one and other were asked other prompts",
        "other: 3 of 30 texts of regional stand in its training data",
        "other: the run train-1 has not finished",
        "4 prompts: the figures of answers are rough",
    ]
    assert found["verdict"]["winner"] is None


def test_what_sets_two_apart_is_said(tmp_path: Path) -> None:
    first, second = run_behind("train", 3), run_behind("train", 3)
    one = evaluation_of(tmp_path / "one", bits=2.0, lineage=[first])
    other = evaluation_of(
        tmp_path / "other", bits=2.1, lineage=[second | {"seed": 2, "data_fingerprint": "e"}]
    )
    other.record["sets"]["conversations"]["shortened"] = 2
    other.record["answers"]["sampling"] = {"temperature": 1.0}
    found = compared([("one", one), ("other", other)], base=None, directory=tmp_path)
    assert found["warnings"][:-1] == [
        "one and other left out or shortened other texts that were too long: conversations",
        "one and other drew their answers otherwise",
        "one and other were trained on other conversations",
        "one and other were trained with other seeds",
    ]
    # Tokens of another tokenizer are others, whatever the data; its name is the same.
    other.record["model"]["tokenizer_fingerprint"] = "new"
    other.record["lineage"][0]["seed"] = 1
    found = compared([("one", one), ("other", other)], base=None, directory=tmp_path)
    assert not any("trained" in line for line in found["warnings"])


def test_trackers_are_told(tmp_path: Path) -> None:
    both = [evaluation_of(tmp_path / str(n), bits=2.0 + n / 10).path for n in range(2)]
    said: list[str] = []
    compare(both, tmp_path / "out", report_to=["tensorboard"], say=said.append)
    (file,) = (tmp_path / "out" / "tensorboard").iterdir()
    assert b"comparison/1/eval_bits_per_byte" in file.read_bytes()
    assert not any("tensorboard" in line for line in said)


def test_names_differ(tmp_path: Path) -> None:
    both = [evaluation_of(tmp_path / str(n) / "run", bits=2.0 + n / 10).path for n in range(2)]
    found = compare(both, tmp_path / "out")
    assert [run["name"] for run in found["runs"]] == ["run", "run (2)"]


def test_the_same_evaluations_give_the_same_bytes(tmp_path: Path) -> None:
    both = [evaluation_of(tmp_path / str(n), bits=2.0 + n / 10).path for n in range(2)]
    places = [tmp_path / "first", tmp_path / "second"]
    for place in places:
        compare(both, place)
    for file in places[0].iterdir():
        assert file.read_bytes() == (places[1] / file.name).read_bytes()


def test_wrong_usage(tmp_path: Path) -> None:
    one, other = (evaluation_of(tmp_path / str(n), bits=2.0).path for n in range(2))
    with pytest.raises(UsageError, match="1 given; expected two or more"):
        compare([one], tmp_path / "out")
    with pytest.raises(UsageError, match="1 given for 2 RUNs"):
        compare([one, other], tmp_path / "out", labels=["a"])
    with pytest.raises(RunError, match="neither a run nor an evaluation"):
        compare([one, tmp_path], tmp_path / "out")
    with pytest.raises(RunError, match="holds something else"):
        compare([one, other], one)
    with pytest.raises(RunError, match=r"no comparison\.json"):
        read_comparison(one)
    refused = speakeasy("compare", one, "--output-dir", tmp_path / "out", check=False)
    assert refused.returncode == 2
    assert not (tmp_path / "out").exists()


def test_hostile_names_and_answers_stay_text(tmp_path: Path) -> None:
    hostile = "<img src=x onerror=alert(1)> | **bold** [link](http://x) `code`"
    both = [
        evaluation_of(tmp_path / str(n), bits=2.0 + n / 10, answers=(hostile,)).path
        for n in range(2)
    ]
    compare(both, tmp_path / "out", labels=[hostile, "two"])
    text = (tmp_path / "out" / "report.md").read_text()
    assert "\\<img src=x onerror=alert(1)\\> \\| \\*\\*bold\\*\\*" in text
    assert "<img" not in text.replace("\\<img", "")
    assert "<img" not in (tmp_path / "out" / "report.html").read_text()


def test_runs_are_evaluated_on_the_same_and_once(tiny_directory: Path, tmp_path: Path) -> None:
    train, held_out = write_conversations(tmp_path, 6, 4)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Hola, nen.\n¿Quedamos en la plaça?\n")
    runs = [tmp_path / name for name in ("short", "long")]
    for run, steps in zip(runs, (1, 3), strict=True):
        speakeasy(
            "train", "--model", tiny_directory, "--train-file", train, "--eval-file", held_out,
            "--output-dir", run, "--max-steps", steps, "--max-length", 256, "--lora-r", 4,
            "--backend", "torch",
        )  # fmt: skip
    words = (
        "compare", *runs, "--base", tiny_directory, "--output-dir", tmp_path / "out", "--prompts",
        prompts, "--max-tokens", 4, "--max-items", 3, "--samples", 1, "--json",
    )  # fmt: skip
    first = speakeasy(*words)
    result = first.result
    assert [run["name"] for run in result["runs"]] == ["base", "short", "long"]
    assert {run["sets"]["conversations"]["fingerprint"] for run in result["runs"]} == {
        result["runs"][0]["sets"]["conversations"]["fingerprint"]
    }
    assert all(pair["verdict"] != UNCOMPARABLE for pair in result["pairs"] if pair["difference"])
    evaluations = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*")}
    assert len(evaluations) == 3
    again = speakeasy(*words)
    assert again.result == result
    assert again.stderr.count("evaluated already") == 3
    assert evaluations == {
        path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*")
    }
    summary = runs[0] / "summary.json"  # as if it had been trained again
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"seconds": 1.5}))
    changed = speakeasy(*words)
    assert "evaluating short" in changed.stderr
    assert changed.stderr.count("evaluated already") == 2
    labelled = speakeasy(*words, "--label", "one", "--label", "two")
    assert labelled.stderr.count("evaluated already") == 3
    prompts.write_text("Hola, nen.\n¿Plegamos?\n")
    asked = speakeasy(*words)
    assert [run["answers"]["prompts"] for run in asked.result["runs"]] == [2, 2, 2]
    assert "evaluated already" not in asked.stderr
