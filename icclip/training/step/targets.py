"""Which entries of a matrix of logits are positives, and which are ignored."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

TEXT = 0
"""The column of a pair's ids that holds its text."""
OF_THE_PAIR = 2
"""How many of a pair's ids are its own, its text and its image; those that follow are further texts."""


def not_negatives(ids: Tensor, all_ids: Tensor, own: Tensor, *, of_texts: bool = False) -> Tensor:
    """The columns that are right answers to the row as well, its own column excepted.

    A pair's ids are those of its text, of its image, and of further texts that are right for that image. A
    text is right for an image where they came as one pair, where their pairs have the same text or the same
    image, and where it is one of the image's further texts. This last is not so the other way round. A negative
    id agrees with none, so that pairs may have fewer than k.

    Args:
        ids: int64 [b, k], the ids of the rows.
        all_ids: int64 [n, k], the ids of the columns.
        own: int64 [b].
        of_texts: whether the rows are texts and the columns images, instead of the reverse.

    Returns:
        bool [b, n].
    """
    found = torch.zeros(len(ids), len(all_ids), dtype=torch.bool, device=ids.device)
    for mine, theirs in zip(ids.T[:OF_THE_PAIR], all_ids.T[:OF_THE_PAIR], strict=True):
        found |= (mine[:, None] == theirs) & (mine[:, None] >= 0)
    images, texts = (all_ids, ids) if of_texts else (ids, all_ids)
    for further in images.T[OF_THE_PAIR:]:
        right = (further[:, None] == texts[:, TEXT]) & (further[:, None] >= 0)
        found |= right.T if of_texts else right
    return found.scatter(1, own[:, None], value=False)


@dataclass(frozen=True, slots=True)
class Marks:
    """The positives and ignored entries of some rows; positions are those in the flattened rows."""

    positives: Tensor
    """int64 [p]: the positives: the own columns in the order of the rows, then those alike."""
    ignored: Tensor | None
    """int64 [i]."""
    shares: Tensor | None
    """float [p]: the share of each positive in its row's target; None means all of it."""


class Targets:
    """The positives and ignored entries in the matrix [b, n] of some rows and all columns.

    Only rows and columns that share an id with another are considered, of which most batches have few or none.

    Args:
        ids: int64 [b, k], of the rows; see `not_negatives`.
        all_ids: int64 [n, k], of the columns.
        own: int64 [b]: the column of each row's own partner.
        soft: whether pairs alike are positives instead of being ignored.
        dtype: the dtype of the shares.
        of_texts: whether the rows are texts and the columns images, instead of the reverse.
    """

    def __init__(
        self,
        ids: Tensor,
        all_ids: Tensor,
        own: Tensor,
        *,
        soft: bool,
        dtype: torch.dtype,
        of_texts: bool = False,
    ) -> None:
        self.ids, self.all_ids, self.own, self.soft, self.of_texts = ids, all_ids, own, soft, of_texts
        self.columns, self.dtype = len(all_ids), dtype
        met = _met_again(all_ids)
        self._shared_columns = met.nonzero()[:, 0]
        self._shared_rows = met[own].nonzero()[:, 0]
        # Kept on the CPU to find a block's rows without asking the device again.
        self._row_list: list[int] = self._shared_rows.tolist()
        self.weights = self._weights() if soft and self._row_list else None
        """[b]: one divided by the number of positives of each row; None if each has one."""

    def within(self, rows: slice) -> Marks:
        """The positives and ignored entries of these rows."""
        count = rows.stop - rows.start
        own = torch.arange(0, count * self.columns, self.columns, device=self.own.device) + self.own[rows]
        alike = self._alike_within(rows)
        if alike is None or not self.soft:
            shares = None if self.weights is None else self.weights[rows]
            return Marks(own, alike, shares)
        positives = torch.cat([own, alike])
        assert self.weights is not None, "there are pairs alike"
        return Marks(positives, None, self.weights[rows][positives // self.columns])

    def shares_of_columns(self, columns: Tensor) -> Tensor:
        """[p]: the shares of positives in their columns' targets, if rows and columns are the same pairs."""
        assert self.weights is not None, "there are pairs alike"
        return self._weights_of_columns[columns]

    def _alike_within(self, rows: slice) -> Tensor | None:
        """int64 [a]: the positions of entries alike; None if there are certainly none."""
        mine = self._shared_within(rows)
        if mine is None:
            return None
        row, column = self._block(mine).nonzero(as_tuple=True)
        positions: Tensor = (mine[row] - rows.start) * self.columns + self._shared_columns[column]
        return positions

    def _shared_within(self, rows: slice) -> Tensor | None:
        first, last = (bisect_left(self._row_list, row) for row in (rows.start, rows.stop))
        return self._shared_rows[first:last] if last > first else None

    def _block(self, mine: Tensor) -> Tensor:
        """Bool [rows that share, columns that share]."""
        column = torch.searchsorted(self._shared_columns, self.own[mine])
        return not_negatives(self.ids[mine], self.all_ids[self._shared_columns], column, of_texts=self.of_texts)

    def _weights(self) -> Tensor:
        counts = torch.ones(len(self.own), dtype=self.dtype, device=self.own.device)
        for mine in self._shared_in_parts():
            counts[mine] += self._block(mine).sum(1)
        return counts.reciprocal()

    @cached_property
    def _weights_of_columns(self) -> Tensor:
        """[n]: one over the positives of each column, where rows and columns are the same pairs."""
        if self.ids.shape[1] <= OF_THE_PAIR:
            assert self.weights is not None, "there are pairs alike"
            return self.weights
        counts = torch.ones(self.columns, dtype=self.dtype, device=self.own.device)
        for mine in self._shared_in_parts():
            counts[self._shared_columns] += self._block(mine).sum(0)
        return counts.reciprocal()

    def _shared_in_parts(self) -> Sequence[Tensor]:
        """The rows that share, as many at once as there is room for."""
        return torch.split(self._shared_rows, max(1, 2**20 // len(self._shared_columns)))


def _met_again(ids: Tensor) -> Tensor:
    """Bool [n]: whether another pair has one of its ids, ids int64 [n, k]."""
    again = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    # `isin` takes nothing that is strided.
    texts, further = ids[:, TEXT].contiguous(), ids[:, OF_THE_PAIR:].contiguous()
    if further.numel():
        again |= torch.isin(texts, further) | torch.isin(further, texts).any(1)
    for column in ids.T[:OF_THE_PAIR]:
        ordered, order = column.sort()
        same = (ordered[1:] == ordered[:-1]) & (ordered[1:] >= 0)
        again[order[1:]] |= same
        again[order[:-1]] |= same
    return again
