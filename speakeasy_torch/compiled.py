"""Each block of the decoder as a program of torch.compile's.

Only what a step does is compiled; generation and whole logits go through the blocks as they are.
Attention stays out of the graph (``attention.packed_attention``). So a block is two programs, one
before attention and one behind, that all blocks share and that hold for any number of positions.
"""

from __future__ import annotations

from functools import partial
from types import MethodType
from typing import Any

import torch

from speakeasy.errors import BackendError, first_line


def check_compiler(device: torch.device) -> None:
    """Have torch.compile make and run a program of one line on the device.

    Raises:
        BackendError: it cannot, because a compiler is missing or the device is not supported.
    """
    wanted = "triton" if device.type == "cuda" else "a C++ compiler and Python's headers"
    try:
        torch.compile(_trial, fullgraph=True)(torch.ones(8, device=device))
    except Exception as error:  # whatever inductor, triton or the compiler stumbles over
        cause = first_line(getattr(error, "inner_exception", error))
        raise BackendError(
            f"--compile: torch.compile does not work on this {device.type.upper()} ({cause}); "
            f"expected {wanted}; install that, or give --no-compile"
        ) from error


def _trial(values: torch.Tensor) -> torch.Tensor:
    return values.sin() + 1


def compile_blocks(model: Any) -> None:
    """Give every block of a model a compiled forward pass for training, in place.

    The programs are made when the first batch comes.
    """
    for block in model.get_decoder().layers:
        block.forward = MethodType(partial(_chosen, whole=block.forward, step=_step(block)), block)


def _chosen(block: Any, hidden_1MD: torch.Tensor, *, whole: Any, step: Any, **inputs: Any) -> Any:
    return (step if torch.is_grad_enabled() else whole)(hidden_1MD, **inputs)


def _step(block: Any) -> Any:
    """A block's forward pass in training. What recomputes it is around the program."""
    if "forward" in vars(block):  # the last block's own, which is never recomputed
        return torch.compile(block.forward, dynamic=True)
    # transformers' wrapper, which recomputes, knows what it wraps; before version 5.23 it was in
    # the caller.
    inner = getattr(type(block).forward, "__wrapped__", type(block).forward)
    wraps = inner is not type(block).forward
    program = torch.compile(MethodType(inner, block), dynamic=True)

    def run(hidden_1MD: torch.Tensor, *, scored: Any = None, **inputs: Any) -> Any:
        if wraps and block.gradient_checkpointing:
            return block._gradient_checkpointing_func(partial(program, **inputs), hidden_1MD)
        return program(hidden_1MD, **inputs)

    return run
