from __future__ import annotations

import os
import subprocess
import sys

import pytest

from icclip.errors import UsageError
from icclip.identity import Identity, identity

TORCH = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}


def test_a_process_started_alone_is_the_first_of_one():
    assert identity({}) == Identity(0, 1, 0, 1, None)
    assert identity({}).first


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (TORCH, Identity(3, 8, 1, 2, "torchrun or accelerate")),
        ({"RANK": "1", "WORLD_SIZE": "2"}, Identity(1, 2, 1, 2, "torchrun or accelerate")),
        (
            {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
             "OMPI_COMM_WORLD_LOCAL_SIZE": "2"},
            Identity(1, 4, 1, 2, "Open MPI"),
        ),
        ({"MV2_COMM_WORLD_RANK": "1", "MV2_COMM_WORLD_SIZE": "2"}, Identity(1, 2, 1, 2, "MVAPICH")),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, Identity(1, 2, 1, 2, "MPICH or Intel MPI")),
        (
            {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "4(x2)"},
            Identity(5, 8, 1, 4, "srun"),
        ),
        # torchrun, started once a node by srun.
        ({**TORCH, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}, Identity(3, 8, 1, 2, "torchrun or accelerate")),
        # A batch script of a job with many tasks is one process.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, Identity()),
        ({"WORLD_SIZE": "1"}, Identity()),
        ({"RANK": "", "WORLD_SIZE": ""}, Identity()),
    ],
)  # fmt: skip
def test_every_launcher_is_understood(environment, expected):
    assert identity(environment) == expected


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "1"}, "RANK is 1 and WORLD_SIZE is not set, so it is unclear which process this is: unset RANK"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2 and RANK is not set"),
        ({"PMI_RANK": "0"}, "PMI_RANK is 0 and PMI_SIZE is not set.*MPICH or Intel MPI"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2 and WORLD_SIZE is 2: the rank must lie between 0 and 1"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK is 'one': it must be a whole number"),
    ],
)
def test_half_a_fact_is_one_clear_error(environment, message):
    with pytest.raises(UsageError, match=message):
        identity(environment)


def test_a_stale_rank_is_one_line_and_touches_nothing(tmp_path):
    (run := tmp_path / "run").mkdir()
    (run / "model.safetensors").write_bytes(b"weights")
    (run / "config.json").write_text("{}")
    command = [sys.executable, "-m", "icclip", "train", "-m", "clip-tiny", "-d", "shapes", "-o", str(run)]
    done = subprocess.run(command, env={**_environment(), "RANK": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: RANK is 1 and WORLD_SIZE is not set")
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in run.iterdir()) == ["config.json", "model.safetensors"]


def _environment():
    return {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
