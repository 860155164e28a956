"""New rows fitted to the base's own predictions, on both backends, and in ``pretrain``."""

from __future__ import annotations

import json
import shutil
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli import speakeasy
from engines import LORA, open_engine, packed, random_items
from model_files import EMBEDDING, HEAD, store, tensors_of
from one_thread import one_thread  # noqa: F401
from safetensors.numpy import load_file
from tiny import VOCABULARY, save_tiny_tokenizer
from tiny_model import tiny_llama
from training_runs import killed_after

from speakeasy.batches.types import IGNORED, Rendered
from speakeasy.corpus.starter import starter_texts
from speakeasy.files import write_json
from speakeasy.training.fit_rows import Fitted, fit_rows
from speakeasy.training.regression import BATCH, States, fit
from speakeasy.training.run import Run
from speakeasy.weights.trained_rows import TrainedRows, read_from_model

ADDED = list(range(400, VOCABULARY))
"""The tiny tokenizer's last merges, which texts hold many of, called added by the tests."""

TIED = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])


def pieces_of(model: Path) -> dict[int, list[int]]:
    """What spells an added entry where no other added one may."""
    spec = json.loads((model / "tokenizer.json").read_text())["model"]
    parts = {spec["vocab"]["".join(m)]: [spec["vocab"][p] for p in m] for m in spec["merges"]}

    def spelled(id: int) -> list[int]:
        return [p for part in parts[id] for p in (spelled(part) if part in ADDED else [part])]

    return {id: spelled(id) for id in ADDED}


def expanded(directory: Path, tied: bool) -> Path:
    """A tiny Llama as ``vocab expand`` would have made it: added rows are means of their pieces."""
    model = tiny_llama(directory, vocab_size=VOCABULARY, tied=tied, embedding_scale=0.2, seed=5)
    save_tiny_tokenizer(model)
    pieces = pieces_of(model)
    tensors = tensors_of(model)
    for name in (EMBEDDING,) if tied else (EMBEDDING, HEAD):
        for id, parts in pieces.items():
            tensors[name][id] = tensors[name][parts].mean(axis=0)
    store(model, tensors)
    entries = [{"id": id, "pieces": parts} for id, parts in pieces.items()]
    write_json(model / "expansion.json", {"added": entries, "steps": []})
    return model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {tied: expanded(folder / str(tied), tied) for tied in (True, False)}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEAKEASY_CACHE", str(tmp_path / "cache"))


def texts(count: int = 40, length: int = 60) -> list[Rendered]:
    """Texts in which a few added entries are common, and which are all target."""
    generator = np.random.default_rng(1)
    found = []
    for _ in range(count):
        tokens = generator.integers(3, 400, length)
        is_new = generator.random(length) < 0.3
        tokens[is_new] = 400 + generator.geometric(0.2, is_new.sum()).clip(max=79)
        is_target = np.arange(length) > 0
        found.append(Rendered(tokens.astype(np.int32), is_target, length, length))
    return found


def fitted(backend: str, model: Path, rows: TrainedRows | None = None, **changes: Any) -> Fitted:
    rows = rows or read_from_model(model, ADDED)
    engine = open_engine(backend, model, rows=rows)
    options = {"positions": 10_000, "row_length": 256, "context": 512, "seed": 0} | changes
    found = fit_rows(engine, model, rows, options.pop("items", texts()), **options)
    assert found is not None
    return found


@TIED
def test_predictions_are_what_logits_are_made_of(
    backend_name: str, tied: bool, models: dict[bool, Path]
) -> None:
    engine = open_engine(backend_name, models[tied], rows=read_from_model(models[tied], ADDED))
    head_VD = tensors_of(models[tied])[EMBEDDING if tied else HEAD]
    items = random_items(5)
    batch = packed(items)
    left_out = np.array([4, 77, 410])
    hidden_ND, log_sums_N = engine.predictions(batch, left_out)
    assert hidden_ND.dtype == log_sums_N.dtype == np.float32
    where = np.argwhere(batch.labels_BT != IGNORED)
    assert len(hidden_ND) == len(log_sums_N) == len(where)
    for (b, t), hidden_D, log_sum in zip(where, hidden_ND, log_sums_N, strict=True):
        item = items[batch.items_BT[b, t]]
        position = batch.positions_BT[b, t]
        logits_V = engine.next_logits(item.tokens_T[None])[0, position]
        np.testing.assert_allclose(head_VD @ hidden_D, logits_V, rtol=0, atol=2e-5)
        kept = np.delete(logits_V.astype(np.float64), left_out)
        assert log_sum == pytest.approx(np.log(np.exp(kept).sum()), abs=2e-5)


