"""Keep what should stay as it is in evaluation mode, and refuse BatchNorm that trains if it would not be exact.

In training mode, dropout is active and BatchNorm (Ioffe and Szegedy 2015, arXiv:1502.03167) normalises with the statistics
of the batch and updates its own, even if its weights are frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from torch.nn.modules.batchnorm import _BatchNorm

from icclip.config import TrainConfig
from icclip.errors import UsageError
from icclip.plugins.specs import BackendSpec

if TYPE_CHECKING:
    from torch import nn


def keep_in_evaluation(model: nn.Module, backend: BackendSpec, *, freeze_bn_stats: bool = False) -> None:
    """Make towers without trainable weights, and frozen BatchNorm anywhere, always run in evaluation mode.

    This is independent of the mode of the model, because it is set before each forward pass.

    Args:
        model: as it will train, with its frozen weights marked.
        backend: names the towers of the model.
        freeze_bn_stats: whether BatchNorm whose weights train keeps its statistics, too.

    Raises:
        UsageError: the statistics should be kept, and there are none.
    """
    if freeze_bn_stats and not _norms(model):
        raise UsageError(
            "this model has no BatchNorm layers, so there are no statistics to keep: leave --freeze-bn-stats out"
        )
    towers = [model.get_submodule(layout.module) for layout in (backend.vision, backend.text)]
    norms = _norms(model) if freeze_bn_stats else _frozen_norms(model)
    for module in [*(tower for tower in towers if is_frozen(tower)), *norms]:
        module.register_forward_pre_hook(_to_evaluation)


def check_batch_norm(
    model: nn.Module, backend: BackendSpec, config: TrainConfig, processes: int, warn: Callable[[str], None]
) -> None:
    """Check that BatchNorm layers that normalise with the batch see whole batches of one process.

    Args:
        model: the model as it will train, with its frozen weights marked.
        backend: names the towers of the model.
        config: the configuration of the run.
        processes: the number of processes that share a batch.
        warn: is told of each tower that such layers can cost what it has learned.

    Raises:
        UsageError: the result would differ from that of the same batch in one piece.
    """
    reasons = {
        f"with --micro-batch {config.micro_batch} they would be those of {config.micro_batch} images, and be updated "
        "twice in each step: leave it out": config.micro_batch is not None and config.micro_batch < config.train_bs,
        f"with {processes} processes each would have its own: use one process": processes > 1,
        "with --fsdp they would not be put together for checkpoints: leave it out": config.fsdp,
        "with --grad-ckpt they would be updated twice in each step: leave it out": config.grad_ckpt,
        "with --ema they would not be those of the averaged weights: leave it out": config.gentle.ema is not None,
    }
    if config.gentle.freeze_bn_stats:
        return
    wrong = [reason for reason, applies in reasons.items() if applies]
    for tower, layout in (("vision", backend.vision), ("text", backend.text)):
        if all(is_frozen(norm) for norm in _norms(model.get_submodule(layout.module))):
            continue
        if wrong:
            raise UsageError(
                f"the {tower} tower has BatchNorm layers that train on the statistics of whole batches; "
                f"{wrong[0]}, keep the statistics as they are (--freeze-bn-stats), or freeze the tower (--freeze {tower})"
            )
        warn(
            f"the {tower} tower has BatchNorm layers that train on the statistics of each batch, which can cost a pretrained "
            f"tower much of what it knows; --freeze-bn-stats keeps its own statistics"
        )


def _norms(module: nn.Module) -> list[nn.Module]:
    return [one for one in module.modules() if isinstance(one, _BatchNorm)]


def _frozen_norms(model: nn.Module) -> Iterable[nn.Module]:
    return (norm for norm in _norms(model) if list(norm.parameters()) and is_frozen(norm))


def is_frozen(module: nn.Module) -> bool:
    """Whether none of its weights trains."""
    return not any(parameter.requires_grad for parameter in module.parameters())


def _to_evaluation(module: nn.Module, _inputs: Any) -> None:
    if module.training:
        module.eval()
