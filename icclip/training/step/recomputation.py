"""Recompute activations instead of keeping them (gradient checkpointing; Chen et al. 2016, arXiv:1604.06174)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icclip.errors import UsageError
from icclip.plugins.specs import BackendSpec
from icclip.training.gentle.evaluation_mode import is_frozen

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def allow_recomputation(model: PreTrainedModel, backend: BackendSpec) -> None:
    """Let transformers recompute what the towers of a model have computed.

    transformers asks the whole model whether it can, and one that was joined from two towers says no for both.

    Args:
        model: as it will train, with its frozen weights marked.
        backend: names the towers of the model.

    Raises:
        UsageError: a tower that trains cannot, or neither of them.
    """
    layouts = {"vision": backend.vision, "text": backend.text}
    towers = {name: model.get_submodule(layout.module) for name, layout in layouts.items()}
    whole = model.supports_gradient_checkpointing
    unable = [name for name, one in towers.items() if not getattr(one, "supports_gradient_checkpointing", whole)]
    for name in unable:
        if not is_frozen(towers[name]):
            raise UsageError(
                f"the {name} tower cannot recompute its activations: leave --grad-ckpt out, or freeze the tower (--freeze {name})"
            )
    if len(unable) == len(towers):
        raise UsageError("neither tower can recompute its activations: leave --grad-ckpt out")
    model.supports_gradient_checkpointing = True
