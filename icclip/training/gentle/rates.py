"""Learning rates by parameter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from icclip.config import TrainConfig
from icclip.training.gentle.layers import TowerPosition

if TYPE_CHECKING:
    from torch import nn


def learning_rates(config: TrainConfig, where: Mapping[str, TowerPosition]) -> dict[str, float]:
    """Parameter's name -> its peak learning rate: that of its tower times `layer_decay ** layers above`.

    This is layer-wise decay as in BEiT (Bao et al. 2021, arXiv:2106.08254, appendix). In a tower of n
    blocks, the layers after the blocks have the full rate, the last block has the rate times the decay,
    and the embeddings have the rate times the decay to the power of n + 1. Parameters that belong to
    both towers have `lr`.
    """
    of_tower = {"vision": config.gentle.vision_lr, "text": config.gentle.text_lr}
    own = {tower: config.lr if rate is None else rate for tower, rate in of_tower.items()}
    return {
        name: config.lr if position.tower is None else own[position.tower] * config.gentle.layer_decay**position.above
        for name, position in where.items()
    }


def split_by_rate(groups: Iterable[Mapping[str, Any]], rates: Mapping[nn.Parameter, float]) -> list[dict[str, Any]]:
    """Split an optimizer's parameter groups into groups of one rate each; the other settings of a group are kept.

    The group with the highest rate comes first, because the first group's rate is the one that is logged.
    """
    divided: list[dict[str, Any]] = []
    for group in groups:
        of_rate: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            of_rate.setdefault(rates[parameter], []).append(parameter)
        divided += [{**group, "params": parameters, "lr": rate} for rate, parameters in of_rate.items()]
    return sorted(divided, key=lambda group: -group["lr"])


def set_apart(groups: Iterable[Mapping[str, Any]], parameters: Iterable[nn.Parameter]) -> list[dict[str, Any]]:
    """Move some parameters into groups of their own, after the other groups."""
    apart = set(parameters)
    parts = [
        (group, [p for p in group["params"] if (p in apart) is taken]) for taken in (False, True) for group in groups
    ]
    return [{**group, "params": members} for group, members in parts if members]
