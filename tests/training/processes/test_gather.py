from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from support.processes import under_torchrun

from icclip.training.processes.gather import gather_rows, own_columns

SCRIPT = Path(__file__).with_name("gathered_gradients.py")


def test_alone_nothing_is_gathered():
    rows = torch.randn(3, 2, requires_grad=True)
    assert gather_rows(rows) is rows
    assert own_columns(3, rows.device).tolist() == [0, 1, 2]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    return under_torchrun(SCRIPT, tmp_path_factory.mktemp("gathered"))


@pytest.mark.distributed
@pytest.mark.parametrize("micro", [None, 3], ids=["whole", "cached"])
@pytest.mark.parametrize("family", ["softmax", "sigmoid"])
def test_two_processes_give_the_loss_and_gradients_of_the_whole_batch(two_processes, family, micro):
    loss, gradients = runpy.run_path(str(SCRIPT))["loss_and_gradients"](family)
    losses = [results[family, micro][0] for results in two_processes]
    torch.testing.assert_close(torch.stack(losses).mean(), loss, atol=1e-6, rtol=0)
    for results in two_processes:
        shared = results[family, micro][1]
        assert shared.keys() == gradients.keys()
        for name, gradient in shared.items():
            torch.testing.assert_close(gradient, gradients[name], atol=1e-6, rtol=0)
