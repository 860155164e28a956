"""What would run on this machine and why, without running it: the facts behind ``doctor``."""

from __future__ import annotations

import importlib
import importlib.util
import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from speakeasy import __version__
from speakeasy.batches.render import render_all
from speakeasy.batches.templates import ensure_chat_template
from speakeasy.config import DataConfig, TrainConfig
from speakeasy.data.dataset import starter_conversations
from speakeasy.errors import BackendError, DoesNotFitError, ModelError
from speakeasy.training.backend import REGISTRY, Device, Selection, missing, open_backend, select
from speakeasy.training.outlook import Amounts, outlook
from speakeasy.training.planning import SUPPORTED
from speakeasy.training.preflight import place
from speakeasy.weights.adapters import select_layers
from speakeasy.weights.checkpoint import (
    ModelShape,
    linear_layers,
    model_shape,
    normalized_rope,
    read_config,
)
from speakeasy.weights.hub import load_tokenizer, resolve_model
from speakeasy.weights.starter import Say, cache_root

Facts = dict[str, Any]

PACKAGES = (
    "numpy", "tokenizers", "transformers", "torch", "peft", "accelerate", "bitsandbytes",
    "liger-kernel", "mlx", "mlx-lm",
)  # fmt: skip

SAMPLED = 8
"""Every so many of the packaged conversations are tokenised, to learn how long they are."""


def diagnose(
    model: str | None = None, approaches: Sequence[int] = (1, 2), say: Say = lambda line: None
) -> Facts:
    """Look at the machine and, where one is named, at a model.

    Args:
        model: as for ``resolve_model``; it is found or fetched, never loaded.
        approaches: of the guide's, those that are costed for the model.
        say: called with a line before each slow step.

    Returns:
        Plain values for JSON. ``problems`` names what stands in the way of any work, in lines;
        ``advice`` what would make it better. ``backend`` is None where none is usable.
    """
    facts: Facts = {"backend": None, "reason": None, "device": None, "precision": None}
    problems: list[str] = []
    advice: list[str] = []
    chosen = None
    try:
        chosen = selection, device = _choose()
    except BackendError as error:
        problems.append(str(error))
    else:
        facts |= {"backend": selection.name, "reason": selection.reason} | _device_facts(device)
        advice += _advice(selection, device)
    facts["versions"] = _versions()
    facts["platform"] = platform.platform()
    facts["backends"] = {name: _installed(name) for name in REGISTRY}
    facts |= _resources()
    facts["model_directory"] = None
    if model is not None:
        try:
            facts |= _model_facts(model, chosen, approaches, say)
        except ModelError as error:
            problems.append(str(error))
    return facts | {"problems": problems, "advice": advice}


def _choose() -> tuple[Selection, Device]:
    """The backend that ``auto`` takes, and its device.

    Raises:
        BackendError: none is installed, or the one that is cannot even be imported.
    """
    selection = select()
    try:
        return selection, open_backend(selection.name).describe_device()
    except Exception as error:  # a broken installation raises whatever its libraries raise
        raise BackendError(
            f"backend {selection.name} is installed but cannot be used ({_line(error)}); "
            "install it again"
        ) from error


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def _device_facts(device: Device) -> Facts:
    return {
        "device": device.name,
        "device_kind": device.kind,
        "device_memory_bytes": device.memory,
        "precision": device.precision,
        "precision_reason": device.reason,
    }


