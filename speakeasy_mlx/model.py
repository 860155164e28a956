"""Loading a model with mlx-lm, quantising it, and adapting it with mlx-lm's LoRA layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map
from mlx_lm.tuner.dora import DoRALinear
from mlx_lm.tuner.lora import LoRALinear
from mlx_lm.utils import load_model

from speakeasy.errors import ModelError
from speakeasy.training.backend import EngineOptions
from speakeasy.weights.adapters import select_layers
from speakeasy.weights.checkpoint import complete_config, linear_layers, read_config
from speakeasy.weights.lora import A_SUFFIX, B_SUFFIX, MAGNITUDE_SUFFIX
from speakeasy.weights.trained_rows import EMBEDDING, HEAD
from speakeasy_mlx.attention import install
from speakeasy_mlx.lean import LeanLoRALinear, make_lean

DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}
BITS, GROUP_SIZE = 4, 64
_LORA = {A_SUFFIX: ".lora_a", B_SUFFIX: ".lora_b", MAGNITUDE_SUFFIX: ".m"}
"""Ends of LoRA's canonical names -> mlx-lm's."""


def load_base(options: EngineOptions) -> Any:
    """The frozen model, from safetensors only, never with code of its own.

    Raises:
        ModelError: mlx-lm does not know the architecture, or the weights do not fit it.
    """
    config = complete_config(read_config(options.model))
    try:
        model, _ = load_model(options.model, lazy=True, model_config=config)
    except Exception as error:  # whatever the config makes the library stumble over
        said = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"{options.model}: {said}") from error
    dtype = DTYPES[options.precision]
    model.update(
        tree_map(
            lambda weight: (
                weight.astype(dtype) if mx.issubdtype(weight.dtype, mx.floating) else weight
            ),
            model.parameters(),
        )
    )
    if options.use_4bit and not is_quantized(model):
        try:
            nn.quantize(
                model, group_size=GROUP_SIZE, bits=BITS, class_predicate=_quantizable(options)
            )
        except ValueError as error:
            raise ModelError(
                f"--use-4bit: {options.model}: {str(error).splitlines()[0]}"
            ) from error
    mx.eval(model.parameters())
    model.freeze()
    install(model)
    make_lean(model)
    return model


def _quantizable(options: EngineOptions) -> Any:
    """Which layers take 4 bits: all, but for the matrices of which rows are trained."""
    kept = (EMBEDDING, HEAD) if options.rows else ()
    return lambda name, layer: hasattr(layer, "to_quantized") and name not in kept


def is_quantized(model: nn.Module) -> bool:
    """True when any layer of the model holds packed weights."""
    return any(isinstance(layer, nn.QuantizedLinear) for _, layer in model.named_modules())


def adapt(model: nn.Module, options: EngineOptions) -> None:
    """Put LoRA or DoRA layers into ``model``, in place, with the canonical weights of the options.

    The layers are mlx-lm's own, so whatever mlx-lm can do with them afterwards it can do here.
    """
    lora, tensors = options.lora, options.adapter
    assert lora is not None
    assert tensors is not None
    wanted = select_layers(linear_layers(options.model), lora.targets)
    layers = dict(model.named_modules())
    for name in wanted:
        if name not in layers:
            raise ModelError(f"{options.model}: the adapter and the model differ in {name}")
        parent_name, _, leaf = name.rpartition(".")
        kind = DoRALinear if lora.dora else LoRALinear
        adapted = kind.from_base(layers[name], r=lora.r, dropout=lora.dropout, scale=lora.scale)
        if not lora.dora:
            adapted.__class__ = LeanLoRALinear  # mlx-lm's constructor makes its own class
        adapted.freeze()
        adapted.unfreeze(keys=["lora_a", "lora_b", "m"], recurse=False)
        setattr(layers[parent_name], leaf, adapted)
    put(model, tensors)
    if lora.dora and not any(name.endswith(MAGNITUDE_SUFFIX) for name in tensors):
        _measure_rows(model)


def _measure_rows(model: nn.Module) -> None:
    """Give DoRA's magnitudes the lengths of the rows as they are, in float32."""
    for _, layer in model.named_modules():
        if isinstance(layer, DoRALinear):
            weight = layer._dequantized_weight().astype(mx.float32)
            change = (layer.lora_a @ layer.lora_b).T
            layer.m = mx.linalg.norm(weight + layer.scale * change, axis=1)
            mx.eval(layer.m)


def to_canonical(name: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    """mlx-lm's parameter in the form that both backends share: LoRA's matrices are transposed,
    the model's own weights are the same in both."""
    for ours, theirs in _LORA.items():
        if name.endswith(theirs):
            return name.removesuffix(theirs) + ours, np.ascontiguousarray(value.T)
    return name, value


def to_mlx(name: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    """The inverse of ``to_canonical``."""
    for ours, theirs in _LORA.items():
        if name.endswith(ours):
            return name.removesuffix(ours) + theirs, np.ascontiguousarray(value.T)
    return name, value


def put(model: nn.Module, tensors: Mapping[str, np.ndarray]) -> None:
    """Copy canonical arrays into the trainable parameters."""
    converted = (to_mlx(name, tensor) for name, tensor in tensors.items())
    model.load_weights([(name, mx.array(value)) for name, value in converted], strict=False)
    mx.eval(model.trainable_parameters())


def take(tree: Any) -> dict[str, np.ndarray]:
    """A tree of trainable parameters, or of something shaped like them, as canonical arrays."""
    return dict(
        to_canonical(name, np.array(value, dtype=np.float32)) for name, value in tree_flatten(tree)
    )
