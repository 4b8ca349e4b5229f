"""How the processes of a run were started, and what that asks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, MutableMapping

from icclip.config import TrainConfig
from icclip.console import Reporter
from icclip.errors import UsageError

FSDP = "ACCELERATE_USE_FSDP"
UNKNOWN = {"ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM"}
"""By the variable with which `accelerate launch` asks for it."""

WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Where torchrun, accelerate and MPI say how many processes there are."""


def as_launched(config: TrainConfig, environment: MutableMapping[str, str], reporter: Reporter) -> TrainConfig:
    """The config with what `accelerate launch` was asked for.

    Warns where accelerate started one process although several were asked for.

    Raises:
        UsageError: it was asked for something that icclip does not do; on a CPU accelerate would not even
            say that it does not either. Or the model is to be divided, and there is one process.
    """
    for variable, name in UNKNOWN.items():
        if _is_on(environment, variable):
            raise UsageError(
                f"accelerate was asked for {name}, and icclip does not know it: leave it out, and save memory with "
                "--fsdp, --micro-batch and --grad-ckpt"
            )
    if _is_on(environment, FSDP):
        # Taken away, or accelerate would wrap the model too, and refuse its scalar temperature.
        del environment[FSDP]
        config = dataclasses.replace(config, fsdp=True)
        reporter.note(
            "accelerate was asked for FSDP: dividing the model as --fsdp does; its FSDP settings are not used"
        )
    if _is_alone(environment):
        reporter.warn(
            "accelerate was asked for several processes and started one, as it does with fewer than two GPUs: "
            "give it --multi_gpu as well, or use torchrun"
        )
    if config.fsdp and not any(int(environment.get(name, 1)) > 1 for name in WORLD_SIZES):
        raise UsageError(
            "--fsdp divides the model among several processes, and there is one: start them with "
            "torchrun --nproc-per-node N -m icclip train ..."
        )
    return config


def _is_on(environment: Mapping[str, str], variable: str) -> bool:
    return environment.get(variable, "false").lower() == "true"


def _is_alone(environment: Mapping[str, str]) -> bool:
    """Its launcher gives an address to meet at where there are several, and a number only to those that it starts."""
    launched = "ACCELERATE_DYNAMO_BACKEND" in environment and "MASTER_ADDR" in environment
    return launched and not any(name in environment for name in WORLD_SIZES)
