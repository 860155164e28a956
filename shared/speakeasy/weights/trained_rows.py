"""Rows of the embedding and output matrices that are trained, apart from the rest.

A vocabulary's new entries, or chat tokens that a base model never saw, are learned as rows of
their own: values that take the place of the frozen matrices' rows. On disk they are one
safetensors file of ``ids`` (n, int64), ``model.embed_tokens.weight`` (n, d, float32) and, where the
output matrix is not the embedding matrix, ``lm_head.weight`` (n, d, float32).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speakeasy.errors import ModelError
from speakeasy.weights.checkpoint import ModelShape, model_shape
from speakeasy.weights.directory import tensor_index
from speakeasy.weights.rewrite import EDITABLE
from speakeasy.weights.safetensors_io import (
    TensorInfo,
    read_header,
    read_rows,
    read_tensor,
    write_tensors,
)

EMBEDDING = "model.embed_tokens"
HEAD = "lm_head"
SUFFIX = ".rows"
"""What stands in place of ``.weight`` in canonical names of trained rows."""

ROWS_FILE = "rows.safetensors"
"""The file's name, in a run beside its adapter, elsewhere in the adapter's own directory."""

_IDS = "ids"


@dataclass(frozen=True, slots=True)
class TrainedRows:
    """Rows and the values that they have.

    Attributes:
        ids: token ids, (n,) int64, rising.
        embedding: the input rows, (n, d) float32.
        head: the output rows, (n, d) float32; None where one matrix serves both ends.

    Raises:
        ModelError: shapes or types do not go together.
    """

    ids: np.ndarray
    embedding: np.ndarray
    head: np.ndarray | None

    def __post_init__(self) -> None:
        ids = self.ids
        if ids.dtype != np.int64 or ids.ndim != 1 or (np.diff(ids, prepend=-1) <= 0).any():
            raise ModelError("trained rows: expected rising int64 ids from 0, each once")
        for values in (self.embedding, self.head):
            if values is None:
                continue
            if values.dtype != np.float32 or values.ndim != 2 or len(values) != len(self.ids):
                raise ModelError(
                    f"trained rows: {values.dtype} {values.shape} for {len(self.ids)} ids; "
                    "expected float32, a row an id"
                )

    def tensors(self) -> dict[str, np.ndarray]:
        """Canonical name -> values: ``model.embed_tokens.rows`` and, untied, ``lm_head.rows``."""
        found = {EMBEDDING + SUFFIX: self.embedding}
        return found if self.head is None else found | {HEAD + SUFFIX: self.head}

    def replaced(self, tensors: Mapping[str, np.ndarray]) -> TrainedRows:
        """The same ids with the values of ``tensors``, by canonical name."""
        head = tensors[HEAD + SUFFIX] if self.head is not None else None
        return TrainedRows(self.ids, tensors[EMBEDDING + SUFFIX], head)

    def check_fits(self, shape: ModelShape, where: Path) -> None:
        """Refuse rows that were trained with another model.

        Args:
            where: the file that they come from, for the message.

        Raises:
            ModelError: an id is outside the model's matrices, a row is of another width, or the
                model has an output matrix of its own and the rows have none, or the reverse.
        """
        fits = (
            self.embedding.shape[1] == shape.hidden_size
            and (self.head is None) == shape.tied
            and (not len(self.ids) or self.ids[-1] < shape.vocab_size)
        )
        if not fits:
            raise ModelError(
                f"{where}: these rows do not fit the model ({shape.vocab_size} rows of "
                f"{shape.hidden_size}, {'one matrix' if shape.tied else 'two matrices'}); give the "
                "model that they were trained with as --model"
            )

    def tables(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Name of a model's tensor -> (ids, values), for ``rows.replace_rows``."""
        found = {f"{EMBEDDING}.weight": (self.ids, self.embedding)}
        return found if self.head is None else found | {f"{HEAD}.weight": (self.ids, self.head)}


def read_from_model(model: Path, ids: Sequence[int]) -> TrainedRows:
    """The rows of ``ids`` as a model has them; nothing else of the matrices is read.

    Raises:
        ModelError: the matrices are missing or quantised, or an id is outside them.
    """
    tensors = tensor_index(model)
    shape = model_shape(model)
    chosen = np.array(sorted(set(ids)), dtype=np.int64)
    head = None if shape.tied else _rows(model, tensors, f"{HEAD}.weight", chosen)
    return TrainedRows(chosen, _rows(model, tensors, f"{EMBEDDING}.weight", chosen), head)


def _rows(model: Path, tensors: Mapping[str, TensorInfo], name: str, ids: np.ndarray) -> np.ndarray:
    info = tensors.get(name)
    if info is None:
        raise ModelError(f"{model}: no {name}, whose rows are to be trained")
    if len(info.shape) != 2 or info.dtype not in EDITABLE:
        raise ModelError(
            f"{model}: {name} is stored as {info.dtype}, so its rows cannot be trained; give the "
            "full-precision model, with --use-4bit where memory is short"
        )
    count = info.shape[0]
    if len(ids) and not 0 <= ids[0] <= ids[-1] < count:
        raise ModelError(f"{model}: {name} has {count} rows, but row {ids[-1]} is to be trained")
    return read_rows(info, ids.tolist()).astype(np.float32)


def save(rows: TrainedRows, file: Path) -> None:
    """Write ``rows.safetensors``; write into ``files.new_directory``, or to a temporary name."""
    tensors = {_IDS: rows.ids} | {name: values for name, (_, values) in rows.tables().items()}
    write_tensors(
        file,
        {name: (values.dtype, values.shape) for name, values in tensors.items()},
        tensors.items(),
    )


def rows_beside(adapter: Path) -> Path | None:
    """The file of the rows that were trained with an adapter; None where there is none.

    A run keeps it beside the directory of its adapter, ``speakeasy convert`` within it.
    """
    places = (adapter / ROWS_FILE, adapter.parent / ROWS_FILE)
    return next((file for file in places if file.is_file()), None)


def load(file: Path) -> TrainedRows:
    """Read what ``save`` wrote.

    Raises:
        ModelError: the file is not sound, or holds something else.
    """
    header, _ = read_header(file)
    known = (_IDS, f"{EMBEDDING}.weight", f"{HEAD}.weight")
    if odd := sorted(set(header) - set(known)) + [n for n in known[:2] if n not in header]:
        raise ModelError(f"{file}: {odd[0]!r} is missing or unknown; expected {', '.join(known)}")
    found = {name: read_tensor(info) for name, info in header.items()}
    for name in known[1:]:
        if name in found and not np.isfinite(found[name]).all():
            raise ModelError(f"{file}: {name} holds NaN or infinity; take an earlier checkpoint")
    try:
        return TrainedRows(found[_IDS], found[known[1]], found.get(known[2]))
    except ModelError as error:
        raise ModelError(f"{file}: {error.args[0]}") from error
