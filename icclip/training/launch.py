"""How the processes of a run were started; what of it would go wrong unnoticed."""

from __future__ import annotations

from collections.abc import Mapping

from icclip.console import Reporter
from icclip.errors import UsageError

SHARDING = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}
"""By the variable with which `accelerate launch` asks for it."""

WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Where torchrun, accelerate and MPI say how many processes there are."""


def check_launch(environment: Mapping[str, str], reporter: Reporter) -> None:
    """Warn where accelerate started one process although several were asked for.

    Raises:
        UsageError: the weights are to be spread over the processes. Loss, evaluation and checkpoints need
            the whole model in each; on a CPU accelerate would not even say that it does not do it.
    """
    for variable, name in SHARDING.items():
        if environment.get(variable, "false").lower() == "true":
            raise UsageError(
                f"accelerate was asked for {name}, and icclip needs the whole model in every process: leave it out, "
                "and save memory with --micro-batch and --grad-ckpt"
            )
    if _is_alone(environment):
        reporter.warn(
            "accelerate was asked for several processes and started one, as it does with fewer than two GPUs: "
            "give it --multi_gpu as well, or use torchrun"
        )


def _is_alone(environment: Mapping[str, str]) -> bool:
    """Its launcher gives an address to meet at where there are several, and a number only to those that it starts."""
    launched = "ACCELERATE_DYNAMO_BACKEND" in environment and "MASTER_ADDR" in environment
    return launched and not any(name in environment for name in WORLD_SIZES)
