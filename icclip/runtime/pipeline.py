"""Work in two steps that overlap: the next inputs are made ready while the last ones run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
Made = TypeVar("Made")


def chunks(items: Iterator[T], size: int) -> Iterator[tuple[Sequence[T], bool]]:
    """Up to `size` items at a time, and whether they are the last ones; one item is read ahead to know that."""
    waiting = list(islice(items, 1))
    while waiting:
        own = waiting + list(islice(items, size - 1))
        waiting = list(islice(items, 1))
        yield own, not waiting


def ahead(make: Callable[[T], Made], parts: Iterator[T]) -> Iterator[tuple[T, Made]]:
    """Each part and what `make` makes of it; the next is read and made while the caller works on the last."""

    def following() -> tuple[T, Made] | None:
        for part in parts:
            return part, make(part)
        return None

    with ThreadPoolExecutor(1) as maker:
        waiting = maker.submit(following)
        while (ready := waiting.result()) is not None:
            waiting = maker.submit(following)
            yield ready
