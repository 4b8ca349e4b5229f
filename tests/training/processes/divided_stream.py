"""Run by test_streams.py under torchrun: what each process reads of a stream of shards, as Trainer's loader hands it out."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch import distributed

from icclip.config import DatasetConfig
from icclip.plugins.registry import Registry
from icclip.training.feeding.streams import CaptionedStream, InTurns

PASSES = 2
CASES = [(0, 4), (2, 4), (3, 2), (5, 2)]
"""Workers and the size of the global batch."""


def shown(examples):
    """What is kept of a batch: the captions, each of which stands once in the shards."""
    # One process reads faster than the other.
    time.sleep(0.02 * random.random())
    return [example.captions[0] for example in examples if example is not None]


def batches(folder, workers, size, accelerator):
    """For each pass the batches of this process."""
    stream = Registry().dataset("webdataset").load(DatasetConfig(name="webdataset", path=str(folder), streaming=True))
    data = CaptionedStream(stream["train"], seed=3, buffer=5)
    each, data.step = size // accelerator.num_processes, size
    loader = accelerator.prepare(
        torch.utils.data.DataLoader(data, each, num_workers=workers, collate_fn=shown, drop_last=True)
    )
    loader.base_dataloader = InTurns(loader.base_dataloader)
    found = []
    for epoch in range(PASSES):
        data.epoch = epoch
        found.append(list(loader))
    return found


def main(folder):
    torch.set_num_threads(1)
    configuration = DataLoaderConfiguration(dispatch_batches=False)
    accelerator = Accelerator(cpu=True, dataloader_config=configuration)
    report = {case: batches(Path(folder) / "shards", *case, accelerator) for case in CASES}
    torch.save(report, Path(folder) / f"{accelerator.process_index}.pt")
    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
