"""Which rows of a model were added, by its record."""

from __future__ import annotations

from pathlib import Path

import pytest

from speakeasy.errors import ModelError
from speakeasy.files import write_json
from speakeasy.weights.added import RECORD, added_ids


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
