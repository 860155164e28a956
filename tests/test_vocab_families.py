from __future__ import annotations

import json
from pathlib import Path

import pytest
from vocabularies import byte_level, sentencepiece

from speakeasy.errors import ModelError
from speakeasy.files import write_json
from speakeasy.vocab.families import (
    first_free_id,
    out_of_reach,
    parts,
    pre_tokens,
    read_source,
    whole_vocabulary,
)


def rewrite(directory: Path, change) -> Path:
    file = directory / "tokenizer.json"
    spec = json.loads(file.read_text(encoding="utf-8"))
    change(spec)
    write_json(file, spec)
    return directory


def test_the_two_families_are_told_apart(tmp_path: Path) -> None:
    assert read_source(byte_level(tmp_path / "a")).family == "byte-level"
    assert read_source(sentencepiece(tmp_path / "b")).family == "sentencepiece"


def test_another_model_is_refused_with_its_name(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "nen": 1}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="a WordLevel tokenizer; only BPE"):
        read_source(tmp_path)


def test_marked_parts_of_words_are_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    marked = Tokenizer(models.BPE({"n": 0, "n</w>": 1}, [], end_of_word_suffix="</w>"))
    PreTrainedTokenizerFast(tokenizer_object=marked).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="end_of_word_suffix"):
        read_source(tmp_path)


def test_bpe_with_unknown_steps_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    other = Tokenizer(models.BPE({"n": 0}, []))
    other.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=other).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="it has Whitespace"):
        read_source(tmp_path)


def test_pre_tokens_are_in_the_tokenizers_own_spelling(tmp_path: Path) -> None:
    source = read_source(byte_level(tmp_path))
    assert pre_tokens(source.tokenizer, "un àvia") == ["un", "ĠÃłvia"]


def test_added_tokens_are_part_of_the_vocabulary_under_their_ids(tmp_path: Path) -> None:
    directory = byte_level(tmp_path)

    def append(spec) -> None:
        spec["added_tokens"].append(spec["added_tokens"][-1] | {"id": 500, "content": "<far>"})
        spec["model"]["vocab"].update({f"pad{i}": i for i in range(480, 500)})

    source = read_source(rewrite(directory, append))
    assert whole_vocabulary(source.spec)["<far>"] == 500
    assert first_free_id(source.spec) == 501


def test_every_entry_of_a_trained_tokenizer_is_in_reach(tmp_path: Path) -> None:
    assert out_of_reach(read_source(byte_level(tmp_path / "a"))) == []
    assert out_of_reach(read_source(sentencepiece(tmp_path / "b"))) == []


def test_an_entry_without_merges_is_out_of_reach_if_it_could_be_a_pre_token(tmp_path: Path) -> None:
    def add(spec) -> None:
        # The first could be met; the second is two pre-tokens, so no text ever asks for it.
        spec["model"]["vocab"] |= {"Ġzzqq": 480, "zzqqĠzz": 481}

    assert out_of_reach(read_source(rewrite(byte_level(tmp_path), add))) == ["Ġzzqq"]


def test_a_sequence_is_taken_apart_however_deep() -> None:
    inner = {"type": "Sequence", "pretokenizers": [{"type": "A"}, {"type": "B"}]}
    steps = {"type": "Sequence", "pretokenizers": [inner, {"type": "C"}]}
    assert [step["type"] for step in parts(steps)] == ["A", "B", "C"]
    assert parts(None) == []
