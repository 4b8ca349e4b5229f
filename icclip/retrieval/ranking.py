"""Rank all texts for each image and all images for each text, and find where the right answers stand.

`icclip.retrieval.counting` says how the candidates are counted, exactly and in little memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from icclip.errors import CheckpointError
from icclip.retrieval.blocks import spans
from icclip.retrieval.captions import CaptionMap
from icclip.retrieval.counting import (
    FEW,
    Direction,
    Multiply,
    Progress,
    count_all,
    multiply_here,
    no_progress,
    own_cosines,
    unit_on_grid,
)
from icclip.retrieval.relevance import Relevance

_PAIRS = 2048
"""Rows that are looked at together where blocks of similarities are not concerned."""


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
    block: int | None = None,
    few: int = FEW,
    multiply: Multiply = multiply_here,
    progress: Progress = no_progress,
) -> RetrievalRanks:
    """Count the wrong answers before every right one, without holding all similarities at once.

    Beside the embeddings, which may be mapped from a file, the memory needed grows with the number of right answers
    alone: on two cores it was 0.4 GB for 100,000 images and 500,000 texts.

    Args:
        image_embeddings: float [n_images, dim]; rows are scaled to length 1 (a zero row stays zero).
        text_embeddings: float [n_texts, dim], scaled in the same way.
        relevance: the right answers. Of inputs that it treats as copies, only the first one's embedding counts;
            the others differ from it in the last digits only, because they were encoded in other batches.
        block: the largest number of images and of texts in a block of similarities; None: what suits the machine.
            It changes memory and time, never the result.
        few: see FEW; it only changes the time.
        multiply: the product of a block of images and a block of texts, as on a GPU; it only changes the time.
        progress: shows how much is done, as `icclip.console.Reporter.progress` does.

    Raises:
        CheckpointError: the embeddings are not finite, or their widths differ.
        ValueError: the numbers of rows differ from those of `relevance`.
    """
    _check(image_embeddings, text_embeddings, relevance.captions)
    pairs = relevance.images.first[relevance.image_of_pair], relevance.texts.first[relevance.members]
    cosines = np.concatenate(list(own_cosines(image_embeddings, text_embeddings, pairs, _PAIRS)))
    i2t, t2i = Direction.of_images(relevance, cosines), Direction.of_texts(relevance, cosines)

    # Rows are brought onto the grid block by block: float64 copies of all of them would be the largest thing in memory.
    def images(rows: slice) -> np.ndarray:
        return unit_on_grid(image_embeddings[relevance.images.first[relevance.images.of_row[rows]]])

    def texts(rows: slice) -> np.ndarray:
        return unit_on_grid(text_embeddings[relevance.texts.first[relevance.texts.of_row[rows]]])

    shape = (*map(len, (image_embeddings, text_embeddings)), image_embeddings.shape[1])
    count_all(i2t, t2i, images, texts, shape, block=block, few=few, multiply=multiply, progress=progress)
    return RetrievalRanks(relevance, _answers(i2t, relevance.images.of_row), _answers(t2i, relevance.texts.of_row))


def _answers(counted: Direction, kind_of_row: np.ndarray) -> Answers:
    """With the right ones taken out of what was counted; kinds without any answer are left out."""
    ends = np.cumsum(counted.sizes)
    starts = ends - counted.sizes
    there = np.diff(counted.offsets) > 0
    counts = np.diff(counted.offsets)[there]
    before = np.repeat(starts[counted.offsets[:-1][there]], counts)
    first, last = _ties(counted)
    lists = np.cumsum(there) - 1
    queries = np.flatnonzero(there[kind_of_row])
    return Answers(
        queries=queries,
        lists=lists[kind_of_row[queries]],
        offsets=np.concatenate(([0], np.cumsum(counts))),
        sizes=counted.sizes,
        ahead=counted.ahead - (ends[last] - before),
        above=counted.above - (starts[first] - before),
        cosines=counted.cosines,
        grades=counted.grades,
    )


def _ties(counted: Direction) -> tuple[np.ndarray, np.ndarray]:
    """int64 [entries] twice: the first and the last entry of the same list with the same cosine."""
    changes = np.ones(len(counted.cosines) + 1, bool)
    changes[1:-1] = counted.cosines[1:] != counted.cosines[:-1]
    changes[counted.offsets] = True
    edges = np.flatnonzero(changes)
    run = np.cumsum(changes[:-1]) - 1
    return edges[run], edges[run + 1] - 1


def _check(image_embeddings: np.ndarray, text_embeddings: np.ndarray, captions: CaptionMap) -> None:
    for kind, embeddings, expected in (
        ("image", image_embeddings, captions.n_images),
        ("text", text_embeddings, captions.n_texts),
    ):
        if embeddings.ndim != 2 or len(embeddings) != expected:  # noqa: PLR2004  rows and columns
            raise ValueError(f"{kind} embeddings have shape {embeddings.shape}: expected [{expected}, dim]")
    refuse_broken(image_embeddings, text_embeddings)


def refuse_broken(image_embeddings: np.ndarray, text_embeddings: np.ndarray) -> None:
    """Raises CheckpointError for embeddings, float [n, dim] of images and of texts, that cannot be compared."""
    for kind, embeddings in (("image", image_embeddings), ("text", text_embeddings)):
        total = len(embeddings)
        broken = ~np.concatenate([np.isfinite(embeddings[rows]).all(axis=1) for rows in spans(total, _PAIRS)])
        if broken.any():
            raise CheckpointError(
                f"the model gives NaN or infinity for {broken.sum()} of {total} {kind}s, the first is number "
                f"{int(broken.argmax())}: its weights are damaged, or half precision overflowed (try fp32)"
            )
    width, other = image_embeddings.shape[1], text_embeddings.shape[1]
    if width != other:
        raise CheckpointError(
            f"image embeddings have {width} dimensions and text embeddings {other}: "
            "the two encoders do not belong to one model, or their projections are missing"
        )
