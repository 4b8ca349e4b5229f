"""Convolutional networks on a CPU are faster with the channels of a pixel side by side in memory (NHWC).

Layers keep the layout of what they read, so that it is enough to bring the images into it once (benchmarks/convolutions.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


def lay_out_channels_last(tower: nn.Module) -> None:
    """Let a tower of convolutions bring its images into the faster layout on a CPU; other towers stay as they are.

    The features stay the same to rounding, and so does what is saved, exported or compiled. Calling it again changes nothing.

    Args:
        tower: a vision tower. One whose only convolution cuts its images into patches gains nothing.
    """
    convolutions = [module for module in tower.modules() if isinstance(module, nn.Conv2d)]
    if len(convolutions) > 1 and _channels_last not in convolutions[0]._forward_pre_hooks.values():  # noqa: SLF001
        convolutions[0].register_forward_pre_hook(_channels_last)


def _channels_last(_convolution: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    # Exporters and compilers choose layouts themselves.
    if torch.onnx.is_in_onnx_export() or torch.compiler.is_compiling() or not inputs or inputs[0].device.type != "cpu":
        return None
    return (inputs[0].contiguous(memory_format=torch.channels_last), *inputs[1:])
