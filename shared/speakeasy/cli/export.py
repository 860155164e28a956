"""``speakeasy export``: a model that anyone can load, out of a base and what training left."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from speakeasy.cli.common import command, console, emit, json_option, model_option, progress, say
from speakeasy.errors import UsageError

if TYPE_CHECKING:
    from speakeasy.export.gguf_file import GgufType
    from speakeasy.weights.fuse import Dtype

_DIRECTORY = click.Path(path_type=Path, exists=True, file_okay=False)


class _AsWritten(click.Choice):
    """A choice whose values keep their underscores, unlike the names of options."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(value, param, None)


@command()
@model_option("starter, a directory, or a name on the Hub.  [default: the adapter's base]")
@click.option(
    "--adapter",
    type=_DIRECTORY,
    metavar="DIR",
    help="Adapter of PEFT or mlx-lm, or a finished run, whose adapter is taken.",
)
@click.option(
    "--run", type=_DIRECTORY, metavar="DIR", help="Finished run: its model, adapter and rows."
)
@click.option(
    "--output-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="New directory for the export.",
)
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float16", "float32"]),
    help="Type of the weights.  [default: the base's]",
)
@click.option("--mlx-4bit", is_flag=True, help="A 4-bit copy for mlx-lm as well, in mlx-4bit/.")
@click.option(
    "--gguf",
    type=_AsWritten(["auto", "f32", "f16", "bf16", "q8_0"]),
    is_flag=False,
    flag_value="auto",
    metavar="[TYPE]",
    help="A GGUF file for llama.cpp and Ollama as well: f32, f16, bf16 or q8_0; auto, or no TYPE, "
    "for the type of the weights.",
)
@click.option(
    "--push-to-hub",
    metavar="OWNER/NAME",
    help="Upload the export to the Hugging Face Hub; a new repository is private.",
)
@click.option(
    "--force", is_flag=True, help="Take a base although training saw another (fingerprint)."
)
@json_option
def export(
    model: str | None,
    adapter: Path | None,
    run: Path | None,
    output_dir: Path | None,
    dtype: Dtype | None,
    mlx_4bit: bool,
    gguf: GgufType | Literal["auto"] | None,
    push_to_hub: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Fuse a run into a model that anyone can load.

    The adapter is merged into its base and trained rows take their places. The output is a model
    directory in Hugging Face format with tokenizer, chat template and model card. Nothing is
    written unless transformers and mlx-lm, as far as they are installed, load it and give the
    logits of base and adapter; the differences are in export.json and on the card.

    \b
    Examples:
      speakeasy export --run runs/first --output-dir models/first
      speakeasy export --model meta-llama/Llama-3.2-1B-Instruct --adapter lora/ \\
          --dtype bfloat16 --output-dir models/merged
      speakeasy export --run runs/first --gguf q8_0 --mlx-4bit --output-dir models/all
    """
    from speakeasy.export.build import Wanted, export_model
    from speakeasy.export.material import gather
    from speakeasy.export.publish import check_repository, push

    if output_dir is None:
        raise UsageError("--output-dir: missing; name a new directory for the export")
    if push_to_hub is not None:
        check_repository(push_to_hub)
    material = gather(model, adapter, run, force=force, say=say)
    wanted = Wanted(dtype, mlx_4bit, gguf, push_to_hub)
    record = export_model(material, output_dir, wanted, say=say, bar=progress)
    if push_to_hub is not None:
        say(f"uploading to {push_to_hub}")
        record["pushed"] = push(output_dir, push_to_hub)
    if as_json:
        emit({"output_dir": str(output_dir), **record})
        return
    _show(record)
    say(f"{output_dir}: the export; its card is README.md, all figures are in export.json")
    if "pushed" in record:
        say(f"on the Hub: {record['pushed']}")
    say(f"ask it: speakeasy generate --model {shlex.quote(str(output_dir))} 'Bon dia!'")


def _show(record: dict[str, Any]) -> None:
    """The differences from base and adapter, a row for whatever loaded the export."""
    from rich.table import Table

    table = Table(
        "loaded by",
        "largest difference",
        "of the logits' spread",
        "divergence (nats)",
        title=f"{record['tensors']['changed']} of {record['tensors']['all']} tensors changed, "
        f"{record['bytes'] / 1e9:.2f} GB of {record['dtype']}",
    )
    gate = record["gate"]
    libraries = [name for name in ("transformers", "mlx-lm") if name in gate]
    rows = {f"{name} {gate[name].get('version', '')}": gate[name] for name in libraries}
    rows |= {"mlx-lm, 4-bit copy": record["mlx_4bit"]} if "mlx_4bit" in record else {}
    rows |= {f"GGUF {record['gguf']['type']}": record["gguf"]} if "gguf" in record else {}
    for name, found in rows.items():
        if "largest" in found:
            table.add_row(
                name,
                f"{found['largest']:.2g}",
                f"{found['relative']:.2%}",
                f"{found['divergence']:.2g}",
            )
        else:
            table.add_row(name, f"not checked: {found['not_checked']}")
    console().print(table)
