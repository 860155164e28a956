"""From material to a finished export: fused, compared, described; whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from speakeasy import __version__
from speakeasy.errors import RunError, SpeakeasyError
from speakeasy.export.card import card_text
from speakeasy.export.extras import add_gguf, add_mlx_copy, require_mlx
from speakeasy.export.gate import check, difference, drowned, question_for
from speakeasy.export.gguf_file import OF_DTYPE, GgufType, plan_file
from speakeasy.export.libraries import Question
from speakeasy.export.material import Material, model_name
from speakeasy.export.papers import write_papers
from speakeasy.export.reference import reference_logits
from speakeasy.files import disk_errors, new_directory, occupied, write_json, write_text
from speakeasy.training.inference import stop_tokens
from speakeasy.vocab.progress import MEGABYTE, Bar, in_megabytes, no_bar
from speakeasy.weights.checkpoint import model_shape, tensor_index
from speakeasy.weights.fingerprint import fingerprint, tokenizer_fingerprint
from speakeasy.weights.fuse import Dtype, fuse
from speakeasy.weights.hub import load_tokenizer

RECORD = "export.json"
_NAMES: dict[str, Dtype] = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
_WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2}
_GGUF_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the export is to be.

    Attributes:
        dtype: type of the weights; None for the base's.
        mlx_4bit: a 4-bit copy for MLX as well.
        gguf: a GGUF file of that type as well; ``auto`` for the weights' own, None for none.
        repository: where it will lie on the Hub, for the card; None for nowhere.
    """

    dtype: Dtype | None = None
    mlx_4bit: bool = False
    gguf: GgufType | Literal["auto"] | None = None
    repository: str | None = None


def export_model(
    material: Material,
    target: Path,
    wanted: Wanted | None = None,
    *,
    say: Callable[[str], None] = lambda line: None,
    bar: Bar = no_bar,
) -> dict[str, Any]:
    """Write an export, once it has passed the gate.

    Args:
        material: of ``material.gather``.
        target: the new directory; must not hold anything yet.
        wanted: type and extras.
        say: called with a line before each slow step.
        bar: opens a progress bar.

    Returns:
        The content of ``export.json``.

    Raises:
        RunError: ``target`` holds something already.
        ModelError: the gate refuses, the base is unsound or quantised, or the GGUF format has no
            place for the model.
        BackendError: mlx-lm or a backend is not installed.
        SpeakeasyError: there is no room, or the disk cannot be written.
    """
    wanted = wanted or Wanted()
    target = target.absolute()
    source = material.model.path
    dtype = wanted.dtype or _NAMES.get(model_shape(source).dtype, "float32")
    kind: GgufType | None = OF_DTYPE[dtype] if wanted.gguf == "auto" else wanted.gguf
    group_size = require_mlx(source) if wanted.mlx_4bit else None
    tokenizer = load_tokenizer(source)
    if kind is not None:  # before the weights are written
        plan_file(source, kind, stop_tokens(tokenizer, source))
    with disk_errors(f"{target}", "nothing was written; choose another --output-dir"):
        require_room(source, target, dtype, kind, mlx=wanted.mlx_4bit)
    with (
        disk_errors(f"{target}", "nothing was written; free some space or choose another place"),
        new_directory(target) as folder,
    ):
        changed = _fuse(material, folder, wanted.dtype, bar)
        record = _facts(material, folder, dtype, changed)
        record |= write_papers(source, folder, tokenizer)
        record["fingerprint"] = fingerprint(folder)
        record["tokenizer_fingerprint"] = tokenizer_fingerprint(folder)
        question = question_for(source, tokenizer)
        say("the gate: each library loads the export in a process of its own")
        reference = reference_logits(material, question, bar=bar)
        unadapted = _unadapted(material, question, dtype)
        record["gate"] = check(
            folder, tokenizer, question, reference, dtype, unadapted=unadapted, bar=bar
        )
        if unadapted is not None and drowned(difference(unadapted, reference), dtype):
            say(
                f"note: what the adapter does is small against the rounding of {dtype} weights; "
                "--dtype float32 keeps it whole"
            )
        if group_size is not None:
            say("quantising a copy for MLX to 4 bits")
            record["mlx_4bit"] = add_mlx_copy(folder, group_size, question, reference)
        if kind is not None:
            say(f"writing a GGUF file, {kind}")
            plan = plan_file(folder, kind, stop_tokens(tokenizer, folder))
            record["gguf"] = add_gguf(folder, target.name, plan, question, reference, bar=bar)
        name = wanted.repository or target.name
        write_text(folder / "README.md", card_text(material, record, name))
        write_json(folder / RECORD, record)
    return record


def _facts(
    material: Material, folder: Path, dtype: Dtype, changed: Sequence[str]
) -> dict[str, Any]:
    """What the export is, for ``export.json``; the gate's findings come later."""
    shape = model_shape(folder)
    return {
        "base": {"name": material.base},
        "model": {"name": model_name(material.model), "fingerprint": material.fingerprint},
        "adapter": _adapter(material),
        "parts": material.parts,
        "dtype": dtype,
        "tensors": {"all": len(tensor_index(folder)), "changed": len(changed)},
        "tied": shape.tied,
        "parameters": shape.parameter_count,
        "bytes": shape.bytes_on_disk,
        "versions": {
            "speakeasy": __version__,
            **{name: version(name) for name in ("numpy", "tokenizers", "transformers")},
        },
    }


def _unadapted(material: Material, question: Question, dtype: Dtype) -> list[np.ndarray] | None:
    """Logits of the base alone, where rounding could hide that the adapter is missing."""
    if dtype == "float32" or (material.adapter is None and material.rows is None):
        return None
    return reference_logits(replace(material, adapter=None, rows=None), question)


def require_room(
    source: Path, target: Path, dtype: Dtype, gguf: str | None, *, mlx: bool = False
) -> None:
    """See that the place is free and the disk large enough, before anything is written.

    Raises:
        RunError: ``target`` holds something already.
        SpeakeasyError: there is less room than the export needs.
    """
    if occupied(target):
        raise RunError(f"{target}: already exists and is not empty; choose another directory")
    weights = sum(info.size for info in tensor_index(source).values())
    per_weight = _WIDTHS[dtype] + _GGUF_BYTES.get(gguf or "", 0.0) + (0.6 if mlx else 0.0)
    needed = int(weights * per_weight) + 50 * MEGABYTE  # tokenizer, card, an output matrix's head
    parent = next(path for path in target.absolute().parents if path.is_dir())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise SpeakeasyError(
            f"{target}: the export needs {needed / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are "
            "free; make room, or choose another --output-dir"
        )


def _fuse(material: Material, folder: Path, dtype: Dtype | None, bar: Bar) -> tuple[str, ...]:
    source = material.model.path
    width = None if dtype is None else _WIDTHS[dtype]
    total = sum(
        info.nbytes if width is None else info.size * width
        for info in tensor_index(source).values()
    )
    with in_megabytes(bar, "writing the weights", total) as advance:
        return fuse(
            source,
            folder,
            adapter=material.adapter,
            rows=material.rows.tables() if material.rows else None,
            dtype=dtype,
            advance=advance,
        )


def _adapter(material: Material) -> dict[str, Any] | None:
    adapter = material.adapter
    if adapter is None:
        return None
    return {
        "rank": adapter.r,
        "alpha": adapter.alpha,
        "rslora": adapter.rslora,
        "dora": adapter.dora,
        "modules": len(adapter.modules),
        "trained_rows": 0 if material.rows is None else len(material.rows.ids),
        "trained_on": " and ".join(material.forms),
        "other_base": material.other_base,
    }
