from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vocabularies import GUIDE, GUIDE_PHRASES, byte_level, four_forms, sentencepiece

from speakeasy.cli.vocab_options import MODE_CHOICES
from speakeasy.errors import ModelError
from speakeasy.files import write_json
from speakeasy.vocab.expand import MODES, Expansion, plan_expansion
from speakeasy.vocab.families import from_spec, pre_tokens, whole_vocabulary
from speakeasy.vocab.isolate import alternation
from speakeasy.vocab.merges import Merges

FORMS = four_forms(GUIDE)
PHRASES = four_forms(GUIDE_PHRASES)
MAKE = {"byte-level": byte_level, "sentencepiece": sentencepiece}


@cache
def planned(family: str, mode: str = "auto", phrases: bool = False) -> Expansion:
    directory = MAKE[family](Path(mkdtemp()))
    return plan_expansion(directory, FORMS, mode=mode, phrases=PHRASES if phrases else ())


def ids(tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def written_out(plan: Expansion, tokens: list[int]) -> list[int]:
    return [piece for token in tokens for piece in plan.rows.get(token, (token,))]


def reasons(plan: Expansion) -> dict[str, str]:
    return {item.form: item.reason for item in plan.skipped}


def test_the_command_offers_every_mode() -> None:
    assert MODE_CHOICES == MODES


@pytest.mark.parametrize("family", MAKE)
def test_every_form_becomes_one_token(family: str) -> None:
    plan = planned(family)
    assert plan.mode == "vocab"
    assert plan.family == family
    assert {token.form for token in plan.added} | set(reasons(plan)) == set(FORMS)
    assert set(reasons(plan).values()) <= {"is one token already"}
    for token in plan.added:
        assert ids(plan.new, f"({token.form} 2").count(token.id) == 1
        assert plan.new.decode([token.id]).strip() == token.form.strip()
        assert len(token.pieces) > 1
    for form in FORMS:
        if family == "byte-level" or form.startswith(" "):
            assert len(ids(plan.new, form)) <= (1 if family == "byte-level" else 2), form


@pytest.mark.parametrize("mode", ["vocab", "merges"])
@pytest.mark.parametrize("family", MAKE)
def test_ids_begin_behind_the_last_and_no_old_one_moves(family: str, mode: str) -> None:
    plan = planned(family, mode)
    old = whole_vocabulary(plan.source.spec)
    new = plan.new.get_vocab(with_added_tokens=True)
    assert old.items() <= new.items()
    assert sorted(plan.rows) == list(
        range(max(old.values()) + 1, max(old.values()) + 1 + len(plan.rows))
    )
    for token in plan.source.spec["added_tokens"]:
        assert ids(plan.new, f"a{token['content']}b") == ids(plan.old, f"a{token['content']}b")


words = st.sampled_from(
    [*FORMS, "homenaje", "vamos", " aviones", "l'avi", "home-page", "¡Ostras", "."]
)
texts = st.lists(st.one_of(words, st.text(max_size=6)), max_size=8).map("".join)


@given(texts)
def test_writing_new_tokens_out_gives_the_old_tokens_back(text: str) -> None:
    plan = planned("byte-level")
    assert written_out(plan, ids(plan.new, text)) == ids(plan.old, text)


@given(texts)
def test_new_tokens_stand_for_pre_tokens_and_nothing_else(text: str) -> None:
    plan = planned("byte-level")
    held = [piece for piece in pre_tokens(plan.old, text) if piece in plan.keys]
    found = [token for token in ids(plan.new, text) if token in plan.rows]
    assert [plan.new.id_to_token(token) for token in found] == held


@given(texts)
def test_texts_round_trip_as_before(text: str) -> None:
    plan = planned("byte-level", phrases=True)
    assert plan.new.decode(ids(plan.new, text), skip_special_tokens=False) == plan.old.decode(
        ids(plan.old, text), skip_special_tokens=False
    )


@given(texts)
def test_sentencepiece_text_without_a_word_is_not_touched(text: str) -> None:
    plan = planned("sentencepiece")
    if not any(piece in plan.keys for piece in pre_tokens(plan.new, text)):
        assert ids(plan.new, text) == ids(plan.old, text)
    assert plan.new.decode(ids(plan.new, text)) == plan.old.decode(ids(plan.old, text))


def test_sentencepiece_words_are_isolated_only_where_no_letter_goes_on() -> None:
    plan = planned("sentencepiece")
    assert plan.new.id_to_token(ids(plan.new, "ostras")[0]) == "▁ostras"
    assert "ostras" in [plan.new.id_to_token(token) for token in ids(plan.new, "¡ostras!")]
    for other in ("ostrasx", "xostras", "costras", "ostras9", "ostrás"):
        assert ids(plan.new, other) == ids(plan.old, other)


def test_a_bare_form_alone_is_not_met_after_a_space(tmp_path: Path) -> None:
    plan = plan_expansion(sentencepiece(tmp_path), ["ostras"])
    assert ids(plan.new, "un ostras") == ids(plan.old, "un ostras")
    assert len(ids(plan.new, "(ostras")) < len(ids(plan.old, "(ostras"))


def test_forms_that_cannot_have_an_entry_are_left_out_with_the_reason(tmp_path: Path) -> None:
    forms = ["ostras", "ostras", "e", "si us plau", "l'àvia", "", "a<|im_end|>", " "]
    plan = plan_expansion(byte_level(tmp_path), forms)
    assert [token.form for token in plan.added] == ["ostras"]
    said = reasons(plan)
    assert said["e"] == "is one token already"
    assert said["si us plau"].startswith("is several words; --phrases")
    assert said["l'àvia"] == "this tokenizer cuts it into 3 pre-tokens: l | ' | àvia"
    assert said[""] == said[" "] == "is empty"
    assert "<|im_end|>" in said["a<|im_end|>"]


@pytest.mark.parametrize("family", MAKE)
def test_phrases_are_one_token_and_cost_no_other_text(family: str) -> None:
    plan = planned(family, phrases=True)
    assert set(plan.phrases) == set(PHRASES)
    by_form = {token.form: token.id for token in plan.added}
    assert by_form[" si us plau"] in ids(plan.new, "Passa, si us plau.")
    assert by_form["Si us plau"] in ids(plan.new, "(Si us plau, passa")
    for other in ("casi us plau", "si us plauen", "si  us plau", "si us", "apa vas"):
        assert ids(plan.new, other) == ids(planned(family).new, other)


def test_phrases_are_left_out_where_only_merges_survive() -> None:
    plan = planned("byte-level", "merges", phrases=True)
    assert plan.phrases == ()
    assert "mode merges cannot keep them together" in reasons(plan)["si us plau"]


@pytest.mark.parametrize("family", MAKE)
def test_merges_build_the_forms_after_a_space(family: str) -> None:
    plan = planned(family, "merges")
    assert plan.added
    assert all(token.form.startswith(" ") for token in plan.added)
    assert not plan.spec["model"].get("ignore_merges")
    for token in plan.added:
        assert token.id in ids(plan.new, f"un{token.form} un")
        assert written_out(plan, [token.id]) == list(token.pieces)
    for token in plan.steps:
        spelled = "".join(plan.old.id_to_token(piece) for piece in token.pieces)
        assert token.token == spelled


@given(st.lists(st.text("abc", min_size=1, max_size=6), min_size=1, max_size=8))
def test_appended_merges_build_every_word(several: list[str]) -> None:
    merges = Merges([["a", "b"], "b c"])
    for word in several:
        merges.build(merges.apply(list(word)))
    assert all(merges.apply(list(word)) == [word] for word in several)
    assert merges.all[:2] == [["a", "b"], ["b", "c"]]
    assert merges.added == len(merges.all) - 2


def test_auto_takes_merges_where_transformers_drops_the_flag(tmp_path: Path) -> None:
    """transformers 5 builds the tokenizer of a qwen2 model anew whatever class its config names."""
    plan = plan_expansion(byte_level(tmp_path, "qwen2"), FORMS)
    assert plan.mode == "merges"
    assert "anew when it loads" in plan.reason


def test_auto_takes_merges_where_an_entry_is_out_of_reach(tmp_path: Path) -> None:
    directory = byte_level(tmp_path)
    spec = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    spec["model"]["vocab"]["Ġzzqq"] = 480
    write_json(directory / "tokenizer.json", spec)
    plan = plan_expansion(directory, [" ostras"])
    assert plan.mode == "merges"
    assert ids(plan.new, " zzqq") == ids(plan.old, " zzqq") != [480]
    with pytest.raises(
        ModelError, match="--mode vocab: 1 entries such as 'Ġzzqq' are out of reach"
    ):
        plan_expansion(directory, [" ostras"], mode="vocab")


def with_reserved(directory: Path, count: int) -> Path:
    """The tiny tokenizer with reserved tokens behind one that has a name, as Llama 3 has them."""
    byte_level(directory)
    spec = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    like = spec["added_tokens"][0]
    names = ["<|reserved_special_token_0|>", "<|eot|>"]
    names += [f"<|reserved_special_token_{n}|>" for n in range(1, count + 1)]
    spec["added_tokens"] += [like | {"id": 480 + n, "content": c} for n, c in enumerate(names)]
    write_json(directory / "tokenizer.json", spec)
    return directory


def test_reserved_ids_are_taken_and_are_special_no_longer(tmp_path: Path) -> None:
    plan = plan_expansion(
        with_reserved(tmp_path, 4), ["ostras", " ostras", "àvia"], mode="reserved"
    )
    assert [token.id for token in plan.added] == [482, 483, 484]
    assert plan.given_up == tuple(f"<|reserved_special_token_{n}|>" for n in (1, 2, 3))
    assert plan.new.get_vocab_size() == plan.old.get_vocab_size()
    assert ids(plan.new, "ostras àvia") == [482, *ids(plan.old, " àvia")]
    assert ids(plan.new, "<|reserved_special_token_4|>") == [485]
    assert ids(plan.new, "<|reserved_special_token_0|>") == [480]
    assert len(ids(plan.new, "<|reserved_special_token_1|>")) > 1
    assert 482 not in plan.new.get_added_tokens_decoder()


def test_reserved_ids_that_a_config_names_are_not_free(tmp_path: Path) -> None:
    directory = with_reserved(tmp_path, 3)
    write_json(directory / "generation_config.json", {"eos_token_id": [2, 483]})
    plan = plan_expansion(directory, ["ostras", "àvia"], mode="reserved")
    assert [token.id for token in plan.added] == [482, 484]


def test_too_few_reserved_ids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="2 entries are asked for, and 1 reserved tokens"):
        plan_expansion(with_reserved(tmp_path, 1), ["ostras", "àvia"], mode="reserved")


