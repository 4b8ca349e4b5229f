"""A Trainer whose model may be sharded across the processes (FSDP)."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from transformers import Trainer
from typing_extensions import override

from icclip.models.loaded import LoadedModel
from icclip.training.gentle.plan import Gentle
from icclip.training.processes.averaging import ORDER_MATTERS_FROM, InOrderOfRanks
from icclip.training.step.overrides import overrides_private

if TYPE_CHECKING:
    import torch
    from torch import nn

    from icclip.training.processes.sharding import Shards


class ShardedTrainer(Trainer):
    """transformers.Trainer with icclip's own sharding instead of accelerate's.

    Args:
        loaded: the model, which is trained in place.
        gentle: which of its weights train, and which are measured and saved.
        fsdp: whether to shard the model; see `icclip.training.processes.sharding`.
        options: options of transformers.Trainer, besides the model.
    """

    def __init__(self, loaded: LoadedModel, gentle: Gentle, *, fsdp: bool, **options: Any) -> None:
        # Trainer's constructor already asks for the device of the model.
        self._fsdp = fsdp
        self._shards: Shards | None = None
        self.loaded, self.gentle = loaded, gentle
        super().__init__(model=loaded.model, **options)

    @override
    def create_optimizer(self, *args: Any, **options: Any) -> torch.optim.Optimizer:
        """The optimizer that transformers makes; if the model is to be sharded, for its shards."""
        if self._fsdp and self._shards is None:
            self._shard_model()
        optimizer: torch.optim.Optimizer = super().create_optimizer(*args, **options)
        return optimizer

    def _shard_model(self) -> None:
        """Shard the model after the weights of a resumed run are loaded, and before the optimizer is created."""
        from icclip.training.gentle.layers import block_modules
        from icclip.training.processes.sharding import Shards

        blocks = block_modules(self.loaded.model, self.loaded.backend)
        self._shards = Shards(self.loaded.model, self.scale_and_bias(), self.args.device, blocks)
        if self.gentle.average is not None:
            self.gentle.average.follow(self.loaded.model, self._shards.divided)

    def scale_and_bias(self) -> list[nn.Parameter]:
        """The parameters `logit_scale` and, if the model has one, `logit_bias`."""
        found = (getattr(self.loaded.model, name, None) for name in ("logit_scale", "logit_bias"))
        return [parameter for parameter in found if parameter is not None]

    @contextlib.contextmanager
    def as_saved(self) -> Iterator[LoadedModel]:
        """Yield the model to measure and save, whole on every process. All processes must enter the block."""
        with self.gentle.as_saved(self._shards.gathered if self._shards else None) as model:
            yield self.loaded if model is self.loaded.model else dataclasses.replace(self.loaded, model=model)

    @overrides_private
    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        if not self._fsdp:
            super()._move_model_to_device(model, device)

    @overrides_private
    def _wrap_model(self, model: nn.Module, *args: Any, **options: Any) -> nn.Module:
        if self._shards is not None:
            model = self.accelerator.prepare_model(model, device_placement=False, evaluation_mode=True)
        wrapped: nn.Module = super()._wrap_model(model, *args, **options)
        settings = self.accelerator.ddp_handler
        # On a GPU the order of sums is not fixed anyway, and the plain all-reduce is faster.
        if settings is not None and self.args.device.type == "cpu" and self.args.world_size >= ORDER_MATTERS_FROM:
            self.accelerator.ddp_handler = InOrderOfRanks(**vars(settings))
        return wrapped
