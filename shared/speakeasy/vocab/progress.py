"""The type of a progress bar, which the commands bring and this layer moves on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Opens a progress bar, from a description and a total; what it yields moves it on."""

MEGABYTE = 1_000_000


def no_bar(description: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    """A progress bar that nobody sees."""
    return nullcontext(lambda done: None)


@contextmanager
def in_megabytes(bar: Bar, description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar over megabytes, of a total in bytes; what it yields is called with bytes."""
    with bar(f"{description} (MB)", total // MEGABYTE) as advance:
        behind = 0

        def advance_bytes(count: int) -> None:
            nonlocal behind
            done, behind = divmod(behind + count, MEGABYTE)
            advance(done)

        yield advance_bytes
