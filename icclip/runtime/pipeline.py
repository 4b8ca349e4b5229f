"""Work in two overlapping steps: the next inputs are prepared while the current ones run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
Made = TypeVar("Made")


def chunks(items: Iterator[T], size: int) -> Iterator[tuple[Sequence[T], bool]]:
    """Groups of up to `size` items, each with a flag for the last group, for which one item is read ahead."""
    waiting = list(islice(items, 1))
    while waiting:
        own = waiting + list(islice(items, size - 1))
        waiting = list(islice(items, 1))
        yield own, not waiting


def ahead(make: Callable[[T], Made], parts: Iterator[T]) -> Iterator[tuple[T, Made]]:
    """Pairs of each part and `make(part)`; the next is read and made while the caller works on the current one."""

    def following() -> tuple[T, Made] | None:
        for part in parts:
            return part, make(part)
        return None

    with ThreadPoolExecutor(1) as maker:
        waiting = maker.submit(following)
        while (ready := waiting.result()) is not None:
            waiting = maker.submit(following)
            yield ready
