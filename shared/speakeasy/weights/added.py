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
    return sorted({entry["id"] for entry in _entries(model)})


def added_pieces(model: Path) -> dict[int, tuple[int, ...]]:
    """Added id -> ids of the tokens that spelled it before; without those that no record tells of.

    Where a model was expanded more than once, a later entry's pieces may be an earlier one's ids.

    Raises:
        ModelError: the record is not what ``vocab.build`` writes.
    """
    return {entry["id"]: tuple(entry["pieces"]) for entry in _entries(model) if entry.get("pieces")}


def _entries(model: Path) -> list[dict[str, Any]]:
    """The entries of every expansion that a model has been through, the last one's first."""
    file = model / RECORD
    if not file.is_file():
        return []
    entries: list[Any] = []
    ids: set[Any] = set()
    record: Any = read_json_object(file)
    try:
        while record is not None:  # a model may have been expanded more than once
            found = [entry for part in ("added", "steps") for entry in record[part]]
            ids |= {entry["id"] for entry in found}
            pieces = {piece for entry in found for piece in entry.get("pieces", ())}
            if ids & pieces or not all(map(_is_id, ids | pieces)):  # pieces were there before
                raise TypeError
            entries += found
            record = record.get("base", {}).get("expansion")
    except (KeyError, TypeError, AttributeError):
        raise ModelError(
            f"{file}: not a record of speakeasy vocab expand; expand the model again"
        ) from None
    return entries


def _is_id(token: Any) -> bool:
    return type(token) is int and token >= 0
