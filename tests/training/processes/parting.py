"""Run by test_parting.py under torchrun: a run, and the threads that are left when Python is about to end."""

from __future__ import annotations

import atexit
import os
import sys
from pathlib import Path

import torch

from icclip.cli import main
from icclip.training.step.progress import Progress

folder, options = Path(sys.argv[1]), sys.argv[2:]
seen = {}


def threads():
    """The names of the threads of this process, as libraries gave them."""
    return [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]


def look(self, args, state, control, **kwargs):
    seen["during"] = threads()


def report():
    together = torch.distributed.is_initialized()
    torch.save({**seen, "at the end": threads(), "together": together}, folder / f"{os.environ['RANK']}.pt")


# What is registered first is called last.
atexit.register(report)
Progress.on_step_end = look
main(options)
