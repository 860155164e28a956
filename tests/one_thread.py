"""A fixture for modules that compute with tiny models; they import it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from speakeasy.training.backend import missing


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: several times faster for tiny products on a busy machine."""
    if missing("torch"):
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
