"""What an export is made of: base, adapter, trained rows, and the run that they come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from speakeasy.config import PretrainConfig
from speakeasy.errors import AdapterError, ModelError, RunError, UsageError
from speakeasy.training.ancestry import ancestors
from speakeasy.training.inference import given_run
from speakeasy.training.run import Run, held_in
from speakeasy.weights.adapters import Adapter, read_adapter_and_rows
from speakeasy.weights.adapters import base_name as adapter_base
from speakeasy.weights.checkpoint import fingerprint, model_shape
from speakeasy.weights.directory import read_json_object
from speakeasy.weights.hub import ModelDirectory, is_local, resolve_model
from speakeasy.weights.starter import HUB_ID
from speakeasy.weights.trained_rows import EMBEDDING, HEAD, TrainedRows, rows_beside
from speakeasy.weights.trained_rows import load as load_rows

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Material:
    """Everything that goes into an export, checked to belong together.

    Attributes:
        model: the base in full precision, or a model that is exported as it is.
        fingerprint: of the base.
        adapter: what is merged into it; None for nothing.
        rows: embedding rows that replace the base's; None for none.
        run: the finished run that the adapter or the model comes from; None where unknown.
        base: the base as its maker calls it, such as ``meta-llama/Llama-3.2-1B``; a directory's
            name where no more is known.
        quantization: what the base was held in when training ended; None for full precision.
        other_base: fingerprint of the base that training saw, where ``force`` took another one.
    """

    model: ModelDirectory
    fingerprint: str
    adapter: Adapter | None
    rows: TrainedRows | None
    run: Run | None
    base: str
    quantization: str | None
    other_base: str | None = None

    @property
    def parts(self) -> list[dict[str, Any]]:
        """Which steps of the run ran where, as its ``summary.json`` has it; empty without a run."""
        return list(((self.run and self.run.summary) or {}).get("parts", []))

    @property
    def quantized(self) -> bool:
        """Whether training held the base quantised for some of its steps at least."""
        return any(part["quantization"] for part in self.parts) or self.quantization is not None

    @property
    def forms(self) -> tuple[str, ...]:
        """What training held the base in, each form once, in the order of its first step."""
        return tuple(dict.fromkeys(map(held_in, self.parts))) or (
            self.quantization or "full precision",
        )


def gather(
    model: str | None,
    adapter: Path | None,
    run: Path | None,
    *,
    force: bool = False,
    say: Say = lambda line: None,
) -> Material:
    """Find and check what is to be exported.

    Args:
        model: as for ``resolve_model``; None for the run's or the adapter's base.
        adapter: directory of an adapter in PEFT's or mlx-lm's format, or of a run.
        run: directory of a finished run.
        force: take a base although its fingerprint is not the one that training saw.
        say: called with a line about each choice, and before slow steps.

    Raises:
        UsageError: both an adapter and a run are given, or nothing at all.
        RunError: the run is not there or not finished.
        ModelError: there is no such model, or it is unsound or quantised.
        AdapterError: the adapter is unsound, or was made for another base.
    """
    found = given_run(run, adapter)
    if found is not None and found.summary is None:
        raise RunError(
            f"{found.path}: has not finished; finish the run with: {found.resume_command}"
        )
    if run is None and adapter is None and model is None:
        raise UsageError("--run: missing; give a run, or --model, alone or with --adapter")
    if found is not None and isinstance(found.config, PretrainConfig):
        if adapter is not None or model is not None:
            raise UsageError(
                f"{found.path}: a pre-training run, whose result is a whole model; give it alone"
            )
        return _whole(_resolve(str(found.path), say), found)
    directory = found.adapter if found is not None else adapter
    if directory is None:
        assert model is not None
        whole = _resolve(model, say)
        own = Run(whole.path) if (whole.path / "run.toml").is_file() else None
        return _whole(whole, own)
    base = _resolve(model, say) if model else _base_of(directory, found, say)
    seen = fingerprint(base.path)
    merged, rows = read_adapter_and_rows(directory, base.path)
    quantization = merged.base_quantization
    other = _check_base(merged, found, base, seen, force, say)
    if rows is None and (file := rows_beside(directory)) is not None:
        rows = load_rows(file)
    if rows is not None:
        rows.check_fits(model_shape(base.path), directory)
        if {EMBEDDING, HEAD} & set(merged.modules):
            raise AdapterError(
                f"{directory}: rows were trained beside an adapter of the same matrices; expected "
                "one of both"
            )
        say(f"rows: {len(rows.ids):,} trained with the adapter")
    # What the adapter says of its base has been compared, or overruled.
    known = replace(merged, base_fingerprint=seen)
    material = Material(base, seen, known, rows, found, base_name(base), quantization, other)
    if material.quantized:
        say(_note_of_forms(material))
    return material


def _note_of_forms(material: Material) -> str:
    """What training on a quantised base means for the export."""
    note = (
        f"note: trained on a base held in {' and '.join(material.forms)}; it is fused into the "
        "full-precision base"
    )
    if material.run is not None and material.quantization is not None:
        note += (
            ", so the run's figures, measured on the quantised one, are near the export's and "
            "not its own"
        )
    return note


def _base_of(adapter: Path, run: Run | None, say: Say) -> ModelDirectory:
    """The base that a run, or an adapter alone, names.

    Raises:
        AdapterError: the adapter names none.
        ModelError: there is no such model, or no more.
    """
    name = run.config.model if run is not None else adapter_base(adapter)
    if not name:
        raise AdapterError(f"{adapter}: does not name its base, which is needed; give --model")
    try:
        return _resolve(name, say)
    except ModelError as error:
        reason = str(error).removeprefix(f"--model {name}: ")
        raise ModelError(
            f"{adapter if run is None else run.path}: its base {name} cannot be had ({reason}); "
            "where it has moved, give its place as --model"
        ) from error


def _resolve(name: str, say: Say) -> ModelDirectory:
    model = resolve_model(name, say=say)
    say(f"model: {model.source}")
    return model


def _whole(model: ModelDirectory, run: Run | None) -> Material:
    seen = fingerprint(model.path)
    held = run.environment.get("quantization") if run else None
    return Material(model, seen, None, None, run, base_name(model), held)


def _check_base(
    adapter: Adapter, run: Run | None, base: ModelDirectory, seen: str, force: bool, say: Say
) -> str | None:
    """Refuse another base than training saw; whether the shapes fit is for ``fuse`` to see.

    Returns the fingerprint of the base that training saw, where another one was forced.

    A base that was stored quantised has another fingerprint than the full-precision model, so
    there the comparison can confirm and not refuse. One that the run alone held in 4 bits has its
    own.
    """
    expected = adapter.base_fingerprint
    stored_quantised = adapter.base_quantization is not None
    if run is not None:
        expected = run.environment.get("base_fingerprint") or expected
        stored_quantised = stored_quantised and not run.config.use_4bit
    if expected is None or expected == seen:
        return None
    if stored_quantised:
        say("note: the adapter's base was quantised, so only the shapes of this one were compared")
        return None
    if force:
        say(f"note: {base.name} is not the base of training (fingerprint); taken with --force")
        return expected
    raise AdapterError(
        f"{base.name}: fingerprint {seen[:12]}, but the adapter was trained on a base with "
        f"{expected[:12]}; give that one as --model, or overrule with --force"
    )


def model_name(model: ModelDirectory) -> str:
    """A model's own name, without the place where it lies."""
    if model.name == "starter":
        return HUB_ID
    return model.path.name if is_local(model.name) else model.name


