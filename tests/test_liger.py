"""Liger Kernel's cross-entropy in the place of the loss's own, under Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

INSTALLED = all(importlib.util.find_spec(name) for name in ("triton", "liger_kernel"))
CODE = """
import torch
from speakeasy_torch import liger, loss

def both(dtype, wanted):
    torch.manual_seed(0)
    hidden, head = (torch.randn(size, 16).to(dtype) for size in (7, 1000))
    labels = torch.randint(0, 1000, (7,))
    for serves in (False, True):
        liger.serves = lambda logits: serves
        given = hidden.clone().requires_grad_(wanted)
        total, losses = loss.target_losses(given, head, labels)
        if wanted:
            (0.5 * total).backward()
        yield total.detach(), losses, given.grad if wanted else losses

assert liger.kernel() is not None
loss.CHUNK_BYTES = 0
for dtype, within in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
    for wanted in (True, False):
        for expected, found in zip(*both(dtype, wanted)):
            assert found.dtype == expected.dtype
            difference = ((found - expected).abs().max() / expected.abs().max()).item()
            assert difference <= within, (dtype, wanted, difference)
            print(dtype, wanted, difference)
"""


@pytest.mark.skipif(not INSTALLED, reason="triton and liger-kernel are not installed")
def test_losses_and_gradients_are_those_without_it() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    words = [sys.executable, "-c", CODE]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_nothing_of_it_is_imported_on_a_cpu() -> None:
    code = """
import sys, torch
from speakeasy_torch.loss import target_losses
target_losses(torch.ones(2, 4, requires_grad=True), torch.ones(6, 4), torch.tensor([1, 2]))
assert not {"triton", "liger_kernel"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
