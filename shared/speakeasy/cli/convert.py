"""``speakeasy convert``: an adapter in the format of the other library."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from speakeasy.cli.common import command, console, emit, json_option, model_option, say

if TYPE_CHECKING:
    from speakeasy.weights.adapters import Format
    from speakeasy.weights.convert import Conversion
    from speakeasy.weights.hub import ModelDirectory


@command()
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("target", metavar="DST", type=click.Path(path_type=Path))
@click.option(
    "--to",
    type=click.Choice(["mlx", "peft"]),
    required=True,
    help="The library that is to load it.",
)
@model_option("The base model.  [default: the one that the adapter names]")
@click.option(
    "--force", is_flag=True, help="Go on though the base is not the one that it was trained on."
)
@json_option
def convert(
    source: Path, target: Path, to: Format, model: str | None, force: bool, as_json: bool
) -> None:
    """Carry an adapter over to the other library: MLX or PEFT.

    SRC is an adapter that PEFT, TRL, Unsloth, mlx-lm or speakeasy wrote, or a run; DST a new
    directory. What was written is read back and compared before it appears, and converting it
    back gives the same bits. Trained rows go along in rows.safetensors. What cannot be carried
    over without loss is refused, with the reason.

    \b
    Examples:
      speakeasy convert runs/first adapters/first-mlx --to mlx
      speakeasy convert their-lora adapters/theirs --to mlx --model meta-llama/Llama-3.2-1B
      speakeasy convert adapters/first-mlx adapters/first-peft --to peft
    """
    from speakeasy.errors import RunError
    from speakeasy.files import occupied
    from speakeasy.training.inference import Speaker, find_adapter
    from speakeasy.weights.convert import convert as carry_over
    from speakeasy.weights.trained_rows import rows_beside

    if occupied(target):
        raise RunError(f"{target}: already exists and is not empty; choose another directory")
    _, adapter = find_adapter(Speaker(adapter=source))
    assert adapter is not None
    base = _base(adapter, to, model)
    with console().status(f"converting {adapter}"):
        done = carry_over(
            adapter, target, to, base=base, rows_file=rows_beside(adapter), force=force
        )
    if as_json:
        emit(_result(done, target, to))
        return
    _show(done)
    for note in done.notes:
        say(f"note: {note}")
    if done.rows is not None:
        say(f"rows: {len(done.rows.ids):,} trained with it, in {target / 'rows.safetensors'}")
    say(
        f"{target}: in the format of {to}, read back and compared; greatest relative difference "
        f"of a module's change {done.difference:.1e}"
    )


def _base(adapter: Path, to: Format, model: str | None) -> ModelDirectory | None:
    """The base model, where it is given or needed."""
    from speakeasy.errors import AdapterError, ModelError
    from speakeasy.weights.adapters import base_name
    from speakeasy.weights.convert import needs_base
    from speakeasy.weights.hub import resolve_model

    if model is None and not needs_base(adapter, to):
        return None
    name = model or base_name(adapter)
    if not name:
        raise AdapterError(f"{adapter}: does not name its base, which is needed; give --model")
    try:
        found = resolve_model(name, say=say)
    except ModelError as error:
        if model:
            raise
        raise AdapterError(
            f"{adapter}: its base {name!r} is needed and cannot be had; give its place as --model "
            f"({error})"
        ) from error
    say(f"model: {found.source}")
    return found


def _groups(done: Conversion) -> list[dict[str, Any]]:
    """Modules by their last name, with the ranks and scales among them."""
    from speakeasy.weights.lora import leaf

    groups: dict[str, list[str]] = {}
    for module in done.adapter.modules:
        groups.setdefault(leaf(module), []).append(module)
    adapter, rank = done.adapter, max(map(done.written.rank, done.written.modules))
    return [
        {
            "name": name,
            "modules": len(modules),
            "ranks": sorted({adapter.rank(module) for module in modules}),
            "scales": sorted({adapter.scale(module) for module in modules}),
            "padded": sum(
                done.written.rank(module) > adapter.rank(module)
                for module in modules
                if module in done.written.modules
            ),
            "padded_to": rank,
        }
        for name, modules in groups.items()
    ]


def _result(done: Conversion, target: Path, to: Format) -> dict[str, Any]:
    return {
        "output_dir": str(target),
        "from": done.source,
        "to": to,
        "base": done.adapter.base,
        "dora": done.adapter.dora,
        "rslora": done.adapter.rslora,
        "modules": len(done.adapter.modules),
        "groups": _groups(done),
        "trained_rows": 0 if done.rows is None else len(done.rows.ids),
        "difference": done.difference,
        "notes": list(done.notes),
    }


def _show(done: Conversion) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("modules", "count", "rank", "scale", ""):
        table.add_column(column, justify="right" if column == "count" else "left")
    for group in _groups(done):
        padded = f"{group['padded']} padded to rank {group['padded_to']}" if group["padded"] else ""
        table.add_row(
            group["name"],
            str(group["modules"]),
            ", ".join(map(str, group["ranks"])),
            ", ".join(f"{scale:.6g}" for scale in group["scales"]),
            padded,
        )
    console().print(table)
