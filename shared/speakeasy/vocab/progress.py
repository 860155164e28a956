"""The type of a progress bar, which the commands bring and this layer moves on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Opens a progress bar, from a description and a total; what it yields moves it on."""


def no_bar(description: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    """A progress bar that nobody sees."""
    return nullcontext(lambda done: None)
