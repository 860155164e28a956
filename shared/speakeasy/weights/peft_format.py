"""PEFT's LoRA adapters: ``adapter_config.json`` and ``adapter_model.safetensors``.

Source: ``peft/tuners/lora/config.py`` and ``peft/utils/save_and_load.py`` (peft 0.21). TRL and
Unsloth save with PEFT. Every setting that would change what the matrices mean is refused by name
rather than dropped (``refusals``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from speakeasy.errors import AdapterError
from speakeasy.files import write_json
from speakeasy.weights import adapter_files as files
from speakeasy.weights import peft_extras as extras
from speakeasy.weights.checkpoint import layer_order
from speakeasy.weights.lora import Adapter, matches, module_of
from speakeasy.weights.peft_patterns import pattern_of, values_of
from speakeasy.weights.refusals import REFUSALS, refusal
from speakeasy.weights.safetensors_io import read_header
from speakeasy.weights.tied import split_head
from speakeasy.weights.trained_rows import EMBEDDING, TrainedRows

WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."

_READ = {
    "alpha_pattern",
    "base_model_name_or_path",
    "init_lora_weights",
    "lora_alpha",
    "lora_dropout",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "trainable_token_indices",
    "use_dora",
    "use_rslora",
}
# These say which modules were chosen or share their matrices (the tensors say so too), describe the
# file or how A and B were drawn, or only matter beside another setting, which is refused.
_WITHOUT_MEANING_HERE = {
    "auto_mapping",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
}
_HARMLESS_INITIALISATIONS = (True, False, None, "gaussian", "orthogonal", "eva")


def write(adapter: Adapter, directory: Path, tied: bool | None = None) -> None:
    """Write an adapter for ``peft.PeftModel.from_pretrained``.

    Args:
        tied: whether the base has one matrix for both ends; needed where ``head_follows``.

    Raises:
        AdapterError: it is needed and missing.
    """
    adapter = split_head(adapter, tied)
    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapter.base,
        "r": adapter.r,
        "lora_alpha": files.plain(adapter.alpha),
        "lora_dropout": adapter.dropout,
        "use_rslora": adapter.rslora,
        "target_modules": list(adapter.targets),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    if adapter.dora:
        config["use_dora"] = True
    if adapter.ranks:
        config["rank_pattern"] = pattern_of(adapter.ranks, adapter.modules)
    if adapter.alphas:
        alphas = pattern_of(adapter.alphas, adapter.modules)
        config["alpha_pattern"] = {name: files.plain(alpha) for name, alpha in alphas.items()}
    tensors = {_PREFIX + name: tensor for name, tensor in adapter.tensors.items()}
    files.write_float32(directory / WEIGHTS, tensors)
    files.write_provenance(adapter, directory)
    write_json(directory / files.CONFIG, config)


def read(directory: Path, base: Path | None = None) -> tuple[Adapter, TrainedRows | None]:
    """Read an adapter that PEFT, TRL, Unsloth or speakeasy wrote, and the rows in it, if any.

    Args:
        base: the base model's directory. Needed where the adapter holds trained rows, or the copy
            of a whole matrix that PEFT saves with LoRA on embedding or output.

    Raises:
        AdapterError: a setting or a tensor that ``Adapter`` cannot represent; it is named. The
            base is needed, or is another.
        ModelError: a file is not sound.
    """
    config = files.read_config(directory)
    _refuse_settings(config, directory / files.CONFIG)
    file = directory / WEIGHTS
    header = {name.removeprefix(_PREFIX): info for name, info in read_header(file)[0].items()}
    extra = extras.names(header)
    for name in header:
        if name not in extra and module_of(name) is None:
            dora = name.startswith(EMBEDDING) and "lora_magnitude_vector" in name
            raise refusal("embedding_dora" if dora else "unknown_tensor", file, name)
    if config.get("use_dora") and any(module_of(name) == EMBEDDING for name in header):
        raise refusal("embedding_dora", directory / files.CONFIG, "use_dora on embed_tokens")
    extras.check_copies(header, base, file)
    tensors = {
        name.removeprefix(_PREFIX): tensor
        for name, tensor in files.read_float32(file, {_PREFIX + name for name in extra}).items()
    }
    rows = extras.read_rows(header, config, base, directory)
    if not tensors and rows is not None:
        raise refusal("peft_type", file, "trained rows without LoRA matrices")
    return _adapter(directory, config, tensors), rows


def _adapter(directory: Path, config: dict[str, Any], tensors: Mapping[str, Any]) -> Adapter:
    provenance = files.read_provenance(directory)
    modules = {module for name in tensors if (module := module_of(name))}
    r = files.count(config, "r", directory)
    alpha = files.number(config, "lora_alpha", directory)
    where = directory / files.CONFIG
    ranks = values_of(config, "rank_pattern", modules, where)
    alphas = values_of(config, "alpha_pattern", modules, where)
    adapter = Adapter(
        tensors=tensors,
        r=r,
        alpha=alpha,
        rslora=files.flag(config, "use_rslora", where),
        dropout=files.number(config, "lora_dropout", directory, 0.0),
        targets=_targets(config, modules),
        base=files.text(config, "base_model_name_or_path", directory),
        base_fingerprint=provenance.get("base_fingerprint"),
        base_quantization=provenance.get("base_quantization"),
        ranks={module: int(rank) for module, rank in ranks.items() if rank != r},
        alphas={module: value for module, value in alphas.items() if value != alpha},
    )
    if adapter.dora != files.flag(config, "use_dora", where):
        raise AdapterError(
            f"{where}: use_dora is {config.get('use_dora')!r}, but the file has "
            f"{'' if adapter.dora else 'no '}magnitudes; take both files from one save"
        )
    return adapter


def _refuse_settings(config: dict[str, Any], file: Path) -> None:
    if config.get("peft_type") != "LORA":
        raise refusal("peft_type", file, f"peft_type {config.get('peft_type')!r}")
    initialisation = config.get("init_lora_weights", True)
    if type(initialisation) not in (bool, str, NoneType) or (
        initialisation not in _HARMLESS_INITIALISATIONS
    ):
        raise refusal("init_lora_weights", file, f"init_lora_weights {initialisation!r}")
    for key, value in config.items():
        if key in _READ | _WITHOUT_MEANING_HERE or (key == "bias" and value == "none"):
            continue
        if value or (key == "alora_invocation_tokens" and value is not None):
            raise refusal(key if key in REFUSALS else "unknown_setting", file, f"{key} {value!r}")


def _targets(config: dict[str, Any], modules: set[str]) -> tuple[str, ...]:
    """The config's own targets where they alone say which modules are adapted, else paths."""
    said = config.get("target_modules")
    narrowed = any(config.get(key) for key in ("exclude_modules", "layers_pattern"))
    narrowed = narrowed or config.get("layers_to_transform") is not None
    if isinstance(said, list) and said and not narrowed:
        names = {t for t in map(str, said) if any(matches(module, t) for module in modules)}
        if all(any(matches(module, t) for t in names) for module in modules):
            return tuple(sorted(names, key=layer_order))
    return tuple(sorted(modules, key=layer_order))
