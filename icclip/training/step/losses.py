"""The two contrastive losses, written once, for one process or many.

A process holds the rows of its own pairs and the columns of all processes. The average over processes with
equal batches is the loss of the whole batch on one process.

A loss is a function of some rows of logits and their targets: it returns their sum and replaces each logit by the
gradient at it. `icclip.training.step.logits` does the rest. The softmax of one process is an exception: the logits
of its two directions are one matrix, whose columns are only complete after a pass over all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from icclip.config import LossFamily
from icclip.training.step.logits import Matrix, Sizes, Strip, differentiable, exact_dtype
from icclip.training.step.softmax_both_ways import softmax_both_ways
from icclip.training.step.targets import Targets, not_negatives

__all__ = ["LOSSES", "Loss", "Pairs", "not_negatives", "sigmoid_loss", "softmax_loss"]


@dataclass(frozen=True, slots=True)
class Pairs:
    """The local pairs, and all pairs that they are compared with.

    b local pairs, n pairs over all processes, d dimensions. Embeddings have rows of length 1. Everything
    except float64 is computed in float32.
    """

    image: Tensor
    """[b, d]."""
    text: Tensor
    """[b, d]."""
    all_image: Tensor
    """[n, d]; the same object as `image` if one process holds all pairs, which saves time."""
    all_text: Tensor
    """[n, d]; the same for `text`."""
    own: Tensor
    """int64 [b]: the column of each row's own partner."""
    ids: Tensor
    """int64 [b, k]: of text, image and further right texts; `not_negatives` says what follows from them."""
    all_ids: Tensor
    """int64 [n, k]."""
    soft: bool = False
    """Whether pairs that agree are positives of each other instead of being ignored."""
    products: torch.dtype = torch.float32
    """The dtype of matrix products. bfloat16 is fast on a GPU; sums are always in float32."""

    @property
    def one_matrix(self) -> bool:
        """Whether the logits of the texts against all images are the transpose of the images' against all texts."""
        return self.image is self.all_image and self.text is self.all_text


@torch.compiler.disable  # type: ignore[untyped-decorator] # torch leaves it so
def softmax_loss(pairs: Pairs, logit_scale: Tensor, _logit_bias: Tensor | None = None) -> Tensor:
    """CLIP's symmetric cross-entropy (InfoNCE; Radford et al. 2021, arXiv:2103.00020, figure 3).

    With s_ij = exp(logit_scale) * image_i . text_j, the mean over i of
    (-log softmax_j(s_ij)[own] - log softmax_j(s_ji)[own]) / 2. Ignored columns are left out of the
    denominators. Soft positives share the target with the row's own: -log softmax is averaged over all.

    Returns:
        float32 [], or float64 if the embeddings are float64.

    Raises:
        UsageError: a backward pass needs gradients of the gradients.
    """
    divisor = 2 * len(pairs.image)
    if pairs.one_matrix:
        inputs = (pairs.image, pairs.text, logit_scale, None)
        return _total(softmax_both_ways, pairs, _targets(pairs), inputs, divisor=divisor)
    directions = (
        (_targets(pairs), (pairs.image, pairs.all_text, logit_scale, None)),
        (_targets(pairs, of_texts=True), (pairs.text, pairs.all_image, logit_scale, None)),
    )
    each = partial(_over_strips, _cross_entropy)
    return torch.stack([_total(each, pairs, targets, one, divisor=divisor) for targets, one in directions]).sum()


@torch.compiler.disable  # type: ignore[untyped-decorator] # torch leaves it so
def sigmoid_loss(pairs: Pairs, logit_scale: Tensor, logit_bias: Tensor | None = None) -> Tensor:
    """SigLIP's pairwise loss (Zhai et al. 2023, arXiv:2303.15343, equation 2 and algorithm 1).

    With z_ij = 1 for a pair and -1 otherwise, -sum_ij log sigmoid(z_ij * (exp(logit_scale) *
    image_i . text_j + logit_bias)) / number of images. Ignored pairs are left out of the sum; soft
    positives have z = 1.

    Returns:
        float32 [], or float64 if the embeddings are float64.

    Raises:
        UsageError: a backward pass needs gradients of the gradients.
    """
    each = partial(_over_strips, _negative_log_sigmoid)
    inputs = (pairs.image, pairs.all_text, logit_scale, logit_bias)
    return _total(each, pairs, _targets(pairs), inputs, divisor=len(pairs.image))


Loss = Callable[[Pairs, Tensor, Tensor | None], Tensor]

