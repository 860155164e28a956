"""Reading ``expansion.json``, which ``vocab.build`` writes beside an expanded model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from speakeasy.errors import ModelError
from speakeasy.weights.directory import read_json_object

RECORD = "expansion.json"


def added_ids(model: Path) -> list[int]:
    """Ids of the entries that were added to a model's vocabulary, rising; empty where none were.

    The entries that stand for words and those that only lead to them count alike: all are rows
    that the base did not have.

    Raises:
        ModelError: the record is not what ``vocab.build`` writes.
    """
    file = model / RECORD
    if not file.is_file():
        return []
    ids: set[Any] = set()
    record: Any = read_json_object(file)
    try:
        while record is not None:  # a model may have been expanded more than once
            ids |= {entry["id"] for part in ("added", "steps") for entry in record[part]}
            record = record.get("base", {}).get("expansion")
    except (KeyError, TypeError, AttributeError):
        ids = {None}
    if not all(type(token) is int and token >= 0 for token in ids):
        raise ModelError(f"{file}: not a record of speakeasy vocab expand; expand the model again")
    return sorted(ids)