def some_states(count: int, rows: int, width: int = 6) -> tuple[States, np.ndarray]:
    generator = np.random.default_rng(count)
    hidden = generator.standard_normal((count, width)).astype(np.float32)
    log_sums = (5 + generator.standard_normal(count)).astype(np.float32)
    places = generator.integers(-1, rows, count)
    return States(hidden, log_sums, places), generator.standard_normal((rows, width)).astype("f4")


def test_the_loss_is_that_of_the_textbook() -> None:
    """Cross-entropy over old and new tokens, less what an old one costs among its own kind."""
    states, rows_RD = some_states(2 * BATCH + 3, 7)
    old = states.log_sums_N.astype(np.float64)
    logits = states.hidden_ND.astype(np.float64) @ rows_RD.T.astype(np.float64)
    total = np.log(np.exp(old) + np.exp(logits).sum(axis=1))
    due = [logits[n, r] if r >= 0 else old[n] for n, r in enumerate(states.places_N)]
    assert states.loss(rows_RD) == pytest.approx((total - due).mean(), rel=1e-6)


def test_the_gradient_agrees_with_finite_differences() -> None:
    states, rows_RD = some_states(50, 4)
    _, errors_NR = states.nats(rows_RD)
    gradient = errors_NR.T @ states.hidden_ND
    move = 1e-2 * np.random.default_rng(0).standard_normal(rows_RD.shape).astype(np.float32)
    slope = (states.nats(rows_RD + move)[0] - states.nats(rows_RD - move)[0]) / 2
    assert slope == pytest.approx(float((gradient * move).sum()), rel=1e-3)


def test_what_made_the_words_is_found_again() -> None:
    """Words drawn from a planted model of themselves: the fit comes near its loss."""
    generator = np.random.default_rng(0)
    planted = 1.5 * generator.standard_normal((5, 8)).astype(np.float32)
    hidden = generator.standard_normal((12_000, 8)).astype(np.float32)
    log_sums = np.ones(12_000, dtype=np.float32)
    logits = np.hstack([log_sums[:, None], hidden @ planted.T])
    noise = generator.gumbel(size=logits.shape)
    places = (logits + noise).argmax(axis=1) - 1
    train, held_out = (
        States(hidden[part], log_sums[part], places[part])
        for part in (slice(10_000), slice(10_000, None))
    )
    start = np.zeros_like(planted)
    found, loss = fit(train, held_out, start, 0, lambda done: None)
    assert loss == held_out.loss(found)
    gap = held_out.loss(start) - held_out.loss(planted)
    assert gap > 0.3
    assert loss - held_out.loss(planted) < 0.25 * gap


@TIED
def test_a_fit_predicts_held_out_words_better(
    backend_name: str, tied: bool, models: dict[bool, Path]
) -> None:
    """By the engine itself, with the rows put in: all held-out losses of old tokenisation."""
    model = models[tied]
    rows = read_from_model(model, ADDED)
    said: list[str] = []
    found = fitted(backend_name, model, say=said.append)
    record = found.record
    assert record["taken"]
    assert record["rows"] == len(ADDED)
    assert record["positions"] + record["held_out_positions"] == 40 * 59
    assert record["held_out_positions"] == 4 * 59
    assert said == [
        f"rows fitted to the base's predictions: {record['nats_before']:.2f} -> "
        f"{record['nats_after']:.2f} nats a position on 236 held-out positions"
    ]
    assert (found.rows.embedding != rows.embedding).any(axis=1).all()
    if not tied:
        assert (found.rows.head != rows.head).any(axis=1).all()
    order = np.random.Generator(np.random.PCG64([0, 2])).permutation(40)
    for tried, nats in ((rows, record["nats_before"]), (found.rows, record["nats_after"])):
        engine = open_engine(backend_name, model, rows=tried)
        losses = [old_loss(engine, model, texts()[index]) for index in order[-4:]]
        assert np.concatenate(losses).mean() == pytest.approx(nats, rel=1e-4)


def old_loss(engine: Any, model: Path, item: Rendered) -> np.ndarray:
    """Nats of each word of a text read in old tokens, from whole logits."""
    pieces = pieces_of(model)
    spelled = [pieces.get(token, [token]) for token in item.tokens_T.tolist()]
    logits_TV = engine.next_logits(np.array([list(chain(*spelled))]))[0].astype(np.float64)
    losses, start = [], 0
    for token, parts in zip(item.tokens_T.tolist(), spelled, strict=True):
        if start:
            logits_V = logits_TV[start - 1]
            old = np.log(np.exp(np.delete(logits_V, ADDED)).sum())
            due = logits_V[token] if token in pieces else old
            losses.append(np.log(np.exp(logits_V).sum()) - due)
        start += len(parts)
    return np.array(losses)


