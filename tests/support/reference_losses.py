"""The two contrastive losses, written once, for one process or many.

A process holds the rows of its own pairs and the columns of everybody's. Averaged over processes of
equal batches, each loss is that of the whole batch on one process. Both are sums over rows, so that a
large matrix of logits never has to be whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from icclip.plugins.specs import LossFamily

LOGITS_AT_ONCE = 2**20
"""A block of rows has at most so many logits (4 MiB each time they are held), or is one row."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """The local pairs, and what they are compared with.

    b local pairs, n pairs over all processes, d dimensions. Embeddings are float32 with rows of
    length 1.
    """

    image: Tensor
    """[b, d]."""
    text: Tensor
    """[b, d]."""
    all_image: Tensor
    """[n, d]."""
    all_text: Tensor
    """[n, d]."""
    own: Tensor
    """int64 [b]: the column of each row's own partner."""
    ids: Tensor
    """int64 [b, k]; pairs that agree in any of the k ids are no negatives of each other."""
    all_ids: Tensor
    """int64 [n, k]."""
    soft: bool = False
    """Those that agree are positives of each other too, instead of ignored."""

    def alike(self, rows: slice) -> Tensor:
        """What is no negative, bool [rows, n]. Never true in a row's own column."""
        return not_negatives(self.ids[rows], self.all_ids, self.own[rows])


def not_negatives(ids: Tensor, all_ids: Tensor, own: Tensor) -> Tensor:
    """The columns that share an id with the row, its own column excepted.

    Args:
        ids: int64 [b, k]; pairs that agree in any of the k ids are no negatives of each other.
        all_ids: int64 [n, k].
        own: int64 [b].

    Returns:
        bool [b, n].
    """
    same = (ids[:, None, :] == all_ids[None, :, :]).any(-1)
    return same.scatter(1, own[:, None], value=False)


def softmax_loss(pairs: Pairs, logit_scale: Tensor, _logit_bias: Tensor | None = None) -> Tensor:
    """CLIP's symmetric cross-entropy (InfoNCE; Radford et al. 2021, arXiv:2103.00020, figure 3).

    With s_ij = exp(logit_scale) * image_i . text_j, the mean over i of
    (-log softmax_j(s_ij)[own] - log softmax_j(s_ji)[own]) / 2. Ignored columns are left out of the
    denominators. Soft positives share the target with the row's own: -log softmax is averaged over all.
    """
    directions = ((pairs.image, pairs.all_text), (pairs.text, pairs.all_image))

    def cross_entropy(rows: slice) -> Tensor:
        alike, own = pairs.alike(rows), pairs.own[rows]
        logits = (_scaled_cosines(local[rows], columns, logit_scale) for local, columns in directions)
        loss = _shared_cross_entropy if pairs.soft else _cross_entropy_without
        return torch.stack([loss(one, own, alike) for one in logits]).sum()

    return _in_blocks(cross_entropy, pairs) / (2 * len(pairs.image))


def sigmoid_loss(pairs: Pairs, logit_scale: Tensor, logit_bias: Tensor | None = None) -> Tensor:
    """SigLIP's pairwise loss (Zhai et al. 2023, arXiv:2303.15343, equation 2 and algorithm 1).

    With z_ij = 1 for a pair and -1 otherwise, -sum_ij log sigmoid(z_ij * (exp(logit_scale) *
    image_i . text_j + logit_bias)) / number of images. Ignored pairs are left out of the sum; soft
    positives have z = 1.
    """
    bias = 0.0 if logit_bias is None else logit_bias.float()

    def negative_log_likelihood(rows: slice) -> Tensor:
        logits = _scaled_cosines(pairs.image[rows], pairs.all_text, logit_scale) + bias
        signs = torch.full_like(logits, -1.0).scatter(1, pairs.own[rows, None], 1.0)
        alike = pairs.alike(rows)
        if pairs.soft:
            return -functional.logsigmoid(signs.masked_fill(alike, 1.0) * logits).sum()
        return -functional.logsigmoid(signs * logits).masked_fill(alike, 0.0).sum()

    return _in_blocks(negative_log_likelihood, pairs) / len(pairs.image)


def _cross_entropy_without(logits: Tensor, own: Tensor, ignored: Tensor) -> Tensor:
    return functional.cross_entropy(logits.masked_fill(ignored, -torch.inf), own, reduction="sum")


def _shared_cross_entropy(logits: Tensor, own: Tensor, alike: Tensor) -> Tensor:
    """Against targets spread evenly over the own column and those alike."""
    positives = alike.scatter(1, own[:, None], value=True).float()
    return functional.cross_entropy(logits, positives / positives.sum(1, keepdim=True), reduction="sum")


def _in_blocks(part: Callable[[slice], Tensor], pairs: Pairs) -> Tensor:
    """A sum over all local rows, [], from `part`, which sums over some.

    Where there are several blocks, nothing of one stays but its sum: the backward pass computes it
    again.
    """
    rows, size = len(pairs.image), max(1, LOGITS_AT_ONCE // len(pairs.all_image))
    if rows <= size:
        return part(slice(0, rows))
    blocks = (slice(start, start + size) for start in range(0, rows, size))
    sums = [checkpoint(part, block, use_reentrant=False, preserve_rng_state=False) for block in blocks]
    return torch.stack(sums).sum()


def _scaled_cosines(rows: Tensor, columns: Tensor, logit_scale: Tensor) -> Tensor:
    """exp(logit_scale) * rows . columns, [b, n], in float32 even where autocast would halve it."""
    with torch.autocast(rows.device.type, enabled=False):
        return logit_scale.float().exp() * (rows.float() @ columns.float().T)


Loss = Callable[[Pairs, Tensor, Tensor | None], Tensor]

LOSSES: Mapping[LossFamily, Loss] = {"softmax": softmax_loss, "sigmoid": sigmoid_loss}
