"""Each process draws its own dropout, which follows from the seed, the step and the rank."""

from __future__ import annotations

import shutil
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.processes import under_torchrun

from icclip.training.step.trainer import OwnNumbers


@pytest.mark.slow
@pytest.mark.distributed
def test_no_two_processes_and_no_two_steps_draw_the_same_masks(tiny, data, tmp_path):
    shutil.copytree(tiny["softmax"], tmp_path / "model")
    shutil.copytree(data, tmp_path / "data")
    first, second = under_torchrun(Path(__file__).with_name("own_masks.py"), tmp_path)
    assert len(first) == len(second) > 2
    assert all(0.4 < mask.float().mean() < 0.6 for mask in first)
    for one, other in zip(first, second, strict=True):
        assert not torch.equal(one, other)
    for one, other in combinations([mask for mask in first if len(mask) == len(first[0])], 2):
        assert not torch.equal(one, other)


def drawn(seed=1, step=0, rank=0):
    """The numbers of a step, whatever was drawn before."""
    torch.rand(torch.randint(1, 9, ()).item())
    args, state = SimpleNamespace(seed=seed, process_index=rank), SimpleNamespace(global_step=step)
    OwnNumbers().on_step_begin(args, state, None)
    return torch.rand(8)


def test_the_numbers_of_a_step_follow_from_its_place_alone():
    assert torch.equal(drawn(), drawn())
    for other in ({"seed": 2}, {"step": 1}, {"rank": 1}):
        assert not torch.equal(drawn(), drawn(**other))
