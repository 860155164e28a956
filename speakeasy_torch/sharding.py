"""Frozen blocks divided among the processes (FSDP), for models that one device cannot hold.

PyTorch's ``fully_shard`` leaves each process a part of every block, and gathers a block while it is
computed, forward and backward (Zhao et al. 2023, https://arxiv.org/abs/2304.11277). Frozen weights
have no gradient, so nothing is scattered back. What is trained is whole in every process, and its
gradients are added up in ``processes.sum_gradients``, as without this. Whole are also the last norm
and the embedding and output matrices, which the loss and the trained rows use directly.

What an autograd function keeps for the backward pass is the gathered weights (``lean``): the same
tensors, whose memory is freed after the forward pass and filled again before the backward pass.

A pass is collective. A process without a row must make it all the same (``engine``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from speakeasy.training.group import Group


def around_blocks(model: Any) -> list[torch.nn.Module]:
    """The modules of a model that stay whole: all but its blocks."""
    parts = model.get_decoder().named_children()
    return [*(part for name, part in parts if name != "layers"), model.get_output_embeddings()]


def shard(
    model: Any, trained: Iterable[torch.nn.Parameter], device: torch.device, group: Group
) -> None:
    """Divide a model's blocks among the processes of a group, in place, one block at a time.

    Called when every layer is what it is to be. The blocks lie on the CPU: no more than one of them
    is whole on the device at once.

    Args:
        trained: parameters that stay whole; moved to the device.
    """
    whole = set(trained)
    for parameter in whole:
        parameter.data = parameter.data.to(device)
    mesh = init_device_mesh(device.type, (group.size,))
    decoder = model.get_decoder()
    for block in decoder.layers:
        fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
    # Without parameters of its own: it lets the next block be gathered while one is computed.
    rest = {parameter for module in around_blocks(model) for parameter in module.parameters()}
    fully_shard(decoder, mesh=mesh, ignored_params=whole | rest)
