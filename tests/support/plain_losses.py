"""The contrastive losses as whole matrices, in the letters of the papers: what every other way is compared with."""

from __future__ import annotations

import torch
from torch.nn import functional


def plain_loss(family, leaves, ids, duplicates="mask"):
    """Image and text [b, d], the logit scale and bias; ids [b, k] -> [], in the precision of the leaves."""
    return plain_loss_of(family, leaves, plain_alike(ids), duplicates)


def plain_alike(ids):
    """Bool [b, b], images down and texts across: from [text, image, further texts of the image], int64 [b, k]."""
    images, texts, known = ids[:, None], ids[None], ids[:, None] >= 0
    same = ((images[..., :2] == texts[..., :2]) & known[..., :2]).any(-1)
    further = ((images[..., 2:] == texts[..., :1]) & known[..., 2:]).any(-1)
    return (same | further) & ~torch.eye(len(ids), dtype=torch.bool)


def plain_loss_of(family, leaves, alike, duplicates="mask"):
    """With what is alike, bool [b, b], images down and texts across, instead of ids."""
    image, text, scale, bias = leaves
    logits = scale.exp() * image @ text.T
    mine = torch.eye(len(image), dtype=torch.bool)
    right = mine | alike if duplicates == "soft" else mine
    ignored = alike & (duplicates == "mask")
    if family == "sigmoid":
        signs = torch.where(right, 1.0, -1.0).to(logits.dtype)
        terms = -functional.logsigmoid(signs * (logits + bias))
        return terms.masked_fill(ignored, 0).sum() / len(image)
    logits = logits.masked_fill(ignored, -torch.inf)
    total = 0
    for each, targets in ((logits, right), (logits.T, right.T)):
        # What is ignored has a target of 0 and a logarithm of -inf.
        logarithms = each.log_softmax(1).masked_fill(~targets, 0)
        total = total - (targets / targets.sum(1, keepdim=True).to(logits.dtype) * logarithms).sum()
    return total / (2 * len(image))
