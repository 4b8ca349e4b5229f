"""An exponential moving average (EMA) of the weights, which is steadier than the weights themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn


class WeightAverage:
    """After step t: average(t) = decay * average(t - 1) + (1 - decay) * weights(t), in float32.

    It starts with the weights before the first step (Polyak and Juditsky 1992; Tarvainen and Valpola
    2017, arXiv:1703.01780).

    Args:
        model: the model whose trainable parameters are averaged.
        decay: the decay per step, between 0 and 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.values: dict[str, Tensor] = {name: p.detach().float().clone() for name, p in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Add the current weights to the average; call it after each optimizer step."""
        for name, weight in self._weights.items():
            # The model may have moved since the average was begun.
            average = self.values[name] = self.values[name].to(weight.device)
            average.mul_(self.decay).add_(weight, alpha=1 - self.decay)

    def follow(self, model: nn.Module, divided: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Shard the average as the parameters of a model have been sharded.

        Args:
            model: has the same names as before, with sharded parameters.
            divided: maps an average and its parameter to the average, sharded as the parameter is.
        """
        self._weights = {name: p for name, p in model.named_parameters() if name in self.values}
        self.values = {name: divided(self.values[name], weight) for name, weight in self._weights.items()}

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the model has the averaged weights; afterwards it has its own again, to the bit."""
        own = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self._fill(self.values)
        try:
            yield
        finally:
            self._fill(own)

    @torch.no_grad()
    def _fill(self, values: dict[str, Tensor]) -> None:
        for name, weight in self._weights.items():
            weight.copy_(values[name])
