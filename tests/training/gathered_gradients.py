"""Run by test_gather.py under torchrun: the loss and gradients of two tiny towers, saved by each rank."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

from icclip.training.gather import gather_rows, own_columns
from icclip.training.losses import LOSSES, Pairs

IDS = torch.tensor([[1, 0], [2, 1], [3, 2], [1, 3], [5, 4], [6, 2], [7, 6], [2, 7]])
"""Rows 0 and 3, and 1 and 7, share a caption across the processes; 2 and 5 an image."""


class Towers(nn.Module):
    """Two linear towers, a temperature and a bias."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = nn.Linear(6, 4), nn.Linear(5, 4)
        self.logit_scale, self.logit_bias = nn.Parameter(torch.tensor(1.3)), nn.Parameter(torch.tensor(-1.0))

    def forward(self, images, texts):
        return normalize(self.image(images), dim=-1), normalize(self.text(texts), dim=-1)


def loss_and_gradients(family, rank=0, processes=1):
    """float32 [] and the gradients by name, of this process's share of 8 pairs."""
    towers = Towers()
    model = DistributedDataParallel(towers) if processes > 1 else towers
    generator = torch.Generator().manual_seed(1)
    images, texts = torch.randn(8, 6, generator=generator), torch.randn(8, 5, generator=generator)
    share = slice(rank * 8 // processes, (rank + 1) * 8 // processes)
    image, text = model(images[share], texts[share])
    ids = IDS[share]
    own = own_columns(len(ids), ids.device)
    pairs = Pairs(image, text, gather_rows(image), gather_rows(text), own, ids, gather_rows(ids))
    loss = LOSSES[family](pairs, towers.logit_scale, towers.logit_bias)
    loss.backward()
    gradients = {name: p.grad for name, p in towers.named_parameters() if p.grad is not None}
    return loss.detach(), gradients


def main(folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    results = {family: loss_and_gradients(family, rank, 2) for family in LOSSES if family == "sigmoid"}
    # CLIP has no bias: DDP would wait for its gradient.
    Towers.__init__ = _without_bias(Towers.__init__)
    results["softmax"] = loss_and_gradients("softmax", rank, 2)
    torch.save(results, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


def _without_bias(init):
    def build(self):
        init(self)
        self.logit_bias.requires_grad_(requires_grad=False)

    return build


if __name__ == "__main__":
    main(sys.argv[1])
