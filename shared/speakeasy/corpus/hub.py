"""Rows of a Hugging Face data set, streamed by the optional package ``datasets``.

``hf:NAME[:CONFIG[:SPLIT[:FIELD]]]``: NAME is a data set of the Hub or a directory of data files;
an empty part stands for its default: no config, the split ``train``, the field ``text``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from speakeasy.errors import DataError

PREFIX = "hf:"
INSTALL = "pip install datasets"


class HubName(NamedTuple):
    """The parts of ``hf:NAME[:CONFIG[:SPLIT[:FIELD]]]``."""

    name: str
    config: str | None
    split: str
    field: str


def parse(source: str) -> HubName:
    """The parts of a source that begins with ``hf:``.

    Raises:
        DataError: it has no name, or more than four parts.
    """
    name, *rest = source.removeprefix(PREFIX).split(":")
    if not name or len(rest) > 3:
        raise DataError(f"{source}: expected {PREFIX}NAME[:CONFIG[:SPLIT[:FIELD]]]")
    config, split, field = [*rest, "", "", ""][:3]
    return HubName(name, config or None, split or "train", field or "text")


def read_rows(source: str) -> Iterator[str | None]:
    """The text of each row; None where the field holds no text.

    No code from a data set is run: ``datasets`` itself reads its files only.

    Raises:
        DataError: ``datasets`` is not installed, the data set cannot be had, or no row has the
            field.
    """
    wanted = parse(source)
    try:
        from datasets import load_dataset  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise DataError(f"{source}: needs the package datasets; {INSTALL}") from error
    try:
        rows = iter(load_dataset(wanted.name, wanted.config, split=wanted.split, streaming=True))
        first = next(rows, None)
    except Exception as error:  # it raises whatever its readers and the network raise
        raise DataError(f"{source}: {_line(error)}; check the name and the connection") from error
    if first is None:
        return
    if wanted.field not in first:
        fields = ", ".join(map(str, first))
        raise DataError(f"{source}: has no field {wanted.field}; expected one of {fields}")
    yield _text(first, wanted.field)
    while True:
        try:
            row = next(rows, None)
        except Exception as error:
            raise DataError(f"{source}: {_line(error)}; run the same again to go on") from error
        if row is None:
            return
        yield _text(row, wanted.field)


def _text(row: dict[str, Any], field: str) -> str | None:
    value = row.get(field)
    return value if isinstance(value, str) and value.strip() else None


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
