"""From one library's adapter to the other's, checked against each other before it appears."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from speakeasy.errors import AdapterError
from speakeasy.files import disk_errors, new_directory
from speakeasy.weights import mlx_format, trained_rows
from speakeasy.weights.adapters import (
    Adapter,
    Format,
    check_fits,
    format_of,
    read_adapter_and_rows,
    tensor_names,
    write_mlx,
    write_peft,
)
from speakeasy.weights.checkpoint import ModelShape, fingerprint, model_shape, weight_matrices
from speakeasy.weights.hub import ModelDirectory, is_local
from speakeasy.weights.lora import Lora
from speakeasy.weights.refusals import refusal
from speakeasy.weights.tied import split_head
from speakeasy.weights.trained_rows import EMBEDDING, HEAD, ROWS_FILE, TrainedRows

_LARGEST_DIFFERENCE = 1e-6
"""Of a module's change in the two libraries, relative: float32 rounds B once, by at most 6e-8."""
_PROBES = 4


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was converted.

    Attributes:
        source: the format that was read.
        adapter: as it was read.
        written: as the other library reads what was written: with mlx-lm's one rank and scale.
        rows: trained rows beside it; None where there are none.
        difference: greatest relative difference of what the two do to a module.
        notes: lines for the user.
    """

    source: Format
    adapter: Adapter
    written: Adapter
    rows: TrainedRows | None
    difference: float
    notes: tuple[str, ...]


def needs_base(directory: Path, to: Format) -> bool:
    """Whether an adapter can only be converted with its base at hand.

    mlx-lm counts blocks from the end; and what is done to the embedding or the output matrix
    depends on whether the base has one for both.

    Raises:
        AdapterError: there is no adapter.
        ModelError: its file is not sound.
    """
    names = tensor_names(directory)
    return to == "mlx" or any(part in name for name in names for part in (EMBEDDING, HEAD))


def convert(
    source: Path,
    target: Path,
    to: Format,
    *,
    base: ModelDirectory | None = None,
    rows_file: Path | None = None,
    force: bool = False,
) -> Conversion:
    """Write an adapter, and the rows trained with it, in a library's format.

    Args:
        source: the adapter's directory, in either format.
        target: a new directory; it appears when everything is written and checked.
        base: the base model; may be None where ``needs_base`` is false.
        rows_file: ``rows.safetensors`` that belongs to the adapter.
        force: accept a base with another fingerprint.

    Raises:
        AdapterError: the adapter cannot be converted without loss (``refusals``), or does not fit
            the base; what was written reads back as something else.
        ModelError: a file, or the base, is not sound; rows do not fit the base.
        RunError: ``target`` holds something.
    """
    origin = format_of(source)
    adapter, rows = read_adapter_and_rows(source, base.path if base else None)
    if rows_file is not None:
        if rows is not None:
            raise AdapterError(f"{rows_file}: the adapter has trained rows of its own; keep one")
        rows = trained_rows.load(rows_file)
    shape = model_shape(base.path) if base else None
    notes = [f"it is in the format of {to} already: written anew"] if origin == to else []
    if base and shape:
        other = _check_base(adapter, base, force)
        if other:
            notes.append(other)
        else:
            adapter = replace(adapter, base=_name_of(base))
        if rows is not None:
            rows.check_fits(shape, rows_file or source)
    if adapter.base_quantization and not (shape and shape.quantization):
        notes.append(
            f"it was trained on a base held in {adapter.base_quantization}, and belongs to these "
            "weights: measure it again where it is used"
        )
    if adapter.dora and origin != to:
        _refuse_quantized(adapter, shape, source)
    with (
        disk_errors(str(target), "nothing was written"),
        new_directory(target) as directory,
    ):
        if to == "peft":
            write_peft(adapter, directory, shape.tied if shape else None)
        elif shape:
            write_mlx(adapter, directory, shape.layers, shape.tied)
        else:
            raise AdapterError(f"{source}: mlx-lm's format needs the base; give it as --model")
        if rows is not None:
            trained_rows.save(rows, directory / ROWS_FILE)
        written, difference = _verify(adapter, directory, to, base, shape)
    return Conversion(origin, adapter, written, rows, difference, tuple(notes))


def _check_base(adapter: Adapter, base: ModelDirectory, force: bool) -> str | None:
    """Refuse a base that the adapter does not fit; a line where another one is accepted.

    A head of its own counts as there where the base is tied: PEFT can adapt it apart.
    """
    matrices = weight_matrices(base.path)
    matrices.setdefault(HEAD, matrices[EMBEDDING])
    known, found = adapter.base_fingerprint, fingerprint(base.path)
    check_fits(adapter, matrices, None if force else found)
    if known is None or known == found:
        return None
    return (
        f"{base.name} is not the base that the adapter was trained on (fingerprint {found[:12]}, "
        f"not {known[:12]}): converted all the same, as --force says"
    )


def _name_of(base: ModelDirectory) -> str:
    """What the base is called where the adapter is read: a place does not depend on where that
    is."""
    return str(base.path.absolute()) if is_local(base.name) else base.name


def _refuse_quantized(adapter: Adapter, shape: ModelShape | None, source: Path) -> None:
    held = adapter.base_quantization or (shape.quantization if shape else None)
    if held:
        raise refusal("quantized_dora", source, f"DoRA on a base held in {held}")


def _verify(
    adapter: Adapter,
    directory: Path,
    to: Format,
    base: ModelDirectory | None,
    shape: ModelShape | None,
) -> tuple[Adapter, float]:
    """What was written as the library has it, and how far that is from ``adapter``."""
    tied = shape.tied if shape else None
    expected = split_head(adapter, tied)
    back, _ = read_adapter_and_rows(directory, base.path if base else None)
    found = split_head(back, tied)
    if list(found.modules) != list(expected.modules) or any(
        not _same(found.lora(module), expected.lora(module)) for module in expected.modules
    ):
        raise AdapterError(f"{directory}: reads back otherwise than written; check the disk")
    written = mlx_format.read(directory, own=False) if to == "mlx" else back
    meant = split_head(written, tied)
    difference = max(
        _difference(meant.lora(module), expected.lora(module)) for module in expected.modules
    )
    if not difference <= _LARGEST_DIFFERENCE:
        raise AdapterError(
            f"{directory}: would change a module by {difference:.1e} otherwise than it did; its "
            "values are too small or too large for float32"
        )
    return written, difference


def _same(one: Lora, other: Lora) -> bool:
    def same(first: np.ndarray | None, second: np.ndarray | None) -> bool:
        if first is None or second is None:
            return first is second
        return np.array_equal(first, second)

    return (
        same(one.A, other.A)
        and same(one.B, other.B)
        and same(one.magnitude, other.magnitude)
        and math.isclose(one.scale, other.scale, rel_tol=1e-12)
    )


def _difference(one: Lora, other: Lora) -> float:
    """Relative difference of scale * B A, in float64, on a few inputs drawn once."""
    inputs = np.random.default_rng(0).standard_normal((one.A.shape[1], _PROBES))
    first, second = (
        lora.scale * (lora.B.astype(np.float64) @ (lora.A.astype(np.float64) @ inputs))
        for lora in (one, other)
    )
    gap = float(np.linalg.norm(first - second))
    return gap / float(np.linalg.norm(second)) if gap else 0.0
