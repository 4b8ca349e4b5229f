"""How the processes of a run were started, and which settings follow from that."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, MutableMapping

from icclip.config import TrainConfig
from icclip.console import Reporter
from icclip.errors import UsageError

FSDP = "ACCELERATE_USE_FSDP"
UNKNOWN = {"ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM"}
"""The environment variable of `accelerate launch` -> the name of what it asks for."""

WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""The variables in which torchrun, accelerate and MPI say how many processes there are."""


def as_launched(config: TrainConfig, environment: MutableMapping[str, str], reporter: Reporter) -> TrainConfig:
    """The config, completed by what `accelerate launch` was asked for.

    It warns if accelerate started one process although several were asked for.

    Args:
        config: as the user wrote it.
        environment: of this process; a request for accelerate's own FSDP is removed from it.
        reporter: told how the request was understood.

    Raises:
        UsageError: accelerate was asked for something that icclip does not support, or --fsdp was given
            to a single process.
    """
    for variable, name in UNKNOWN.items():
        if _is_on(environment, variable):
            raise UsageError(
                f"accelerate was asked for {name}, which icclip does not support: leave it out, and save memory with "
                "--fsdp, --micro-batch and --grad-ckpt"
            )
    if _is_on(environment, FSDP):
        # Taken away, or accelerate would wrap the model too, and refuse its scalar temperature.
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
    if config.fsdp and not any(int(environment.get(name, 1)) > 1 for name in WORLD_SIZES):
        raise UsageError(
            "--fsdp shards the model across several processes, but there is only one: start several with "
            "torchrun --nproc-per-node N -m icclip train ..."
        )
    return config


def _is_on(environment: Mapping[str, str], variable: str) -> bool:
    return environment.get(variable, "false").lower() == "true"


def _is_alone(environment: Mapping[str, str]) -> bool:
    """Its launcher gives an address to meet at where there are several, and a number only to those that it starts."""
    launched = "ACCELERATE_DYNAMO_BACKEND" in environment and "MASTER_ADDR" in environment
    return launched and not any(name in environment for name in WORLD_SIZES)
