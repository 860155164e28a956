from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
from cli import speakeasy
from one_thread import one_thread  # noqa: F401
from training_runs import write_conversations

from speakeasy.batches.pieces import Cutter
from speakeasy.config import CorpusConfig, TrainConfig
from speakeasy.corpus.starter import starter_text_files, starter_texts
from speakeasy.data.dataset import load_conversations
from speakeasy.errors import DataError, RunError
from speakeasy.evaluation.lineage import (
    find_subject,
    learning_curve,
    run_record,
    runs_behind,
    split_documents,
    training_texts,
)
from speakeasy.evaluation.plan import EvaluationPlan
from speakeasy.evaluation.result import Evaluation
from speakeasy.evaluation.sets import gather_sets
from speakeasy.training.inference import Speaker
from speakeasy.training.prepare import conversations, take
from speakeasy.training.raw_text import tokenize
from speakeasy.training.run import Run
from speakeasy.vocab.progress import no_bar
from speakeasy.weights.fingerprint import tokenizer_fingerprint
from speakeasy.weights.hub import load_tokenizer, resolve_model

SHORT = ("--precision", "float32", "--backend", "torch", "--max-length", 256, "--batch-size", 1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> pytest.MonkeyPatch:
    """A cache of its own for tokenized text."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEAKEASY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield patch


@pytest.fixture(scope="module")
def runs(
    tiny_directory: Path,
    cache: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path]:
    """A pre-training run on a few texts, and a LoRA run on its model."""
    folder = tmp_path_factory.mktemp("runs")
    train, _ = write_conversations(folder, 24, 0)
    texts = [document.text for document in starter_texts("es-ca")][:30]
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    speakeasy(
        "pretrain", "--model", tiny_directory, "--train", "full", "--corpus-path", corpus,
        "--holdout", 0.2, "--max-steps", 3, "--eval-every", 2, "--output-dir",
        folder / "pretrained", *SHORT,
    )  # fmt: skip
    speakeasy(
        "train", "--model", folder / "pretrained", "--train-file", train, "--holdout", 0.25,
        "--max-steps", 4, "--eval-every", 2, "--lora-r", 2, "--seed", 5, "--max-train", 10,
        "--max-eval", 3, "--output-dir", folder / "adapted", *SHORT,
    )  # fmt: skip
    return folder / "pretrained", folder / "adapted"


def behind(run: Path) -> list[Run]:
    subject = find_subject(Speaker(run=run))
    name = str(run) if subject.run and subject.run.is_pretraining else Run(run).config.model
    return runs_behind(resolve_model(name), subject.run)


def test_runs_come_oldest_first(runs: tuple[Path, Path]) -> None:
    pretrained, adapted = runs
    assert [run.path.name for run in behind(adapted)] == ["pretrained", "adapted"]
    assert [run.path.name for run in behind(pretrained)] == ["pretrained"]
    assert runs_behind(resolve_model(str(pretrained)), None) == [Run(pretrained)]


def test_an_adapter_inside_of_a_run_is_the_runs(runs: tuple[Path, Path], tmp_path: Path) -> None:
    pretrained, adapted = runs
    subject = find_subject(Speaker(adapter=adapted / "adapter"))
    assert subject.run == Run(adapted)
    assert subject.speaker == Speaker(run=adapted)
    alone = shutil.copytree(adapted / "adapter", tmp_path / "adapter")
    assert find_subject(Speaker(adapter=alone)).run is None
    assert find_subject(Speaker(run=pretrained)).speaker == Speaker(model=str(pretrained))
    with pytest.raises(RunError, match=r"a pre-training run, .* leave out --model starter"):
        find_subject(Speaker(model="starter", run=pretrained))


def test_a_record_has_the_runs_own_figures(runs: tuple[Path, Path]) -> None:
    for path, kind in zip(runs, ("pretrain", "train"), strict=True):
        run = Run(path)
        record, summary = run_record(run), run.summary
        assert summary is not None
        assert record["kind"] == kind
        for key in ("seconds", "steps", "tokens", "peak_memory_bytes"):
            assert record[key] == summary[key]
        assert record["versions"]["torch"]
        assert record["finished"]
    assert run_record(Run(runs[1]))["data"] == "train.jsonl"


def test_the_curve_by_hand(tmp_path: Path) -> None:
    """8 targets of 1 bit at 2 bits a byte are 4 bytes; then 12 of 2 bits at 3 a byte, 8 more."""
    run = Run.create(tmp_path / "run", TrainConfig(), {})
    ln2 = math.log(2)
    steps = ((1, ln2, 2.0, 8), (2, 2 * ln2, 3.0, 20))
    for step, loss, bits, targets in steps:
        run.log_step({"step": step, "loss": loss, "bits_per_byte": bits, "target_tokens": targets})
    for step, bits in ((0, 4.0), (1, 3.5), (2, 3.0), (0, 4.5)):  # the last: on another base
        run.log_evaluation({"step": step, "eval_bits_per_byte": bits})
    assert learning_curve(run) == [[0, 4.5], [4, 3.5], [12, 3.0]]


def test_the_curve_ends_at_the_bytes_of_all_targets(runs: tuple[Path, Path]) -> None:
    adapted = Run(runs[1])
    curve = learning_curve(adapted)
    assert [value for _, value in curve] == [
        record["eval_bits_per_byte"] for record in adapted.evaluations()
    ]
    config = adapted.config
    assert isinstance(config, TrainConfig)
    learned, _, _ = conversations(config.data, config.seed)
    taken = take(learned, config.data.max_train, config.seed)
    most = sum(len(answer.encode()) for item in taken for answer in item.answers)
    assert 0 == curve[0][0] < curve[1][0] < curve[2][0]
    assert curve[2][0] <= 4 * most


def test_a_run_that_has_not_finished_goes_as_far_as_its_log(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    finished = Run(runs[1])
    cut = Run(shutil.copytree(runs[1], tmp_path / "cut"))
    (cut.path / "summary.json").unlink()
    record, whole = run_record(cut), run_record(finished)
    assert not record["finished"]
    assert record["seconds"] == pytest.approx(whole["seconds"])
    assert (record["steps"], record["tokens"]) == (whole["steps"], whole["tokens"])
    (cut.path / "metrics.jsonl").write_text("", "utf-8")
    with pytest.raises(RunError, match="has taken no step yet"):
        run_record(cut)


def test_the_sets_are_what_the_runs_held_out(runs: tuple[Path, Path]) -> None:
    sets = {one.name: one for one in gather_sets(EvaluationPlan(), behind(runs[1]))}
    learned = set(training_texts(behind(runs[1])))
    assert len(sets["conversations"].items) == 3  # --max-eval
    assert len(sets["regional"].items) > 0
    for one in sets.values():
        assert not learned & set(one.texts)
    config = Run(runs[1]).config
    assert isinstance(config, TrainConfig)
    everything = load_conversations([Path(config.data.train[0])])
    assert len([text for text in learned if "\n" in text]) >= 10
    assert len(everything) == 24


def test_documents_are_drawn_as_pre_training_draws_them(
    tiny_directory: Path, cache: pytest.MonkeyPatch
) -> None:
    """Token for token the held-out pieces of pre-training, by its own reader."""
    tokenizer = load_tokenizer(tiny_directory)
    corpus = CorpusConfig()
    files = starter_text_files("ca", "es-ca")
    base = tokenizer_fingerprint(tiny_directory)
    for seed in (0, 7):
        pieces = tokenize(
            files, corpus.holdout, 512, tokenizer, base, seed, lambda line: None, no_bar
        )
        for side, held_out in ((pieces.held_out, True), (pieces.train, False)):
            texts = list(split_documents(files, corpus.holdout, seed, held_out=held_out))
            cut = [piece for document in Cutter(tokenizer, 512).cut(texts) for piece in document]
            assert [ids for ids, _, _ in cut] == [item.tokens_T.tolist() for item in side]


def test_an_evaluation_of_a_run_knows_what_stands_behind_it(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    pretrained, adapted = runs
    words = ("--precision", "float32", "--max-items", 2, "--limit", 2, "--max-tokens", 20)
    speakeasy("evaluate", "--run", adapted, *words, "--output-dir", tmp_path / "adapted")
    found = Evaluation.read(tmp_path / "adapted")
    assert found.name == "adapted"
    assert [record["run"] for record in found.lineage] == ["pretrained", "adapted"]
    summaries = [Run(path).summary or {} for path in runs]
    figures = found.metrics
    assert figures["training_seconds"].value == sum(s["seconds"] for s in summaries)
    assert figures["peak_memory_bytes"].value == max(s["peak_memory_bytes"] for s in summaries)
    weights = sum(
        file.stat().st_size
        for file in (pretrained / "model.safetensors", *adapted.glob("adapter/*.safetensors"))
    )
    assert weights - 20_000 < figures["model_bytes"].value <= weights  # headers
    assert {one["seen"] for one in found.sets.values()} == {0}
    assert found.record["answers"]["human"]["overlap_13gram"] is not None
    speakeasy(
        "evaluate", "--run", pretrained, *words[:2], "--like", tmp_path / "adapted",
        "--output-dir", tmp_path / "pretrained",
    )  # fmt: skip
    whole = Evaluation.read(tmp_path / "pretrained")
    assert [record["run"] for record in whole.lineage] == ["pretrained"]
    assert whole.record["adapter"] is None
    assert whole.sets["regional"]["fingerprint"] == found.sets["regional"]["fingerprint"]
    assert whole.record["answers"]["count"] == found.record["answers"]["count"] == 4


def test_held_out_texts_that_were_learned_are_counted(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    """The training file as held-out set: ten of its conversations were taken."""
    config = Run(runs[1]).config
    assert isinstance(config, TrainConfig)
    done = speakeasy(
        "evaluate", "--run", runs[1], "--precision", "float32", "--limit", 1, "--samples", 1,
        "--max-tokens", 4, "--eval-file", config.data.train[0], "--output-dir", tmp_path / "out",
    )  # fmt: skip
    assert Evaluation.read(tmp_path / "out").sets["conversations"]["seen"] == 10
    assert "warning: conversations: 10 of the texts stand in the training data" in done.stderr


def test_training_texts_that_are_gone_are_said(runs: tuple[Path, Path], tmp_path: Path) -> None:
    config = Run(runs[1]).config
    assert isinstance(config, TrainConfig)
    file = Path(config.data.train[0])
    away = file.rename(file.with_suffix(".away"))
    try:
        with pytest.raises(DataError, match=r"no such file .* --eval-file"):
            gather_sets(EvaluationPlan(), behind(runs[1]))
        done = speakeasy(
            "evaluate", "--run", runs[1], "--precision", "float32", "--limit", 1, "--samples", 1,
            "--max-tokens", 4, "--eval-file", away.rename(tmp_path / "held.jsonl"),
            "--output-dir", tmp_path / "out",
        )  # fmt: skip
    finally:
        (tmp_path / "held.jsonl").rename(file)
    found = Evaluation.read(tmp_path / "out")
    assert "warning: the training texts cannot be compared with" in done.stderr
    assert found.metrics["overlap_13gram"].value is None
    assert found.sets["conversations"]["seen"] is None
