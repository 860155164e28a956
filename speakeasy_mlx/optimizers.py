"""AdamW for each part that is trained, and its moments as trees."""

from __future__ import annotations

from typing import Any

import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_unflatten

from speakeasy.config import OptimizerConfig


def moments_of(state: Any, moment: str) -> Any:
    """One of AdamW's moments, as a tree like that of the parameters."""
    ending = f".{moment}"
    entries = [
        (name.removesuffix(ending), value)
        for name, value in tree_flatten(state)
        if name.endswith(ending)
    ]
    return tree_unflatten(entries) if entries else {}


def make_optimizers(
    trained: nn.Module, config: OptimizerConfig | None
) -> dict[str, tuple[optim.AdamW, float]]:
    """For each part that is trained, its AdamW and its rate as a multiple of the learning rate."""
    if config is None:
        return {}
    rates = {"model": 1.0, "rows": config.rows_rate}
    found = {}
    for part, rate in rates.items():
        if part in trained and tree_flatten(trained[part].trainable_parameters()):
            optimizer = optim.AdamW(
                learning_rate=config.learning_rate * rate,
                betas=[config.beta1, config.beta2],
                eps=config.epsilon,
                weight_decay=config.weight_decay,
                bias_correction=True,
            )
            optimizer.init(trained[part].trainable_parameters())
            found[part] = optimizer, rate
    return found


def entry_of(tree: Any, name: str) -> Any:
    """The entry of a tree of dicts and lists that a dotted name leads to."""
    for part in name.split("."):
        tree = tree[int(part) if isinstance(tree, list) else part]
    return tree
