"""Rank all texts for each image and all images for each text, and find where the right answers stand.

The counts come from float32 cosines, and they do not depend on how the work was divided into blocks, on
the number of threads or on the BLAS library: rows are rounded to multiples of 2^-26, so that every
product and every partial sum of a cosine (at most 1 for unit rows) is a multiple of 2^-52 and fits the
53 bits of a float64. A sum that never rounds has one value in whatever order it is taken. The
rounding moves a cosine by about 1e-8, less than float32 summation would.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from icclip.errors import CheckpointError
from icclip.retrieval.captions import CaptionMap
from icclip.retrieval.relevance import Relevance

BLOCK = 2048
"""Rows and columns of the block of similarities that is held in memory; it takes about 80 MB."""
FEW = 8
"""If queries have at most this many right answers, each answer is compared with all candidates; with more, the candidates are sorted first."""

_GRID = float(2**26)


@dataclass(frozen=True)
class Answers:
    """Where the right answers to the queries of one direction stand among all candidates.

    Each query has a list of right answers, the best first, and identical queries share one. An entry of
    a list stands for all copies of an answer. A list's entries are those of `offsets[l]` to
    `offsets[l + 1]`, at least one. The arrays cannot be written to.
    """

    queries: np.ndarray
    """int64 [queries]: rows of the queries in the split; all rows, unless judgements leave some without an answer."""
    lists: np.ndarray
    """int64 [queries]: the list that each query uses."""
    offsets: np.ndarray
    """int64 [lists + 1]"""
    sizes: np.ndarray
    """int64 [entries]: how many rows of the split are this answer."""
    ahead: np.ndarray
    """int64 [entries]: wrong candidates that score at least as high (ties go against the answer)."""
    above: np.ndarray
    """int64 [entries]: wrong candidates that score higher."""
    cosines: np.ndarray
    """float32 [entries]: the cosine of the answer with the query."""
    grades: np.ndarray
    """float64 [entries]: how right the answer is; 1 where there are no grades."""

    def __post_init__(self) -> None:
        for array in vars(self).values():
            array.flags.writeable = False

    @cached_property
    def ranks(self) -> np.ndarray:
        """int64 [queries]: pessimistic rank, from 1, of each query's best answer."""
        return self._of_queries(1 + self.ahead[self.offsets[:-1]])

    @cached_property
    def optimistic(self) -> np.ndarray:
        """int64 [queries]: like `ranks`, but ties are resolved in favour of the answer."""
        return self._of_queries(1 + self.above[self.offsets[:-1]])

    @cached_property
    def best_cosines(self) -> np.ndarray:
        """float32 [queries]: the cosine of each query with its best answer."""
        return self._of_queries(self.cosines[self.offsets[:-1]])

    @cached_property
    def before(self) -> np.ndarray:
        """int64 [entries]: right answers, counted as rows, that stand before each entry in its list."""
        ends = np.cumsum(self.sizes)
        starts = ends - self.sizes
        before: np.ndarray = starts - np.repeat(starts[self.offsets[:-1]], np.diff(self.offsets))
        return before

    @cached_property
    def relevant(self) -> np.ndarray:
        """int64 [lists]: how many rows are right answers."""
        return self.summed(self.sizes)

    def places(self, query: int) -> np.ndarray:
        """int64: the places, from 1, of all right answers to the query with this index, in ascending order.

        An answer comes after the wrong ones that it is tied with.
        """
        start, stop = self.offsets[self.lists[query] : self.lists[query] + 2]
        ahead = np.repeat(self.ahead[start:stop], self.sizes[start:stop])
        places: np.ndarray = 1 + np.arange(len(ahead)) + ahead
        return places

    def summed(self, values: np.ndarray) -> np.ndarray:
        """Sums over each list: [entries] -> [lists]."""
        sums: np.ndarray = np.add.reduceat(values, self.offsets[:-1])
        return sums

    def mean(self, values: np.ndarray) -> float:
        """The mean over the queries of a value that each list has, [lists]."""
        return float(values[self.lists].mean(dtype=np.float64))

    def _of_queries(self, values: np.ndarray) -> np.ndarray:
        """[lists] -> [queries], read-only."""
        found: np.ndarray = values[self.lists]
        found.flags.writeable = False
        return found


