"""What a model was made from, as far as the records beside its weights tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from speakeasy.config import PretrainConfig, TrainConfig
from speakeasy.training.run import Run
from speakeasy.weights.directory import read_json_object
from speakeasy.weights.hub import ModelDirectory, is_local


def ancestors(model: ModelDirectory) -> Iterator[tuple[str, Path | None]]:
    """A model and what it was made from, in turn: names, and directories where there are any.

    Followed are the records of exports, of ``vocab expand`` and of runs, from directory to
    directory, until one says nothing more.
    """
    name, path, seen = model.name, model.path, set[Path]()
    local = is_local(name)
    while path is not None and path not in seen:
        seen.add(path)
        yield name, path if local else None
        earlier = _made_from(path) if local else None
        if earlier is None:
            return
        name, local = earlier, is_local(earlier)
        if not local:
            yield name, None
            return
        path = Path(name).expanduser().resolve()


def _made_from(path: Path) -> str | None:
    """The name, or the place, of the model before this one; None where it cannot be told."""
    if (path / "export.json").is_file():
        return _text(read_json_object(path / "export.json"), "name")
    if (path / "run.toml").is_file():
        run = Run(path)
        name, place = run.config.model, str(run.environment.get("model_directory"))
        from_hub = f"models--{name.replace('/', '--')}" in place  # the Hub's cache
        return name if name == "starter" or from_hub else place
    if (path / "expansion.json").is_file():
        record = read_json_object(path / "expansion.json")
        name_of = _text(record, "name")
        known = name_of == "starter" or "Hub" in (_text(record, "source") or "")
        return name_of if known or (name_of and is_local(name_of)) else None
    return "starter" if (path / "source.json").is_file() else None


def _text(record: dict[str, Any], key: str) -> str | None:
    base = record.get("base")
    value = base.get(key) if isinstance(base, dict) else None
    return value if isinstance(value, str) and value else None


def data_names(config: TrainConfig | PretrainConfig) -> str:
    """The names of the files that a run learned from, without the places where they lay."""
    files: Sequence[str] = (
        config.corpus.paths if isinstance(config, PretrainConfig) else config.data.train
    )
    if not files:
        return "what is packaged with speakeasy"
    return ", ".join(Path(file).name for file in files)
