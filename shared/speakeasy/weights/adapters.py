"""Adapters on disk, in PEFT's format or mlx-lm's, to and from one canonical form (``lora``).

The door to the adapter half of this package: everything about LoRA can be imported from here.
"""

from __future__ import annotations

from pathlib import Path

from speakeasy.errors import AdapterError
from speakeasy.weights import mlx_format, peft_format
from speakeasy.weights.lora import (
    Adapter,
    check_fits,
    draw_lora,
    merge_scale,
    select_layers,
    target_names,
)

__all__ = [
    "Adapter",
    "check_fits",
    "draw_lora",
    "merge_scale",
    "read_adapter",
    "select_layers",
    "target_names",
    "write_mlx",
    "write_peft",
]


def read_adapter(directory: Path) -> Adapter:
    """Read an adapter in either library's format, told apart by the weights' file name.

    Raises:
        AdapterError: neither format is there, or it holds what ``Adapter`` cannot represent.
        ModelError: the weights' file is not sound safetensors.
    """
    formats = [f for f in (peft_format, mlx_format) if (directory / f.WEIGHTS).is_file()]
    if len(formats) == 1:
        return formats[0].read(directory)
    if len(formats) == 2:
        raise AdapterError(f"{directory}: holds a PEFT and an MLX adapter; keep one of them")
    if (directory / "adapter_model.bin").is_file():
        raise AdapterError(
            f"{directory}: only pickled weights (adapter_model.bin), which can run code when "
            "loaded; save the adapter again with a current PEFT, as safetensors"
        )
    raise AdapterError(
        f"{directory}: no adapter; expected {peft_format.WEIGHTS} (PEFT) or {mlx_format.WEIGHTS} "
        "(mlx-lm)"
    )


def write_peft(adapter: Adapter, directory: Path) -> None:
    """Write an adapter that ``peft.PeftModel.from_pretrained`` loads as it is.

    Write into ``files.new_directory`` where a half-written adapter would matter.
    """
    peft_format.write(adapter, directory)


def write_mlx(adapter: Adapter, directory: Path, num_layers: int) -> None:
    """Write an adapter that ``mlx_lm.load(..., adapter_path=...)`` loads as it is.

    Args:
        adapter: the adapter.
        directory: where to, as for ``write_peft``.
        num_layers: number of blocks of the base.

    Raises:
        AdapterError: a module lies in a block that the base does not have.
    """
    mlx_format.write(adapter, directory, num_layers)