@dataclass(frozen=True)
class RetrievalRanks:
    """Where the right answers stand in both directions.

    The shortcuts `i2t` and `t2i` are what most metrics need; `i2t_answers` and `t2i_answers` hold the place
    of every right answer.
    """

    relevance: Relevance
    i2t_answers: Answers
    """Queries are images, candidates are all texts."""
    t2i_answers: Answers
    """Queries are texts, candidates are all images."""

    @property
    def captions(self) -> CaptionMap:
        """The texts of the split."""
        return self.relevance.captions

    @property
    def i2t(self) -> np.ndarray:
        """int64 [image queries]: pessimistic rank, from 1, of each image's best text."""
        return self.i2t_answers.ranks

    @property
    def i2t_optimistic(self) -> np.ndarray:
        """int64 [image queries]: like `i2t`, but ties are resolved in favour of the text."""
        return self.i2t_answers.optimistic

    @property
    def t2i(self) -> np.ndarray:
        """int64 [text queries]: pessimistic rank, from 1, of each text's best image."""
        return self.t2i_answers.ranks

    @property
    def t2i_optimistic(self) -> np.ndarray:
        """int64 [text queries]: like `t2i`, but ties are resolved in favour of the image."""
        return self.t2i_answers.optimistic

    @property
    def best_cosines(self) -> np.ndarray:
        """float32 [image queries]: the best cosine of each image with a right text."""
        return self.i2t_answers.best_cosines


def rank(
    image_embeddings: np.ndarray,
    text_embeddings: np.ndarray,
    relevance: Relevance,
    *,
    block: int = BLOCK,
    few: int = FEW,
) -> RetrievalRanks:
    """Count the wrong answers before every right one, without holding all similarities at once.

    Args:
        image_embeddings: float [n_images, dim]; rows are scaled to length 1 (a zero row stays zero).
        text_embeddings: float [n_texts, dim], scaled in the same way.
        relevance: the right answers. Of inputs that it treats as copies, only the first one's embedding counts;
            the others differ from it in the last digits only, because they were encoded in other batches.
        block: rows and columns of a block of similarities; it changes memory and time, never the result.
        few: see FEW; it only changes the time.

    Raises:
        CheckpointError: the embeddings are not finite, or their widths differ.
        ValueError: the numbers of rows differ from those of `relevance`.
    """
    _check(image_embeddings, text_embeddings, relevance.captions)
    images = _unit_on_grid(image_embeddings[relevance.images.first])
    texts = _unit_on_grid(text_embeddings[relevance.texts.first])
    i2t = _Direction.of_images(relevance, cosines := _own_cosines(images, texts, relevance, block))
    t2i = _Direction.of_texts(relevance, cosines)
    image_rows, text_rows = relevance.images.of_row, relevance.texts.of_row
    for rows in _spans(len(image_rows), block):
        these = images[image_rows[rows]]
        for columns in _spans(len(text_rows), block):
            tile = (these @ texts[text_rows[columns]].T).astype(np.float32)
            i2t.count(tile, rows, few)
            t2i.count(tile.T, columns, few)
    return RetrievalRanks(relevance, i2t.answers(relevance.images.of_row), t2i.answers(relevance.texts.of_row))


