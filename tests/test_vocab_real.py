"""The promises of tokenizer expansion on real tokenizers and the whole word lists."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from tokenizers_fixture import STARTER, real_tokenizer
from vocabularies import GUIDE, GUIDE_PHRASES, four_forms

from speakeasy.files import write_json
from speakeasy.vocab import compare as compare_module
from speakeasy.vocab.compare import sentences
from speakeasy.vocab.expand import Expansion, plan_expansion
from speakeasy.vocab.families import pre_tokens, read_source, whole_vocabulary
from speakeasy.vocab.loaders import check_loaded
from speakeasy.vocab.naive import naive_addition
from speakeasy.vocab.tokenizer_files import copy_config, write_tokenizer
from speakeasy.vocab.verify import Evidence, examine, require_no_harm

pytestmark = pytest.mark.network

FORMS = four_forms(GUIDE)
MODEL_TYPES = {STARTER: "llama", "llama3_1": "llama", "qwen3": "qwen3", "llama2": "llama"}


@cache
def model(name: str, model_type: str | None = None) -> Path:
    """A directory with a real tokenizer and a config that names its model type."""
    source = Path(real_tokenizer(name).name_or_path)
    directory = Path(mkdtemp(prefix=f"{name}-"))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / file, directory / file)
    write_json(directory / "config.json", {"model_type": model_type or MODEL_TYPES[name]})
    return directory


@cache
def planned(name: str, mode: str = "auto") -> Expansion:
    return plan_expansion(model(name), FORMS, mode=mode)


@cache
def evidence(name: str, mode: str = "auto") -> Evidence:
    return examine(planned(name, mode))


@pytest.fixture
def fewer_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commonest 5,000 of each language, where another test has the whole lists."""
    monkeypatch.setattr(compare_module, "WORDS", 5000)


