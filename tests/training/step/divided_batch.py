"""Run by test_losses.py under torchrun: the losses of one batch whose rows the processes divide, saved by each."""

from __future__ import annotations

import contextlib
import itertools
import math
import sys
from pathlib import Path

import torch
from torch import distributed
from torch.nn import functional

from icclip.training.processes.gather import gather_rows, of_one_width, own_columns
from icclip.training.step.gradient_cache import cached_backward
from icclip.training.step.logits import Sizes
from icclip.training.step.losses import LOSSES, Pairs

PAIRS, DIMENSIONS = 24, 8
CASES = list(itertools.product(("softmax", "sigmoid"), ("mask", "soft", "off"), (False, True)))
"""Loss, what duplicates are, whether through the gradient cache."""


def batch():
    """Image, text [24, 8], scale and bias, float64, that want gradients; ids [24, 4] met again across processes.

    Some images of the last third have one or two texts more, which stand in other thirds.
    """
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(2, PAIRS, DIMENSIONS, generator=generator, dtype=torch.float64)
    values = (*functional.normalize(rows, dim=-1), torch.tensor(math.log(10.0)), torch.tensor(-3.0))
    further = {17: [3, -1], 20: [1, 9], 22: [21, 0]}
    ids = torch.tensor([[n % 19, 100 + n % 21, *further.get(n, [-1, -1])] for n in range(PAIRS)])
    return [value.double().requires_grad_() for value in values], ids


def report(case, rank, processes):
    """[loss, gradients at the process's image and text rows, at scale and bias, times that processes talked]."""
    family, duplicates, cached = case
    leaves, ids = batch()
    mine = slice(rank * PAIRS // processes, (rank + 1) * PAIRS // processes)
    scale, bias = leaves[2:]
    image, text = (leaf.detach()[mine].clone().requires_grad_() for leaf in leaves[:2])
    ids = ids[mine] if duplicates != "off" else own_columns(PAIRS // processes, image.device)[:, None]
    # As a collator leaves it: no wider than its own process needs.
    ids = of_one_width(ids[:, (ids >= 0).any(0)], -1)

    talked = []

    @contextlib.contextmanager
    def exchanging():
        talked.append(1)
        yield

    def loss(image, text):
        own = own_columns(len(ids), image.device)
        pairs = Pairs(
            image,
            text,
            gather_rows(image, exchanging),
            gather_rows(text, exchanging),
            own,
            ids,
            gather_rows(ids, exchanging),
            duplicates == "soft",
        )
        return LOSSES[family](pairs, scale, bias)

    if cached:
        temperature = [scale] + [bias] * (family == "sigmoid")
        parts = [{"rows": rows} for rows in torch.arange(len(ids)).split(3)]
        value = cached_backward(
            parts,
            lambda part: (image[part["rows"]], text[part["rows"]]),
            loss,
            temperature=temperature,
            backward=torch.Tensor.backward,
        )
    else:
        value = loss(image, text)
        value.backward()
    return [
        value.detach(),
        *(torch.zeros_like(one) if one.grad is None else one.grad for one in (image, text, scale, bias)),
        torch.tensor(len(talked)),
    ]


def main(folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank, processes = distributed.get_rank(), distributed.get_world_size()
    # A few rows at once.
    Sizes.of = lambda _device: Sizes(3 * PAIRS * 8, 2 * PAIRS * 8, 3 * PAIRS * 8)
    torch.save({case: report(case, rank, processes) for case in CASES}, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
