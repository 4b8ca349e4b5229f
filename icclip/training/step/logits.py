"""The matrix of logits of a contrastive loss, computed in blocks so that it is never in memory as a whole.

A loss is the end of a graph, so its backward pass receives one number, by which the gradients are multiplied. They
can therefore be computed in the forward pass, while a block of logits is in memory, in buffers that are made once.
Only the gradients are kept.

A block is large enough for fast matrix products. Operations on its values are done in strips that stay in the
processor's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from icclip.errors import UsageError
from icclip.retrieval.blocks import MIB, PRODUCTS, block_bytes, cache_bytes, rows_of, spans
from icclip.training.step.targets import Targets

PRODUCTS_ON_GPU = 64 * MIB
"""Bytes of a block of logits on a GPU, which needs larger products than a CPU."""
KEPT = 64 * MIB
"""Bytes of logits that are kept from the first pass to the second, if there are two."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the blocks that are processed at once, in bytes."""

    block: int
    """Logits for matrix products."""
    strip: int
    """Logits for operations on each value."""
    kept: int
    """Logits that need not be computed again for a second pass."""

    @classmethod
    def of(cls, device: torch.device) -> Sizes:
        """Sizes that are fast on a device, and small compared with its free memory."""
        if device.type == "cuda":
            free = torch.cuda.mem_get_info(device)[0]
            block = block_bytes(PRODUCTS_ON_GPU, free)
            return cls(block, block, block_bytes(KEPT, free))
        return cls(block_bytes(PRODUCTS), cache_bytes() // 2, block_bytes(KEPT))


@dataclass(slots=True)
class Strip:
    """Some rows of the matrix of logits, with their positives and ignored entries."""

    logits: Tensor
    """[r, n], contiguous: the logits, which a loss overwrites with its gradient."""
    scratch: Tensor
    """[r, n], contiguous: scratch memory for use within a loss."""
    rows: slice
    """The local rows of the strip."""
    positives: Tensor
    """int64 [p]: the positions of the positives in the flattened logits."""
    ignored: Tensor | None
    """int64 [i]: the positions of entries that are neither positive nor negative; None if there are none."""
    shares: Tensor | None
    """[p]: the share of each positive in its row's target; None means all of it."""


class Matrix:
    """Logits rows . columns * exp(logit_scale) + bias, and the gradients at its four arguments.

    Args:
        rows: [b, d], float32 or float64; everything else has the same precision.
        columns: [n, d].
        scale: logit_scale, of one value.
        bias: of one value, or None.
        targets: which entries are positives, and which are ignored.
        sizes: the sizes of the blocks.
        products: the precision of matrix products, but not of their sums.
        divisor: the number by which the loss, a sum over the entries, is divided.
        wanted: whether gradients are needed at rows, columns, scale and bias.
    """

    def __init__(
        self,
        rows: Tensor,
        columns: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        *,
        targets: Targets,
        sizes: Sizes,
        products: torch.dtype,
        divisor: int,
        wanted: Sequence[bool],
    ) -> None:
        self.rows, self.columns, self.targets, self.divisor = rows, columns, targets, divisor
        self.bias = None if bias is None else bias.detach().to(rows.dtype).reshape(())
        self.temperature = scale.detach().to(exact_dtype(rows.device)).exp().item()
        self.product = _Product(products if products != rows.dtype else None)
        self.columns_in = self.product.operand(columns)
        self._buffers(sizes)
        wants_rows, wants_columns, self.wants_scale, self.wants_bias = wanted
        self.of_rows = torch.empty_like(rows) if wants_rows or self.wants_scale else None
        self.of_columns = torch.empty_like(columns) if wants_columns else None
        self._has_columns = False
        exact = exact_dtype(rows.device)
        self.of_scale, self.of_bias = (torch.zeros((), dtype=exact, device=rows.device) for _ in range(2))
        self.wanted = wanted

    def _buffers(self, sizes: Sizes) -> None:
        count, n, bytes_each = len(self.rows), len(self.columns), self.rows.element_size()
        self.block_rows = min(count, rows_of(sizes.block, n, bytes_each))
        self.strip_rows = min(self.block_rows, rows_of(sizes.strip, n, bytes_each))
        self._logits = self.rows.new_empty(self.block_rows, n)
        self._scratch = self.rows.new_empty(self.strip_rows, n)

    @property
    def wants_any(self) -> bool:
        """Whether any gradient is needed."""
        return any(self.wanted)

    def blocks(self) -> Iterator[slice]:
        """The rows of each block."""
        return spans(len(self.rows), self.block_rows)

    def logits(self, rows: slice, out: Tensor | None = None) -> Tensor:
        """[r, n]: the logits of these rows, in their buffer or in `out`."""
        logits = self._logits[: rows.stop - rows.start] if out is None else out
        if self.bias is not None:
            logits.copy_(self.bias)
        self.product(self.rows[rows], self.columns_in.T, logits, factor=self.temperature, adding=self.bias is not None)
        return logits

    def strips(self, block: slice, logits: Tensor) -> Iterator[Strip]:
        """Divide a block into strips."""
        for own in spans(len(logits), self.strip_rows):
            part, rows = logits[own], slice(block.start + own.start, block.start + own.stop)
            marks = self.targets.within(rows)
            yield Strip(part, self._scratch[: len(part)], rows, marks.positives, marks.ignored, marks.shares)

    def take(self, rows: slice, gradient: Tensor) -> None:
        """Add the contribution of the gradient [r, n] at the logits of some rows to the four gradients."""
        if not self.wants_any:
            return
        operand, factor = self.product.operand(gradient), self.temperature / self.divisor
        if self.wants_bias:
            self.of_bias += gradient.sum() / self.divisor
        if self.of_rows is not None:
            mine = self.of_rows[rows]
            self.product(operand, self.columns_in, mine, factor=factor)
            # d logits / d logit_scale is the logits without their bias: what the product has summed up.
            self.of_scale += torch.dot(mine.flatten(), self.rows[rows].flatten())
        if self.of_columns is not None:
            self.product(operand.T, self.rows[rows], self.of_columns, factor=factor, adding=self._has_columns)
            self._has_columns = True

    def gradients(self) -> tuple[Tensor | None, ...]:
        """The gradients at rows, columns, scale and bias; None for those that are not needed."""
        found = (self.of_rows, self.of_columns, self.of_scale, self.of_bias)
        return tuple(one if wanted else None for one, wanted in zip(found, self.wanted, strict=True))


class _Product:
    """Matrix products, in half precision on request, that are added up in the precision of their destination."""

    def __init__(self, half: torch.dtype | None) -> None:
        self.half = half

    def operand(self, matrix: Tensor) -> Tensor:
        return matrix if self.half is None else matrix.to(self.half)

    def __call__(self, left: Tensor, right: Tensor, out: Tensor, *, factor: float, adding: bool = False) -> None:
        """The product of the matrices times the factor, added to what `out` holds or put in its place."""
        if self.half is None:
            torch.addmm(out, left, right, beta=int(adding), alpha=factor, out=out)
            return
        left, right = self.operand(left), self.operand(right)
        if left.is_cuda:
            torch.ops.aten.addmm.dtype_out(out, left, right, out.dtype, beta=int(adding), alpha=factor, out=out)
        elif adding:
            out.add_(left @ right, alpha=factor)
        else:
            out.copy_(left @ right).mul_(factor)


def kept_rows(matrix: Matrix, sizes: Sizes) -> int:
    """The rows, in whole blocks, of a matrix of logits that is kept."""
    rows = min(len(matrix.rows), rows_of(sizes.kept, len(matrix.columns), matrix.rows.element_size()))
    return rows if rows == len(matrix.rows) else rows - rows % matrix.block_rows


def exact_dtype(device: torch.device) -> torch.dtype:
    """The dtype for sums over blocks: float64, except on Apple's GPUs, which do not have it."""
    return torch.float32 if device.type == "mps" else torch.float64


Compute = Callable[..., tuple[Tensor, tuple[Tensor | None, ...]]]
"""A function (rows, columns, scale, bias, wanted) that returns the loss [] and its gradients at the first four."""


def differentiable(compute: Compute, inputs: Sequence[Tensor | None], dtype: torch.dtype) -> Tensor:
    """Make the value of `compute`, [] of this dtype, differentiable with the gradients that it has computed.

    Args:
        compute: computes the value and its gradients.
        inputs: rows, columns, scale and bias.
        dtype: float32 or float64.
    """
    if not torch.is_grad_enabled() or not any(one is not None and one.requires_grad for one in inputs):
        return compute(*inputs, wanted=[False] * len(inputs))[0].to(dtype)
    value: Tensor = _Computed.apply(compute, dtype, *inputs)
    return value


class _Computed(torch.autograd.Function):
    """A value whose gradients are computed together with it."""

    @staticmethod
    def forward(ctx: Any, compute: Compute, dtype: torch.dtype, *inputs: Tensor | None) -> Tensor:
        value, gradients = compute(*inputs, wanted=ctx.needs_input_grad[2:])
        shaped = [
            None if one is None or of is None else one.to(of.dtype).view_as(of)
            for one, of in zip(gradients, inputs, strict=True)
        ]
        ctx.save_for_backward(*shaped)
        return value.to(dtype)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise UsageError(
                "a contrastive loss was differentiated twice (create_graph=True), and its gradients have none of "
                "their own: leave create_graph out"
            )
        if outer[0].device.type == "cpu" and outer[0] == 1:
            return None, None, *ctx.saved_tensors
        return None, None, *(None if one is None else one * outer[0] for one in ctx.saved_tensors)
