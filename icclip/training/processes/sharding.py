"""Sharding a model that is too large for one device (FSDP; Zhao et al. 2023, arXiv:2304.11277).

Every process holds a part of each matrix, of its gradient and of its optimizer state; a transformer
block is whole only while it runs. torch's `fully_shard` does this. It does not support scalars such as
CLIP's temperature, which therefore stays whole on every process. The model is put together again to be
measured and saved.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from icclip.models.objective import attach_bias
from icclip.models.quiet import quiet_transformers
from icclip.training.gentle.lora import remove_adapters


class Shards:
    """Shards a model in place, evenly across all processes.

    Args:
        model: on any device, the same on every process.
        temperature: parameters that stay whole. Their gradients are averaged over the processes, like
            those of the sharded parameters.
        device: where the shards are held.
        blocks: modules that are sharded one by one, so that each is whole only while it runs.
    """

    def __init__(
        self, model: nn.Module, temperature: Sequence[nn.Parameter], device: torch.device, blocks: Sequence[nn.Module]
    ) -> None:
        self.model = model
        self._plain = _without_weights(model).eval()
        # Only the embeddings of a forward pass are used, and they are never changed in place.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
        mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
        for block in blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh, ignored_params=set(temperature))
        for parameter in temperature:
            parameter.data = parameter.data.to(device)
            if parameter.requires_grad:
                parameter.register_hook(_averaged)  # type: ignore[no-untyped-call] # torch leaves it untyped

    @contextlib.contextmanager
    def gathered(self) -> Iterator[nn.Module]:
        """Within the block there is the whole model to read from: a copy in evaluation mode. All processes must enter."""
        names = {name for name, _ in self._plain.named_parameters()}
        self._fill({name: self.whole(tensor) for name, tensor in self.model.state_dict().items() if name in names})
        try:
            yield self._plain
        finally:
            self._fill({name: p.to("meta") for name, p in self._plain.named_parameters()})

    def ended(self, checkpoint: Path, *, adapted: bool) -> nn.Module:
        """The whole model with the weights of a checkpoint, on the CPU, after training.

        Args:
            checkpoint: a directory that holds a plain model.
            adapted: whether the sharded model has adapters, which are then removed.
        """
        if adapted:
            remove_adapters(self._plain)
        with quiet_transformers():
            whole = type(self._plain).from_pretrained(checkpoint)  # type: ignore[attr-defined] # of transformers
        attach_bias(whole)
        self._fill(whole.state_dict())
        return self._plain

    def _fill(self, weights: Mapping[str, Tensor]) -> None:
        self._plain.load_state_dict(weights, strict=False, assign=True)

    def parts(self) -> list[Tensor]:
        """This process's part of each parameter, which may be empty."""
        return [p.to_local() if isinstance(p, DTensor) else p for p in self.model.parameters()]

    @staticmethod
    def whole(tensor: Tensor) -> Tensor:
        """A sharded tensor, put together on every process; all of them must call this. Other tensors are returned as they are."""
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    @staticmethod
    def divided(tensor: Tensor, like: Tensor) -> Tensor:
        """A tensor that every process has whole, sharded like another one and on its device."""
        tensor = tensor.to(like.device)
        return distribute_tensor(tensor, like.device_mesh, like.placements) if isinstance(like, DTensor) else tensor

    def state_of(self, optimizer: torch.optim.Optimizer, *, keep: bool) -> dict[str, Any]:
        """An optimizer's state as if nothing were sharded, on the CPU. All processes must call this.

        Args:
            optimizer: of the sharded model.
            keep: whether this process needs the state; otherwise it only helps to gather, and gets none.
        """
        state = optimizer.state_dict()
        gathered: dict[int, dict[str, Any]] = {}
        for index, values in state["state"].items():
            for name, value in values.items():
                together = self.whole(value).cpu() if isinstance(value, Tensor) else value
                if keep:
                    gathered.setdefault(index, {})[name] = together
        return {**state, "state": gathered}

    def load_state(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Load an optimizer's state that is not sharded."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        own = {
            index: {name: self._as_of(parameters[index], value) for name, value in values.items()}
            for index, values in state["state"].items()
        }
        optimizer.load_state_dict({**state, "state": own})

    def _as_of(self, parameter: Tensor, value: Any) -> Any:
        """Shard a value of an optimizer's state like its parameter; averages have the parameter's shape, step counts do not."""
        same = isinstance(value, Tensor) and value.shape == parameter.shape
        return self.divided(value, parameter) if same else value


def _averaged(gradient: Tensor) -> Tensor:
    total = gradient.clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()


def _without_weights(model: nn.Module) -> nn.Module:
    """A copy whose parameters take no memory."""
    weightless = {id(p): nn.Parameter(p.detach().to("meta"), requires_grad=p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, weightless)
