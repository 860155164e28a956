"""Adapters on disk, in PEFT's format or mlx-lm's, to and from one canonical form (``lora``).

The door to the adapter half of this package: everything about LoRA can be imported from here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from speakeasy.errors import AdapterError
from speakeasy.weights import adapter_files as files
from speakeasy.weights import mlx_format, peft_format
from speakeasy.weights.directory import check_links
from speakeasy.weights.lora import Adapter, Lora, check_fits
from speakeasy.weights.lora_layers import block_layers, draw_lora, select_layers, target_names
from speakeasy.weights.refusals import refusal
from speakeasy.weights.safetensors_io import read_header
from speakeasy.weights.trained_rows import TrainedRows
from speakeasy.weights.uniform import is_uniform, uniform

__all__ = [
    "Adapter",
    "Format",
    "Lora",
    "base_name",
    "block_layers",
    "check_fits",
    "draw_lora",
    "format_of",
    "is_uniform",
    "read_adapter",
    "read_adapter_and_rows",
    "select_layers",
    "target_names",
    "tensor_names",
    "uniform",
    "write_mlx",
    "write_peft",
]

Format = Literal["peft", "mlx"]

_WEIGHTS: dict[Format, str] = {"peft": peft_format.WEIGHTS, "mlx": mlx_format.WEIGHTS}


def format_of(directory: Path) -> Format:
    """Which library's format an adapter is in, told apart by the weights' file name.

    Raises:
        AdapterError: neither's, or both.
    """
    found = [name for name, file in _WEIGHTS.items() if (directory / file).is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        raise AdapterError(f"{directory}: holds a PEFT and an MLX adapter; keep one of them")
    if (directory / "adapter_model.bin").is_file():
        raise refusal("pickle", directory, "only adapter_model.bin")
    raise AdapterError(
        f"{directory}: no adapter; expected {peft_format.WEIGHTS} (PEFT) or {mlx_format.WEIGHTS} "
        "(mlx-lm)"
    )


def tensor_names(directory: Path) -> list[str]:
    """The names of an adapter's tensors as they stand in its file.

    Raises:
        AdapterError: there is no adapter.
        ModelError: its file is not sound.
    """
    return list(read_header(directory / _WEIGHTS[format_of(directory)])[0])


def base_name(directory: Path) -> str:
    """The name or directory of an adapter's base, by its own account; empty where it has none.

    Raises:
        AdapterError: there is no adapter, or its config names no text.
        ModelError: its config is not sound.
    """
    key = "model" if format_of(directory) == "mlx" else "base_model_name_or_path"
    said = files.read_provenance(directory).get("base")
    return said or files.text(files.read_config(directory), key, directory)


def read_adapter_and_rows(
    directory: Path, base: Path | None = None
) -> tuple[Adapter, TrainedRows | None]:
    """Read an adapter in either library's format, and the trained rows that PEFT keeps in it.

    Args:
        base: the base model's directory. Needed where PEFT keeps trained rows, or a copy of a whole
            matrix, in the adapter.

    Raises:
        AdapterError: there is no adapter, or it holds what ``Adapter`` cannot represent.
        ModelError: a file, or the base, is not sound.
    """
    check_links(directory)
    try:
        if format_of(directory) == "mlx":
            return mlx_format.read(directory), None
        return peft_format.read(directory, base)
    except AdapterError as error:  # what does not go together names no file of its own
        named = str(error.args[0])
        if str(directory) in named:
            raise
        raise AdapterError(f"{directory}: {named.removeprefix('adapter: ')}") from error


def read_adapter(directory: Path, base: Path | None = None) -> Adapter:
    """Read an adapter in either library's format, one that has no trained rows in its own file.

    Raises:
        AdapterError: as ``read_adapter_and_rows``; it has such rows.
        ModelError: a file, or the base, is not sound.
    """
    adapter, rows = read_adapter_and_rows(directory, base)
    if rows is not None:
        raise AdapterError(
            f"{directory}: holds trained rows (trainable_token_indices); speakeasy convert --to "
            "peft puts them into a file of their own"
        )
    return adapter


def write_peft(adapter: Adapter, directory: Path, tied: bool | None = None) -> None:
    """Write an adapter that ``peft.PeftModel.from_pretrained`` loads as it is.

    Write into ``files.new_directory`` where a half-written adapter would matter.

    Args:
        tied: whether the base has one matrix for both ends; needed where the embedding's change is
            meant for the output too (``Adapter.head_follows``).

    Raises:
        AdapterError: that is needed and missing.
    """
    peft_format.write(adapter, directory, tied)


def write_mlx(adapter: Adapter, directory: Path, num_layers: int, tied: bool | None = None) -> None:
    """Write an adapter that ``mlx_lm.load(..., adapter_path=...)`` loads as it is.

    Args:
        adapter: the adapter.
        directory: where to, as for ``write_peft``.
        num_layers: number of blocks of the base.
        tied: whether the base has one matrix for both ends; needed where one is adapted.

    Raises:
        AdapterError: a module lies in a block that the base does not have; mlx-lm cannot hold what
            is done to embedding and output matrix.
    """
    mlx_format.write(adapter, directory, num_layers, tied)
