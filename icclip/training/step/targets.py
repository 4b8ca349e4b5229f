"""Which entries of a matrix of logits are positives, and which are ignored."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import torch
from torch import Tensor


def not_negatives(ids: Tensor, all_ids: Tensor, own: Tensor) -> Tensor:
    """The columns that share an id with the row, its own column excepted.

    Args:
        ids: int64 [b, k]; pairs that agree in any of the k ids are no negatives of each other. A negative
            id agrees with none, so that pairs may have fewer than k.
        all_ids: int64 [n, k].
        own: int64 [b].

    Returns:
        bool [b, n].
    """
    return _alike(ids, all_ids).scatter(1, own[:, None], value=False)


def _alike(ids: Tensor, all_ids: Tensor) -> Tensor:
    """Bool [b, n]."""
    found = torch.zeros(len(ids), len(all_ids), dtype=torch.bool, device=ids.device)
    for mine, theirs in zip(ids.T, all_ids.T, strict=True):
        found |= (mine[:, None] == theirs) & (mine[:, None] >= 0)
    return found


@dataclass(frozen=True, slots=True)
class Marks:
    """What is what among some rows; positions are those in the flattened rows."""

    positives: Tensor
    """int64 [p]: the own columns in the order of the rows, then those alike."""
    ignored: Tensor | None
    """int64 [i]."""
    shares: Tensor | None
    """float [p]: what each positive has of its row's target; None: all."""


class Targets:
    """What is what in the matrix [b, n] of some rows against all columns.

    Only rows and columns that share an id with another are looked at: in most batches few, or none.

    Args:
        ids: int64 [b, k], of the rows.
        all_ids: int64 [n, k], of the columns.
        own: int64 [b]: the column of each row's own partner.
        soft: those alike are positives too, instead of ignored.
        dtype: of the shares.
    """

    def __init__(self, ids: Tensor, all_ids: Tensor, own: Tensor, *, soft: bool, dtype: torch.dtype) -> None:
        self.ids, self.all_ids, self.own, self.soft = ids, all_ids, own, soft
        self.columns, self.dtype = len(all_ids), dtype
        met = _met_again(all_ids)
        self._shared_columns = met.nonzero()[:, 0]
        self._shared_rows = met[own].nonzero()[:, 0]
        # To find a block's rows without asking the device again.
        self._row_list: list[int] = self._shared_rows.tolist()
        self.weights = self._weights() if soft and self._row_list else None
        """[b]: one over the positives of each row; None: each has one."""

    def within(self, rows: slice) -> Marks:
        """Of these rows."""
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
        """[p]: of their columns' targets, what positives have, where rows and columns are the same pairs."""
        assert self.weights is not None, "there are pairs alike"
        return self.weights[columns]

    def _alike_within(self, rows: slice) -> Tensor | None:
        """int64 [a]; None where there is surely nothing."""
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
        return not_negatives(self.ids[mine], self.all_ids[self._shared_columns], column)

    def _weights(self) -> Tensor:
        counts = torch.ones(len(self.own), dtype=self.dtype, device=self.own.device)
        step = max(1, 2**20 // len(self._shared_columns))
        for mine in torch.split(self._shared_rows, step):
            counts[mine] += self._block(mine).sum(1)
        return counts.reciprocal()


def _met_again(ids: Tensor) -> Tensor:
    """Bool [n]: whether another row has one of its ids, ids int64 [n, k]."""
    again = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    for column in ids.T:
        ordered, order = column.sort()
        same = (ordered[1:] == ordered[:-1]) & (ordered[1:] >= 0)
        again[order[1:]] |= same
        again[order[:-1]] |= same
    return again
