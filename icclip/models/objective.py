"""The loss that a checkpoint was trained with, if it differs from that of its family.

A model's probabilities (softmax or sigmoid) follow from the loss that it was trained with last, so this
is part of the checkpoint. It is kept in `config.json` as `icclip_loss`, and so is the bias that the
sigmoid loss needs and that CLIP's models do not have, as `icclip_logit_bias`: the weights stay those of
the family, so any program that opens the family's models opens these, too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from icclip.config import LossFamily
from icclip.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

LOSS, BIAS = "icclip_loss", "icclip_logit_bias"
"""Keys of config.json."""
PARAMETER = "logit_bias"


def trained_loss(config: Any, family: LossFamily) -> LossFamily:
    """The loss in a model's configuration, or else that of its family.

    Raises:
        CheckpointError: the configuration holds something that is not a loss.
    """
    found = getattr(config, LOSS, None)
    if found is None:
        return family
    if found not in get_args(LossFamily):
        raise CheckpointError(f"config.json has {LOSS} {found!r}: expected one of {', '.join(get_args(LossFamily))}")
    loss: LossFamily = found
    return loss


def set_loss(model: Any, loss: LossFamily, family: LossFamily, bias: float) -> None:
    """Prepare a model to train with a loss; the model is changed.

    Args:
        model: a model of any family.
        loss: the loss to train with.
        family: the loss of its family.
        bias: the initial value of a bias that the model does not have yet.
    """
    setattr(model.config, LOSS, None if loss == family else loss)
    own = getattr(model, PARAMETER, None)
    if loss == "sigmoid" and own is None:
        setattr(model.config, BIAS, bias)
        attach_bias(model)
    elif loss == "softmax" and own is not None:
        # The bias cancels out in this loss, and would get no gradient.
        own.requires_grad = False
        if getattr(model.config, BIAS, None) is not None:
            delattr(model, PARAMETER)
            setattr(model.config, BIAS, None)


def attach_bias(model: Any) -> None:
    """Give a model the bias that its configuration holds, as a parameter `logit_bias` []; nothing if there is none.

    Raises:
        CheckpointError: the bias is not a finite number.
    """
    import torch

    value = getattr(model.config, BIAS, None)
    if value is None or getattr(model, PARAMETER, None) is not None:
        return
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise CheckpointError(f"config.json has {BIAS} {value!r}: expected a number")
    scale = model.logit_scale
    model.register_parameter(PARAMETER, torch.nn.Parameter(torch.tensor(float(value), device=scale.device)))


def storable(model: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights to write for a model: an attached bias is moved from them into the model's configuration."""
    weights = dict(state)
    if getattr(model.config, BIAS, None) is not None and PARAMETER in weights:
        setattr(model.config, BIAS, weights.pop(PARAMETER).item())
    return weights


def read_bias(model: Any, checkpoint: Path) -> None:
    """Set an attached bias to that of a checkpoint, which stores it in the configuration instead of the weights."""
    import torch

    if getattr(model.config, BIAS, None) is None:
        return
    value = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))[BIAS]
    with torch.no_grad():
        getattr(model, PARAMETER).fill_(value)
