from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli import speakeasy
from engines import reference_losses
from one_thread import one_thread  # noqa: F401
from tiny import VOCABULARY, save_tiny_tokenizer
from tiny_model import tiny_llama
from training_runs import BACKENDS, write_conversations

from speakeasy.batches.types import Rendered
from speakeasy.corpus.documents import read_documents
from speakeasy.data.dataset import load_conversations
from speakeasy.errors import DataError, RunError, UsageError
from speakeasy.evaluation.evaluate import evaluate
from speakeasy.evaluation.fertility import fertility, running_words
from speakeasy.evaluation.figures import bits_per_byte, word_perplexity
from speakeasy.evaluation.metric_kinds import METRICS
from speakeasy.evaluation.plan import EvaluationPlan
from speakeasy.evaluation.result import SETS, Evaluation, Score, is_evaluation
from speakeasy.evaluation.scoring import score_sets
from speakeasy.evaluation.sets import HELD_OUT_BYTES, SeenItems, TextSet, gather_sets
from speakeasy.training.backend import Sampling
from speakeasy.training.inference import Responder, Speaker

PROMPTS = """
[[prompt]]
id = "hello"
text = "Hola, nen, ¿cómo va todo?"
category = "greeting"
expects = ["interjection", "address"]

[[prompt]]
id = "plain"
text = "Escriba una nota formal a su banco."
register = "formal"
control = true

[[prompt]]
id = "turns"
messages = [
  {role = "system", content = "Sé breve."},
  {role = "user", content = "Bon dia"},
  {role = "assistant", content = "¡Ostras, buenos días!"},
  {role = "user", content = "¿Quedamos en la plaça?"},
]
"""


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files for every set, and prompts."""
    folder = tmp_path_factory.mktemp("material")
    _, held_out = write_conversations(folder, 2, 5)
    texts = {
        "text": "Ostras, nen, qué calor hace hoy en el barri.\n\nApa, vamos a la plaça.\n",
        "es": "El tren sale a las ocho de la mañana.\n\nLa reunión es el lunes por la tarde.\n",
        "ca": "El tren surt a les vuit del matí.\n\nLa reunió és dilluns a la tarda.\n",
    }
    for name, text in texts.items():
        lines = [json.dumps({"text": part}) + "\n" for part in text.strip().split("\n\n")]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "prompts.toml").write_text(PROMPTS, encoding="utf-8")
    return {
        "eval_files": str(held_out),
        "texts": str(folder / "text.jsonl"),
        "neutral_es": str(folder / "es.jsonl"),
        "neutral_ca": str(folder / "ca.jsonl"),
        "prompts": str(folder / "prompts.toml"),
    }


def plan_on(material: dict[str, str], model: Path, **more: Any) -> EvaluationPlan:
    files: Any = {key: (value,) for key, value in material.items() if key != "prompts"}
    sampling = Sampling(max_tokens=12, seed=3)
    fields = {"precision": "float32", "sampling": sampling, "prompts": material["prompts"]}
    return EvaluationPlan(model=str(model), **(files | fields | more))


@pytest.fixture(scope="module")
def base(
    tiny_directory: Path, material: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Evaluation:
    """The bare tiny model, on torch."""
    out = tmp_path_factory.mktemp("evaluation") / "base"
    return evaluate(plan_on(material, tiny_directory, backend="torch"), out)


def test_every_metric_is_there_and_finite(base: Evaluation) -> None:
    assert list(base.metrics) == list(METRICS)
    for name, metric in base.metrics.items():
        assert metric.value is None or math.isfinite(metric.value), name
        if metric.interval is not None:
            low, high = metric.interval
            assert metric.value is not None
            assert low <= metric.value <= high or name.startswith("marker_density"), name
    for name in ("training_seconds", "peak_memory_bytes", "overlap_13gram"):
        assert base.metrics[name].value is None  # of a bare model nobody knows
    assert base.lineage == []
    assert base.metrics["model_bytes"].value == base.record["model"]["bytes"] > 0
    raw = (base.path / "evaluation.json").read_text(encoding="utf-8")
    assert "NaN" not in raw
    assert "Infinity" not in raw


def test_sets_and_scores_belong_together(base: Evaluation) -> None:
    assert tuple(base.sets) == SETS
    for name, found in base.sets.items():
        scores = base.scores_of(name)
        assert list(scores) == list(range(found["items"]))
        for key in ("tokens", "bytes", "words"):
            assert found[key] == sum(getattr(score, key) for score in scores.values())
        nats = sum(score.nats for score in scores.values())
        assert found["loss"] == pytest.approx(nats / found["tokens"])
        assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / found["bytes"])
        assert found["seen"] == found["rejected"] == 0
    conversations = base.sets["conversations"]
    for name, key in (
        ("eval_loss", "loss"),
        ("eval_bits_per_byte", "bits_per_byte"),
        ("word_perplexity", "word_perplexity"),
    ):
        assert base.metrics[name].value == conversations[key]
    assert (
        base.metrics["neutral_ca_bits_per_byte"].value == base.sets["neutral_ca"]["bits_per_byte"]
    )
    text = "Ostras, nen, qué calor hace hoy en el barri."
    assert base.scores_of("regional")[0].bytes == len(text.encode())
    assert base.scores_of("regional")[0].words == 9


def test_answers_are_in_the_order_of_the_prompts(base: Evaluation) -> None:
    assert [(a["id"], a["sample"]) for a in base.answers] == [
        (id, sample) for id in ("hello", "plain", "turns") for sample in (0, 1)
    ]
    first = base.answers[0]
    assert first["expects"] == ["interjection", "address"]
    assert [a["control"] for a in base.answers] == [False, False, True, True, False, False]
    assert all(a["tokens"] <= 12 for a in base.answers)
    assert base.record["answers"]["count"] == 6
    assert base.metrics["control_plain"].samples == 1
    assert first["answer"] != base.answers[1]["answer"]  # another sample, another seed


def test_answers_are_those_that_generate_gives(base: Evaluation, tiny_directory: Path) -> None:
    done = speakeasy(
        "generate", "Hola, nen, ¿cómo va todo?", "--model", tiny_directory, "--backend", "torch",
        "--precision", "float32", "--max-tokens", 12, "--seed", 4, "--json",
    )  # fmt: skip
    assert done.result["answers"][0]["answer"] == base.answers[1]["answer"]


def test_the_other_backend_finds_the_same(
    base: Evaluation, tiny_directory: Path, material: dict[str, str], tmp_path: Path
) -> None:
    plan = plan_on(material, tiny_directory, backend="mlx", batch_size=2)
    found = evaluate(plan, tmp_path / "mlx")
    for mine, theirs in zip(found.scores, base.scores, strict=True):
        assert (mine.set, mine.item, mine.tokens) == (theirs.set, theirs.item, theirs.tokens)
        assert mine.nats == pytest.approx(theirs.nats, rel=1e-4)  # float32 in another order
    assert [a["answer"] for a in found.answers] == [a["answer"] for a in base.answers]


def test_the_same_plan_gives_the_same_bytes(
    base: Evaluation, tiny_directory: Path, material: dict[str, str], tmp_path: Path
) -> None:
    evaluate(plan_on(material, tiny_directory, backend="torch"), tmp_path / "base")
    files = sorted(f.relative_to(base.path) for f in base.path.rglob("*") if f.is_file())
    assert [str(file) for file in files] == [
        "answers.jsonl", "evaluation.json", "prompts.jsonl", "scores.jsonl",
        *(f"sets/{name}.jsonl" for name in sorted(SETS)),
    ]  # fmt: skip
    for file in files:
        assert (tmp_path / "base" / file).read_bytes() == (base.path / file).read_bytes()


def test_like_scores_the_same_texts_with_another_tokenizer(
    base: Evaluation, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    save_tiny_tokenizer(other, template=None)  # the default template: other tokens around turns
    tiny_llama(other, vocab_size=VOCABULARY, seed=5)
    plan = EvaluationPlan(model=str(other), precision="float32", like=str(base.path), name="two")
    found = evaluate(plan, tmp_path / "found")
    assert found.name == "two"
    for name in SETS:
        assert found.sets[name]["fingerprint"] == base.sets[name]["fingerprint"]
        assert [s.bytes for s in found.scores_of(name).values()] == [
            s.bytes for s in base.scores_of(name).values()
        ]
    mine, theirs = found.record["answers"], base.record["answers"]
    for key in ("prompts_fingerprint", "lexicon_fingerprint", "sampling", "samples", "human"):
        assert mine[key] == theirs[key]
    with pytest.raises(UsageError, match=r"^--limit: --like .* brings its own"):
        evaluate(EvaluationPlan(like=str(base.path), limit=2), tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_a_damaged_evaluation_is_told(base: Evaluation, tmp_path: Path) -> None:
    import shutil

    with pytest.raises(RunError, match=r"no evaluation\.json"):
        Evaluation.read(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(base.path, copy)
    assert is_evaluation(copy)
    with (copy / "sets" / "regional.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"text": "més"}\n')
    plan = EvaluationPlan(model=base.record["model"]["name"], like=str(copy))
    with pytest.raises(RunError, match=r"regional\.jsonl: not the texts that were scored"):
        evaluate(plan, tmp_path / "found")
    answers = copy / "answers.jsonl"
    answers.write_text("".join(answers.read_text("utf-8").splitlines(True)[:-1]), "utf-8")
    with pytest.raises(RunError, match=r"answers.jsonl: 5 whole lines, but .* says 6"):
        Evaluation.read(copy)
    record = json.loads((copy / "evaluation.json").read_text("utf-8"))
    (copy / "evaluation.json").write_text(json.dumps(record | {"version": 9}), "utf-8")
    with pytest.raises(RunError, match="version 9; expected 1"):
        Evaluation.read(copy)


def test_scores_are_the_textbooks(tiny_directory: Path, backend_name: str) -> None:
    """A document in three pieces: every token is scored once, and its context is the piece's."""
    speaker = Speaker(model=str(tiny_directory), backend=backend_name, precision="float32")
    responder = Responder.open(speaker)
    text = "La plaça del barri és plena. " * 40
    ids = responder.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert 1024 > len(ids) > 512  # the context
    whole = [0, *ids]  # <|endoftext|>, and then each piece begins with the last one's last
    pieces = [whole[start : start + 512] for start in range(0, len(ids), 511)]
    nats = 0.0
    for piece in pieces:
        tokens_T = np.array(piece, dtype=np.int32)
        item = Rendered(tokens_T, np.arange(len(piece)) > 0, 0, 0)
        nats += reference_losses(responder.engine, item).sum()
    short = "Adéu, nen."
    found = score_sets(responder, [TextSet("regional", "here", (text, short))])["regional"]
    assert found.longest == 512
    assert found.scores[0].nats == pytest.approx(nats, rel=1e-5)
    assert found.scores[0].tokens == len(ids)
    assert found.scores[0].words == 40 * 6
    assert found.scores[1].bytes == len(short.encode())