def _versions() -> dict[str, str]:
    found = {"speakeasy": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _installed(name: str) -> Facts:
    lacking = missing(name)
    return {
        "installed": not lacking,
        "missing": [need.module for need in lacking],
        "install": lacking[0].install if lacking else None,
    }


def _resources() -> Facts:
    import psutil

    memory = psutil.virtual_memory()
    cache = cache_root()
    there = next(place for place in (cache, *cache.parents) if place.is_dir())
    return {
        "memory_bytes": memory.total,
        "memory_available_bytes": memory.available,
        "cache": str(cache),
        "disk_free_bytes": shutil.disk_usage(there).free,
    }


def _advice(selection: Selection, device: Device) -> list[str]:
    """What could be had on this machine and is not."""
    advice = []
    if device.kind == "cuda":
        if importlib.util.find_spec("bitsandbytes") is None:
            advice.append(
                "--use-4bit needs bitsandbytes; install it with: pip install 'speakeasy-lm[cuda]'"
            )
    elif selection.name == "torch" and shutil.which("nvidia-smi"):
        advice.append(
            "an NVIDIA driver is here, but this PyTorch cannot use it; install PyTorch's CUDA "
            "build: https://pytorch.org/get-started/locally"
        )
    if sys.platform == "linux" and not missing("mlx"):
        package = REGISTRY["mlx"][0].partition(".")[0]
        if not importlib.import_module(package).openblas_loaded:
            advice.append(
                "MLX on a Linux CPU is many times faster with OpenBLAS; install it: "
                "apt-get install libopenblas0-pthread, or what your system calls it"
            )
    return advice


def _model_facts(
    name: str, chosen: tuple[Selection, Device] | None, approaches: Sequence[int], say: Say
) -> Facts:
    """What a model is, whether training with the defaults would fit, and what the guide's
    approaches would take.

    Raises:
        ModelError: it cannot be found, or is unsound.
    """
    model = resolve_model(name, say=say)
    shape = model_shape(model.path)
    tokenizer = load_tokenizer(model.path)
    template = ensure_chat_template(tokenizer)
    facts: Facts = {
        "name": name,
        "source": model.source,
        "architecture": shape.model_type,
        "supported": shape.model_type in SUPPORTED,
        "parameters": shape.parameter_count,
        "layers": shape.layers,
        "hidden_size": shape.hidden_size,
        "vocabulary": shape.vocab_size,
        "context": shape.max_positions,
        "dtype": shape.dtype,
        "quantization": shape.quantization,
        "bytes_on_disk": shape.bytes_on_disk,
        "chat_template": template.reason,
        "rope": _rope(model.path),
        "training": None,
        "approaches": [],
    }
    if facts["supported"] and chosen is not None:
        facts["training"] = _training(model.path, *chosen)
        facts["approaches"] = _approaches(shape, tokenizer, *chosen, approaches, say)
    return {"model_directory": str(model.path), "model": facts}


def _rope(path: Path) -> Facts:
    """The rotary embedding, and in which of its two spellings the config has it."""
    config = read_config(path)
    rope = normalized_rope(config)
    both = "rope_parameters" in config and "rope_theta" in config
    alone = "rope_parameters" if "rope_parameters" in config else "rope_theta"
    return {
        "theta": rope["rope_theta"],
        "scaling": rope["rope_scaling"],
        "spelling": "both" if both else alone if alone in config else "neither",
    }


def _training(path: Path, selection: Selection, device: Device) -> Facts:
    """The memory of ``speakeasy train`` with its defaults."""
    shape = model_shape(path)
    defaults = TrainConfig()
    layers = select_layers(linear_layers(path), defaults.lora.targets)
    trainable = sum((rows + columns) * defaults.lora.r for rows, columns in layers.values())
    config = replace(defaults, precision=device.precision)
    verdict = None
    try:
        placement = place(config, shape, trainable, selection.name, device)
    except DoesNotFitError as error:
        verdict = str(error)
        placement = place(config, shape, trainable, selection.name, device, force=True)
    return {
        "trainable_parameters": trainable,
        "estimated_memory_bytes": placement.estimate.total,
        "fits": verdict is None,
        "verdict": verdict,
    }


def _approaches(
    shape: ModelShape,
    tokenizer: Any,
    selection: Selection,
    device: Device,
    approaches: Sequence[int],
    say: Say,
) -> list[Facts]:
    """The guide's approaches, with its amounts of data like the packaged conversations."""
    say(f"measuring how fast {device.name} multiplies matrices in {device.precision}")
    rate = open_backend(selection.name).matmul_rate(device.precision)
    sample = starter_conversations()[::SAMPLED]
    amounts = Amounts.like(render_all(tokenizer, sample, DataConfig().max_length).items)
    return [
        outlook(approach, shape, selection.name, device, rate, amounts) for approach in approaches
    ]
