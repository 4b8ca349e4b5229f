"""Freeze weights, so that they do not train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from icclip.config import GentleConfig, Tower
from icclip.errors import UsageError
from icclip.plugins.specs import BackendSpec, TowerLayout
from icclip.training.gentle.layers import TowerPosition

if TYPE_CHECKING:
    from torch import nn


def freeze(model: nn.Module, where: Mapping[str, TowerPosition], config: GentleConfig, backend: BackendSpec) -> None:
    """Freeze one tower or both, or the embeddings and first blocks of both towers.

    A frozen vision tower is locked-image tuning (LiT, Zhai et al. 2022, arXiv:2111.07991). If both are
    frozen, their projections train; if only one is, the backend tells whether its projection trains.

    Raises:
        UsageError: a tower has fewer blocks than should be frozen, or only the temperature would train.
    """
    _check_depth(where, config.freeze_blocks)
    layouts: Mapping[Tower, TowerLayout] = {"vision": backend.vision, "text": backend.text}
    both = config.freeze == "both"
    if both and not all(layout.projection for layout in layouts.values()):
        raise UsageError(
            f"--freeze both leaves nothing to train: models of the backend {backend.name!r} have no projections"
        )
    frozen = [tower for tower in layouts if config.freeze in (tower, "both")]
    spared = tuple(
        start
        for tower in frozen
        if both or not layouts[tower].freezes_projection
        for start in layouts[tower].projection
    )
    for name, parameter in model.named_parameters():
        position = where[name]
        in_first_blocks = config.freeze_blocks > 0 and position.layer <= config.freeze_blocks
        in_frozen_tower = position.tower in frozen and not name.startswith(spared)
        if position.tower is not None and (in_frozen_tower or in_first_blocks):
            parameter.requires_grad = False


def _check_depth(where: Mapping[str, TowerPosition], blocks: int) -> None:
    depths = {
        position.tower: position.layer + position.above - 1 for position in where.values() if position.tower is not None
    }
    for tower, depth in depths.items():
        if blocks > depth:
            raise UsageError(f"the {tower} tower has {depth} blocks: give --freeze-blocks {depth} or less")