@dataclass
class _Direction:
    """The lists of right answers of one direction while the candidates before them are counted.

    Lists are of kinds of queries, entries are sorted: by kind, then the best first; of equal ones that
    with the lower grade first, as nothing may win by a tie.
    """

    first: np.ndarray
    """int64 [kinds]: the row in which each kind of query appears first."""
    offsets: np.ndarray
    """int64 [kinds + 1]"""
    cosines: np.ndarray
    sizes: np.ndarray
    grades: np.ndarray
    ahead: np.ndarray
    """int64 [entries]: all candidates, right ones too, that score at least as high."""
    above: np.ndarray

    @classmethod
    def of_images(cls, relevance: Relevance, cosines: np.ndarray) -> _Direction:
        """`cosines`: float32 [pairs]."""
        sizes = relevance.texts.sizes[relevance.members]
        return cls._sorted(relevance, relevance.images.first, relevance.image_of_pair, cosines, sizes)

    @classmethod
    def of_texts(cls, relevance: Relevance, cosines: np.ndarray) -> _Direction:
        """Likewise."""
        sizes = relevance.images.sizes[relevance.image_of_pair]
        return cls._sorted(relevance, relevance.texts.first, relevance.members, cosines, sizes)

    @classmethod
    def _sorted(
        cls, relevance: Relevance, first: np.ndarray, kinds: np.ndarray, cosines: np.ndarray, sizes: np.ndarray
    ) -> _Direction:
        grades = np.ones(len(kinds)) if relevance.grades is None else relevance.grades
        order = np.lexsort((grades, -cosines, kinds))
        offsets = np.concatenate(([0], np.cumsum(np.bincount(kinds, minlength=len(first))))).astype(np.int64)
        counts = np.zeros((2, len(kinds)), np.int64)
        return cls(first, offsets, cosines[order], sizes[order], grades[order], *counts)

    def count(self, tile: np.ndarray, rows: slice, few: int) -> None:
        """Add the candidates in a tile, float32 [rows, candidates], for each query that first appears in its rows."""
        kinds = range(*np.searchsorted(self.first, [rows.start, rows.stop]))
        tile = np.ascontiguousarray(tile) if kinds else tile
        for kind in kinds:
            own = slice(*self.offsets[kind : kind + 2].tolist())
            scores, bars = tile[self.first[kind] - rows.start], self.cosines[own]
            if len(bars) > few:
                scores = np.sort(scores)
                self.ahead[own] += len(scores) - np.searchsorted(scores, bars, "left")
                self.above[own] += len(scores) - np.searchsorted(scores, bars, "right")
                continue
            for entry, bar in enumerate(bars, own.start):
                self.ahead[entry] += np.count_nonzero(scores >= bar)
                self.above[entry] += np.count_nonzero(scores > bar)

    def answers(self, kind_of_row: np.ndarray) -> Answers:
        """With the right ones taken out of what was counted; kinds without any answer are left out."""
        ends = np.cumsum(self.sizes)
        starts = ends - self.sizes
        there = np.diff(self.offsets) > 0
        counts = np.diff(self.offsets)[there]
        before = np.repeat(starts[self.offsets[:-1][there]], counts)
        first, last = self._ties()
        lists = np.cumsum(there) - 1
        queries = np.flatnonzero(there[kind_of_row])
        return Answers(
            queries=queries,
            lists=lists[kind_of_row[queries]],
            offsets=np.concatenate(([0], np.cumsum(counts))),
            sizes=self.sizes,
            ahead=self.ahead - (ends[last] - before),
            above=self.above - (starts[first] - before),
            cosines=self.cosines,
            grades=self.grades,
        )

    def _ties(self) -> tuple[np.ndarray, np.ndarray]:
        """int64 [entries] twice: the first and the last entry of the same list with the same cosine."""
        changes = np.ones(len(self.cosines) + 1, bool)
        changes[1:-1] = self.cosines[1:] != self.cosines[:-1]
        changes[self.offsets] = True
        edges = np.flatnonzero(changes)
        run = np.cumsum(changes[:-1]) - 1
        return edges[run], edges[run + 1] - 1


def _own_cosines(images: np.ndarray, texts: np.ndarray, relevance: Relevance, block: int) -> np.ndarray:
    """float32 [pairs]: of what belongs together; equal to the tiles' entries since both are exact."""
    parts = [
        np.einsum("pd,pd->p", images[relevance.image_of_pair[span]], texts[relevance.members[span]])
        for span in _spans(len(relevance.members), block)
    ]
    return np.concatenate(parts).astype(np.float32)


def _unit_on_grid(embeddings: np.ndarray) -> np.ndarray:
    """float64 [n, dim]: rows of length 1, rounded to multiples of 2^-26 (see the module's docstring)."""
    rows = embeddings.astype(np.float64)
    lengths = np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
    np.divide(rows, lengths, out=rows, where=lengths > 0)
    rows *= _GRID
    return np.divide(np.rint(rows, out=rows), _GRID, out=rows)


def _spans(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def _check(image_embeddings: np.ndarray, text_embeddings: np.ndarray, captions: CaptionMap) -> None:
    for kind, embeddings, expected in (
        ("image", image_embeddings, captions.n_images),
        ("text", text_embeddings, captions.n_texts),
    ):
        if embeddings.ndim != 2 or len(embeddings) != expected:  # noqa: PLR2004  rows and columns
            raise ValueError(f"{kind} embeddings have shape {embeddings.shape}: expected [{expected}, dim]")
        broken = ~np.isfinite(embeddings).all(axis=1)
        if broken.any():
            raise CheckpointError(
                f"the model gives NaN or infinity for {broken.sum()} of {expected} {kind}s, the first is number "
                f"{int(broken.argmax())}: its weights are damaged, or half precision overflowed (try fp32)"
            )
    width, other = image_embeddings.shape[1], text_embeddings.shape[1]
    if width != other:
        raise CheckpointError(
            f"image embeddings have {width} dimensions and text embeddings {other}: "
            "the two encoders do not belong to one model, or their projections are missing"
        )