def ids(tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def is_own_pre_token(plan: Expansion, word: str) -> bool:
    return any(piece in plan.keys for piece in pre_tokens(plan.old, word))


@pytest.mark.parametrize(
    ("name", "mode"), [(STARTER, "auto"), ("llama3_1", "auto"), ("llama3_1", "reserved")]
)
def test_each_guide_word_is_one_token_in_four_forms(name: str, mode: str) -> None:
    plan = planned(name, mode)
    assert plan.mode == {"auto": "vocab"}.get(mode, mode)
    for form in FORMS:
        assert len(ids(plan.new, form)) == 1, form
        assert plan.new.decode(ids(plan.new, form)) == form


@pytest.mark.parametrize("name", [STARTER, "llama3_1", "qwen3"])
def test_no_other_word_changes_and_all_round_trip(name: str) -> None:
    plan, found = planned(name), evidence(name)
    assert found.words.texts > 240_000
    assert found.words.collateral == found.words.disturbed == []
    assert found.words.broken == found.sentences.broken == []
    assert found.sentences.collateral == found.sentences.disturbed == []
    # Independently of how the gate decides it: what changed holds the word as a pre-token.
    assert all(is_own_pre_token(plan, word) for word in found.words.touched)
    assert {"home", " ostras"} & set(found.words.touched)
    require_no_harm(found)


@pytest.mark.parametrize(("name", "specials"), [(STARTER, 17), ("llama3_1", 256), ("qwen3", 26)])
def test_special_tokens_keep_their_ids(name: str, specials: int) -> None:
    plan = planned(name)
    assert evidence(name).specials == specials
    old = whole_vocabulary(plan.source.spec)
    assert old.items() <= plan.new.get_vocab(with_added_tokens=True).items()
    assert min(plan.rows) == max(old.values()) + 1


@pytest.mark.parametrize(
    ("name", "mode"),
    [(STARTER, "auto"), ("llama3_1", "auto"), ("llama3_1", "reserved"), ("qwen3", "auto"),
     ("llama2", "auto")],
)  # fmt: skip
def test_transformers_and_mlx_lm_load_what_is_saved(name: str, mode: str, tmp_path: Path) -> None:
    from speakeasy.weights.hub import load_tokenizer

    plan = planned(name, mode)
    write_tokenizer(plan.source, plan.spec, tmp_path, plan.given_up)
    copy_config(plan.source.directory, tmp_path)
    found = check_loaded(plan, tmp_path)
    assert found["mlx-lm"]["texts_with_the_same_ids"] > 300
    # And once more after transformers itself has saved it, as training and export do.
    again = tmp_path / "again"
    load_tokenizer(tmp_path).save_pretrained(again)
    copy_config(plan.source.directory, again)
    text = "¡Ostras, nen! Un iaio al carrer; adéu."
    assert load_tokenizer(again)(text, add_special_tokens=False).input_ids == ids(plan.new, text)


@pytest.mark.usefixtures("fewer_words")
def test_llama_3_has_244_rows_from_128012() -> None:
    from speakeasy.vocab.reserved import free_reserved

    free = sorted(free_reserved(read_source(model("llama3_1"))).values())
    assert [id for id in free if id >= 128012] == list(range(128012, 128256))
    plan = planned("llama3_1", "reserved")
    assert max(plan.rows) < 128256
    assert plan.new.get_vocab_size() == 128256
    require_no_harm(examine(plan))


def test_qwen_2_gets_merges_and_their_collateral_is_listed() -> None:
    plan = plan_expansion(model("qwen3", "qwen2"), FORMS)
    assert plan.mode == "merges"
    assert all(len(ids(plan.new, token.form)) == 1 for token in plan.added)
    assert len(plan.added) > 30
    found = examine(plan)
    assert found.words.broken == []
    assert 0 < len(found.collateral) < 20
    assert " carreró" in [change.text for change in found.words.collateral]


def test_sentencepiece_words_are_one_token_without_collateral() -> None:
    plan, found = planned("llama2"), evidence("llama2")
    assert (plan.family, plan.mode) == ("sentencepiece", "vocab")
    for word in GUIDE:
        for form in (word, word.capitalize()):
            assert len(ids(plan.new, form)) == 1, form
            assert len(ids(plan.new, f"un {form}, un")) == len(ids(plan.new, "un")) * 2 + 2
    require_no_harm(found)
    assert not found.words.disturbed


@pytest.mark.usefixtures("fewer_words")
def test_phrases_cost_only_the_texts_that_hold_one() -> None:
    phrases = four_forms(GUIDE_PHRASES)
    plan = plan_expansion(model(STARTER), FORMS, phrases=phrases)
    found = examine(plan)
    require_no_harm(found)
    assert set(plan.phrases) == set(phrases)
    assert all(len(ids(plan.new, phrase)) == 1 for phrase in phrases)
    assert found.phrase_texts > 10
    assert not any(token in plan.phrases for token in found.words.touched)


@pytest.mark.parametrize("name", [STARTER, "llama3_1"])
def test_two_thousand_mined_entries_pass_as_well(name: str) -> None:
    source = read_source(model(name))
    counts: Counter[str] = Counter()
    for text in sentences():
        counts.update(piece for piece, _ in source.tokenizer.pre_tokenizer.pre_tokenize_str(text))
    saved = {
        piece: count * (len(source.tokenizer.model.tokenize(piece)) - 1)
        for piece, count in counts.items()
    }
    ranked = sorted(saved, key=lambda piece: -saved[piece])[:2000]
    forms = [source.tokenizer.decoder.decode([piece]) for piece in ranked]
    plan = plan_expansion(model(name), forms)
    assert plan.mode == "vocab"
    assert len(plan.added) == 2000
    found = examine(plan)
    require_no_harm(found)
    assert found.words.disturbed == found.sentences.disturbed == []
    assert found.sentences.tokens_after < 0.95 * found.sentences.tokens_before


def test_what_add_tokens_would_have_done_to_llama_3() -> None:
    harm = naive_addition(read_source(model("llama3_1")), [*GUIDE, *GUIDE_PHRASES])
    assert 4400 < harm.changed < 4700
    assert set(harm.destroyed) == {"àvia", "adéu", "plaça"}
    assert {"home", "va", "nen"} <= set(harm.taken)
    assert set(harm.still_two) == {*GUIDE, *GUIDE_PHRASES}


def test_the_record_is_plain_json() -> None:
    text = json.dumps(evidence("llama3_1").record(), allow_nan=False)
    assert json.loads(text)["words"]["collateral_by_language"] == {"es": 0, "ca": 0, "en": 0}
