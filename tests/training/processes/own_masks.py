"""Run by test_masks.py under torchrun: a run with adapters' dropout, and the masks that this process has drawn."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import nn

from icclip.config import DatasetConfig, LoraConfig, ModelConfig, TrainConfig
from icclip.console import Reporter
from icclip.plugins.registry import Registry
from icclip.training.run import train

MASKS = []


def remember(module, inputs, output):
    if module.training:
        # What is dropped; the inputs of the processes differ.
        MASKS.append(((output == 0) & (inputs[0] != 0)).flatten()[:4096].clone())


def main(folder):
    nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: remember(module, inputs, output) if isinstance(module, nn.Dropout) else None
    )
    config = TrainConfig(
        model=ModelConfig(name=str(folder / "model")), data=DatasetConfig(name="hub", path=str(folder / "data"), val_fraction=0.25),
        output_dir=folder / "run", max_steps=2, lr=1e-3, train_bs=2, eval_bs=4, workers=0, device="cpu", report_to=(),
        lora=LoraConfig(rank=2, dropout=0.5), guard="off",
    )  # fmt: skip
    train(config, Registry(load_plugins=frozenset()), Reporter(silent=True))
    torch.save(MASKS, folder / f"{os.environ['RANK']}.pt")


main(Path(sys.argv[1]))
