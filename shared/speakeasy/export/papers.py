"""What lies beside the weights: tokenizer, chat template, generation config, licence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speakeasy.batches.templates import ensure_chat_template
from speakeasy.files import write_json, write_text
from speakeasy.training.inference import stop_tokens
from speakeasy.weights.added import RECORD as EXPANSION
from speakeasy.weights.directory import companion_files, read_json_object
from speakeasy.weights.hub import is_local

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TEMPLATE = "chat_template.jinja"
_GENERATION = "generation_config.json"
_BASE_README = "README-base.md"


def write_papers(source: Path, folder: Path, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Copy or make all files of an export but weights, ``config.json`` and the card.

    A tokenizer without a chat template gets the one that training used, as the file that
    transformers 5 reads. ``generation_config.json`` names every token that ends an answer
    (``stop_tokens``), since no library looks for the template's own.

    Args:
        source: the base's directory.
        folder: the export, its weights written.
        tokenizer: the base's.

    Returns:
        ``chat_template``, where it is from, and ``stop``, the texts of the tokens that end an
        answer.

    Raises:
        ModelError: the template cannot be used; a file is not sound.
    """
    for file in companion_files(source):
        shutil.copyfile(file, folder / file.name)
    if (expansion := folder / EXPANSION).is_file():
        write_json(expansion, without_places(read_json_object(expansion)))
    readme = source / _BASE_README
    readme = readme if readme.is_file() else source / "README.md"
    if readme.is_file():
        shutil.copyfile(readme, folder / _BASE_README)
    choice = ensure_chat_template(tokenizer)
    if choice.is_default:
        write_text(folder / _TEMPLATE, choice.template)
    stop = stop_tokens(tokenizer, source)
    write_json(folder / _GENERATION, _generation(source, stop))
    return {
        "chat_template": choice.reason,
        "stop": tokenizer.convert_ids_to_tokens(list(stop)),
    }


def without_places(expansion: dict[str, Any]) -> dict[str, Any]:
    """An expansion's record without the directories of the machine that it was made on."""
    base = expansion.get("base")
    if not isinstance(base, dict):
        return expansion
    kept = {key: value for key, value in base.items() if key not in ("source", "origin")}
    name = str(kept.get("name", ""))
    if Path(name).is_absolute() or is_local(name):
        kept["name"] = Path(name).name
    if isinstance(earlier := kept.get("expansion"), dict):
        kept["expansion"] = without_places(earlier)
    return {**expansion, "base": kept}


def _generation(source: Path, stop: tuple[int, ...]) -> dict[str, Any]:
    """The base's generation config with all the tokens that end an answer.

    Where it names one of them already, that stays the first: some programs read no other.
    """
    file = source / _GENERATION
    config = read_json_object(file) if file.is_file() else {}
    model = read_json_object(source / "config.json")
    for key in ("bos_token_id", "pad_token_id"):
        if config.get(key) is None and model.get(key) is not None:
            config[key] = model[key]
    said = config.get("eos_token_id")
    first = said[0] if isinstance(said, list) and said else said
    ends = sorted(stop, key=lambda token: token != first)
    config["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    return config


def template_text(folder: Path) -> str | None:
    """The chat template that an export brings: its own file, else the tokenizer's config."""
    if (file := folder / _TEMPLATE).is_file():
        return file.read_text(encoding="utf-8")
    if (file := folder / "tokenizer_config.json").is_file():
        text = json.loads(file.read_text(encoding="utf-8")).get("chat_template")
        return text if isinstance(text, str) else None
    return None
