"""A divided model beside the whole one. Whole runs with --fsdp are in commands/test_train.py."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from support.processes import under_torchrun

SCRIPT = Path(__file__).with_name("divided_model.py")

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """What two processes report."""
    return under_torchrun(SCRIPT, tmp_path_factory.mktemp("divided"))


@pytest.fixture(scope="module")
def alone():
    return runpy.run_path(str(SCRIPT))["report"]


@pytest.mark.parametrize("what", ["gradients", "weights", "averaged"])
@pytest.mark.parametrize("family", ["softmax", "sigmoid"])
def test_it_steps_as_the_whole_one_does(processes, alone, family, what):
    expected = alone(family, 0, 1)[what]
    assert {"logit_scale"} < expected.keys()
    for reports in processes:
        found = reports[family][what]
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(
                found[name], tensor, atol=2e-6, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}"
            )


@pytest.mark.parametrize("family", ["softmax", "sigmoid"])
def test_each_process_holds_its_share(processes, family):
    held = [reports[family]["held"] for reports in processes]
    everything = processes[0][family]["all"]
    # Scalars, and what a matrix of an odd number of rows has too many.
    assert all(0.45 * everything < share < 0.55 * everything for share in held), (held, everything)
    assert all(reports[family]["weightless"] for reports in processes), "the whole copy is kept"


@pytest.mark.parametrize("family", ["softmax", "sigmoid"])
def test_the_optimizers_state_is_that_of_the_whole_model_and_comes_back(processes, alone, family):
    expected = alone(family, 0, 1)["state"]
    first, second = (reports[family] for reports in processes)
    assert second["state"]["state"] == {}, "one process writes"
    for found in (first["state"], first["again"]):
        assert found["state"].keys() == expected["state"].keys()
        for index, values in expected["state"].items():
            for name, value in values.items():
                torch.testing.assert_close(found["state"][index][name], value, atol=2e-6, rtol=1e-4)