@TIED
def test_both_backends_fit_the_same_rows(tied: bool, models: dict[bool, Path]) -> None:
    one, other = (fitted(backend, models[tied]) for backend in ("mlx", "torch"))
    for name, tensor in one.rows.tensors().items():
        difference = np.linalg.norm(tensor - other.rows.tensors()[name])
        assert difference < 1e-3 * np.linalg.norm(tensor)
    assert one.record == pytest.approx(other.record, rel=1e-4)


def test_a_fit_is_repeated_bit_for_bit(backend_name: str, models: dict[bool, Path]) -> None:
    one, again, another = (fitted(backend_name, models[True], seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.rows.embedding, again.rows.embedding)
    assert one.record == again.record
    assert (one.rows.embedding != another.rows.embedding).any()


def test_rows_that_were_trained_stay(models: dict[bool, Path], tmp_path: Path) -> None:
    """What was learned since the expansion is not thrown away; the others are fitted around it."""
    model = tmp_path / "model"
    shutil.copytree(models[True], model)
    tensors = tensors_of(model)
    trained = [401, 405, 479]
    tensors[EMBEDDING][trained] *= 1.2
    store(model, tensors)
    rows = read_from_model(model, ADDED)
    found = fitted("torch", model)
    assert found.record["rows"] == len(ADDED) - 3
    changed = (found.rows.embedding != rows.embedding).any(axis=1)
    assert (~changed).sum() == 3
    assert rows.ids[~changed].tolist() == trained
    tensors[EMBEDDING][ADDED] *= 1.2
    store(model, tensors)
    rows = read_from_model(model, ADDED)
    engine = open_engine("torch", model, rows=rows)
    options = {"positions": 1000, "row_length": 64, "context": 512, "seed": 0}
    assert fit_rows(engine, model, rows, texts(), **options) is None


def test_rows_stay_where_a_fit_does_not_help(models: dict[bool, Path]) -> None:
    """Held-out texts unlike those that are fitted to."""
    items = texts(20)
    order = np.random.Generator(np.random.PCG64([0, 2])).permutation(20)
    for index in order[-2:]:
        items[index] = Rendered(
            np.full(60, 470, np.int32), items[index].is_target_T, 60, 60
        )  # fmt: skip
    for index in order[:-2]:
        tokens = items[index].tokens_T
        items[index] = Rendered(np.minimum(tokens, 399), items[index].is_target_T, 60, 60)
    said: list[str] = []
    rows = read_from_model(models[False], ADDED)
    found = fitted("torch", models[False], items=items, say=said.append)
    assert not found.record["taken"]
    for name, tensor in found.rows.tensors().items():
        np.testing.assert_array_equal(tensor, rows.tensors()[name])
    assert said[0].startswith("rows left as they are, no better when fitted to the base's")


def test_bounds(models: dict[bool, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of positions, of their memory, and of what the model can read; one text is too little."""
    assert fitted("torch", models[True], positions=200).record["held_out_positions"] == 200 - 3 * 59
    short = fitted("torch", models[True], context=20).record
    assert short["positions"] + short["held_out_positions"] < 40 * 20
    monkeypatch.setattr("speakeasy.training.fit_rows.STATE_BYTES", 4 * 32 * 100)
    assert fitted("torch", models[True]).record["positions"] == 59
    rows = read_from_model(models[True], ADDED)
    engine = open_engine("torch", models[True], rows=rows)
    said: list[str] = []
    options = {"positions": 50, "row_length": 64, "context": 512, "seed": 0, "say": said.append}
    assert fit_rows(engine, models[True], rows, texts(), **options) is None
    assert said == ["rows left as they are: there is too little text to fit them to"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A little of the packaged texts, so that scoring them takes no time."""
    folder = tmp_path_factory.mktemp("corpus")
    for document in starter_texts("es-ca")[:40]:
        text = document.text[:200]
        (folder / f"{document.id}.txt").write_text(text, encoding="utf-8")
    return folder


def words(backend: str, model: Path, corpus: Path, out: Path, **more: Any) -> list:
    options = {
        "model": model,
        "corpus-path": corpus,
        "replay-path": corpus,
        "holdout": 0.1,
        "output-dir": out,
        "backend": backend,
        "precision": "float32",
        "batch-size": 2,
        "max-length": 128,
        "max-steps": 4,
        "save-every": 2,
        "fit-rows": 3000,
        "lora-r": LORA.r,
    } | more
    return ["pretrain", *(w for n, v in options.items() if v is not None for w in (f"--{n}", v))]


@pytest.fixture(scope="module")
def runs(
    models: dict[bool, Path], corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, dict]]:
    """A finished run on each backend."""
    found = {}
    for backend in ("mlx", "torch"):
        out = tmp_path_factory.mktemp("runs") / backend
        found[backend] = out, speakeasy(*words(backend, models[True], corpus, out), "--json").result
    return found


def test_pretrain_begins_with_fitted_rows(
    backend_name: str,
    runs: dict[str, tuple[Path, dict]],
    models: dict[bool, Path],
    corpus: Path,
    tmp_path: Path,
) -> None:
    out, summary = runs[backend_name]
    record = summary["rows_fitted"]
    assert record["taken"]
    assert record["rows"] == len(ADDED)
    assert record["positions"] + record["held_out_positions"] == 3000
    assert record["nats_after"] < record["nats_before"]
    before, after = (load_file(d / "model.safetensors")[EMBEDDING] for d in (models[True], out))
    old = np.arange(400)
    np.testing.assert_array_equal(after[old], before[old])
    short = {"max-steps": 1}
    plain = speakeasy(
        *words(backend_name, models[True], corpus, tmp_path / "one", **short, **{"fit-rows": 0}),
        "--json",
    ).result
    assert "rows_fitted" not in plain
    assert summary["eval_bits_per_byte_before"] < plain["eval_bits_per_byte_before"]
    again = speakeasy(*words(backend_name, out, corpus, tmp_path / "two", **short), "--json").result
    assert "rows_fitted" not in again, "rows that were trained are not fitted again"
    assert again["eval_bits_per_byte_before"] == pytest.approx(
        summary["eval_bits_per_byte"], rel=1e-5
    )


@pytest.mark.parametrize("state", [True, False], ids=["from a state", "from none"])
def test_a_killed_run_goes_on_bit_for_bit(
    backend_name: str, state: bool, runs: dict[str, tuple[Path, dict]], tmp_path: Path
) -> None:
    out, summary = runs[backend_name]
    cut = killed_after(out, 4, tmp_path / "cut")
    shutil.rmtree(cut / "state" / "step-000004")
    if state:
        shutil.copy(out / "rows-fitted.json", cut)
    else:
        shutil.rmtree(cut / "state")
        for name in ("metrics.jsonl", "evaluations.jsonl"):
            (cut / name).unlink()
    resumed = speakeasy("pretrain", "--resume", "--output-dir", cut, "--json")
    assert ("rows fitted" in resumed.stderr) is not state
    assert resumed.result["rows_fitted"] == summary["rows_fitted"]
    assert [s["loss"] for s in Run(cut).steps()] == [s["loss"] for s in Run(out).steps()]
    for name, tensor in load_file(out / "model.safetensors").items():
        np.testing.assert_array_equal(load_file(cut / "model.safetensors")[name], tensor)


def test_a_run_of_before_goes_on_without(
    runs: dict[str, tuple[Path, dict]], tmp_path: Path
) -> None:
    """run.toml of an older version says nothing of fitting, and nothing was fitted."""
    shutil.copy(runs["torch"][0] / "run.toml", tmp_path)
    plan = (tmp_path / "run.toml").read_text()
    assert "fit_rows = 3000\n" in plan
    assert Run(tmp_path).config.fit_rows == 3000
    (tmp_path / "run.toml").write_text(plan.replace("fit_rows = 3000\n", ""))
    assert Run(tmp_path).config.fit_rows == 0


def test_rescored_rows_are_the_fitted_ones(
    runs: dict[str, tuple[Path, dict]], tmp_path: Path
) -> None:
    """A run that goes on in another precision scores what it began with again: rows and all."""
    out, _ = runs["torch"]
    cut = killed_after(out, 2, tmp_path / "cut")
    shutil.copy(out / "rows-fitted.json", cut)
    speakeasy("pretrain", "--resume", "--output-dir", cut, "--precision", "bfloat16")
    begun = (out / "rows-fitted.json").read_bytes()
    assert (cut / "rows-fitted.json").read_bytes() == begun  # what training began from
    first, *_, rescored = [e for e in Run(cut).evaluations() if e["step"] == 0]
    assert (first["base"], rescored["base"]) == ("float32", "bfloat16")
    assert rescored["eval_loss"] == pytest.approx(first["eval_loss"], rel=1e-3)


def test_refusals(models: dict[bool, Path], corpus: Path, tmp_path: Path) -> None:
    for more, message in (
        ({"train": "full", "lora-r": None}, "--fit-rows: --train full has no rows of its own"),
        ({"fit-rows": -1}, "--fit-rows -1: the number must be at least 0"),
    ):
        out = tmp_path / "out"
        done = speakeasy(*words("torch", models[True], corpus, out, **more), check=False)
        assert message in done.stderr.splitlines()[-1]
        assert not out.exists()
