"""Batches made ahead are the same ones."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from speakeasy.batches.ahead import ahead


@pytest.mark.parametrize("count", [0, 1, 5])
def test_the_same_items_in_the_same_order(count: int) -> None:
    assert list(ahead(range(count))) == list(range(count))


def test_the_next_is_made_while_one_is_in_use() -> None:
    made = [threading.Event() for _ in range(3)]

    def items() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number

    taken = ahead(items())
    assert next(taken) == 0
    assert made[1].wait(10)  # nobody has asked for it yet
    assert not made[2].is_set()
    assert list(taken) == [1, 2]


def test_an_error_comes_where_the_item_would_be_taken() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    taken = ahead(items())
    assert next(taken) == 1
    with pytest.raises(ValueError, match="broken"):
        next(taken)


def test_nothing_runs_on_when_it_is_left() -> None:
    taken = ahead(iter(range(10**9)))
    next(taken)
    taken.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]