LOSSES: Mapping[LossFamily, Loss] = {"softmax": softmax_loss, "sigmoid": sigmoid_loss}


# Of some rows -------------------------------------------------------------------------------------


def _cross_entropy(strip: Strip) -> Tensor:
    """The cross-entropy of the rows' softmax with their targets, summed, []."""
    logits, flat = strip.logits, strip.logits.view(-1)
    if strip.ignored is not None:
        flat.index_fill_(0, strip.ignored, -torch.inf)
    right = flat[strip.positives]
    highest = logits.amax(1, keepdim=True)
    sums = logits.sub_(highest).exp_().sum(1, keepdim=True)
    logits.div_(sums)
    shares = torch.ones_like(right) if strip.shares is None else strip.shares
    flat.index_add_(0, strip.positives, shares, alpha=-1)
    exact = exact_dtype(logits.device)
    return (highest.to(exact) + sums.to(exact).log()).sum() - (shares * right).sum(dtype=exact)


def _negative_log_sigmoid(strip: Strip) -> Tensor:
    """-log sigmoid of the positives and of all other logits negated, summed, []."""
    flat = strip.logits.view(-1)
    if strip.ignored is not None:
        flat.index_fill_(0, strip.ignored, -torch.inf)
    negated = flat[strip.positives].neg_()
    flat.index_copy_(0, strip.positives, negated)
    total = _sum_of_softplus(strip.logits, strip.scratch)
    strip.logits.sigmoid_()
    flat.index_copy_(0, strip.positives, negated.sigmoid_().neg_())
    return total.to(exact_dtype(flat.device))


FOLDS = 3
"""2^3 values share a logarithm."""


def _sum_of_softplus(logits: Tensor, scratch: Tensor) -> Tensor:
    """log(1 + exp(x)) of all, summed, []; `scratch` is of the same shape.

    A processor spends most of the time on the logarithms, so several values share one: (1 + a)(1 + b) is
    1 + (a + b + ab), of which log1p loses no digits however small a and b are. Large logits may overflow
    there, which the sum shows, and then each value gets its own.
    """
    if not logits.is_cuda:
        products = torch.exp(logits, out=scratch).view(-1)
        for _ in range(FOLDS):
            if len(products) % 2 == 0:
                products, others = products.chunk(2)
                products.addcmul_(products, others).add_(others)
        total = products.log1p_().sum()
        if total.isfinite():
            return total
    total = torch.ops.aten.softplus.out(logits, out=scratch).sum()
    assert isinstance(total, Tensor)
    return total


def _over_strips(of_strip: Callable[[Strip], Tensor], matrix: Matrix, _sizes: Sizes) -> Tensor:
    """The sum over all rows, []; the gradients are added to the matrix."""
    total = torch.zeros((), dtype=exact_dtype(matrix.rows.device), device=matrix.rows.device)
    for block in matrix.blocks():
        logits = matrix.logits(block)
        for strip in matrix.strips(block, logits):
            total += of_strip(strip)
        matrix.take(block, logits)
    return total


# Both ---------------------------------------------------------------------------------------------


def _targets(pairs: Pairs, *, of_texts: bool = False) -> Targets:
    return Targets(pairs.ids, pairs.all_ids, pairs.own, soft=pairs.soft, dtype=_dtype(pairs), of_texts=of_texts)


def _dtype(pairs: Pairs) -> torch.dtype:
    return torch.float64 if pairs.image.dtype == torch.float64 else torch.float32


def _total(
    over_all: Callable[[Matrix, Sizes], Tensor],
    pairs: Pairs,
    targets: Targets,
    inputs: Sequence[Tensor | None],
    *,
    divisor: int,
) -> Tensor:
    """A sum over all entries, divided, [], differentiable at the inputs: rows, columns, scale and bias."""
    dtype, sizes = _dtype(pairs), Sizes.of(pairs.image.device)

    def compute(*values: Any, wanted: Sequence[bool]) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        rows, columns = (operand.to(dtype) for operand in values[:2])
        products = dtype if pairs.products == torch.float32 else pairs.products
        with torch.autocast(rows.device.type, enabled=False):
            matrix = Matrix(
                rows,
                columns,
                *values[2:],
                targets=targets,
                sizes=sizes,
                products=products,
                divisor=divisor,
                wanted=wanted,
            )
            return over_all(matrix, sizes) / divisor, matrix.gradients()

    return differentiable(compute, inputs, dtype)
