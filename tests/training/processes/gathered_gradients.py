"""Run by test_gather.py under torchrun: the loss and gradients of two tiny towers, saved by each rank."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

from icclip.training.processes.gather import gather_rows, own_columns
from icclip.training.step.gradient_cache import cached_backward, micro_batches
from icclip.training.step.losses import LOSSES, Pairs

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


def loss_and_gradients(family, rank=0, processes=1, micro=None):
    """float32 [] and the gradients by name, of this process's share of 8 pairs."""
    towers = Towers()
    # CLIP has no bias: DDP would wait for its gradient.
    towers.logit_bias.requires_grad_(family == "sigmoid")
    model = DistributedDataParallel(towers) if processes > 1 else towers
    generator = torch.Generator().manual_seed(1)
    images, texts = torch.randn(8, 6, generator=generator), torch.randn(8, 5, generator=generator)
    share = slice(rank * 8 // processes, (rank + 1) * 8 // processes)
    batch, ids = {"images": images[share], "texts": texts[share]}, IDS[share]

    def loss_of(image, text):
        own = own_columns(len(ids), ids.device)
        pairs = Pairs(image, text, gather_rows(image), gather_rows(text), own, ids, gather_rows(ids))
        return LOSSES[family](pairs, towers.logit_scale, towers.logit_bias)

    if micro is None:
        loss = loss_of(*model(**batch))
        loss.backward()
    else:
        loss = cached_backward(
            micro_batches(batch, micro),
            lambda part: model(**part),
            loss_of,
            temperature=[towers.logit_scale] + [towers.logit_bias] * towers.logit_bias.requires_grad,
            backward=Tensor.backward,
            no_sync=model.no_sync if processes > 1 else nullcontext,
        )
    gradients = {name: p.grad for name, p in towers.named_parameters() if p.grad is not None}
    return loss.detach(), gradients


def main(folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    results = {(family, micro): loss_and_gradients(family, rank, 2, micro) for family in LOSSES for micro in (None, 3)}
    torch.save(results, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
