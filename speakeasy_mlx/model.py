"""Loading a model with mlx-lm, quantising it, and adapting it with mlx-lm's LoRA layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map
from mlx_lm.tuner.lora import LoRALinear
from mlx_lm.utils import load_model

from speakeasy.errors import ModelError
from speakeasy.training.backend import EngineOptions
from speakeasy.weights.adapters import select_layers
from speakeasy.weights.checkpoint import complete_config, linear_layers, read_config
from speakeasy_mlx.attention import install

DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}
BITS, GROUP_SIZE = 4, 64


def load_base(options: EngineOptions) -> Any:
    """The frozen model, from safetensors only, never with code of its own.

    Raises:
        ModelError: mlx-lm does not know the architecture, or the weights do not fit it.
    """
    config = complete_config(read_config(options.model))
    try:
        model, _ = load_model(options.model, lazy=True, model_config=config)
    except (ValueError, KeyError, TypeError, FileNotFoundError, RuntimeError) as error:
        raise ModelError(f"{options.model}: {str(error).splitlines()[0]}") from error
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
            nn.quantize(model, group_size=GROUP_SIZE, bits=BITS)
        except ValueError as error:
            raise ModelError(
                f"--use-4bit: {options.model}: {str(error).splitlines()[0]}"
            ) from error
    mx.eval(model.parameters())
    model.freeze()
    install(model)
    return model


def is_quantized(model: nn.Module) -> bool:
    """True when any layer of the model holds packed weights."""
    return any(isinstance(layer, nn.QuantizedLinear) for _, layer in model.named_modules())


def adapt(model: nn.Module, options: EngineOptions) -> None:
    """Put LoRA layers into ``model``, in place, with the canonical weights of the options.

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
        adapted = LoRALinear.from_base(
            layers[name], r=lora.r, dropout=lora.dropout, scale=lora.scale
        )
        adapted.freeze()
        adapted.unfreeze(keys=["lora_a", "lora_b"], recurse=False)
        setattr(layers[parent_name], leaf, adapted)
    put(model, tensors)


def to_canonical(name: str) -> str:
    """mlx-lm's parameter name in the form that both backends share."""
    return name.replace(".lora_a", ".lora_A.weight").replace(".lora_b", ".lora_B.weight")


def to_mlx(name: str) -> str:
    """The inverse of ``to_canonical``."""
    return name.replace(".lora_A.weight", ".lora_a").replace(".lora_B.weight", ".lora_b")


def put(model: nn.Module, tensors: Mapping[str, np.ndarray]) -> None:
    """Copy canonical arrays into the trainable parameters, which mlx-lm holds transposed."""
    model.load_weights(
        [
            (to_mlx(name), mx.array(np.ascontiguousarray(tensor.T)))
            for name, tensor in tensors.items()
        ],
        strict=False,
    )
    mx.eval(model.trainable_parameters())


def take(tree: Any) -> dict[str, np.ndarray]:
    """A tree of trainable parameters, or of something shaped like them, as canonical arrays."""
    return {
        to_canonical(name): np.ascontiguousarray(np.array(value, dtype=np.float32).T)
        for name, value in tree_flatten(tree)
    }
