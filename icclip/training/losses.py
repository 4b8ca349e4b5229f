"""The two contrastive losses, written once, for one process or many.

A process holds the rows of its own pairs and the columns of everybody's. Averaged over processes of
equal batches, each loss is that of the whole batch on one process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from icclip.specs import LossFamily


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
    ignore: Tensor
    """bool [b, n]: neither positive nor negative. Never true in a row's own column."""


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
    denominators.
    """

    def cross_entropy(rows: Tensor, columns: Tensor) -> Tensor:
        logits = _scaled_cosines(rows, columns, logit_scale).masked_fill(pairs.ignore, -torch.inf)
        return functional.cross_entropy(logits, pairs.own)

    return (cross_entropy(pairs.image, pairs.all_text) + cross_entropy(pairs.text, pairs.all_image)) / 2


def sigmoid_loss(pairs: Pairs, logit_scale: Tensor, logit_bias: Tensor | None = None) -> Tensor:
    """SigLIP's pairwise loss (Zhai et al. 2023, arXiv:2303.15343, equation 2 and algorithm 1).

    With z_ij = 1 for a pair and -1 otherwise, -sum_ij log sigmoid(z_ij * (exp(logit_scale) *
    image_i . text_j + logit_bias)) / number of images. Ignored pairs are left out of the sum.
    """
    bias = 0.0 if logit_bias is None else logit_bias.float()
    logits = _scaled_cosines(pairs.image, pairs.all_text, logit_scale) + bias
    signs = torch.full_like(logits, -1.0).scatter(1, pairs.own[:, None], 1.0)
    return -functional.logsigmoid(signs * logits).masked_fill(pairs.ignore, 0.0).sum() / len(logits)


def _scaled_cosines(rows: Tensor, columns: Tensor, logit_scale: Tensor) -> Tensor:
    """exp(logit_scale) * rows . columns, [b, n], in float32 even where autocast would halve it."""
    with torch.autocast(rows.device.type, enabled=False):
        return logit_scale.float().exp() * (rows.float() @ columns.float().T)


Loss = Callable[[Pairs, Tensor, Tensor | None], Tensor]

LOSSES: Mapping[LossFamily, Loss] = {"softmax": softmax_loss, "sigmoid": sigmoid_loss}
