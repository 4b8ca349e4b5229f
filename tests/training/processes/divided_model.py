"""Run by test_sharding.py under torchrun: steps of a tiny divided model, and what each process holds of it."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import distributed
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from icclip.plugins.registry import Registry
from icclip.training.gentle.averaging import WeightAverage
from icclip.training.gentle.layers import block_modules
from icclip.training.processes.gather import gather_rows, own_columns
from icclip.training.processes.sharding import Shards
from icclip.training.step.losses import LOSSES, Pairs

TOWER = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = TOWER | {"vocab_size": 50, "max_position_embeddings": 8, "projection_dim": 16}
VISION = TOWER | {"image_size": 16, "patch_size": 8, "projection_dim": 16}
FAMILIES = {
    "softmax": lambda: CLIPModel(CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=16)),
    "sigmoid": lambda: SiglipModel(SiglipConfig(text_config=TEXT | {"projection_size": 24}, vision_config=VISION)),
}
PAIRS = 8


def temperature_of(model):
    return [getattr(model, name) for name in ("logit_scale", "logit_bias") if hasattr(model, name)]


def stepped(family, rank=0, processes=1):
    """Two steps of AdamW on `PAIRS` pairs: the model, its Shards where there are several processes, and the rest."""
    torch.manual_seed(0)
    model = FAMILIES[family]().train()
    average = WeightAverage(model, 0.5)
    blocks = block_modules(model, Registry().backend(model.config.model_type))
    shards = Shards(model, temperature_of(model), torch.device("cpu"), blocks) if processes > 1 else None
    if shards:
        average.follow(model, shards.divided)
    apart = set(temperature_of(model))
    groups = [[p for p in model.parameters() if p not in apart], list(apart)]
    # A small epsilon would make steps of the noise in gradients that are nothing.
    optimizer = torch.optim.AdamW([{"params": group} for group in groups], lr=1e-2, eps=1e-2)
    generator = torch.Generator().manual_seed(1)
    share = slice(rank * PAIRS // processes, (rank + 1) * PAIRS // processes)
    pixels = torch.randn(PAIRS, 3, 16, 16, generator=generator)[share]
    # CLIP's text ends at the highest id.
    ids = torch.randint(2, 48, (PAIRS, 8), generator=generator).index_fill_(1, torch.tensor([7]), 49)[share]
    gradients = {}
    for _ in range(2):
        optimizer.zero_grad()
        outputs = model(pixel_values=pixels, input_ids=ids)
        image, text = outputs.image_embeds, outputs.text_embeds
        own = own_columns(len(image), image.device)
        pairs = Pairs(image, text, gather_rows(image), gather_rows(text), own, own[:, None], gather_rows(own[:, None]))
        LOSSES[family](pairs, *temperature_of(model), *[None] * (family == "softmax")).backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
        average.update()
    return model, shards, optimizer, average, gradients


def report(family, rank, processes):
    """What one process has to show, as plain tensors."""
    model, shards, optimizer, average, gradients = stepped(family, rank, processes)
    whole = shards.whole if shards else torch.Tensor.detach
    with average.in_place(), shards.gathered() if shards else nullcontext(model) as saved:
        averaged = {name: tensor.clone() for name, tensor in saved.state_dict().items()}
    with shards.gathered() if shards else nullcontext(model) as saved:
        weights = {name: tensor.clone() for name, tensor in saved.state_dict().items()}
    state = shards.state_of(optimizer, keep=rank == 0) if shards else optimizer.state_dict()
    if shards:
        before = {name: p.clone() for name, p in model.named_parameters()}
        shared = [None if rank else state]
        distributed.broadcast_object_list(shared)
        shards.load_state(optimizer, shared[0])
        again = shards.state_of(optimizer, keep=rank == 0)
        assert all(torch.equal(whole(p), whole(before[name])) for name, p in model.named_parameters())
    else:
        again = state
    return {
        "gradients": {name: whole(gradient) for name, gradient in gradients.items()},
        "weights": weights,
        "averaged": averaged,
        "state": state,
        "again": again,
        "held": sum(part.numel() for part in shards.parts()) if shards else 0,
        "all": sum(tensor.numel() for tensor in weights.values()),
        "weightless": not shards or all(p.is_meta for p in shards._plain.parameters()),
    }


def main(folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank, processes = distributed.get_rank(), distributed.get_world_size()
    torch.save({family: report(family, rank, processes) for family in FAMILIES}, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
