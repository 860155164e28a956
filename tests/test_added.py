"""Which rows of a model were added, by its record."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file
from tiny_model import tiny_llama

from speakeasy.errors import ModelError
from speakeasy.files import write_json
from speakeasy.weights.added import RECORD, added_ids, added_pieces
from speakeasy.weights.fingerprint import fingerprint


def test_added_entries_of_every_expansion(tmp_path: Path) -> None:
    assert added_ids(tmp_path) == []
    first = {"added": [{"id": 10}], "steps": [{"id": 11}]}
    second = {"added": [{"id": 12}], "steps": [], "base": {"name": "m", "expansion": first}}
    write_json(tmp_path / RECORD, second)
    assert added_ids(tmp_path) == [10, 11, 12]


@pytest.mark.parametrize(
    "record", [{}, {"added": 1, "steps": []}, {"added": [{"id": "7"}], "steps": []}, {"added": [3]}]
)
def test_another_file_is_refused(tmp_path: Path, record: dict) -> None:
    write_json(tmp_path / RECORD, record)
    with pytest.raises(ModelError, match=r"expansion\.json: not a record"):
        added_ids(tmp_path)


def test_a_fingerprint_sees_rows_that_were_trained(tmp_path: Path) -> None:
    """Pre-training may change a few rows in the middle of a matrix and nothing else."""
    model = tiny_llama(tmp_path, vocab_size=480)
    write_json(model / RECORD, {"added": [{"id": 301}], "steps": []})
    before = fingerprint(model)
    tensors = load_file(model / "model.safetensors")
    matrix = tensors["model.embed_tokens.weight"]
    original = matrix.copy()
    matrix[301] += 1
    save_file(tensors, model / "model.safetensors")
    assert fingerprint(model) != before
    matrix[:] = original
    matrix[310, 3] += 1
    save_file(tensors, model / "model.safetensors")
    assert fingerprint(model) == before, "a sample: an edited row that nobody added is not seen"


def test_pieces_of_every_expansion(tmp_path: Path) -> None:
    assert added_pieces(tmp_path) == {}
    first = {"added": [{"id": 10, "pieces": [1, 2]}], "steps": [{"id": 11, "pieces": [3]}]}
    second = {"added": [{"id": 12, "pieces": [10, 4]}, {"id": 13}], "steps": []}
    write_json(tmp_path / RECORD, second | {"base": {"expansion": first}})
    assert added_pieces(tmp_path) == {10: (1, 2), 11: (3,), 12: (10, 4)}


@pytest.mark.parametrize("pieces", [[10], [11], ["1"], 5, [-1]])
def test_pieces_that_cannot_be_are_refused(tmp_path: Path, pieces: object) -> None:
    """An entry made of itself, or of a later one, would never be spelled out."""
    first = {"added": [{"id": 10, "pieces": pieces}], "steps": []}
    second = {"added": [{"id": 11, "pieces": [10]}], "steps": [], "base": {"expansion": first}}
    write_json(tmp_path / RECORD, second)
    with pytest.raises(ModelError, match=r"expansion\.json: not a record"):
        added_pieces(tmp_path)
