"""How the processes of a run were started, and which settings follow from that."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, MutableMapping

from icclip.config import TrainConfig
from icclip.console import Reporter
from icclip.errors import UsageError
from icclip.identity import TORCH, Identity, identity

FSDP = "ACCELERATE_USE_FSDP"
UNKNOWN = {"ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM"}
"""The environment variables of `accelerate launch`, and the names of what they ask for."""

MEETING_POINT = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
"""The address at which the processes of one machine meet, unless another one is set."""


def as_launched(config: TrainConfig, environment: MutableMapping[str, str], reporter: Reporter) -> TrainConfig:
    """The config, completed by what `accelerate launch` was asked for.

    It warns if accelerate started one process although several were asked for.

    Args:
        config: the configuration as the user wrote it.
        environment: the environment variables; the one for accelerate's own FSDP is removed.
        reporter: shows how the settings were understood.

    Raises:
        UsageError: the environment does not say which process this is, accelerate was asked for something that
            icclip does not support, or --fsdp was given to a single process.
    """
    for variable, name in UNKNOWN.items():
        if _is_on(environment, variable):
            raise UsageError(
                f"accelerate was asked for {name}, which icclip does not support: leave it out, and save memory with "
                "--fsdp, --micro-batch and --grad-ckpt"
            )
    if _is_on(environment, FSDP):
        # Removed, because accelerate would otherwise wrap the model, too, and refuse its scalar temperature.
        del environment[FSDP]
        config = dataclasses.replace(config, fsdp=True)
        reporter.note(
            "accelerate was asked for FSDP: icclip shards the model as with --fsdp and ignores accelerate's FSDP settings"
        )
    if _is_alone(environment):
        reporter.warn(
            "accelerate was asked for several processes but started one, as it does with fewer than two GPUs: "
            "add --multi_gpu to accelerate launch, or use torchrun"
        )
    who = identity(environment)
    _tell_torch(who, environment)
    if config.fsdp and who.size == 1:
        raise UsageError(
            "--fsdp shards the model across several processes, but there is only one: start several with "
            "torchrun --nproc-per-node N -m icclip train ..."
        )
    return config


def _is_on(environment: Mapping[str, str], variable: str) -> bool:
    return environment.get(variable, "false").lower() == "true"


def _is_alone(environment: Mapping[str, str]) -> bool:
    """Whether this is the only process: launchers give several processes an address to meet at."""
    launched = "ACCELERATE_DYNAMO_BACKEND" in environment and "MASTER_ADDR" in environment
    return launched and identity(environment).launcher is None


def _tell_torch(who: Identity, environment: MutableMapping[str, str]) -> None:
    """What MPI and SLURM say, in the variables that torch and accelerate read, and where the processes meet."""
    if who.size == 1:
        return
    if who.local_size < who.size and "MASTER_ADDR" not in environment:
        raise UsageError(
            f"{who.launcher} started processes on several machines, and MASTER_ADDR is not set: set it to the name of "
            "the machine of the first process, so that they find each other"
        )
    if who.launcher != TORCH.name:
        told = {
            TORCH.rank: who.rank, TORCH.size: who.size, TORCH.local_rank: who.local_rank, TORCH.local_size: who.local_size,
        }  # fmt: skip
        environment.update({name: str(value) for name, value in told.items()})
    for name, place in MEETING_POINT.items():
        environment.setdefault(name, place)
