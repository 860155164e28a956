"""PEFT's LoRA adapters: ``adapter_config.json`` and ``adapter_model.safetensors``.

Source: ``peft/tuners/lora/config.py`` and ``peft/utils/save_and_load.py`` (peft 0.21). Every
setting that would change what the matrices mean is refused by name rather than dropped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from speakeasy.errors import AdapterError
from speakeasy.files import write_json
from speakeasy.weights import adapter_files as files
from speakeasy.weights.lora import Adapter, matches, module_of

WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."

_READ = {
    "base_model_name_or_path",
    "init_lora_weights",
    "lora_alpha",
    "lora_dropout",
    "peft_type",
    "r",
    "target_modules",
    "use_rslora",
}
# These say which modules were chosen (the tensors say so too), describe the file, or only matter
# beside another setting, which is refused.
_WITHOUT_MEANING_HERE = {
    "auto_mapping",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "task_type",
}
# The other initialisations change the base's weights, so the matrices alone are not the adapter.
_HARMLESS_INITIALISATIONS = (True, False, None, "gaussian", "orthogonal", "eva")


def write(adapter: Adapter, directory: Path) -> None:
    """Write an adapter for ``peft.PeftModel.from_pretrained``."""
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
    tensors = {_PREFIX + name: tensor for name, tensor in adapter.tensors.items()}
    files.write_float32(directory / WEIGHTS, tensors)
    files.write_provenance(adapter, directory)
    write_json(directory / files.CONFIG, config)


def read(directory: Path) -> Adapter:
    """Read an adapter that PEFT or speakeasy wrote.

    Raises:
        AdapterError: a setting or a tensor that ``Adapter`` cannot represent; it is named.
        ModelError: a file is not sound.
    """
    config = files.read_config(directory)
    _refuse_unrepresentable(config, directory / files.CONFIG)
    tensors = {
        name.removeprefix(_PREFIX): tensor
        for name, tensor in files.read_float32(directory / WEIGHTS).items()
    }
    provenance = files.read_provenance(directory)
    return Adapter(
        tensors=tensors,
        r=int(files.number(config, "r", directory)),
        alpha=files.number(config, "lora_alpha", directory),
        rslora=bool(config.get("use_rslora")),
        dropout=files.number(config, "lora_dropout", directory, 0.0),
        targets=_targets(config, {module for name in tensors if (module := module_of(name))}),
        base=config.get("base_model_name_or_path") or "",
        base_fingerprint=provenance.get("base_fingerprint"),
        base_quantization=provenance.get("base_quantization"),
    )


def _refuse_unrepresentable(config: dict[str, Any], file: Path) -> None:
    if config.get("peft_type") != "LORA":
        raise AdapterError(f"{file}: peft_type {config.get('peft_type')!r}; expected 'LORA'")
    initialisation = config.get("init_lora_weights", True)
    if initialisation not in _HARMLESS_INITIALISATIONS:
        raise AdapterError(
            f"{file}: init_lora_weights {initialisation!r} changes the base's weights; convert it "
            "to plain LoRA with PEFT first (path_initial_model_for_weight_conversion)"
        )
    for key, value in config.items():
        if key in _READ | _WITHOUT_MEANING_HERE or (key == "bias" and value == "none"):
            continue
        if value:
            raise AdapterError(
                f"{file}: {key} {value!r} is not supported; expected plain LoRA on linear layers"
            )


def _targets(config: dict[str, Any], modules: set[str]) -> tuple[str, ...]:
    """The config's own targets where they alone say which modules are adapted, else paths."""
    said = config.get("target_modules")
    narrowed = any(config.get(key) for key in ("exclude_modules", "layers_pattern"))
    narrowed = narrowed or config.get("layers_to_transform") is not None
    if isinstance(said, list) and said and not narrowed:
        return tuple(
            sorted(t for t in map(str, said) if any(matches(module, t) for module in modules))
        )
    return tuple(sorted(modules))
