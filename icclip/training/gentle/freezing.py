"""Freezing: weights that do not train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from icclip.config import GentleConfig
from icclip.errors import UsageError
from icclip.training.gentle.layers import Place

if TYPE_CHECKING:
    from torch import nn


def freeze(model: nn.Module, where: Mapping[str, Place], config: GentleConfig) -> None:
    """Freeze one tower, or the embeddings and first blocks of both towers.

    A frozen vision tower is locked-image tuning (LiT, Zhai et al. 2022, arXiv:2111.07991).

    Raises:
        UsageError: a tower has fewer blocks than should be frozen.
    """
    _check_depth(where, config.freeze_blocks)
    for name, parameter in model.named_parameters():
        place = where[name]
        in_first_blocks = config.freeze_blocks > 0 and place.layer <= config.freeze_blocks
        if place.tower is not None and (place.tower == config.freeze or in_first_blocks):
            parameter.requires_grad = False


def _check_depth(where: Mapping[str, Place], blocks: int) -> None:
    depths = {place.tower: place.layer + place.above - 1 for place in where.values() if place.tower is not None}
    for tower, depth in depths.items():
        if blocks > depth:
            raise UsageError(f"the {tower} tower has {depth} blocks: give --freeze-blocks {depth} or less")
