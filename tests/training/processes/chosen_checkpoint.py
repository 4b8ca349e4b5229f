"""Run by test_agreement.py under torchrun: what each process resumes from, of run directories that it sees differently."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import distributed

from icclip.errors import DisagreementError
from icclip.runs.checkpoints import last_checkpoint
from icclip.training.processes.agreement import STATE, same_checkpoint


def checkpoint(root, step, state="{}"):
    (path := root / f"checkpoint-{step}").mkdir(parents=True)
    (path / STATE).write_text(state)


def outcome(root):
    """The name of what is resumed, None for the beginning, or the message."""
    try:
        chosen = same_checkpoint(root, last_checkpoint(root))
    except DisagreementError as error:
        return str(error)
    return chosen and chosen.name


def main(folder):
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    roots = {case: folder / case / str(rank) for case in ("later", "unseen", "other", "begun", "same")}
    for case in ("later", "other", "same"):
        checkpoint(roots[case], 4, f'{{"rank": {rank}}}' if case == "other" else "{}")
    if rank == 0:
        checkpoint(roots["unseen"], 4)
    else:
        # Of another moment: this one appeared after the first process had looked.
        checkpoint(roots["later"], 8)
        checkpoint(roots["begun"], 4)
    torch.save({case: outcome(root) for case, root in roots.items()}, folder / f"{rank}.pt")
    distributed.destroy_process_group()


main(Path(sys.argv[1]))
