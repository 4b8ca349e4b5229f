"""Work in two overlapping steps: the next inputs are prepared while the current ones run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, islice
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


def begun(
    parts: Iterator[tuple[Sequence[T], bool]],
) -> tuple[Iterator[tuple[Sequence[T], bool]], int | None]:
    """The same `chunks`, of which the first has been read; and the number of items, if that is the last."""
    first = next(parts, None)
    if first is None:
        return iter(()), 0
    return chain([first], parts), len(first[0]) if first[1] else None


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


@contextmanager
def workers(count: int) -> Iterator[Executor]:
    """Threads that end with the block; work that has not begun by then is given up."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def pieces(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """The items in groups of `size`, the last of which may be smaller."""
    return [items[start : start + size] for start in range(0, len(items), size)]
