"""The softmax of the rows and of the columns of one matrix of logits.

The sum of a column is only known after all rows, so there are two passes: one for the sums, and one for the
gradients. In between, as many rows are kept as fit into memory; the others are computed again.

If the numbers allow it, one exponential serves both directions. With m_i the highest logit of row i and
e_ij = exp(s_ij - m_i), the softmax of the row is e_ij / sum_j e_ij and that of the column
e_ij w_i / sum_i e_ij w_i, where w_i = exp(m_i - m). In a column whose logits are all far below the highest
of their rows this has no digits left. That is seen by its sum, and then each direction gets its own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from icclip.training.step.logits import Matrix, Sizes, Strip, exact_dtype, kept_rows

LEAST = math.exp(-60)
"""A column's sum must be above this for one exponential to serve: float32 ends at exp(-87), which is a share of
exp(-27) of it, below its last digit for thousands of rows."""


def softmax_both_ways(matrix: Matrix, sizes: Sizes) -> Tensor:
    """The cross-entropies of all rows and of all columns against their targets, summed, [].

    The matrix is square, and each row's own column is that of its number. It has taken the gradients afterwards.
    """
    once = _OneExponential(matrix, sizes)
    total = once.sums()
    if not once.serves():
        once.forget()
        twice = _TwoExponentials(matrix)
        total, second_pass = twice.sums(), twice.gradients
    else:
        second_pass = once.gradients
    if matrix.wants_any:
        second_pass()
    return total


class _OneExponential:
    def __init__(self, matrix: Matrix, sizes: Sizes) -> None:
        self.matrix, n, rows = matrix, len(matrix.columns), matrix.rows
        self.exact = exact_dtype(rows.device)
        self.kept = rows.new_empty(kept_rows(matrix, sizes), n) if matrix.wants_any else rows.new_empty(0, n)
        self.row_top, self.row_sum = rows.new_empty(n), rows.new_empty(n)
        self.column_sum = torch.zeros(n, dtype=self.exact, device=rows.device)
        self.top = torch.full((), -torch.inf, dtype=self.exact, device=rows.device)

    def forget(self) -> None:
        """Release the memory."""
        self.kept = self.kept[:0].clone()

    def _logits(self, block: slice) -> Tensor:
        return self.matrix.logits(block, self.kept[block] if self._is_kept(block) else None)

    def _is_kept(self, block: slice) -> bool:
        return bool(block.stop <= len(self.kept))

    def sums(self) -> Tensor:
        total = torch.zeros((), dtype=self.exact, device=self.top.device)
        for block in self.matrix.blocks():
            for strip in self.matrix.strips(block, self._logits(block)):
                total -= right_ones(self.matrix, strip)
                self._add(strip)
        normalizers = self.row_top.to(self.exact) + self.row_sum.to(self.exact).log()
        return total + normalizers.sum() + (self.column_sum.log() + self.top).sum()

    def _add(self, strip: Strip) -> None:
        """Add a strip's logits to the sums; they become its e_ij."""
        highest = strip.logits.amax(1)
        self.row_top[strip.rows] = highest
        exponentials = strip.logits.sub_(highest[:, None]).exp_()
        self.row_sum[strip.rows] = exponentials.sum(1)
        top = torch.maximum(self.top, highest.max().to(self.exact))
        weights = (highest - top).exp().to(exponentials.dtype)
        self.column_sum.mul_((self.top - top).exp()).add_(weights @ exponentials)
        self.top = top

    def serves(self) -> bool:
        """Whether the sums of all columns are precise enough."""
        return bool((self.column_sum.min() > LEAST).item())

    def gradients(self) -> None:
        """Pass the gradients at all logits to the matrix."""
        of_column = self.column_sum.reciprocal().to(self.row_sum.dtype)
        of_row = self.row_sum.reciprocal()
        weights = (self.row_top - self.top).exp().to(self.row_sum.dtype)
        for block in self.matrix.blocks():
            there = self._is_kept(block)
            logits = self.kept[block] if there else self.matrix.logits(block)
            for strip in self.matrix.strips(block, logits):
                rows = strip.rows
                if not there:
                    ignore(strip)
                    strip.logits.sub_(self.row_top[rows, None]).exp_()
                factors = torch.addcmul(of_row[rows, None], weights[rows, None], of_column, out=strip.scratch)
                strip.logits.mul_(factors)
                subtract_targets(self.matrix, strip)
            self.matrix.take(block, logits)


class _TwoExponentials:
    def __init__(self, matrix: Matrix) -> None:
        self.matrix, n = matrix, len(matrix.columns)
        self.of_row = matrix.rows.new_empty(n)
        self.of_column = matrix.rows.new_full((n,), -torch.inf)

    def sums(self) -> Tensor:
        exact = exact_dtype(self.of_row.device)
        total = torch.zeros((), dtype=exact, device=self.of_row.device)
        for block in self.matrix.blocks():
            for strip in self.matrix.strips(block, self.matrix.logits(block)):
                total -= right_ones(self.matrix, strip)
                self.of_row[strip.rows] = strip.logits.logsumexp(1)
                self.of_column = torch.logaddexp(self.of_column, strip.logits.logsumexp(0))
        return total + self.of_row.sum(dtype=exact) + self.of_column.sum(dtype=exact)

    def gradients(self) -> None:
        for block in self.matrix.blocks():
            logits = self.matrix.logits(block)
            for strip in self.matrix.strips(block, logits):
                ignore(strip)
                torch.sub(strip.logits, self.of_column, out=strip.scratch).exp_()
                strip.logits.sub_(self.of_row[strip.rows, None]).exp_().add_(strip.scratch)
                subtract_targets(self.matrix, strip)
            self.matrix.take(block, logits)


def ignore(strip: Strip) -> None:
    """Remove ignored entries from all sums."""
    if strip.ignored is not None:
        strip.logits.view(-1).index_fill_(0, strip.ignored, -torch.inf)


def right_ones(matrix: Matrix, strip: Strip) -> Tensor:
    """The sum, [], of the positives' logits, each times its shares of its row's and its column's target."""
    ignore(strip)
    right = strip.logits.view(-1)[strip.positives]
    return (right * _shares(matrix, strip)).sum(dtype=exact_dtype(right.device))


def subtract_targets(matrix: Matrix, strip: Strip) -> None:
    """Subtract the targets of the rows and of the columns from the softmaxes."""
    shares = _shares(matrix, strip).expand(len(strip.positives))
    strip.logits.view(-1).index_add_(0, strip.positives, shares, alpha=-1)


def _shares(matrix: Matrix, strip: Strip) -> Tensor:
    """The shares, [p], or [] if all are the same."""
    if strip.shares is None:
        return strip.logits.new_full((), 2.0)
    of_columns = matrix.targets.shares_of_columns(strip.positives % len(matrix.columns))
    return strip.shares + of_columns
