"""Keep frozen parts in evaluation mode, and refuse BatchNorm that trains if it would not be exact.

In training mode, dropout is active and BatchNorm (Ioffe and Szegedy 2015, arXiv:1502.03167) updates its statistics
with those of the batch, even if its weights are frozen.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch.nn.modules.batchnorm import _BatchNorm

from icclip.config import TrainConfig
from icclip.errors import UsageError
from icclip.plugins.specs import BackendSpec

if TYPE_CHECKING:
    from torch import nn


def keep_frozen_in_evaluation(model: nn.Module, backend: BackendSpec) -> None:
    """Make towers without trainable weights, and frozen BatchNorm anywhere, always run in evaluation mode.

    This is independent of the mode of the model, because it is set before each forward pass.
    """
    towers = [model.get_submodule(layout.module) for layout in (backend.vision, backend.text)]
    for module in [*(tower for tower in towers if is_frozen(tower)), *_frozen_norms(model)]:
        module.register_forward_pre_hook(_to_evaluation)


def check_batch_norm(model: nn.Module, backend: BackendSpec, config: TrainConfig, processes: int) -> None:
    """Check that BatchNorm layers that train see whole batches of one process.

    Args:
        model: the model as it will train, with its frozen weights marked.
        backend: names the towers of the model.
        config: the configuration of the run.
        processes: the number of processes that share a batch.

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
    wrong = [reason for reason, applies in reasons.items() if applies]
    for tower, layout in (("vision", backend.vision), ("text", backend.text)):
        if wrong and any(not is_frozen(norm) for norm in _norms(model.get_submodule(layout.module))):
            raise UsageError(
                f"the {tower} tower has BatchNorm layers that train on the statistics of whole batches; "
                f"{wrong[0]}, or freeze the tower (--freeze {tower})"
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