def test_a_tokenizer_without_reserved_ids_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no unused"):
        plan_expansion(byte_level(tmp_path), ["ostras"], mode="reserved")


def test_a_second_expansion_builds_on_the_first(tmp_path: Path) -> None:
    directory = byte_level(tmp_path)
    first = plan_expansion(directory, ["ostras", " ostras"])
    write_json(directory / "tokenizer.json", first.spec)
    second = plan_expansion(directory, ["ostras", "àvia"])
    assert reasons(second) == {"ostras": "is one token already"}
    assert [token.id for token in second.added] == [482]
    assert ids(second.new, " ostras") == ids(first.new, " ostras") == [481]


@given(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=10), st.text(max_size=6))
def test_an_alternation_matches_the_strings_and_nothing_else(
    strings: list[str], other: str
) -> None:
    pattern = re.compile(alternation(strings), re.DOTALL)
    assert all(pattern.fullmatch(string) for string in strings)
    assert bool(pattern.fullmatch(other)) == (other in strings or (not other and "" in strings))


@given(st.sampled_from(["nen", "nena", "nenes", "n.n", "a b", "é-(x)"]), st.text(max_size=8))
def test_the_tokenizers_library_reads_an_alternation_alike(string: str, around: str) -> None:
    from tokenizers import Regex, pre_tokenizers

    pattern = alternation(["nen", "nena", "nenes", "n.n", "a b", "é-(x)"])
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    cut = [piece for piece, _ in split.pre_tokenize_str(around + "\n" + string)]
    assert cut[-1] == string


def test_the_plan_is_what_its_json_describes() -> None:
    plan = planned("byte-level")
    again = from_spec(plan.tokenizer_json)
    assert ids(again, "¡Ostras, nen!") == ids(plan.new, "¡Ostras, nen!")
