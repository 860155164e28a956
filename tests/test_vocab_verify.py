from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
from vocabularies import GUIDE, byte_level, four_forms, sentencepiece

from speakeasy.errors import ModelError
from speakeasy.vocab import compare as compare_module
from speakeasy.vocab import loaders
from speakeasy.vocab.compare import LANGUAGES, WORDS, compare, sentences, word_lists
from speakeasy.vocab.expand import Expansion, plan_expansion
from speakeasy.vocab.families import from_spec, read_source
from speakeasy.vocab.loaders import check_loaded
from speakeasy.vocab.naive import naive_addition
from speakeasy.vocab.tokenizer_files import copy_config, write_tokenizer
from speakeasy.vocab.verify import examine, require_no_harm

FORMS = four_forms(GUIDE)


@pytest.fixture(autouse=True)
def _fewer_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real lists, cut short: the tiny tokenizer writes words letter by letter."""
    monkeypatch.setattr(compare_module, "WORDS", 3000)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Expansion:
    return plan_expansion(byte_level(tmp_path_factory.mktemp("byte-level")), FORMS)


def written(expansion: Expansion, target: Path) -> Path:
    target.mkdir()
    write_tokenizer(expansion.source, expansion.spec, target, expansion.given_up)
    copy_config(expansion.source.directory, target)
    return target


def test_the_lists_are_long_and_the_sentences_many() -> None:
    assert WORDS == 50_000
    lists = word_lists()
    assert set(lists) == set(LANGUAGES)
    assert {len(part) for part in lists.values()} == {3000}
    assert len(sentences()) == len(set(sentences())) > 4000


def test_an_expansion_passes(plan: Expansion) -> None:
    evidence = examine(plan)
    require_no_harm(evidence)
    assert evidence.entries == 480
    assert evidence.specials == 3
    assert {"ostras", " adéu", "home"} & set(evidence.words.touched)
    assert not evidence.words.disturbed
    assert not evidence.words.collateral
    assert not evidence.words.broken
    assert not evidence.sentences.collateral
    assert evidence.sentences.touched
    assert evidence.sentences.tokens_after < evidence.sentences.tokens_before
    json.dumps(evidence.record(), allow_nan=False)


def test_phrases_state_their_cost(tmp_path: Path) -> None:
    plan = plan_expansion(byte_level(tmp_path), [], phrases=[" si us plau", "Si us plau"])
    evidence = examine(plan)
    require_no_harm(evidence)
    assert evidence.phrase_texts == len(evidence.sentences.touched) > 0
    assert evidence.record()["sentences"]["changed_by_phrases"] == evidence.phrase_texts


def harmed(plan: Expansion) -> Expansion:
    """What the usual way makes of the same tokenizer."""
    new = from_spec(plan.source.spec)
    new.add_tokens(GUIDE)
    return dataclasses.replace(plan, new=new, cutter=plan.old)


def test_add_tokens_does_not_pass(plan: Expansion) -> None:
    evidence = examine(harmed(plan))
    assert "vamos" in evidence.collateral
    assert evidence.collateral["vamos"] == ("es",)
    assert "plaça" in evidence.words.broken
    with pytest.raises(ModelError, match="no longer decode to themselves"):
        require_no_harm(evidence)


def test_collateral_is_refused_and_accepted_by_number(plan: Expansion) -> None:
    evidence = examine(harmed(plan))
    evidence.words.broken.clear()
    evidence.sentences.broken.clear()
    count = len(evidence.collateral) + len(evidence.sentences.collateral)
    with pytest.raises(ModelError, match=f"{count} accepts them") as caught:
        require_no_harm(evidence, allow_collateral=count - 1)
    assert "\n" not in str(caught.value)
    require_no_harm(evidence, allow_collateral=count)


def test_sentences_alone_are_collateral_too(plan: Expansion) -> None:
    evidence = examine(harmed(plan))
    evidence.words.broken.clear()
    evidence.sentences.broken.clear()
    evidence.collateral.clear()
    with pytest.raises(ModelError, match="sentences that hold no added word"):
        require_no_harm(evidence)


def test_an_id_that_moved_is_refused(plan: Expansion) -> None:
    spec = json.loads(json.dumps(plan.spec))
    vocabulary = spec["model"]["vocab"]
    vocabulary["en"], vocabulary["es"] = vocabulary["es"], vocabulary["en"]
    with pytest.raises(ModelError, match="has id"):
        examine(dataclasses.replace(plan, new=from_spec(spec)))


def test_merges_report_what_they_changed(tmp_path: Path) -> None:
    plan = plan_expansion(byte_level(tmp_path), FORMS, mode="merges")
    evidence = examine(plan)
    for change in evidence.words.collateral:
        assert len(change.after) < len(change.before)
    listed = evidence.record()["words"]
    assert listed["collateral_words"] == len(evidence.collateral) > 0
    assert len(listed["collateral"]) == len(evidence.words.collateral)
    with pytest.raises(ModelError, match="--allow-collateral"):
        require_no_harm(evidence)


def test_sentencepiece_merges_know_where_a_word_stands(tmp_path: Path) -> None:
    plan = plan_expansion(sentencepiece(tmp_path), [" ostras"], mode="merges")
    found = compare(
        plan.old, plan.new, ["un ostras", "un ostrasx"], keys=plan.keys, rows=plan.rows,
        cutter=plan.cutter,
    )  # fmt: skip
    assert found.touched == ["un ostras"]
    assert [change.text for change in found.collateral] == ["un ostrasx"]


def test_a_disturbed_neighbor_is_not_called_touched(plan: Expansion) -> None:
    other = harmed(plan)
    found = compare(
        plan.old, other.new, ["vamos ostras"], keys=plan.keys, rows=plan.rows, cutter=plan.old
    )
    assert [change.text for change in found.disturbed] == ["vamos ostras"]
    assert not found.touched


def test_the_bar_sees_every_text(plan: Expansion) -> None:
    from contextlib import nullcontext

    seen: list[int] = []
    texts = ["nen"] * 9000

    def bar(description: str, total: int):
        assert total == 9000
        return nullcontext(seen.append)

    assert compare(plan.old, plan.new, texts, bar=bar).texts == sum(seen) == 9000


@pytest.mark.parametrize("make", [byte_level, sentencepiece])
def test_both_libraries_load_the_same_ids(make, tmp_path: Path) -> None:
    plan = plan_expansion(make(tmp_path / "base"), FORMS)
    found = check_loaded(plan, written(plan, tmp_path / "new"))
    assert found["transformers"]["texts_with_the_same_ids"] > 200
    assert found["mlx-lm"]["texts_with_the_same_ids"] > 200


def test_a_tokenizer_that_a_library_rebuilds_is_refused(tmp_path: Path) -> None:
    """Asked for by name, mode vocab does not survive in a qwen2 model: the gate finds out."""
    plan = plan_expansion(byte_level(tmp_path / "base", "qwen2"), FORMS, mode="vocab")
    with pytest.raises(ModelError, match="transformers encodes 'ostras' as"):
        check_loaded(plan, written(plan, tmp_path / "new"))


def test_without_mlx_lm_the_record_says_so(
    plan: Expansion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = written(plan, tmp_path / "new")
    monkeypatch.setitem(sys.modules, "mlx_lm", None)
    monkeypatch.setattr(loaders.importlib.util, "find_spec", lambda name: None)
    found = check_loaded(plan, directory)
    assert found["mlx-lm"] == {"not_checked": "mlx-lm is not installed"}


def test_a_special_token_that_changed_its_name_is_refused(plan: Expansion, tmp_path: Path) -> None:
    directory = written(plan, tmp_path / "new")
    file = directory / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(config | {"eos_token": "<|endoftext|>"}), encoding="utf-8")
    with pytest.raises(ModelError, match="the special tokens by name"):
        check_loaded(plan, directory)


def test_naive_addition_is_counted(tmp_path: Path) -> None:
    harm = naive_addition(read_source(byte_level(tmp_path)), GUIDE)
    assert harm.changed == sum(len(part.collateral) for part in harm.words.values()) > 100
    assert {"adéu", "àvia", "plaça"} <= set(harm.destroyed)
    assert "nen" in harm.still_two