def test_what_a_tokenizer_cannot_take_whole_is_told(
    tiny_directory: Path, material: dict[str, str], tmp_path: Path
) -> None:
    turns = [
        {"role": role, "content": "¿Y qué me dices de la plaça? " * 9}
        for _ in range(4)
        for role in ("user", "assistant")
    ]
    endless = [{"role": "user", "content": "Hola"}, {"role": "assistant", "content": "sí " * 700}]
    file = tmp_path / "long.jsonl"
    fine = [{"role": "user", "content": "Hola"}, {"role": "assistant", "content": "Bon dia"}]
    lines = [json.dumps({"messages": each}) + "\n" for each in (endless, turns, fine)]
    file.write_text("".join(lines), encoding="utf-8")
    said: list[str] = []
    plan = plan_on(material, tiny_directory, backend="torch", eval_files=(str(file),))
    found = evaluate(plan, tmp_path / "found", say=said.append)
    known = found.sets["conversations"]
    assert (known["items"], known["shortened"], known["rejected"]) == (2, 1, 1)
    assert list(found.scores_of("conversations")) == [1, 2]  # 0 is the one that was left out
    assert any("1 shortened to 512 tokens and 1 not scored" in line for line in said)


def test_nothing_is_left_when_it_is_stopped(
    tiny_directory: Path, material: dict[str, str], tmp_path: Path, monkeypatch: Any
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("speakeasy.evaluation.evaluate.write_json", stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate(plan_on(material, tiny_directory, backend="torch"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 0}, "--samples 0"),
        ({"max_items": -1}, "--max-items -1"),
        ({"sampling": Sampling(temperature=0)}, "--samples 2: --temperature 0"),
    ],
)
def test_a_plan_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        EvaluationPlan(**changes)


