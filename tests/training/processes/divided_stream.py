"""Run by test_streams.py under torchrun: what each process reads of a stream of shards, as Trainer's loader hands it out."""

from __future__ import annotations

import random
import sys
import time
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch import distributed

from icclip.config import DatasetConfig
from icclip.plugins.registry import Registry
from icclip.training.feeding.streams import CaptionedStream, InTurns, Share, Turns
from icclip.training.processes.gather import everywhere
from icclip_plugins.datasets import webdataset

PASSES = 2
CASES = [(0, 4, 1), (2, 4, 1), (3, 2, 1), (5, 2, 1), (0, 4, 2), (1, 4, 2), (2, 4, 2)]
"""Workers, the size of the global batch, and parts of the stream."""


OPENED = []
"""The shards that this process itself has opened, not its workers."""
_samples = webdataset.samples


def noted(shard, *arguments):
    """As `samples`, after noting the shard."""
    OPENED.append(Path(shard).name)
    return _samples(shard, *arguments)


webdataset.samples = noted


def shown(examples):
    """What is kept of a batch: the captions, each of which stands once in the shards."""
    # One process reads faster than the other.
    time.sleep(0.02 * random.random())
    return [example.captions[0] for example in examples if example is not None]


def batches(folder, workers, size, parts, accelerator):
    """For each pass the batches of this process."""
    stream = Registry().dataset("webdataset").load(DatasetConfig(name="webdataset", path=str(folder), streaming=True))
    data = CaptionedStream(stream["train"], seed=3, buffer=5, parts=Turns(parts, size // parts))
    each = size // accelerator.num_processes
    data.share = Share(size, Turns(accelerator.num_processes, each), accelerator.process_index)
    loader = accelerator.prepare(
        torch.utils.data.DataLoader(data, each, num_workers=workers, collate_fn=shown, drop_last=True)
    )
    agree = partial(everywhere, device=accelerator.device) if parts > 1 else bool
    loader.base_dataloader = InTurns(loader.base_dataloader, agree)
    found = []
    for epoch in range(PASSES):
        data.epoch = epoch
        found.append(list(loader))
    return found


def main(folder):
    torch.set_num_threads(1)
    configuration = DataLoaderConfiguration(dispatch_batches=False)
    accelerator = Accelerator(cpu=True, dataloader_config=configuration)
    report = {}
    for case in CASES:
        OPENED.clear()
        report[case] = batches(Path(folder) / "shards", *case, accelerator)
        report["opened", *case] = sorted(set(OPENED))
    torch.save(report, Path(folder) / f"{accelerator.process_index}.pt")
    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
