"""An exponential moving average of the weights, which is steadier than the weights themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn


class WeightAverage:
    """After step t: average(t) = decay * average(t - 1) + (1 - decay) * weights(t), in float32.

    It starts at the weights before the first step (Polyak and Juditsky 1992; Tarvainen and Valpola
    2017, arXiv:1703.01780).

    Args:
        model: of its parameters, those that train are averaged.
        decay: between 0 and 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.values: dict[str, Tensor] = {name: p.detach().float().clone() for name, p in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """After an optimizer step."""
        for name, weight in self._weights.items():
            # The model may have moved since the average was begun.
            average = self.values[name] = self.values[name].to(weight.device)
            average.mul_(self.decay).add_(weight, alpha=1 - self.decay)

    def follow(self, model: nn.Module, divided: Callable[[Tensor, Tensor], Tensor]) -> None:
        """The model's parameters are others now, parts of what they were: so is their average.

        Args:
            model: it has the same names.
            divided: an average and its parameter -> the average, divided as the parameter is.
        """
        self._weights = {name: p for name, p in model.named_parameters() if name in self.values}
        self.values = {name: divided(self.values[name], weight) for name, weight in self._weights.items()}

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """While it lasts the model has the averaged weights; after it its own, to the bit."""
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