def test_a_prompt_without_room_is_told_before_anything_slow(
    tiny_directory: Path, material: dict[str, str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("speakeasy.evaluation.evaluate.score_sets", lambda *_, **__: 1 / 0)
    plan = plan_on(material, tiny_directory, sampling=Sampling(max_tokens=600))
    with pytest.raises(UsageError, match="--max-tokens 600: the prompt"):
        evaluate(plan, tmp_path / "out")


def test_an_empty_set_is_told(tmp_path: Path) -> None:
    blank = tmp_path / "blank.jsonl"
    blank.write_text('{"text": "  "}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"blank.jsonl: no text .* neutral_ca; .* --neutral-ca"):
        gather_sets(EvaluationPlan(neutral_ca=(str(blank),)), [])


def test_defaults_are_the_packaged_held_out_texts() -> None:
    found = {one.name: one for one in gather_sets(EvaluationPlan(), [])}
    # About 5% of 1,008 and of 160, and 20% of 70, as drawn; and all 25.
    assert [len(found[name].items) for name in SETS] == [50, 11, 16, 25]
    few = gather_sets(EvaluationPlan(max_items=3), [])
    assert [len(one.items) for one in few] == [3, 3, 3, 3]
    assert all(set(one.texts) <= set(found[one.name].texts) for one in few)


def test_a_set_written_is_the_set_read(base: Evaluation, material: dict[str, str]) -> None:
    again = load_conversations([base.path / "sets" / "conversations.jsonl"])
    before = load_conversations([Path(material["eval_files"])])
    assert [c.turns for c in again] == [c.turns for c in before]
    texts = [d.text for d in read_documents([base.path / "sets" / "neutral_es.jsonl"])]
    assert texts == ["El tren sale a las ocho de la mañana.",
                     "La reunión es el lunes por la tarde."]  # fmt: skip
    assert HELD_OUT_BYTES < 100_000


def test_what_was_learned_word_for_word_is_counted() -> None:
    one = TextSet("regional", "", ("Apa,  vamos", "Adéu"))
    other = TextSet("neutral_es", "", ("Nunca",))
    items = SeenItems([one, other])
    learned = ["Apa, vamos\n", "apa, vamos", "Adéu y más"]
    assert list(items.watch(learned)) == learned
    assert items.counts == {"regional": 1, "neutral_es": 0}


def test_figures_by_hand() -> None:
    """16 and 8 bits on 4 and 2 bytes: 4 a byte, whichever are drawn."""
    ln2 = math.log(2)
    scores = [Score("x", 0, 16 * ln2, 4, 2, 3), Score("x", 1, 8 * ln2, 2, 1, 2)]
    value, interval, samples = bits_per_byte(scores)
    assert value == pytest.approx(4)
    assert interval == pytest.approx((4, 4))
    assert samples == 2
    value, interval, _ = word_perplexity(scores)  # 24 bits on 3 words: 2^8
    assert value == pytest.approx(256)
    assert interval == pytest.approx((256, 256))
    endless = [Score("x", 0, 1e6, 4, 1, 3), Score("x", 1, 1e6, 4, 1, 3)]
    assert word_perplexity(endless) == (None, None, 2)


def test_fertility_by_hand(tiny_directory: Path) -> None:
    from speakeasy.weights.hub import load_tokenizer

    tokenizer = load_tokenizer(tiny_directory)
    words = running_words(["«Ostras», l'avi: ¡va! —", "Apa..."])
    assert words == ["Ostras", "l'avi", "va", "Apa"]
    expected = sum(len(tokenizer(f" {word}")["input_ids"]) for word in words)
    found = fertility(tokenizer, [*words, "si us plau"])
    assert found["words"] == 4 + 3
    assert found["tokens"] == expected + len(tokenizer(" si us plau")["input_ids"])
    assert found["tokens_per_word"] == found["tokens"] / 7
    assert fertility(tokenizer, []) == {"words": 0, "tokens": 0, "tokens_per_word": None}


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_command(
    tiny_directory: Path, material: dict[str, str], tmp_path: Path, backend: str
) -> None:
    out = tmp_path / "out"
    words = (
        "evaluate", "--model_path", tiny_directory, "--backend", backend, "--output_dir", out,
        "--eval-file", material["eval_files"], "--text", material["texts"], "--neutral-es",
        material["neutral_es"], "--neutral-ca", material["neutral_ca"], "--prompts",
        material["prompts"], "--limit", 1, "--samples", 1, "--max-tokens", 4, "--report-to",
        "tensorboard",
    )  # fmt: skip
    done = speakeasy(*words)
    assert done.stdout == ""
    assert "Memory" not in done.stderr  # nobody knows what it took
    assert "Tokens per regional word" in done.stderr
    assert "[hello]" in done.stderr
    assert list((out / "tensorboard").iterdir())
    again = speakeasy(*words, "--json", check=False)
    assert again.returncode == 1
    assert "already exists and is not empty" in again.result["error"]
    done = speakeasy(*words[:6], tmp_path / "json", *words[7:-2], "--json")
    assert done.result["evaluation"] == str(tmp_path / "json")
    assert set(done.result["metrics"]) == set(METRICS)
