"""Which adapted layers an engine multiplies with as a sum, adapter and frozen weights in one.

What is added at every position costs ``rank * (inputs + outputs)`` beside the layer's own
``inputs * outputs``, forward, and twice that backward. Where the sum is kept, and made anew after
each step, a third of it is saved, for a copy of the weights. The narrower the model, the more there
is to save and the less there is to copy.
"""

from __future__ import annotations

from speakeasy.config import JobConfig, LoraConfig, Precision
from speakeasy.weights.adapters import block_layers, select_layers
from speakeasy.weights.checkpoint import ModelShape

LEAST_SHARE = 0.1
"""Of a layer's product, what its adapter must cost for the sum to be kept."""


def pays(outputs: int, inputs: int, rank: int) -> bool:
    """Whether an adapter of that rank costs a large enough share of its layer's product."""
    return rank * (inputs + outputs) >= LEAST_SHARE * inputs * outputs


def is_exact(lora: LoraConfig, precision: Precision) -> bool:
    """Whether a sum can stand for both. In 16 bits it would lose digits of the adapter, dropout
    lets the two see other inputs, and DoRA is no sum."""
    return precision == "float32" and not lora.dora and not lora.dropout


def kept_as_sums(shape: ModelShape, config: JobConfig) -> dict[str, tuple[int, int]]:
    """The layers of a job that are, canonical name -> (out, in).

    None of a model that is divided among processes, each of which has a part of every weight, nor
    of one that is compiled: the compiler is shown the libraries' own formulas.
    """
    packed = config.use_4bit or shape.quantization is not None
    added = config.fsdp or config.compile or not is_exact(config.lora, config.precision)
    if not config.trains_lora or packed or added:
        return {}
    chosen = select_layers(block_layers(shape), config.lora.targets)
    return {name: size for name, size in chosen.items() if pays(*size, config.lora.r)}


def bytes_beside(shape: ModelShape, config: JobConfig) -> int:
    """What the frozen weights take beside the sums: 16 bits where they are stored so."""
    elements = sum(out * into for out, into in kept_as_sums(shape, config).values())
    return elements * (2 if shape.dtype == "BF16" else 4)
