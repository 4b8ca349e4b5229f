from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from icclip.training.gather import gather_rows, own_columns

SCRIPT = Path(__file__).with_name("gathered_gradients.py")
REPOSITORY = Path(__file__).parents[2]


def test_alone_nothing_is_gathered():
    rows = torch.randn(3, 2, requires_grad=True)
    assert gather_rows(rows) is rows
    assert own_columns(3, rows.device).tolist() == [0, 1, 2]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gathered")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", SCRIPT, folder]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "plugins")))}
    subprocess.run(command, check=True, env=environment, timeout=300, capture_output=True)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


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
