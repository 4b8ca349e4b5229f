"""Find out which of the processes of a run this one is, whatever launcher started it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from icclip.errors import UsageError


class Launcher(NamedTuple):
    """The environment variables in which a launcher tells a process who it is."""

    name: str
    rank: str
    size: str
    local_rank: str
    local_size: str
    half_is_an_error: bool = True
    """Whether a rank without a size, or the reverse, is a mistake; SLURM's batch scripts only have a rank."""


TORCH = Launcher("torchrun or accelerate", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
LAUNCHERS = (
    TORCH,
    Launcher(
        "Open MPI",
        "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    Launcher(
        "MVAPICH",
        "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE",
    ),
    Launcher("MPICH or Intel MPI", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    # The size of the step, not of the job, because a batch script that srun did not start may belong to a large job.
    Launcher("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE",
             half_is_an_error=False),
)  # fmt: skip
"""The launchers in order of precedence, because torchrun under srun sees the variables of both."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One of the processes of a run; a process that was started alone is the first of one."""

    rank: int = 0
    """The rank of this process, 0..size-1."""
    size: int = 1
    local_rank: int = 0
    """The rank among the processes of the same machine."""
    local_size: int = 1
    launcher: str | None = None
    """The launcher; None for a process that was started alone."""

    @property
    def first(self) -> bool:
        """Whether this process is the one that prints and writes."""
        return self.rank == 0


def identity(environment: Mapping[str, str] = os.environ) -> Identity:
    """Find out which process this is.

    Args:
        environment: the variables that launchers set.

    Raises:
        UsageError: a launcher's variables contradict each other, or only half of them are set, as a stale
            `export RANK=1` leaves them.
    """
    for launcher in LAUNCHERS:
        rank, size = (_number(environment, name) for name in (launcher.rank, launcher.size))
        if rank is not None and size is not None:
            return _checked(launcher, rank, size, environment)
        # A size of one tells nothing, because container images set it.
        if launcher.half_is_an_error and (rank is not None or (size or 1) > 1):
            given, missing = (launcher.rank, launcher.size) if size is None else (launcher.size, launcher.rank)
            raise UsageError(
                f"{given} is {environment[given]} and {missing} is not set, so it is unclear which process this is: "
                f"unset {given}, or start the processes with {launcher.name}"
            )
    return Identity()


def _checked(launcher: Launcher, rank: int, size: int, environment: Mapping[str, str]) -> Identity:
    if not 0 <= rank < size:
        raise UsageError(
            f"{launcher.rank} is {rank} and {launcher.size} is {size}: the rank must lie between 0 and {size - 1}"
        )
    local_rank = _number(environment, launcher.local_rank)
    local_size = _leading_number(environment.get(launcher.local_size))
    return Identity(
        rank,
        size,
        # Without information about machines, there is one.
        rank if local_rank is None else local_rank,
        size if local_size is None else local_size,
        launcher.name,
    )


def _number(environment: Mapping[str, str], name: str) -> int | None:
    value = environment.get(name, "").strip()
    if not value:
        return None
    try:
        return int(value)
    except ValueError as error:
        raise UsageError(f"{name} is {value!r}: it must be a whole number; unset it if it is a leftover") from error


def _leading_number(value: str | None) -> int | None:
    """`4`, or the first of SLURM's `4(x2)` and `4,3`."""
    digits = "" if value is None else value.strip().split("(")[0].split(",")[0]
    return int(digits) if digits.isdigit() else None
