"""Count, for every right answer, the candidates that score at least as high, one block of similarities at a time.

The counts come from exact cosines: rows are rounded to multiples of 2^-26, so that every product and every
partial sum of a cosine (at most 1 for unit rows) is a multiple of 2^-52 and fits the 53 bits of a float64. A
sum that never rounds has one value in whatever order it is taken, so the counts do not depend on the blocks,
the threads or the BLAS library. The rounding moves a cosine by about 1e-8, less than float32 summation would.

A float32 product is faster and needs half the memory, and its error is bounded: it decides every candidate
that is further from a right answer than that bound, and only the rest are computed exactly.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np

from icclip.retrieval.blocks import MIB, block_bytes, cache_bytes, rows_of, spans
from icclip.retrieval.relevance import Relevance

Multiply = Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]]
"""Float32 texts [m, dim] -> a function of float32 images [n, dim] that gives their products, float32 [n, m].

The products must be summed in float32 at least, in any order.
"""
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""(description, total) -> a context that gives a function to call with the number of steps done."""

FEW = 8
"""If queries have at most this many right answers, each answer is compared with all candidates; with more, the candidates are sorted first."""

_GRID = float(2**26)
_ROWS = 255
"""Images of a block: counts of up to 255 fit in a byte, in which whole columns are added at once."""
_TEXT_BYTES = 64 * MIB
_HALF_ULP = 2.0**-24
_SETTLED = 2**18
"""Similarities that are searched for undecided ones at a time: few enough for the cache."""
_COMPUTED = 1024
"""Pairs of rows whose exact cosines are computed at a time."""
_DENSE = 1 / 64
"""If a larger fraction of a block is left undecided, the whole block is computed exactly."""


def unit_on_grid(embeddings: np.ndarray) -> np.ndarray:
    """float64 [n, dim]: rows of length 1, rounded to multiples of 2^-26 (see the module's docstring)."""
    rows = embeddings.astype(np.float64)
    lengths = np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
    np.divide(rows, lengths, out=rows, where=lengths > 0)
    rows *= _GRID
    return np.divide(np.rint(rows, out=rows), _GRID, out=rows)


