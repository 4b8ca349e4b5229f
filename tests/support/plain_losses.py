"""The contrastive losses as whole matrices, in the letters of the papers: what every other way is compared with."""

from __future__ import annotations

import torch
from torch.nn import functional


def plain_loss(family, leaves, ids, duplicates="mask"):
    """Image and text [b, d], the logit scale and bias; ids [b, k] -> [], in the precision of the leaves."""
    image, text, scale, bias = leaves
    logits = scale.exp() * image @ text.T
    mine = torch.eye(len(image), dtype=torch.bool)
    alike = (ids[:, None] == ids[None]).any(-1) & ~mine
    right = mine | alike if duplicates == "soft" else mine
    ignored = alike & (duplicates == "mask")
    if family == "sigmoid":
        signs = torch.where(right, 1.0, -1.0).to(logits.dtype)
        terms = -functional.logsigmoid(signs * (logits + bias))
        return terms.masked_fill(ignored, 0).sum() / len(image)
    logits = logits.masked_fill(ignored, -torch.inf)
    targets = right / right.sum(1, keepdim=True).to(logits.dtype)
    # What is ignored has a target of 0 and a logarithm of -inf.
    logarithms = [each.log_softmax(1).masked_fill(~right, 0) for each in (logits, logits.T)]
    return -sum((targets * each).sum() for each in logarithms) / (2 * len(image))