def base_name(model: ModelDirectory) -> str:
    """The model that a directory was made from, as its maker calls it, as far as it is recorded.

    Followed are the records of exports, of ``vocab expand`` and of runs, from directory to
    directory. A directory that no record explains goes by its own name.
    """
    *_, (name, path) = ancestors(model)
    if name == "starter":
        return HUB_ID
    return name if path is None else path.name


def license_of(model: ModelDirectory) -> str:
    """The licence's identifier on the Hub, in lower case; ``other`` where no file says it.

    It is looked for in the directory and in those that it was made from.
    """
    places = [model.path, *(path for _, path in ancestors(model) if path is not None)]
    return next((said for path in places if (said := _license(path))), "other")


def _license(path: Path) -> str | None:
    """By ``source.json``, by the record of an expansion, or by a README's metadata."""
    if (path / "source.json").is_file():
        said = read_json_object(path / "source.json").get("license")
        return said.lower() if isinstance(said, str) else None
    if (path / "expansion.json").is_file():
        base = read_json_object(path / "expansion.json").get("base")
        origin = base.get("origin") if isinstance(base, dict) else None
        if isinstance(origin, dict) and isinstance(origin.get("license"), str):
            return origin["license"].lower()
    from huggingface_hub.repocard import metadata_load

    for name in ("README-base.md", "README.md"):
        if (path / name).is_file():
            try:
                said = (metadata_load(path / name) or {}).get("license")
            except Exception:  # a README whose metadata are broken, as YAML too, says nothing
                continue
            if isinstance(said, str):
                return said.lower()
    return None