def multiply_here(texts: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The `Multiply` of numpy."""
    return lambda images: images @ texts.T


def no_progress(_description: str, _total: int) -> AbstractContextManager[Callable[[int], None]]:
    """The `Progress` of a caller that shows none."""
    return nullcontext(lambda _steps: None)


def text_columns(dim: int) -> int:
    """How many texts of `dim` values make a block: one row of it fits in the cache, all of it in the memory."""
    return min(rows_of(cache_bytes() // 8, 1, 4), rows_of(block_bytes(_TEXT_BYTES), dim, 8))


@dataclass
class Direction:
    """The lists of right answers of one direction while the candidates before them are counted.

    Lists are of kinds of queries, and entries are sorted by kind, then with the best first; of equal ones the one
    with the lower grade comes first, because nothing may win by a tie.
    """

    first: np.ndarray
    """int64 [kinds]: the row in which each kind of query appears first."""
    offsets: np.ndarray
    """int64 [kinds + 1]"""
    cosines: np.ndarray
    """float32 [entries]: exact, as `unit_on_grid` makes them."""
    sizes: np.ndarray
    grades: np.ndarray
    ahead: np.ndarray
    """int64 [entries]: all candidates, right ones included, that score at least as high."""
    above: np.ndarray
    """int64 [entries]: all candidates that score higher."""

    @classmethod
    def of_images(cls, relevance: Relevance, cosines: np.ndarray) -> Self:
        """The lists of images; `cosines` are float32 [pairs]."""
        sizes = relevance.texts.sizes[relevance.members]
        return cls._sorted(relevance, relevance.images.first, relevance.image_of_pair, cosines, sizes)

    @classmethod
    def of_texts(cls, relevance: Relevance, cosines: np.ndarray) -> Self:
        """The lists of texts; `cosines` are float32 [pairs]."""
        sizes = relevance.images.sizes[relevance.image_of_pair]
        return cls._sorted(relevance, relevance.texts.first, relevance.members, cosines, sizes)

    @classmethod
    def _sorted(
        cls, relevance: Relevance, first: np.ndarray, kinds: np.ndarray, cosines: np.ndarray, sizes: np.ndarray
    ) -> Self:
        grades = np.ones(len(kinds)) if relevance.grades is None else relevance.grades
        order = np.lexsort((grades, -cosines, kinds))
        offsets = np.concatenate(([0], np.cumsum(np.bincount(kinds, minlength=len(first))))).astype(np.int64)
        counts = np.zeros((2, len(kinds)), np.int64)
        return cls(first, offsets, cosines[order], sizes[order], grades[order], *counts)

    def queries(self, rows: slice) -> _Queries:
        """Those that appear first in these rows."""
        start, stop = np.searchsorted(self.first, [rows.start, rows.stop]).tolist()
        offsets = self.offsets[start : stop + 1]
        entries = slice(int(offsets[0]), int(offsets[-1]))
        return _Queries(self.first[start:stop] - rows.start, offsets - offsets[0], self.cosines[entries], entries)

    def add(self, entries: slice, counts: np.ndarray) -> None:
        """Add to `ahead` and `above` of these entries: int64 [2, entries]."""
        self.ahead[entries] += counts[0]
        self.above[entries] += counts[1]


@dataclass(frozen=True, slots=True)
class _Queries:
    """The queries of one direction in one block, and the cosines of their right answers."""

    places: np.ndarray
    """int64 [queries]: ascending rows of the block."""
    offsets: np.ndarray
    """int64 [queries + 1]: the entries of each."""
    bars: np.ndarray
    """float32 [entries]"""
    entries: slice
    """Where the entries stand in their direction."""

    @property
    def place_of_entry(self) -> np.ndarray:
        return np.repeat(self.places, np.diff(self.offsets))


def count_all(
    i2t: Direction,
    t2i: Direction,
    images: Callable[[slice], np.ndarray],
    texts: Callable[[slice], np.ndarray],
    shape: tuple[int, int, int],
    *,
    block: int | None = None,
    few: int = FEW,
    multiply: Multiply = multiply_here,
    progress: Progress = no_progress,
) -> None:
    """Compare every right answer of both directions with every candidate, on all cores.

    Args:
        i2t: lists of images; their counts are completed.
        t2i: lists of texts, likewise.
        images: rows of the split -> their `unit_on_grid` embeddings; called from several threads.
        texts: likewise.
        shape: numbers of images and of texts, and the width of an embedding.
        block: images and texts per block at most; None: as many as suit the machine.
        few: see FEW.
        multiply: the product of a block; it changes the time alone.
        progress: shows the images that are done, once for every block of texts.
    """
    n_images, n_texts, dim = shape
    rows, columns = min(block or _ROWS, _ROWS), block or text_columns(dim)
    margin = np.float32((dim + 8) * _HALF_ULP)
    total = n_images * -(-n_texts // columns)
    with progress("ranking", total) as advance, ThreadPoolExecutor(_threads()) as pool:
        for those in spans(n_texts, columns):
            exact = texts(those)
            tiles = _Tiles(exact, multiply(exact.astype(np.float32)), i2t, t2i.queries(those), images, margin, few)
            for these, counts in zip(spans(n_images, rows), pool.map(tiles.count, spans(n_images, rows)), strict=True):
                t2i.add(tiles.queries.entries, counts)
                advance(these.stop - these.start)


def _threads() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class _Tiles:
    """The similarities of all images with one block of texts."""

    texts: np.ndarray
    """float64 [m, dim], on the grid."""
    product: Callable[[np.ndarray], np.ndarray]
    i2t: Direction
    queries: _Queries
    """Those among the texts."""
    images: Callable[[slice], np.ndarray]
    margin: np.float32
    few: int

    def count(self, rows: slice) -> np.ndarray:
        """Count for these images, each of which is in one call alone, and return int64 [2, entries] for the texts."""
        images, own = self.images(rows), self.i2t.queries(rows)
        tile, margin = self.product(images.astype(np.float32)), self.margin
        across, down = _across(tile, own, margin, self.few), _down(tile, self.queries, margin, self.few)
        if sum(int((one[0] - one[1]).sum()) for one in (across, down)) > _DENSE * tile.size:
            tile, margin = (images @ self.texts.T).astype(np.float32), np.float32(0)
            across, down = _across(tile, own, margin, self.few), _down(tile, self.queries, margin, self.few)
        else:
            cosines = partial(_cosines, images, self.texts)
            _settle(across, tile, own, margin, cosines)
            _settle(down, tile.T, self.queries, margin, lambda columns, rows: cosines(rows, columns))
        self.i2t.add(own.entries, across)
        return down


def _cosines(images: np.ndarray, texts: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Exact float32 [n], from the rows and columns of a block."""
    found: np.ndarray = np.einsum("pd,pd->p", images[rows], texts[columns]).astype(np.float32)
    return found


def _settle(
    counts: np.ndarray, tile: np.ndarray, queries: _Queries, margin: np.float32, cosines: Callable[..., np.ndarray]
) -> None:
    """Take out of int64 [2, entries] the candidates that are not, and put in those that are, after computing them."""
    undecided = np.flatnonzero(counts[0] > counts[1])
    # Nearly every entry is undecided, by its own answer at least: one at a time, they would take longer than the product.
    for some in spans(len(undecided), rows_of(_SETTLED, tile.shape[1], 1)):
        entries = undecided[some]
        places, bars = queries.place_of_entry[entries], queries.bars[entries]
        scores = tile[places]
        close = (scores >= (bars - margin)[:, None]) & (scores <= (bars + margin)[:, None])
        # numpy searches one dimension several times faster than two.
        which, near = np.divmod(np.flatnonzero(close), tile.shape[1])
        for pairs in spans(len(which), _COMPUTED):
            own = which[pairs]
            exact = cosines(places[own], near[pairs])
            np.subtract.at(counts[0], entries[own[exact < bars[own]]], 1)
            np.add.at(counts[1], entries[own[exact > bars[own]]], 1)


def _across(tile: np.ndarray, queries: _Queries, margin: np.float32, few: int) -> np.ndarray:
    """int64 [2, entries]: candidates that may reach each bar, and that exceed it for certain; queries are rows."""
    counts = np.empty((2, len(queries.bars)), np.int64)
    lows, highs = queries.bars - margin, queries.bars + margin
    for place, start, stop in zip(
        queries.places, queries.offsets[:-1].tolist(), queries.offsets[1:].tolist(), strict=True
    ):
        scores = tile[place]
        if stop - start > few:
            scores = np.sort(scores)
            counts[0, start:stop] = len(scores) - np.searchsorted(scores, lows[start:stop], "left")
            counts[1, start:stop] = len(scores) - np.searchsorted(scores, highs[start:stop], "right")
            continue
        for entry in range(start, stop):
            counts[0, entry] = np.count_nonzero(scores >= lows[entry])
            counts[1, entry] = np.count_nonzero(scores > highs[entry])
    return counts


def _down(tile: np.ndarray, queries: _Queries, margin: np.float32, few: int) -> np.ndarray:
    """As `_across`; queries are columns, of which most have one right answer, so that whole rows are compared at once."""
    counts = np.empty((2, len(queries.bars)), np.int64)
    lists = np.diff(queries.offsets)
    several = lists > few
    for layer in range(int(lists[~several].max(initial=0))):
        have = np.flatnonzero((lists > layer) & ~several)
        entries, places = queries.offsets[have] + layer, queries.places[have]
        scores, bars = tile if len(places) == tile.shape[1] else tile[:, places], queries.bars[entries]
        counts[0, entries] = _column_sums(scores >= bars - margin)
        counts[1, entries] = _column_sums(scores > bars + margin)
    if several.any():
        _sort_columns(tile, queries, np.flatnonzero(several), margin, counts)
    return counts


def _column_sums(mask: np.ndarray) -> np.ndarray:
    """Of bool [up to 255, n]: uint8 [n], which is several times faster than wider integers."""
    sums: np.ndarray = np.add.reduce(mask.view(np.uint8), axis=0, dtype=np.uint8)
    return sums


def _sort_columns(
    tile: np.ndarray, queries: _Queries, chosen: np.ndarray, margin: np.float32, counts: np.ndarray
) -> None:
    for query in chosen.tolist():
        own = slice(*queries.offsets[query : query + 2].tolist())
        scores = np.sort(tile[:, queries.places[query]])
        counts[0, own] = len(scores) - np.searchsorted(scores, queries.bars[own] - margin, "left")
        counts[1, own] = len(scores) - np.searchsorted(scores, queries.bars[own] + margin, "right")


def own_cosines(
    images: np.ndarray, texts: np.ndarray, pairs: tuple[np.ndarray, np.ndarray], rows: int
) -> Iterator[np.ndarray]:
    """float32 [pairs] in parts: the exact cosines of rows of embeddings [n, dim] and [m, dim] that belong together."""
    for span in spans(len(pairs[0]), rows):
        own = unit_on_grid(images[pairs[0][span]]), unit_on_grid(texts[pairs[1][span]])
        yield np.einsum("pd,pd->p", *own).astype(np.float32)
